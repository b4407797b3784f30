#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "comm/wire.h"
#include "topology/forecast.h"

namespace skein {

// Holds what replicas' steps take against what the plan says, over about the last minute.
class PlanAccuracy {
 public:
  struct Ratios {  // predicted over measured time; nullopt: too few such steps so far
    std::optional<double> decode;   // steps without prompts
    std::optional<double> prefill;  // the others
  };

  // Replicas by index into the forecast's.
  PlanAccuracy(std::unique_ptr<const Forecast> forecast, size_t replicas);

  // Call it every few seconds, or when the ratios are wanted.
  const Ratios& observe(size_t replica, const ReplicaStatus& status, int64_t now_ms);

 private:
  struct Sample {
    int64_t at_ms = 0;
    ReplicaStatus status;
  };
  struct History {
    std::deque<Sample> samples;  // of one launch
    Ratios ratios;
  };

  std::optional<double> ratio(size_t replica, const StepWork& before, const StepWork& now) const;

  std::unique_ptr<const Forecast> forecast_;
  std::vector<History> histories_;
};

}  // namespace skein
