#pragma once

#include <functional>
#include <vector>

#include "base/probe.h"
#include "base/status.h"
#include "comm/mpi.h"
#include "kernels/ops.h"

namespace skein {

// Times launches in chains, recorded ones where the backend records. Single-owner.
class ProbeTimer {
 public:
  ProbeTimer(const Ops& ops, Device& device, MpiSession& mpi) : ops_(ops), device_(device), mpi_(mpi) {}

  // Microseconds of one call of `body`, of the slowest rank: over some chains the median, or where nothing is recorded
  // the mean. Collective where there are several ranks: they call body equally often.
  Result<double> time_us(const std::function<void()>& body);

 private:
  Result<double> figure_us(const std::function<void()>& body);
  Result<double> chain_us(int calls, int replays, const std::function<void()>& body);
  double slowest(double us);

  const Ops& ops_;
  Device& device_;
  MpiSession& mpi_;
};

// Of passes over the same figures, in the same order. Requires: a pass at least.
std::vector<ProbeSample> medians_of(const std::vector<std::vector<ProbeSample>>& passes);

}  // namespace skein
