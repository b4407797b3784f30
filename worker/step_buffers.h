#pragma once

#include <cstdint>
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
  // Ids and positions of the plan's tokens, gathered on the device.
  StepView upload_rows(const StepPlan& plan);
  // Stores tokens that step `step` sampled, but not into slots that were given to others since.
  void store_samples(uint64_t step, const std::vector<int32_t>& slots, const std::vector<int32_t>& positions,
                     const std::vector<int32_t>& tokens);
  const SlotState& state() const { return state_; }
  // The device's copy of host values; valid until the next call.
  const int32_t* upload_indices(const int32_t* values, size_t count);
  const SampleRow* upload_samples(const SampleRow* values, size_t count);

 private:
  void upload(int32_t* to, const std::vector<int32_t>& from);

  const Ops* ops_ = nullptr;
  Device* device_ = nullptr;
  SlotState state_;
  std::vector<uint64_t> admitted_;  // (slots) step of the last admission
  int32_t* token_ids_ = nullptr;    // (tokens)
  int32_t* positions_ = nullptr;    // (tokens)
  int32_t* query_begin_ = nullptr;  // (slots + 1)
  int32_t* row_slots_ = nullptr;    // (slots)
  int32_t* first_positions_ = nullptr;  // (slots)
  int32_t* indices_ = nullptr;          // (sample_rows)
  SampleRow* samples_ = nullptr;        // (sample_rows)
  int32_t* stored_[3] = {};             // slots, positions, tokens (slots)
  std::vector<int32_t> host_[3];        // reused staging
};

}  // namespace skein
