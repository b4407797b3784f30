#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "worker/model_weights.h"
#include "worker/step_plan.h"

namespace skein {

struct StepLimits {
  int tokens = 0;       // of one step
  int slots = 0;
  int sample_rows = 0;  // rows of logits that are held at once
};

// The fixed device buffers that a step's inputs go through, and the slots' state. Single-owner: executor thread.
class StepInputs {
 public:
  Status allocate(const StepLimits& limits, int sequence_tokens_max, const Ops& ops, Device& device,
                  DeviceArena* arena);

  void admit(const std::vector<SlotAdmission>& admissions, uint64_t step);
  // The plan's rows and its first samples, in one copy; what both are filled up to `rows` with is padding. The view's
  // ids and positions are there after gather().
  StepView upload(const StepPlan& plan, int rows);
  void gather(const StepView& step);
  // Samples [begin, begin + count) of the plan, for a plan that has more than are held at once.
  void upload_samples(const StepPlan& plan, size_t begin, size_t count);
  // For `count` samples as uploaded: whose tokens become the slots' next ones.
  void store_sampled(const int32_t* tokens, int count);
  // Stores tokens that step `step` sampled on another rank, but not into slots that were given to others since.
  void store_received(uint64_t step, const std::vector<int32_t>& slots, const std::vector<int32_t>& positions,
                      const std::vector<int32_t>& tokens);
  // The device's copy of index pairs; valid until the next call.
  const int32_t* upload_pairs(std::span<const int32_t> pairs);
  int pairs_max() const { return pairs_max_; }

  const SlotState& state() const { return state_; }
  const int32_t* sample_queries() const { return sample_queries_; }
  const SampleRow* samples() const { return samples_; }

 private:
  void fill_samples(const StepPlan& plan, size_t begin, size_t count, size_t rows, int32_t* out) const;

  const Ops* ops_ = nullptr;
  Device* device_ = nullptr;
  StepLimits limits_;
  int pairs_max_ = 0;
  SlotState state_;
  std::vector<uint64_t> admitted_;      // (slots) step of the last admission
  int32_t* token_ids_ = nullptr;        // (tokens)
  int32_t* positions_ = nullptr;        // (tokens)
  std::vector<int32_t> query_begin_host_;  // (slots + 1)
  // One block of memory, filled by one copy.
  std::vector<int32_t> host_;
  int32_t* query_begin_ = nullptr;      // (slots + 1)
  int32_t* row_slots_ = nullptr;        // (slots)
  int32_t* first_positions_ = nullptr;  // (slots)
  int32_t* sample_queries_ = nullptr;   // (sample_rows)
  int32_t* store_slots_ = nullptr;      // (sample_rows)
  int32_t* store_positions_ = nullptr;  // (sample_rows)
  SampleRow* samples_ = nullptr;        // (sample_rows)
  int32_t* pairs_ = nullptr;            // (pairs_max, 2)
  int32_t* received_ = nullptr;         // slots, positions, tokens: (3, slots)
};

}  // namespace skein
