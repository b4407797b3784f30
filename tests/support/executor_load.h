#pragma once

#include <cstdint>
#include <string>

#include "kernels/ops.h"

namespace skein::testing {

struct ExecutorLoad {
  const Ops& ops;     // of the executor under test
  std::string model;
  uint64_t seed = 0;
  int steps = 0;
  int slots_max = 32;
  // How far log-probabilities may leave those of a CPU in float32. 0: tokens and log-probabilities are bitwise those.
  double worst = 0;
};

struct LoadReport {
  int64_t steps = 0, rows = 0, decode_steps = 0, requests = 0, cancelled = 0, preemptions = 0, prefix_hits = 0;
  int64_t copies = 0, tokens = 0, scores = 0;
  double worst = 0, sum = 0;  // differences of log-probability, over tokens and scores
  void add(const LoadReport& other);
};

// Random requests of all kinds arrive and are cancelled while the batcher plans ahead and an executor runs its plans as
// it does in a replica: several in flight, decode steps from recordings. Every result is compared
//   - bitwise with that of a second executor, which runs each plan by itself: launched, not recorded, waited for;
//   - when a request has ended, with a replica on a CPU that computes nothing else meanwhile.
// gtest expectations fail where they differ.
LoadReport run_executor_load(const ExecutorLoad& load);

}  // namespace skein::testing
