#pragma once

#include <memory>
#include <vector>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/ops.h"

namespace skein {

struct Candidate {
  float weight = 0;  // e^((logit - highest) / temperature)
  int32_t token = 0;
};

// One thread's working memory for sampling, all of it for kSampleVocabularyMax.
struct SampleScratch {
  int32_t* counts = nullptr;       // (vocabulary) zero between rows
  float* weights = nullptr;        // (vocabulary)
  float* raw = nullptr;            // (vocabulary)
  Candidate* candidates = nullptr; // (vocabulary)
};

// The memory and the threads of one CPU rank. Single-owner: the executor thread.
class CpuDevice : public Device {
 public:
  static Result<std::unique_ptr<Device>> open(const DeviceConfig& config);

  const IsaKernels& kernels() const { return *kernels_; }
  ThreadTeam& team() { return *team_; }
  Memory& memory() { return memory_; }
  AttentionScratch* attention_scratch(int thread);
  SampleScratch sample_scratch(int thread);

 private:
  CpuDevice() = default;

  const IsaKernels* kernels_ = nullptr;
  std::unique_ptr<ThreadTeam> team_;
  std::vector<Mapping> scratch_;  // one per thread
  Memory memory_;
};

}  // namespace skein
