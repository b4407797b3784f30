#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "comm/communicator.h"

namespace skein {

// What the ranks of a replica exchange within a step: device memory, queued behind the launches before and ahead of
// those after, the same calls in the same order on every rank that takes part. Single-owner: the executor thread.
class Collectives {
 public:
  virtual ~Collectives() = default;

  // data (count) becomes the sum over the tensor-parallel group, bitwise the same on every rank.
  virtual void all_reduce(void* data, Format format, int64_t count) = 0;
  // Room for gather_columns() of so many numbers at most: once, before the first. Without one, nothing is gathered.
  virtual Status prepare_gather(int64_t /*numbers*/) { return {}; }
  // Rank r of the group holds columns [begin_r, end_r) of a (rows, columns) matrix; rank 0 gets all of it.
  // `part` (rows, size) of this rank; `out` (rows, columns) on rank 0; `begins` (host) has tp_size + 1 entries.
  virtual void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) = 0;
  // values (count) of the group's rank 0, on every rank. Requires: one pipeline stage.
  virtual void broadcast(int32_t* values, int64_t count) = 0;
  virtual void send_stage(const void* data, int64_t bytes) = 0;  // Requires: not the last stage
  virtual void receive_stage(void* data, int64_t bytes) = 0;     // Requires: not the first stage
  // The first error of any call; it ends the replica.
  virtual Status status() const { return {}; }
};

// For devices whose memory is the host's and whose launches have run when they return: all of it through the
// communicator, f32 only.
class SharedMemoryCollectives : public Collectives {
 public:
  explicit SharedMemoryCollectives(const CommunicatorConfig& config, Communicator& communicator)
      : config_(config), communicator_(communicator) {}

  void all_reduce(void* data, Format format, int64_t count) override;
  void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) override;
  void broadcast(int32_t* values, int64_t count) override;
  void send_stage(const void* data, int64_t bytes) override;
  void receive_stage(void* data, int64_t bytes) override;

 private:
  const CommunicatorConfig config_;
  Communicator& communicator_;
};

}  // namespace skein
