#include "comm/nccl_collectives.h"

#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/log.h"

namespace skein {
namespace {

Status failure(const std::string& what, const char* why) {
  return {Code::kUnavailable, "between the GPUs, " + what + ": " + why, Scope::kReplica};
}

ncclDataType_t type_of(Format format) {
  CHECK(format == Format::kF32 || format == Format::kBF16);
  return format == Format::kF32 ? ncclFloat32 : ncclBfloat16;
}

// Decision 6: a crash can leave multicast objects behind in the fabric, so NCCL makes none, whatever the user set. It
// reads this when a communicator is made. One rank of a replica says so.
void forbid_multicast(bool says) {
  constexpr const char* kVariable = "NCCL_NVLS_ENABLE";
  const char* given = std::getenv(kVariable);
  if (says && given != nullptr && std::string_view(given) != "0") {
    log_warning("NCCL_NVLS_ENABLE is taken as 0: a crash could leave multicast objects behind", {{"given", given}});
  }
  CHECK_EQ(setenv(kVariable, "0", 1), 0);
}

}  // namespace

struct NcclCollectives::State {
  CommunicatorConfig ranks;
  cudaStream_t stream = nullptr;
  ncclComm_t world = nullptr;   // ranks as MPI's
  ncclComm_t group = nullptr;   // tensor-parallel group; rank = tp_rank
  float* gathered = nullptr;    // rank 0 of the last stage's group: [rank][row][column]
  int64_t gathered_max = 0;
  Status first_error;

  void check(ncclResult_t result, const char* what) {
    if (result == ncclSuccess || result == ncclInProgress || !first_error.ok()) return;
    first_error = failure(what, ncclGetErrorString(result));
  }
  void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess && first_error.ok()) first_error = failure(what, cudaGetErrorString(error));
  }
};

NcclCollectives::NcclCollectives(std::unique_ptr<State> state) : state_(std::move(state)) {}

NcclCollectives::~NcclCollectives() {
  // A broken group cannot be left in order; the process ends with it.
  if (!state_->first_error.ok()) return;
  if (state_->group != nullptr) ncclCommDestroy(state_->group);
  if (state_->world != nullptr) ncclCommDestroy(state_->world);
  cudaFree(state_->gathered);
}

Result<std::unique_ptr<NcclCollectives>> NcclCollectives::create(const Options& options) {
  const CommunicatorConfig& ranks = options.ranks;
  auto state = std::make_unique<State>();
  state->ranks = ranks;
  state->stream = static_cast<cudaStream_t>(options.stream);
  forbid_multicast(ranks.world_rank() == 0);
  ncclUniqueId id{};
  if (ranks.world_rank() == 0) state->check(ncclGetUniqueId(&id), "making an id");
  const std::string bytes = options.broadcast({id.internal, sizeof id.internal});
  CHECK_EQ(bytes.size(), sizeof id.internal);
  std::memcpy(id.internal, bytes.data(), bytes.size());
  state->check(ncclCommInitRank(&state->world, ranks.world_size(), id, ranks.world_rank()), "joining");
  if (state->first_error.ok()) {
    state->check(ncclCommSplit(state->world, ranks.pp_rank, ranks.tp_rank, &state->group, nullptr), "forming groups");
  }
  RETURN_IF_ERROR(state->first_error);
  return std::unique_ptr<NcclCollectives>(new NcclCollectives(std::move(state)));
}

Status NcclCollectives::prepare_gather(int64_t numbers) {
  State& s = *state_;
  CHECK(s.gathered == nullptr);
  if (s.ranks.tp_rank != 0) return {};
  void* memory = nullptr;
  s.check(cudaMalloc(&memory, sizeof(float) * static_cast<size_t>(numbers)), "taking memory for logits");
  s.gathered = static_cast<float*>(memory);
  s.gathered_max = numbers;
  return s.first_error;
}

void NcclCollectives::all_reduce(void* data, Format format, int64_t count) {
  if (state_->ranks.tp_size == 1) return;
  state_->check(ncclAllReduce(data, data, static_cast<size_t>(count), type_of(format), ncclSum, state_->group,
                              state_->stream),
                "all-reduce");
}

void NcclCollectives::gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) {
  State& s = *state_;
  const auto columns_of = [&](int rank) { return begins[rank + 1] - begins[rank]; };
  if (s.ranks.tp_rank != 0) {
    s.check(ncclSend(part, static_cast<size_t>(rows * columns_of(s.ranks.tp_rank)), ncclFloat32, 0, s.group, s.stream),
            "gathering logits");
    return;
  }
  CHECK_LE(rows * begins[s.ranks.tp_size], s.gathered_max);
  s.check(ncclGroupStart(), "gathering logits");
  for (int rank = 1; rank < s.ranks.tp_size; ++rank) {
    s.check(ncclRecv(s.gathered + rows * begins[rank], static_cast<size_t>(rows * columns_of(rank)), ncclFloat32, rank,
                     s.group, s.stream),
            "gathering logits");
  }
  s.check(ncclGroupEnd(), "gathering logits");
  const size_t pitch = sizeof(float) * static_cast<size_t>(begins[s.ranks.tp_size]);
  for (int rank = 0; rank < s.ranks.tp_size; ++rank) {
    const size_t width = sizeof(float) * static_cast<size_t>(columns_of(rank));
    const float* from = rank == 0 ? part : s.gathered + rows * begins[rank];
    s.check(cudaMemcpy2DAsync(out + begins[rank], pitch, from, width, width, static_cast<size_t>(rows),
                              cudaMemcpyDeviceToDevice, s.stream),
            "gathering logits");
  }
}

void NcclCollectives::broadcast(int32_t* values, int64_t count) {
  CHECK_EQ(state_->ranks.pp_size, 1);
  if (state_->ranks.tp_size == 1) return;
  state_->check(ncclBroadcast(values, values, static_cast<size_t>(count), ncclInt32, 0, state_->group, state_->stream),
                "broadcast");
}

void NcclCollectives::send_stage(const void* data, int64_t bytes) {
  const int peer = state_->ranks.world_rank() + state_->ranks.tp_size;
  state_->check(ncclSend(data, static_cast<size_t>(bytes), ncclInt8, peer, state_->world, state_->stream),
                "handing on to the next stage");
}

void NcclCollectives::receive_stage(void* data, int64_t bytes) {
  const int peer = state_->ranks.world_rank() - state_->ranks.tp_size;
  state_->check(ncclRecv(data, static_cast<size_t>(bytes), ncclInt8, peer, state_->world, state_->stream),
                "receiving from the stage before");
}

Status NcclCollectives::status() const {
  RETURN_IF_ERROR(state_->first_error);
  for (const ncclComm_t communicator : {state_->world, state_->group}) {
    ncclResult_t result = ncclSuccess;
    if (ncclCommGetAsyncError(communicator, &result) != ncclSuccess || result == ncclSuccess) continue;
    if (result != ncclInProgress) return failure("a transfer failed", ncclGetErrorString(result));
  }
  return {};
}

}  // namespace skein
