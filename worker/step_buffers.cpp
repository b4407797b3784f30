#include "worker/step_buffers.h"

#include "base/check.h"

namespace skein {

Status StepInputs::allocate(const StepLimits& limits, int sequence_tokens_max, const Ops& ops, Device& device,
                            DeviceArena* arena) {
  ops_ = &ops;
  device_ = &device;
  state_.slots = limits.slots;
  state_.tokens_max = sequence_tokens_max;
  ASSIGN_OR_RETURN(state_.tokens, arena->allocate_array<int32_t>(int64_t{limits.slots} * sequence_tokens_max));
  ASSIGN_OR_RETURN(state_.lengths, arena->allocate_array<int32_t>(limits.slots));
  ASSIGN_OR_RETURN(state_.sampling, arena->allocate_array<SlotSampling>(limits.slots));
  ASSIGN_OR_RETURN(token_ids_, arena->allocate_array<int32_t>(limits.tokens));
  ASSIGN_OR_RETURN(positions_, arena->allocate_array<int32_t>(limits.tokens));
  ASSIGN_OR_RETURN(query_begin_, arena->allocate_array<int32_t>(limits.slots + 1));
  ASSIGN_OR_RETURN(row_slots_, arena->allocate_array<int32_t>(limits.slots));
  ASSIGN_OR_RETURN(first_positions_, arena->allocate_array<int32_t>(limits.slots));
  ASSIGN_OR_RETURN(indices_, arena->allocate_array<int32_t>(limits.sample_rows));
  ASSIGN_OR_RETURN(samples_, arena->allocate_array<SampleRow>(limits.sample_rows));
  for (int32_t*& array : stored_) {
    ASSIGN_OR_RETURN(array, arena->allocate_array<int32_t>(limits.slots));
  }
  admitted_.assign(static_cast<size_t>(limits.slots), 0);
  return {};
}

void StepInputs::upload(int32_t* to, const std::vector<int32_t>& from) {
  ops_->copy_to_device(*device_, to, from.data(), static_cast<int64_t>(from.size() * sizeof(int32_t)));
}

void StepInputs::admit(const std::vector<SlotAdmission>& admissions, uint64_t step) {
  for (const SlotAdmission& admission : admissions) {
    CHECK_LT(admission.slot, state_.slots);
    CHECK_LE(admission.tokens.size(), static_cast<size_t>(state_.tokens_max));
    const int32_t length = static_cast<int32_t>(admission.tokens.size());
    upload(state_.tokens + int64_t{admission.slot} * state_.tokens_max, admission.tokens);
    ops_->copy_to_device(*device_, state_.lengths + admission.slot, &length, sizeof length);
    ops_->copy_to_device(*device_, state_.sampling + admission.slot, &admission.sampling, sizeof(SlotSampling));
    admitted_[static_cast<size_t>(admission.slot)] = step;
  }
}

StepView StepInputs::upload_rows(const StepPlan& plan) {
  auto& [slots, first_positions, begins] = host_;
  slots.clear();
  first_positions.clear();
  begins.assign(1, 0);
  for (const PlanRow& row : plan.rows) {
    slots.push_back(row.slot);
    first_positions.push_back(row.first_position);
    begins.push_back(begins.back() + row.tokens);
  }
  upload(row_slots_, slots);
  upload(first_positions_, first_positions);
  upload(query_begin_, begins);
  StepView step{.rows = static_cast<int>(plan.rows.size()),
                .tokens = begins.back(),
                .query_begin = query_begin_,
                .slots = row_slots_};
  ops_->gather(*device_, {.token_ids = token_ids_,
                          .positions = positions_,
                          .step = step,
                          .first_position = first_positions_,
                          .state = state_});
  step.token_ids = token_ids_;
  step.positions = positions_;
  return step;
}

void StepInputs::store_samples(uint64_t step, const std::vector<int32_t>& slots, const std::vector<int32_t>& positions,
                               const std::vector<int32_t>& tokens) {
  for (std::vector<int32_t>& values : host_) values.clear();
  for (size_t i = 0; i < slots.size(); ++i) {
    if (tokens[i] < 0 || step < admitted_[static_cast<size_t>(slots[i])]) continue;
    host_[0].push_back(slots[i]);
    host_[1].push_back(positions[i]);
    host_[2].push_back(tokens[i]);
  }
  if (host_[0].empty()) return;
  for (int i = 0; i < 3; ++i) upload(stored_[i], host_[i]);
  ops_->store_tokens(*device_, {.state = state_,
                                .count = static_cast<int>(host_[0].size()),
                                .slots = stored_[0],
                                .positions = stored_[1],
                                .tokens = stored_[2]});
}

const int32_t* StepInputs::upload_indices(const int32_t* values, size_t count) {
  ops_->copy_to_device(*device_, indices_, values, static_cast<int64_t>(count * sizeof(int32_t)));
  return indices_;
}

const SampleRow* StepInputs::upload_samples(const SampleRow* values, size_t count) {
  ops_->copy_to_device(*device_, samples_, values, static_cast<int64_t>(count * sizeof(SampleRow)));
  return samples_;
}

}  // namespace skein
