#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "comm/collectives.h"

namespace skein {

// Between the GPUs of one replica, through NCCL: every call is queued on the device's stream and may be recorded.
// Single-owner: the executor thread.
class NcclCollectives : public Collectives {
 public:
  struct Options {
    CommunicatorConfig ranks;
    void* stream = nullptr;       // cudaStream_t of this rank's device, which is current
    std::function<std::string(std::string)> broadcast;  // rank 0's bytes, on every rank
  };
  // Collective over the replica.
  static Result<std::unique_ptr<NcclCollectives>> create(const Options& options);
  ~NcclCollectives() override;

  Status prepare_gather(int64_t numbers) override;
  void all_reduce(void* data, Format format, int64_t count) override;
  void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) override;
  void broadcast(int32_t* values, int64_t count) override;
  void send_stage(const void* data, int64_t bytes) override;
  void receive_stage(void* data, int64_t bytes) override;
  // The first error of a call, or of what is under way.
  Status status() const override;

 private:
  struct State;
  explicit NcclCollectives(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
