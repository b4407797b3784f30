#include "worker/step_buffers.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace skein {
namespace {

constexpr int kSampleWords = sizeof(SampleRow) / sizeof(int32_t);
static_assert(sizeof(SampleRow) == kSampleWords * sizeof(int32_t));
constexpr int kWordsOfSample = 3 + kSampleWords;  // query, slot, position, and the row itself
constexpr int kPairsMax = 8192;

}  // namespace

Status StepInputs::allocate(const StepLimits& limits, int sequence_tokens_max, const Ops& ops, Device& device,
                            DeviceArena* arena) {
  ops_ = &ops;
  device_ = &device;
  limits_ = limits;
  pairs_max_ = kPairsMax;
  state_.slots = limits.slots;
  state_.tokens_max = sequence_tokens_max;
  ASSIGN_OR_RETURN(state_.tokens, arena->allocate_array<int32_t>(int64_t{limits.slots} * sequence_tokens_max));
  ASSIGN_OR_RETURN(state_.lengths, arena->allocate_array<int32_t>(limits.slots));
  ASSIGN_OR_RETURN(state_.sampling, arena->allocate_array<SlotSampling>(limits.slots));
  ASSIGN_OR_RETURN(token_ids_, arena->allocate_array<int32_t>(limits.tokens));
  ASSIGN_OR_RETURN(positions_, arena->allocate_array<int32_t>(limits.tokens));
  const int64_t row_words = 3 * int64_t{limits.slots} + 1;
  const int64_t words = row_words + int64_t{kWordsOfSample} * limits.sample_rows;
  ASSIGN_OR_RETURN(query_begin_, arena->allocate_array<int32_t>(words));
  row_slots_ = query_begin_ + limits.slots + 1;
  first_positions_ = row_slots_ + limits.slots;
  sample_queries_ = query_begin_ + row_words;
  store_slots_ = sample_queries_ + limits.sample_rows;
  store_positions_ = store_slots_ + limits.sample_rows;
  samples_ = reinterpret_cast<SampleRow*>(store_positions_ + limits.sample_rows);
  host_.resize(static_cast<size_t>(words));
  query_begin_host_.resize(static_cast<size_t>(limits.slots) + 1);
  ASSIGN_OR_RETURN(pairs_, arena->allocate_array<int32_t>(2 * int64_t{pairs_max_}));
  ASSIGN_OR_RETURN(received_, arena->allocate_array<int32_t>(3 * int64_t{limits.slots}));
  admitted_.assign(static_cast<size_t>(limits.slots), 0);
  return {};
}

void StepInputs::admit(const std::vector<SlotAdmission>& admissions, uint64_t step) {
  for (const SlotAdmission& admission : admissions) {
    CHECK_LT(admission.slot, state_.slots);
    CHECK_LE(admission.tokens.size(), static_cast<size_t>(state_.tokens_max));
    const int32_t length = static_cast<int32_t>(admission.tokens.size());
    ops_->copy_to_device(*device_, state_.tokens + int64_t{admission.slot} * state_.tokens_max, admission.tokens.data(),
                         int64_t{length} * static_cast<int64_t>(sizeof(int32_t)));
    ops_->copy_to_device(*device_, state_.lengths + admission.slot, &length, sizeof length);
    ops_->copy_to_device(*device_, state_.sampling + admission.slot, &admission.sampling, sizeof(SlotSampling));
    admitted_[static_cast<size_t>(admission.slot)] = step;
  }
}

// `out` has the layout of the device's sample arrays.
void StepInputs::fill_samples(const StepPlan& plan, size_t begin, size_t count, size_t rows, int32_t* out) const {
  const auto capacity = static_cast<size_t>(limits_.sample_rows);
  CHECK_LE(rows, capacity);
  int32_t* queries = out;
  int32_t* slots = out + capacity;
  int32_t* positions = out + 2 * capacity;
  int32_t* samples = out + 3 * capacity;
  for (size_t i = 0; i < rows; ++i) {
    const bool real = i < count;
    const SampleRow row = real ? plan.samples[begin + i] : SampleRow{.slot = -1, .position = -1, .score = 0};
    queries[i] = real ? plan.sample_queries[begin + i] : static_cast<int32_t>(i);
    slots[i] = row.slot;
    positions[i] = row.position + 1;
    std::memcpy(samples + i * kSampleWords, &row, sizeof row);
  }
}

