// skein-worker SPEC.json: one MPI rank of one replica. Rank 0 is the replica's leader.
// It ends with one sentence on standard error, "skein-worker: ...", if anything fails.

#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>

#include "base/json.h"
#include "base/log.h"
#include "base/replica_spec.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#ifdef SKEIN_CUDA
#include "comm/nccl_collectives.h"
#endif
#include "kernels/ops.h"
#include "kvcache/kv_cache.h"
#include "model/checkpoint.h"
#include "model/mapped_file.h"
#include "model/shard.h"
#include "worker/executor.h"
#include "worker/leader.h"
#include "worker/numerics.h"

namespace skein {
namespace {

constexpr size_t kSpecBytesMax = 1 << 20;

Result<ReplicaSpec> read_spec(const char* path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kSpecBytesMax));
  ASSIGN_OR_RETURN(const Json json, parse_json(text));
  return parse_replica_spec(json);
}

// A step through every rank and every weight before anybody hears that this replica is ready.
Status warm_up(Executor& executor, Communicator& communicator, const ReplicaSpec& spec, int kv_groups, int rank,
               bool answers) {
  if (rank == 0) {
    std::string bytes;
    encode(warm_up_plan(kv_groups), &bytes);
    communicator.send_plan(bytes);
  }
  ASSIGN_OR_RETURN(const StepPlan plan, decode_step_plan(communicator.receive_plan()));
  ASSIGN_OR_RETURN(const StepResult answer, executor.run(plan));
  if (answers && answer.samples.at(0).token < 0) {
    return Status(Code::kCorrupt, "the model \"" + spec.model + "\" produced no finite probabilities: are its weights intact?",
                  Scope::kReplica);
  }
  return executor.record_decode_steps();
}

Result<std::unique_ptr<Communicator>> join_ranks(const CommunicatorConfig& config, MpiSession& mpi) {
  return Communicator::create(
      config,
      {.broadcast = [&](std::string bytes) { return mpi.broadcast(std::move(bytes)); },
       .barrier = [&] { mpi.barrier(); }});
}

Result<SipKey> parse_cache_key(std::string_view hex) {
  SipKey key{};
  bool good = hex.size() == 2 * key.size();
  for (size_t i = 0; good && i < key.size(); ++i) {
    const char* begin = hex.data() + 2 * i;
    const auto [end, error] = std::from_chars(begin, begin + 2, key[i], 16);
    good = error == std::errc() && end == begin + 2;
  }
  if (!good) return invalid_argument("the replica spec's cache_key must be 32 hexadecimal digits");
  return key;
}

Result<const Ops*> ops_of(const ReplicaSpec& spec) {
  if (spec.device == "cpu") return &cpu_ops();
#ifdef SKEIN_CUDA
  if (spec.device == "cuda") return &cuda_ops();
#endif
  return unsupported("this build of skein-worker cannot run on device \"" + spec.device + "\"");
}

// How the ranks' devices reach each other. `logits`: how many of them are gathered at most.
Result<std::unique_ptr<Collectives>> make_collectives(const CommunicatorConfig& ranks, void* stream,
                                                      [[maybe_unused]] int64_t logits, Communicator& communicator,
                                                      [[maybe_unused]] MpiSession& mpi) {
  if (stream == nullptr || ranks.world_size() == 1) {
    return std::unique_ptr<Collectives>(std::make_unique<SharedMemoryCollectives>(ranks, communicator));
  }
#ifdef SKEIN_CUDA
  ASSIGN_OR_RETURN(std::unique_ptr<NcclCollectives> collectives,
                   NcclCollectives::create(
                       {.ranks = ranks, .stream = stream, .gathered_floats = ranks.tp_size > 1 ? logits : 0,
                        .broadcast = [&](std::string bytes) { return mpi.broadcast(std::move(bytes)); }}));
  return std::unique_ptr<Collectives>(std::move(collectives));
#else
  return unsupported("this build of skein-worker has nothing to connect GPUs with");
#endif
}

