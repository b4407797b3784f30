#include "tests/sim/fake_device.h"

#include <algorithm>

namespace skein::sim {
namespace {

constexpr int kCopied = -1;  // stands for a slot where a block is only copied from

uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  return x ^ x >> 31;
}

}  // namespace

uint64_t extend(uint64_t prefix, int32_t token) {
  return mix(prefix + 0x9e3779b97f4a7c15 * (static_cast<uint64_t>(token) + 1));
}

int32_t choose(uint64_t prefix, uint64_t seed, int index, std::span<const int32_t> forbidden) {
  uint64_t drawn = mix(prefix ^ mix(seed + static_cast<uint64_t>(index)));
  while (true) {
    const auto token = static_cast<int32_t>(drawn++ % kVocabulary);
    if (std::ranges::find(forbidden, token) == forbidden.end()) return token;
  }
}

bool broken(uint64_t prefix, uint64_t seed) { return mix(prefix ^ ~seed) % 2000 == 0; }

float score(uint64_t prefix, int32_t token) {
  return -static_cast<float>(extend(prefix, token) % 1000) / 100;
}

FakeDevice::FakeDevice(std::vector<KvGroupConfig> groups, int slots, int step_tokens_max,
                       int lane_steps_max)
    : groups_(std::move(groups)),
      step_tokens_max_(step_tokens_max),
      lane_steps_max_(lane_steps_max),
      planned_(static_cast<size_t>(slots)),
      slots_(static_cast<size_t>(slots)) {
  for (const KvGroupConfig& group : groups_) {
    memory_.emplace_back(static_cast<size_t>(group.blocks * group.block_tokens), 0);
  }
}

void FakeDevice::expect(bool condition, const std::string& what) {
  if (!condition && breach_.empty()) breach_ = what;
}

void FakeDevice::assign(std::vector<Slot>& slots, const StepPlan& plan) {
  for (const SlotAdmission& admission : plan.admissions) {
    slots[static_cast<size_t>(admission.slot)] = {
        admission.tokens, admission.sampling, std::vector<std::vector<int32_t>>(groups_.size())};
  }
  for (const BlockAssignment& assignment : plan.assignments) {
    auto& table = slots[static_cast<size_t>(assignment.slot)]
                      .tables[static_cast<size_t>(assignment.group)];
    expect(static_cast<size_t>(assignment.first) == table.size(), "a block table with a gap");
    table.insert(table.end(), assignment.blocks.begin(), assignment.blocks.end());
  }
}

FakeDevice::Use FakeDevice::note_use(const StepPlan& plan) {
  Use use{.step = plan.step, .lane = plan.lane, .slots = {}, .blocks = {}};
  const auto add = [&](int slot) {
    use.slots.insert(slot);
    for (size_t g = 0; g < groups_.size(); ++g) {
      for (const int32_t block : planned_[static_cast<size_t>(slot)].tables[g]) {
        use.blocks[{static_cast<int>(g), block}].insert(slot);
      }
    }
  };
  for (const SlotAdmission& admission : plan.admissions) add(admission.slot);
  for (const PlanRow& row : plan.rows) add(row.slot);
  for (const BlockCopy& copy : plan.copies) use.blocks[{copy.group, copy.source}].insert(kCopied);
  return use;
}

void FakeDevice::check_write(int slot, int group, int32_t block) {
  for (const Use& use : uses_) {
    const auto found = use.blocks.find({group, block});
    if (found == use.blocks.end()) continue;
    const std::set<int>& users = found->second;
    const bool own = users.contains(slot) && users.size() == (users.contains(kCopied) ? 2u : 1u);
    expect(own, "a block is written while a step of another slot uses it");
  }
}

// Nothing that a step in flight uses may be given to anyone else.
void FakeDevice::check_reuse(const StepPlan& plan) {
  for (const SlotAdmission& admission : plan.admissions) {
    for (const Use& use : uses_) {
      expect(!use.slots.contains(admission.slot), "a slot is given away while a step uses it");
    }
  }
  for (const BlockCopy& copy : plan.copies) check_write(kCopied, copy.group, copy.destination);
  for (const PlanRow& row : plan.rows) {
    const Slot& slot = planned_[static_cast<size_t>(row.slot)];
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int width = groups_[g].block_tokens;
      const int last = (row.first_position + row.tokens - 1) / width;
      expect(last < static_cast<int>(slot.tables[g].size()), "a position without a block");
      if (!breach_.empty()) return;
      for (int i = row.first_position / width; i <= last; ++i) {
        check_write(row.slot, static_cast<int>(g), slot.tables[g][static_cast<size_t>(i)]);
      }
    }
  }
}

