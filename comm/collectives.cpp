#include "comm/collectives.h"

#include <cstring>

#include "base/check.h"

namespace skein {

void SharedMemoryCollectives::all_reduce(void* data, Format format, int64_t count) {
  CHECK(format == Format::kF32);
  communicator_.all_reduce(static_cast<float*>(data), count);
}

void SharedMemoryCollectives::gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) {
  communicator_.gather_columns(part, rows, begins, out);
}

void SharedMemoryCollectives::broadcast(int32_t* values, int64_t count) {
  CHECK_EQ(config_.pp_size, 1);
  if (config_.tp_size == 1) return;
  const size_t bytes = sizeof(int32_t) * static_cast<size_t>(count);
  if (config_.tp_rank == 0) {
    communicator_.send_tokens({reinterpret_cast<const char*>(values), bytes});
    return;
  }
  const std::string received = communicator_.receive_tokens();
  CHECK_EQ(received.size(), bytes);
  std::memcpy(values, received.data(), bytes);
}

void SharedMemoryCollectives::send_stage(const void* data, int64_t bytes) {
  communicator_.send_stage(data, static_cast<size_t>(bytes));
}

void SharedMemoryCollectives::receive_stage(void* data, int64_t bytes) {
  communicator_.receive_stage(data, static_cast<size_t>(bytes));
}

}  // namespace skein
