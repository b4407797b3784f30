#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

// Open MPI, used by one thread per rank and only while a replica starts and ends: what ranks say while
// they serve goes through shared memory or sockets (comm/communicator.h), so that nobody waits inside MPI.

namespace skein {

// MPI_Init to MPI_Finalize. Single-owner: the executor thread.
class MpiSession {
 public:
  static Result<std::unique_ptr<MpiSession>> start();
  ~MpiSession();

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Rank 0's bytes, on every rank. Collective.
  std::string broadcast(std::string bytes);
  // Every rank's value, by rank. Collective.
  std::vector<int64_t> all_gather(int64_t value);
  // Every rank's bytes, by rank. Collective.
  std::vector<std::string> all_gather(const std::string& bytes);
  void barrier();

 private:
  MpiSession() = default;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace skein