// The largest sum that goes from peer to peer. Each rank sends its part to all others: between two nothing moves fewer
// bytes, among more NCCL's rings do from about here on.
int64_t peer_sum_bytes_max(int ranks) { return (int64_t{ranks == 2 ? 64 : 12} << 20) / (ranks - 1); }

// How the devices of a tensor-parallel group write to each other without a library; null where they cannot.
Result<const PeerGroup*> join_peers(const CommunicatorConfig& ranks, const ReplicaSpec& spec, const Ops& ops,
                                    Device& device, int64_t hidden, int64_t logits, MpiSession& mpi) {
  if (ranks.tp_size == 1) return nullptr;
  const int64_t row_bytes = hidden * info(ops.stream_format).block_bytes;
  const int64_t rows = peer_sum_bytes_max(ranks.tp_size) / row_bytes;
  const PeerSetup setup{.rank = ranks.tp_rank,
                        .size = ranks.tp_size,
                        .rows = std::clamp<int64_t>(rows, 1, spec.step_tokens_max),
                        .row_bytes = row_bytes,
                        .shared_bytes =
                            ranks.tp_rank == 0 && ranks.pp_size == 1 ? logits * int64_t{sizeof(float)} : 0,
                        .all_gather = [&](const std::string& bytes) {
                          const std::vector<std::string> all = mpi.all_gather(bytes);
                          const auto first = all.begin() + ranks.pp_rank * ranks.tp_size;
                          return std::vector<std::string>(first, first + ranks.tp_size);
                        }};
  ASSIGN_OR_RETURN(const PeerGroup* const peers, ops.join_peers(device, setup));
  if (peers == nullptr && spec.deterministic && spec.device == "cuda") {
    return unsupported("--deterministic adds up over GPUs in an order of its own, and these " +
                       std::to_string(ranks.tp_size) +
                       " cannot write to each other's memory: use tensor-parallel-size 1, or leave it out");
  }
  return peers;
}

DeviceConfig device_config(const ReplicaSpec& spec, int rank) {
  return {.index = spec.first_device + rank,
          .threads = spec.threads,
          .pin_threads = spec.first_core >= 0,
          .first_core = spec.first_core + rank * spec.threads,
          .deterministic = spec.deterministic};
}

Result<std::unique_ptr<Batcher>> make_batcher(const ReplicaSpec& spec, int kv_blocks, const ModelDescription& model,
                                              uint64_t numerics) {
  ASSIGN_OR_RETURN(const SipKey key, parse_cache_key(spec.cache_key));
  auto cache = std::make_unique<KvCache>(KvCacheConfig{
      .groups = std::vector<KvGroupConfig>(model.kv_groups.size(),
                                           {.blocks = kv_blocks, .block_tokens = spec.block_tokens}),
      .prefix_caching = spec.prefix_caching,
      .key = key,
      .model = std::to_string(numerics)});
  const int lanes = spec.pipeline_parallel_size;
  return std::make_unique<Batcher>(BatcherConfig{.slots = spec.slots,
                                                 .step_tokens_max = spec.step_tokens_max,
                                                 .sequence_tokens_max = spec.context_max,
                                                 .vocabulary = model.vocabulary,
                                                 .lanes = lanes,
                                                 .lane_steps_max = lanes == 1 ? 2 : 1,
                                                 .waiting_max = spec.waiting_max},
                                   std::move(cache));
}