StepView StepInputs::upload(const StepPlan& plan, int rows) {
  const auto slots = static_cast<size_t>(limits_.slots);
  const auto wanted = static_cast<size_t>(rows);
  CHECK(plan.rows.size() <= wanted && wanted <= slots);
  StepView step{.rows = rows,
                .query_begin_host = query_begin_host_.data(),
                .token_ids = token_ids_,
                .positions = positions_,
                .query_begin = query_begin_,
                .slots = row_slots_};
  query_begin_host_[0] = 0;
  bool single = true;
  for (size_t r = 0; r < wanted; ++r) {
    const PlanRow row = r < plan.rows.size() ? plan.rows[r] : PlanRow{.slot = -1, .first_position = 0, .tokens = 1};
    query_begin_host_[r + 1] = query_begin_host_[r] + row.tokens;
    single = single && row.tokens == 1;
    if (single) ++step.decode_rows;
    host_[slots + 1 + r] = row.slot;
    host_[2 * slots + 1 + r] = row.first_position;
  }
  step.tokens = query_begin_host_[wanted];
  CHECK_LE(step.tokens, limits_.tokens);
  std::copy_n(query_begin_host_.begin(), wanted + 1, host_.begin());
  const size_t samples = std::min(plan.samples.size(), static_cast<size_t>(limits_.sample_rows));
  const size_t padded = std::min(wanted, static_cast<size_t>(limits_.sample_rows));
  fill_samples(plan, 0, samples, std::max(samples, padded), host_.data() + 3 * slots + 1);
  ops_->copy_to_device(*device_, query_begin_, host_.data(), static_cast<int64_t>(host_.size() * sizeof(int32_t)));
  return step;
}

void StepInputs::gather(const StepView& step) {
  ops_->gather(*device_, {.token_ids = token_ids_,
                          .positions = positions_,
                          .step = step,
                          .first_position = first_positions_,
                          .state = state_});
}

void StepInputs::upload_samples(const StepPlan& plan, size_t begin, size_t count) {
  const size_t offset = 3 * static_cast<size_t>(limits_.slots) + 1;
  fill_samples(plan, begin, count, count, host_.data() + offset);
  ops_->copy_to_device(*device_, sample_queries_, host_.data() + offset,
                       static_cast<int64_t>((host_.size() - offset) * sizeof(int32_t)));
}

void StepInputs::store_sampled(const int32_t* tokens, int count) {
  ops_->store_tokens(*device_, {.state = state_,
                                .count = count,
                                .slots = store_slots_,
                                .positions = store_positions_,
                                .tokens = tokens});
}

void StepInputs::store_received(uint64_t step, const std::vector<int32_t>& slots,
                                const std::vector<int32_t>& positions, const std::vector<int32_t>& tokens) {
  std::vector<int32_t> kept[3];
  for (size_t i = 0; i < slots.size(); ++i) {
    if (tokens[i] < 0 || step < admitted_[static_cast<size_t>(slots[i])]) continue;
    kept[0].push_back(slots[i]);
    kept[1].push_back(positions[i]);
    kept[2].push_back(tokens[i]);
  }
  const auto count = static_cast<int>(kept[0].size());
  if (count == 0) return;
  CHECK_LE(count, limits_.slots);
  for (int i = 0; i < 3; ++i) {
    ops_->copy_to_device(*device_, received_ + i * limits_.slots, kept[i].data(),
                         int64_t{count} * static_cast<int64_t>(sizeof(int32_t)));
  }
  ops_->store_tokens(*device_, {.state = state_,
                                .count = count,
                                .slots = received_,
                                .positions = received_ + limits_.slots,
                                .tokens = received_ + 2 * limits_.slots});
}

const int32_t* StepInputs::upload_pairs(std::span<const int32_t> pairs) {
  CHECK_LE(pairs.size(), 2 * static_cast<size_t>(pairs_max_));
  ops_->copy_to_device(*device_, pairs_, pairs.data(), static_cast<int64_t>(pairs.size_bytes()));
  return pairs_;
}

}  // namespace skein
