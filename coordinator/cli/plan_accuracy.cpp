#include "coordinator/cli/plan_accuracy.h"

#include <utility>

namespace skein {
namespace {

constexpr int64_t kWindowMs = 60'000;
constexpr int64_t kSampleMs = 1'000;
constexpr uint64_t kStepsMin = 10;

double mean(uint64_t sum, uint64_t count) {
  return count == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(count);
}

}  // namespace

PlanAccuracy::PlanAccuracy(std::unique_ptr<const Forecast> forecast, size_t replicas)
    : forecast_(std::move(forecast)), histories_(replicas) {}

const PlanAccuracy::Ratios& PlanAccuracy::observe(size_t replica, const ReplicaStatus& status, int64_t now_ms) {
  History& history = histories_[replica];
  std::deque<Sample>& samples = history.samples;
  if (!samples.empty() && samples.back().status.launch != status.launch) samples.clear();
  if (!samples.empty() && now_ms - samples.back().at_ms < kSampleMs) return history.ratios;
  samples.push_back({.at_ms = now_ms, .status = status});
  while (samples.size() > 2 && now_ms - samples[1].at_ms >= kWindowMs) samples.pop_front();
  const ReplicaStatus& before = samples.front().status;
  if (const auto decode = ratio(replica, before.decode_work, status.decode_work)) history.ratios.decode = decode;
  if (const auto prefill = ratio(replica, before.prefill_work, status.prefill_work)) history.ratios.prefill = prefill;
  return history.ratios;
}

std::optional<double> PlanAccuracy::ratio(size_t replica, const StepWork& before, const StepWork& now) const {
  const uint64_t steps = now.steps - before.steps;
  const double seconds = now.seconds - before.seconds;
  if (now.steps < before.steps + kStepsMin || seconds <= 0) return std::nullopt;
  const uint64_t decodes = now.decodes - before.decodes;
  const uint64_t prompt_tokens = now.prompt_tokens - before.prompt_tokens;
  const StepLoad load{.decodes = mean(decodes, steps),
                      .context = mean(now.decode_keys - before.decode_keys, decodes),
                      .prompt_tokens = mean(prompt_tokens, steps),
                      .prompt_keys = mean(now.prompt_keys - before.prompt_keys, prompt_tokens),
                      .prompt_rows = mean(now.prompt_rows - before.prompt_rows, steps)};
  const std::optional<double> step_us = forecast_->step_us(replica, load, mean(now.lanes - before.lanes, steps));
  if (!step_us) return std::nullopt;
  return *step_us * 1e-6 * static_cast<double>(steps) / seconds;
}

}  // namespace skein