Status run(const char* spec_path) {
  const auto started = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const ReplicaSpec spec, read_spec(spec_path));
  ASSIGN_OR_RETURN(const std::unique_ptr<MpiSession> mpi, MpiSession::start());
  if (mpi->size() != spec.ranks()) {
    return invalid_argument("mpirun started " + std::to_string(mpi->size()) + " ranks where the plan has " +
                            std::to_string(spec.ranks()));
  }
  if (!mpi->one_node()) {
    return unsupported("the ranks of a replica must share one node's memory in this version: place it on one node");
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                   Checkpoint::open(spec.model, spec.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto));
  ASSIGN_OR_RETURN(
      const std::vector<ShardPlan> shards,
      plan_shards(checkpoint->description(), spec.tensor_parallel_size, spec.pipeline_parallel_size));
  RETURN_IF_ERROR(check_shard_formats(*checkpoint, shards));
  const ShardPlan& shard = shards[static_cast<size_t>(mpi->rank())];
  const CommunicatorConfig ranks{.tp_size = shard.tp_size, .pp_size = shard.pp_size, .tp_rank = shard.tp_rank,
                                 .pp_rank = shard.pp_rank, .spin = spec.spin};
  ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator, join_ranks(ranks, *mpi));
  ASSIGN_OR_RETURN(const Ops* const ops, ops_of(spec));
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, ops->open(device_config(spec, mpi->rank())));
  const int64_t logits = int64_t{std::min(spec.slots, ops->logit_rows_max)} * checkpoint->description().vocabulary;
  ASSIGN_OR_RETURN(const std::unique_ptr<Collectives> collectives,
                   make_collectives(ranks, ops->native_stream(*device), logits, *communicator, *mpi));
  ASSIGN_OR_RETURN(const PeerGroup* const peers,
                   join_peers(ranks, spec, *ops, *device, checkpoint->description().hidden, logits, *mpi));
  const RankLinks links{.communicator = *communicator, .collectives = *collectives,
                        .minimum = [&](int64_t value) { return std::ranges::min(mpi->all_gather(value)); },
                        .peers = peers};
  ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor,
                   Executor::create(spec, *checkpoint, shard, *ops, *device, links));
  mpi->barrier();  // from here on nobody waits long for another rank's device
  const bool answers = shard.last_stage() && shard.tp_rank == 0;
  const int kv_groups = static_cast<int>(checkpoint->description().kv_groups.size());
  RETURN_IF_ERROR(warm_up(*executor, *communicator, spec, kv_groups, mpi->rank(), answers));
  mpi->barrier();
  if (mpi->rank() != 0) return serve_plans(*executor, *communicator, answers);

  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket,
                   MessageSocket::connect(spec.coordinator, "replica-" + std::to_string(spec.launch)));
  const uint64_t numerics = numerics_id(spec, checkpoint->fingerprint(), ops->numerics(*device));
  ASSIGN_OR_RETURN(std::unique_ptr<Batcher> batcher,
                   make_batcher(spec, executor->kv_blocks(), checkpoint->description(), numerics));
  Leader leader(spec, std::move(socket), std::move(batcher), *communicator);
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - started;
  leader.start({.replica = spec.replica,
                .launch = spec.launch,
                .build = SKEIN_BUILD,
                .numerics_id = numerics,
                .ranks = static_cast<uint32_t>(spec.ranks()),
                .slots = static_cast<uint32_t>(spec.slots),
                .kv_tokens = static_cast<uint64_t>(executor->kv_blocks()) * static_cast<uint64_t>(spec.block_tokens),
                .context_max = static_cast<uint32_t>(spec.context_max),
                .load_seconds = load_time.count()});
  RETURN_IF_ERROR(serve_plans(*executor, *communicator, answers));
  leader.join();
  return {};
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  // Whoever started this rank owns it: mpirun's end is its end.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc != 2) {
    std::fprintf(stderr, "skein-worker: usage: skein-worker SPEC.json, under mpirun; people start `skein serve`\n");
    return 2;
  }
  const skein::Status status = skein::run(argv[1]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "skein-worker: %s\n", status.message().c_str());
  std::fflush(stderr);
  // No MPI_Finalize: the other ranks may be waiting for this one, and mpirun ends them when it sees this status.
  _exit(1);
}
