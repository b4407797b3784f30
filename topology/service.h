#pragma once

#include <functional>
#include <optional>

#include "topology/cost.h"

namespace skein {

// What a replica gives its users. The formulas and what they assume are in service.cpp.

struct Load {
  double request_rate = 0;  // requests/s; 0: as many as can be served
  int input_tokens = 1024;
  int output_tokens = 256;
};

// Means over requests; 0: none wanted.
struct ServiceLevel {
  double ttft_ms = 0;
  double itl_ms = 0;
};

// What the replica was given to work with.
struct ReplicaLimits {
  int sequences_max = 256;    // at once
  int step_tokens_max = 8192;
  int64_t kv_tokens = 0;
};

// A steady state.
struct Operation {
  double concurrency = 0;     // sequences that run at once
  double request_rate = 0;
  double ttft_ms = 0;
  double itl_ms = 0;
  double output_rate = 0;     // tokens/s
  double latency_ms(const Load& load) const { return ttft_ms + (load.output_tokens - 1) * itl_ms; }
};

// While `concurrency` sequences run. Requires: concurrency >= 1.
Operation operate(const ReplicaCost& cost, const Load& load, const ReplicaLimits& limits, double concurrency);

// Sequences of that load that fit beside each other.
int concurrency_max(const Load& load, const ReplicaLimits& limits);

// The highest request rate at which the level holds; nullopt: it does not hold for a lone request, or none fits.
std::optional<Operation> best_operation(const ReplicaCost& cost, const Load& load, const ServiceLevel& level,
                                        const ReplicaLimits& limits);

// The same with what a replica does at 1 to `concurrency_max` sequences.
std::optional<Operation> best_operation(const ServiceLevel& level, int concurrency_max,
                                        const std::function<Operation(int)>& at);

// At load.request_rate. Requires: best_operation() gives at least that rate.
Operation operation_at(const ReplicaCost& cost, const Load& load, const ReplicaLimits& limits);

}  // namespace skein
