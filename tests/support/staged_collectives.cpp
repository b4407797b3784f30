#include "tests/support/staged_collectives.h"

#include "base/check.h"

namespace skein::testing {

StagedCollectives::~StagedCollectives() {
  if (room_ != nullptr) ops_.release_host(device_, room_);
}

// Nothing on the device uses what was there before: both ways wait.
void* StagedCollectives::room(int64_t bytes) {
  if (bytes <= room_bytes_) return room_;
  if (room_ != nullptr) ops_.release_host(device_, room_);
  const Result<void*> memory = ops_.allocate_host(device_, bytes);
  CHECK(memory.ok());
  room_ = *memory;
  room_bytes_ = bytes;
  return room_;
}

void StagedCollectives::send_stage(const void* data, int64_t bytes) {
  ops_.copy_to_host(device_, room(bytes), data, bytes);
  CHECK(ops_.synchronize(device_).ok());
  communicator_.send_stage(room_, static_cast<size_t>(bytes));
}

void StagedCollectives::receive_stage(void* data, int64_t bytes) {
  communicator_.receive_stage(room(bytes), static_cast<size_t>(bytes));
  ops_.copy_to_device(device_, data, room_, bytes);
}

}  // namespace skein::testing
