#include "worker/step_plan.h"

#include <algorithm>
#include <limits>

#include "base/bytes.h"
#include "base/check.h"

namespace skein {
namespace {

constexpr uint32_t kPlanVersion = 0x50530001;    // "SP", 1
constexpr uint32_t kResultVersion = 0x52530001;  // "SR", 1

void put_sampling(const SlotSampling& from, ByteWriter& out) {
  CHECK(from.bias_count >= 0 && from.bias_count <= kLogitBiasMax);
  CHECK(from.stop_count >= 0 && from.stop_count <= kStopTokensMax);
  out.put(from.temperature);
  out.put(from.top_p);
  out.put(from.min_p);
  out.put(from.top_k);
  out.put(from.presence_penalty);
  out.put(from.frequency_penalty);
  out.put(from.repetition_penalty);
  out.put(from.prompt_tokens);
  out.put(from.min_tokens);
  out.put(from.top_logprobs);
  out.put(from.seed);
  out.put_array(std::span(from.bias_tokens, static_cast<size_t>(from.bias_count)));
  out.put_array(std::span(from.bias_values, static_cast<size_t>(from.bias_count)));
  out.put_array(std::span(from.stop_tokens, static_cast<size_t>(from.stop_count)));
}

// Fills the front of a fixed array; returns how much of it.
template <typename T, size_t N>
int32_t get_front(ByteReader& in, T (&out)[N]) {
  const uint32_t count = in.get_count(sizeof(T));
  if (count > N) {
    in.fail();
    return 0;
  }
  in.get_values(std::span<T>(out, count));
  return static_cast<int32_t>(count);
}

void get_sampling(ByteReader& in, SlotSampling* to) {
  to->temperature = in.get<float>();
  to->top_p = in.get<float>();
  to->min_p = in.get<float>();
  to->top_k = in.get<int32_t>();
  to->presence_penalty = in.get<float>();
  to->frequency_penalty = in.get<float>();
  to->repetition_penalty = in.get<float>();
  to->prompt_tokens = in.get<int32_t>();
  to->min_tokens = in.get<int32_t>();
  to->top_logprobs = in.get<int32_t>();
  to->seed = in.get<uint64_t>();
  to->bias_count = get_front(in, to->bias_tokens);
  if (get_front(in, to->bias_values) != to->bias_count) in.fail();
  to->stop_count = get_front(in, to->stop_tokens);
  if (to->top_logprobs < -1 || to->top_logprobs > kTopLogprobsMax) in.fail();
}

// Records of three numbers.
template <typename T>
void get_triples(ByteReader& in, std::vector<T>* out, int32_t T::*a, int32_t T::*b,
                 int32_t T::*c) {
  out->resize(in.get_count(3 * sizeof(int32_t)));
  for (T& item : *out) {
    item.*a = in.get<int32_t>();
    item.*b = in.get<int32_t>();
    item.*c = in.get<int32_t>();
  }
}

template <typename T>
void put_triples(ByteWriter& out, const std::vector<T>& items, int32_t T::*a, int32_t T::*b,
                 int32_t T::*c) {
  out.put(static_cast<uint32_t>(items.size()));
  for (const T& item : items) {
    out.put(item.*a);
    out.put(item.*b);
    out.put(item.*c);
  }
}

bool none_negative(const std::vector<int32_t>& values) {
  return std::ranges::all_of(values, [](int32_t value) { return value >= 0; });
}

// What every plan holds to, whatever the sizes of the replica that made it.
bool consistent(const StepPlan& plan) {
  int64_t tokens = 0;
  for (const PlanRow& row : plan.rows) {
    if (row.slot < 0 || row.first_position < -1 || row.tokens <= 0) return false;
    tokens += row.tokens;
  }
  if (plan.lane < 0 || tokens > std::numeric_limits<int32_t>::max()) return false;
  for (const SlotAdmission& admission : plan.admissions) {
    if (admission.slot < 0 || !none_negative(admission.tokens)) return false;
  }
  for (const BlockAssignment& assignment : plan.assignments) {
    if (assignment.group < 0 || assignment.slot < 0 || assignment.first < 0) return false;
    if (!none_negative(assignment.blocks)) return false;
  }
  for (const BlockCopy& copy : plan.copies) {
    if (copy.group < 0 || copy.source < 0 || copy.destination < 0) return false;
  }
  if (plan.samples.size() != plan.sample_queries.size()) return false;
  int64_t last = -1;
  for (const int32_t query : plan.sample_queries) {
    if (query <= last || query >= tokens) return false;
    last = query;
  }
  return std::ranges::all_of(plan.samples, [](const SampleRow& row) {
    return row.slot >= 0 && row.position >= 0;
  });
}

}  // namespace

int StepPlan::tokens() const {
  int sum = 0;
  for (const PlanRow& row : rows) sum += row.tokens;
  return sum;
}

void encode(const StepPlan& plan, std::string* to) {
  ByteWriter out(to);
  out.put(kPlanVersion);
  out.put(plan.step);
  out.put(plan.lane);
  out.put(static_cast<uint8_t>(plan.stop));
  out.put(static_cast<uint32_t>(plan.admissions.size()));
  for (const SlotAdmission& admission : plan.admissions) {
    out.put(admission.slot);
    out.put_array(std::span(admission.tokens));
    put_sampling(admission.sampling, out);
  }
  out.put(static_cast<uint32_t>(plan.assignments.size()));
  for (const BlockAssignment& assignment : plan.assignments) {
    out.put(assignment.group);
    out.put(assignment.slot);
    out.put(assignment.first);
    out.put_array(std::span(assignment.blocks));
  }
  put_triples(out, plan.copies, &BlockCopy::group, &BlockCopy::source, &BlockCopy::destination);
  put_triples(out, plan.rows, &PlanRow::slot, &PlanRow::first_position, &PlanRow::tokens);
  out.put_array(std::span(plan.sample_queries));
  put_triples(out, plan.samples, &SampleRow::slot, &SampleRow::position, &SampleRow::score);
}

Result<StepPlan> decode_step_plan(std::string_view bytes) {
  ByteReader in(bytes);
  if (in.get<uint32_t>() != kPlanVersion) {
    return corrupt("these bytes are not a step plan of this version");
  }
  StepPlan plan;
  plan.step = in.get<uint64_t>();
  plan.lane = in.get<int32_t>();
  const auto stop = in.get<uint8_t>();
  plan.stop = stop == 1;
  // Slot, ten fields of SlotSampling, four counts; the seed. Memory stays in proportion to bytes.
  constexpr size_t kAdmissionBytesMin = 15 * 4 + 8;
  static_assert(sizeof(SlotAdmission) / kAdmissionBytesMin < 64);
  plan.admissions.resize(in.get_count(kAdmissionBytesMin));
  for (SlotAdmission& admission : plan.admissions) {
    admission.slot = in.get<int32_t>();
    admission.tokens = in.get_array<int32_t>();
    get_sampling(in, &admission.sampling);
  }
  plan.assignments.resize(in.get_count(4 * sizeof(int32_t)));
  for (BlockAssignment& assignment : plan.assignments) {
    assignment.group = in.get<int32_t>();
    assignment.slot = in.get<int32_t>();
    assignment.first = in.get<int32_t>();
    assignment.blocks = in.get_array<int32_t>();
  }
  get_triples(in, &plan.copies, &BlockCopy::group, &BlockCopy::source, &BlockCopy::destination);
  get_triples(in, &plan.rows, &PlanRow::slot, &PlanRow::first_position, &PlanRow::tokens);
  plan.sample_queries = in.get_array<int32_t>();
  get_triples(in, &plan.samples, &SampleRow::slot, &SampleRow::position, &SampleRow::score);
  if (!in.ok() || !in.at_end() || stop > 1) return corrupt("a step plan has the wrong length");
  if (!consistent(plan)) return corrupt("a step plan contradicts itself");
  return plan;
}

void encode(const StepResult& result, std::string* to) {
  ByteWriter out(to);
  out.put(kResultVersion);
  out.put(result.step);
  out.put(result.waited_ns);
  out.put(static_cast<uint32_t>(result.samples.size()));
  for (const SampledToken& sample : result.samples) {
    CHECK(sample.top_count >= 0 && sample.top_count <= kTopLogprobsMax);
    const auto count = static_cast<size_t>(sample.top_count);
    out.put(sample.token);
    out.put(sample.logprob);
    out.put(sample.rank);
    out.put_array(std::span(sample.top_tokens, count));
    out.put_array(std::span(sample.top_logprobs, count));
  }
}

Result<StepResult> decode_step_result(std::string_view bytes) {
  ByteReader in(bytes);
  if (in.get<uint32_t>() != kResultVersion) {
    return corrupt("these bytes are not a step result of this version");
  }
  StepResult result;
  result.step = in.get<uint64_t>();
  result.waited_ns = in.get<int64_t>();
  result.samples.resize(in.get_count(5 * sizeof(int32_t)));
  for (SampledToken& sample : result.samples) {
    sample.token = in.get<int32_t>();
    sample.logprob = in.get<float>();
    sample.rank = in.get<int32_t>();
    sample.top_count = get_front(in, sample.top_tokens);
    if (get_front(in, sample.top_logprobs) != sample.top_count) in.fail();
  }
  if (!in.ok() || !in.at_end()) return corrupt("a step result has the wrong length");
  return result;
}

}  // namespace skein
