#include "comm/mpi.h"

#include <mpi.h>

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
  MPI_Comm node;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int local = 0;
  MPI_Comm_size(node, &local);
  MPI_Comm_free(&node);
  int all_local = local == session->size_;
  MPI_Allreduce(MPI_IN_PLACE, &all_local, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
  session->one_node_ = all_local != 0;
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
  const int count = static_cast<int>(bytes.size());
  std::string all(bytes.size() * static_cast<size_t>(size_), '\0');
  MPI_Allgather(bytes.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, MPI_COMM_WORLD);
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < all.size(); begin += bytes.size()) parts.push_back(all.substr(begin, bytes.size()));
  return parts;
}

void MpiSession::barrier() { MPI_Barrier(MPI_COMM_WORLD); }

}  // namespace skein
