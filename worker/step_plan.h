#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/sampling.h"

// What the leader tells every rank about one step, as differences to what the ranks already hold,
// and what the last stage answers. Plain values; encode and decode are for shared memory or MPI
// within one replica.

namespace skein {

// A slot gets a new sequence: its known tokens and its sampling. Whatever the slot held is
// forgotten.
struct SlotAdmission {
  int32_t slot = 0;
  std::vector<int32_t> tokens;
  SlotSampling sampling;
};

// block_table[group][slot][first + i] = blocks[i]
struct BlockAssignment {
  int32_t group = 0;
  int32_t slot = 0;
  int32_t first = 0;
  std::vector<int32_t> blocks;
};

struct BlockCopy {
  int32_t group = 0;
  int32_t source = 0;
  int32_t destination = 0;
};

// `tokens` consecutive tokens of a slot are computed. Their ids come from the slot's token array on
// the device, which may hold ids that the leader has not seen yet.
struct PlanRow {
  int32_t slot = 0;
  int32_t first_position = 0;  // -1: the slot's length - 1 as the device knows it
  int32_t tokens = 0;
};

// Order of execution: admissions, assignments, copies, rows, samples.
struct StepPlan {
  uint64_t step = 0;  // counts up by one, from 1
  int32_t lane = 0;   // which of the pipeline's lanes
  bool stop = false;  // the ranks leave their loop; nothing else is set
  std::vector<SlotAdmission> admissions;
  std::vector<BlockAssignment> assignments;
  std::vector<BlockCopy> copies;
  std::vector<PlanRow> rows;
  // Which queries become logits: index into the step's tokens (rows concatenated), in rising order.
  std::vector<int32_t> sample_queries;
  std::vector<SampleRow> samples;  // (sample_queries)

  int tokens() const;
};

// The step number of the last stage's farewell, its answer to a stop plan.
inline constexpr uint64_t kFarewellStep = ~uint64_t{0};

struct StepResult {
  uint64_t step = 0;
  int64_t waited_ns = 0;  // at most so long the device of the rank that answers had nothing to do before this step
  std::vector<SampledToken> samples;  // as StepPlan::samples
};

// Appends to *out. Decoders check every count against the bytes that are there.
void encode(const StepPlan& plan, std::string* out);
void encode(const StepResult& result, std::string* out);
Result<StepPlan> decode_step_plan(std::string_view bytes);
Result<StepResult> decode_step_result(std::string_view bytes);

}  // namespace skein
