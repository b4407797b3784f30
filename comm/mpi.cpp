#include "comm/mpi.h"

#include <mpi.h>

#include <numeric>

namespace skein {

Result<std::unique_ptr<MpiSession>> MpiSession::start() {
  int provided = 0;
  // Errors after this abort the job, and mpirun ends every rank: a replica is one failure domain.
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    return Status(Code::kUnavailable, "MPI did not start: run skein-worker under mpirun", Scope::kReplica);
  }
  auto session = std::unique_ptr<MpiSession>(new MpiSession());
  MPI_Comm_rank(MPI_COMM_WORLD, &session->rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &session->size_);
  return session;
}

MpiSession::~MpiSession() { MPI_Finalize(); }

std::string MpiSession::broadcast(std::string bytes) {
  int64_t size = static_cast<int64_t>(bytes.size());
  MPI_Bcast(&size, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
  bytes.resize(static_cast<size_t>(size));
  MPI_Bcast(bytes.data(), static_cast<int>(size), MPI_BYTE, 0, MPI_COMM_WORLD);
  return bytes;
}

std::vector<int64_t> MpiSession::all_gather(int64_t value) {
  std::vector<int64_t> all(static_cast<size_t>(size_));
  MPI_Allgather(&value, 1, MPI_INT64_T, all.data(), 1, MPI_INT64_T, MPI_COMM_WORLD);
  return all;
}

std::vector<std::string> MpiSession::all_gather(const std::string& bytes) {
  const int own = static_cast<int>(bytes.size());
  std::vector<int> sizes(static_cast<size_t>(size_));
  MPI_Allgather(&own, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD);
  std::vector<int> begins(sizes.size());
  std::exclusive_scan(sizes.begin(), sizes.end(), begins.begin(), 0);
  std::string all(static_cast<size_t>(begins.back() + sizes.back()), '\0');
  MPI_Allgatherv(bytes.data(), own, MPI_BYTE, all.data(), sizes.data(), begins.data(), MPI_BYTE, MPI_COMM_WORLD);
  std::vector<std::string> parts;
  for (size_t rank = 0; rank < sizes.size(); ++rank) {
    parts.push_back(all.substr(static_cast<size_t>(begins[rank]), static_cast<size_t>(sizes[rank])));
  }
  return parts;
}

void MpiSession::barrier() { MPI_Barrier(MPI_COMM_WORLD); }

}  // namespace skein
