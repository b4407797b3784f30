#pragma once

#include "comm/collectives.h"
#include "kernels/ops.h"

namespace skein::testing {

// Stages hand on through the host, so that two of them may share a GPU, in one process; they wait for the device, and
// no device lets them be recorded. The rest as in SharedMemoryCollectives.
class StagedCollectives : public SharedMemoryCollectives {
 public:
  // All three must outlive it.
  StagedCollectives(const CommunicatorConfig& config, Communicator& communicator, const Ops& ops, Device& device)
      : SharedMemoryCollectives(config, communicator), communicator_(communicator), ops_(ops), device_(device) {}
  ~StagedCollectives() override;

  void send_stage(const void* data, int64_t bytes) override;
  void receive_stage(void* data, int64_t bytes) override;

 private:
  void* room(int64_t bytes);

  Communicator& communicator_;
  const Ops& ops_;
  Device& device_;
  void* room_ = nullptr;
  int64_t room_bytes_ = 0;
};

}  // namespace skein::testing