void FakeDevice::plan(const StepPlan& plan) {
  expect(plan.step == last_step_ + 1, "step numbers do not count up");
  last_step_ = plan.step;
  expect(!plan.rows.empty(), "a step without rows");
  expect(plan.tokens() <= step_tokens_max_, "more tokens than the budget");
  const auto in_lane = std::ranges::count(uses_, plan.lane, &Use::lane);
  expect(in_lane < lane_steps_max_, "too many steps of one lane");
  std::set<int> seen;
  for (const PlanRow& row : plan.rows) expect(seen.insert(row.slot).second, "a slot twice");

  // What the ranks see went through the wire.
  std::string bytes;
  encode(plan, &bytes);
  const Result<StepPlan> decoded = decode_step_plan(bytes);
  expect(decoded.ok(), "the plan does not survive the wire");

  assign(planned_, plan);
  check_reuse(plan);
  uses_.push_back(note_use(plan));
  plans_.push_back(decoded.ok() ? *decoded : plan);
}

SampledToken FakeDevice::sample(const SampleRow& row) {
  Slot& slot = slots_[static_cast<size_t>(row.slot)];
  const SlotSampling& sampling = slot.sampling;
  // Group 0's number stands for the prefix; compute() compared the others.
  const auto width = static_cast<size_t>(groups_[0].block_tokens);
  const auto at = static_cast<size_t>(row.position);
  const uint64_t prefix =
      memory_[0][static_cast<size_t>(slot.tables[0][at / width]) * width + at % width];
  SampledToken sampled;
  sampled.rank = 1;
  sampled.top_count = std::max(sampling.top_logprobs, 0);
  for (int i = 0; i < sampled.top_count; ++i) {
    sampled.top_tokens[i] = i;
    sampled.top_logprobs[i] = score(prefix, i);
  }
  if (row.score != 0) {
    sampled.token = slot.tokens[at + 1];
    sampled.logprob = score(prefix, sampled.token);
    return sampled;
  }
  const int index = row.position + 1 - sampling.prompt_tokens;
  if (broken(prefix, sampling.seed)) {
    sampled.token = -2;
    return sampled;
  }
  const auto stops = static_cast<size_t>(index < sampling.min_tokens ? sampling.stop_count : 0);
  sampled.token = choose(prefix, sampling.seed, index, std::span(sampling.stop_tokens, stops));
  sampled.logprob = score(prefix, sampled.token);
  slot.tokens.resize(std::max(slot.tokens.size(), at + 2));
  slot.tokens[at + 1] = sampled.token;
  return sampled;
}

void FakeDevice::compute(const PlanRow& row) {
  Slot& slot = slots_[static_cast<size_t>(row.slot)];
  const auto first = static_cast<size_t>(row.first_position);
  const size_t end = first + static_cast<size_t>(row.tokens);
  slot.tokens.resize(std::max(slot.tokens.size(), end));
  for (size_t g = 0; g < groups_.size(); ++g) {
    const auto width = static_cast<size_t>(groups_[g].block_tokens);
    uint64_t prefix = 0;
    for (size_t at = 0; at < end; ++at) {
      const auto block = static_cast<size_t>(slot.tables[g][at / width]);
      uint64_t& held = memory_[g][block * width + at % width];
      prefix = extend(prefix, slot.tokens[at]);
      if (at >= first) held = prefix;
      expect(held == prefix, "a sequence reads what was not written for it");
    }
  }
}

StepResult FakeDevice::run() {
  const StepPlan plan = std::move(plans_.front());
  plans_.pop_front();
  uses_.pop_front();
  assign(slots_, plan);
  for (const BlockCopy& copy : plan.copies) {
    const auto g = static_cast<size_t>(copy.group);
    const int width = groups_[g].block_tokens;
    std::copy_n(memory_[g].begin() + copy.source * width, width,
                memory_[g].begin() + copy.destination * width);
  }
  for (const PlanRow& row : plan.rows) compute(row);
  StepResult result{.step = plan.step, .samples = {}};
  for (const SampleRow& row : plan.samples) result.samples.push_back(sample(row));
  return result;
}

}  // namespace skein::sim
