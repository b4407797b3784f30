#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/replica_spec.h"
#include "base/request.h"
#include "kvcache/kv_cache.h"
#include "kernels/ops.h"
#include "model/checkpoint.h"
#include "worker/batcher.h"

namespace skein::testing {

// A whole replica in one process: real batcher, executors and shared memory, threads in the place of processes.
class ReplicaHarness {
 public:
  // CHECKs that everything starts. `ops` must outlive the harness.
  ReplicaHarness(const ReplicaSpec& spec, const std::string& model, const Ops& ops = cpu_ops());
  ~ReplicaHarness();

  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<TokenLogprob> logprobs;
    std::vector<TokenLogprob> prompt_logprobs;
    int32_t cached_tokens = 0;
    FinishReason finish = FinishReason::kNone;
    std::string error;
  };
  // Submits all at once and runs until all have ended. Answers by request, then choice.
  std::vector<std::vector<Answer>> run(const std::vector<GenerationRequest>& requests);

  const ModelDescription& model() const;
  std::vector<int64_t> device_bytes() const;  // by rank: what each took of its device, pages and all
  Batcher& batcher();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A spec with sizes for tiny models.
ReplicaSpec small_spec(int tensor_parallel_size, int pipeline_parallel_size);

}  // namespace skein::testing
