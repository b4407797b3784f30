#include "comm/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace skein {
namespace {

Status segment_error(const std::string& what, size_t bytes) {
  return Status(Code::kResourceExhausted,
                "cannot " + what + " a shared memory segment of " + std::to_string(bytes >> 20) +
                    " MiB: " + std::strerror(errno) + "; is /dev/shm large enough?",
                Scope::kReplica);
}

}  // namespace

Result<std::unique_ptr<SharedMemory>> SharedMemory::create(const std::string& name, size_t bytes) {
  const int fd = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return segment_error("create", bytes);
  // posix_fallocate, not ftruncate: a full /dev/shm is an error now and not SIGBUS later.
  errno = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  void* data = errno == 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  close(fd);
  if (data == MAP_FAILED) {
    const Status status = segment_error("allocate", bytes);
    shm_unlink(name.c_str());
    return status;
  }
  return std::unique_ptr<SharedMemory>(
      new SharedMemory(name, static_cast<std::byte*>(data), bytes, true));
}

Result<std::unique_ptr<SharedMemory>> SharedMemory::attach(const std::string& name, size_t bytes) {
  const int fd = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return segment_error("open", bytes);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (data == MAP_FAILED) return segment_error("map", bytes);
  return std::unique_ptr<SharedMemory>(
      new SharedMemory(name, static_cast<std::byte*>(data), bytes, false));
}

SharedMemory::~SharedMemory() {
  unlink();
  munmap(data_, bytes_);
}

void SharedMemory::unlink() {
  if (linked_) shm_unlink(name_.c_str());
  linked_ = false;
}

}  // namespace skein
