// skein-worker SPEC.json: one MPI rank of one replica. Rank 0 is the replica's leader.
// It ends with one sentence on standard error, "skein-worker: ...", if anything fails.

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/network.h"
#include "base/replica_spec.h"
#include "base/time_slice.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#include "comm/socket_communicator.h"
#ifdef SKEIN_CUDA
#include "comm/nccl_collectives.h"
#endif
#include "kernels/ops.h"
#include "model/checkpoint.h"
#include "model/mapped_file.h"
#include "model/shard.h"
#include "worker/executor.h"
#include "worker/leader.h"
#include "worker/numerics.h"
#include "worker/preflight.h"
#include "worker/probe.h"

namespace skein {
namespace {

constexpr size_t kSpecBytesMax = 1 << 20;
constexpr int kTellAgainMs = 250;
constexpr auto kTellPatience = std::chrono::seconds(10);

// The leader's node has the file; the others hear what it says.
Result<ReplicaSpec> read_spec(const char* path, MpiSession& mpi) {
  std::string text;
  if (mpi.rank() == 0) {
    ASSIGN_OR_RETURN(text, read_file(path, kSpecBytesMax));
  }
  ASSIGN_OR_RETURN(const Json json, parse_json(mpi.broadcast(std::move(text))));
  ASSIGN_OR_RETURN(ReplicaSpec spec, parse_replica_spec(json));
  if (mpi.size() != spec.ranks()) {
    return invalid_argument("mpirun started " + std::to_string(mpi.size()) + " ranks where the plan has " +
                            std::to_string(spec.ranks()));
  }
  return spec;
}

// Ends this rank with one sentence. Nothing is taken down: threads, other ranks or a device in trouble might be waited
// for. mpirun ends the other ranks when it sees this status.
[[noreturn]] void end(const Status& status) {
  std::fprintf(stderr, "skein-worker: %s\n", status.message().c_str());
  std::fflush(stderr);
  _exit(1);
}

// Opens the model, which a probe does without (null), and compares what every rank finds where it runs.
Result<std::unique_ptr<Checkpoint>> preflight(const ReplicaSpec& spec, MpiSession& mpi,
                                              std::vector<RankReport>* reports) {
  Result<std::unique_ptr<Checkpoint>> checkpoint(nullptr);
  if (!spec.probe) {
    checkpoint = Checkpoint::open(spec.model, spec.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto);
  }
  mpi.barrier();
  RankReport report = look_around();
  if (!checkpoint.ok()) {
    report.error = checkpoint.status().message();
  } else if (*checkpoint != nullptr) {
    report.fingerprint = (*checkpoint)->fingerprint();
  }
  for (const std::string& bytes : mpi.all_gather(encode(report))) {
    ASSIGN_OR_RETURN(reports->emplace_back(), decode_rank_report(bytes));
  }
  RETURN_IF_ERROR(compare(spec, *reports));
  return checkpoint;
}

// A step through every rank and every weight before anybody hears that this replica is ready.
Status warm_up(Executor& executor, Communicator& communicator, const ReplicaSpec& spec, int kv_groups, int rank,
               bool answers) {
  if (rank == 0) {
    std::string bytes;
    encode(warm_up_plan(spec, kv_groups), &bytes);
    communicator.send_plan(bytes);
  }
  ASSIGN_OR_RETURN(const StepPlan plan, decode_step_plan(communicator.receive_plan()));
  ASSIGN_OR_RETURN(const StepResult answer, executor.run(plan));
  if (answers && answer.samples.at(0).token < 0) {
    return Status(Code::kCorrupt, "the model \"" + spec.model + "\" produced no finite probabilities: are its weights intact?",
                  Scope::kReplica);
  }
  RETURN_IF_ERROR(executor.record_decode_steps());
  return executor.size_pages();
}

// Through shared memory where all ranks have the same, else over sockets.
Result<std::unique_ptr<Communicator>> join_ranks(const CommunicatorConfig& config, const ReplicaSpec& spec,
                                                 const std::vector<RankReport>& reports, MpiSession& mpi) {
  if (on_one_host(reports)) {
    return Communicator::create(
        config,
        {.broadcast = [&](std::string bytes) { return mpi.broadcast(std::move(bytes)); },
         .barrier = [&] { mpi.barrier(); }});
  }
  ASSIGN_OR_RETURN(PortRange ports, parse_port_range(spec.ports));
  if (ports.first != 0) ports.first += (ports.last - ports.first + 1) / 2;  // the first half is mpirun's and orted's
  NodesConfig nodes{.network = spec.network,
                    .ports = ports,
                    .hosts = {},
                    .names = {},
                    .lost = [](const std::string& what) { end(unavailable(what)); },
                    .all_gather = [&](const std::string& bytes) { return mpi.all_gather(bytes); },
                    .barrier = [&] { mpi.barrier(); }};
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    nodes.hosts.push_back(reports[rank].host);
    nodes.names.push_back(name_of_rank(spec, static_cast<int>(rank)));
  }
  return connect_nodes(config, std::move(nodes));
}

Result<std::unique_ptr<MessageSocket>> connect_to_coordinator(const ReplicaSpec& spec) {
  std::optional<ConnectKeys> keys;
  if (!spec.coordinator_key.empty()) {
    keys.emplace();
    ASSIGN_OR_RETURN(keys->own, read_key_file(spec.key_file));
    keys->server_public_key = spec.coordinator_key;
  }
  return MessageSocket::connect(spec.coordinator, "replica-" + std::to_string(spec.launch), keys);
}

Result<const Ops*> ops_of(const ReplicaSpec& spec) {
  if (spec.device == "cpu") return &cpu_ops();
#ifdef SKEIN_CUDA
  if (spec.device == "cuda") return &cuda_ops();
#endif
  return unsupported("this build of skein-worker cannot run on device \"" + spec.device + "\"");
}

// Each rank counts GPUs for itself: what is the second one to one rank may be the first one to another.
Status check_devices(const Ops& ops, Device& device, MpiSession& mpi) {
  const std::string mine = ops.identity(device);
  const std::vector<std::string> all = mpi.all_gather(mine);
  const auto first = std::ranges::find(all, mine) - all.begin();
  if (mine.empty() || first == mpi.rank()) return {};
  return invalid_argument("ranks " + std::to_string(first) + " and " + std::to_string(mpi.rank()) +
                          " of the replica were given the same GPU: CUDA_VISIBLE_DEVICES must be the same for all ranks");
}

// NCCL takes any interfaces, those that begin with "ib" first, unless it is told: that of the network that joins the
// nodes.
Status name_interface(const ReplicaSpec& spec, const std::vector<RankReport>& reports) {
  constexpr const char* kVariable = "NCCL_SOCKET_IFNAME";
  if (spec.device != "cuda" || on_one_host(reports) || std::getenv(kVariable) != nullptr) return {};
  ASSIGN_OR_RETURN(const Interface interface, find_interface(spec.network));
  CHECK_EQ(setenv(kVariable, ("=" + interface.name).c_str(), 1), 0);  // that name, not all that begin with it
  return {};
}

// How the ranks' devices reach each other.
Result<std::unique_ptr<Collectives>> make_collectives(const CommunicatorConfig& ranks, void* stream,
                                                      Communicator& communicator, [[maybe_unused]] MpiSession& mpi) {
  if (stream == nullptr || ranks.world_size() == 1) {
    return std::unique_ptr<Collectives>(std::make_unique<SharedMemoryCollectives>(ranks, communicator));
  }
#ifdef SKEIN_CUDA
  ASSIGN_OR_RETURN(std::unique_ptr<NcclCollectives> collectives,
                   NcclCollectives::create(
                       {.ranks = ranks, .stream = stream,
                        .broadcast = [&](std::string bytes) { return mpi.broadcast(std::move(bytes)); }}));
  return std::unique_ptr<Collectives>(std::move(collectives));
#else
  return unsupported("this build of skein-worker has nothing to connect GPUs with");
#endif
}

// How the devices of a tensor-parallel group write to each other without a library; null where they cannot.
Result<const PeerGroup*> join_peers(const CommunicatorConfig& ranks, const ReplicaSpec& spec,
                                    const std::vector<RankReport>& reports, const Ops& ops, Device& device,
                                    int64_t hidden, int64_t logits, MpiSession& mpi) {
  if (ranks.tp_size == 1) return nullptr;
  const auto of_group = [&](const auto& by_rank) {
    const auto first = by_rank.begin() + ranks.pp_rank * ranks.tp_size;
    return std::vector(first, first + ranks.tp_size);
  };
  const int64_t row_bytes = hidden * info(ops.stream_format).block_bytes;
  const int64_t rows = peer_sum_bytes_max(ranks.tp_size) / row_bytes;
  const PeerSetup setup{.rank = ranks.tp_rank,
                        .size = ranks.tp_size,
                        .rows = std::clamp<int64_t>(rows, 1, spec.step_tokens_max),
                        .row_bytes = row_bytes,
                        .shared_bytes = ranks.tp_rank == 0 && ranks.pp_rank + 1 == ranks.pp_size
                                            ? logits * int64_t{sizeof(float)} : 0,
                        .one_host = on_one_host(of_group(reports)),
                        .all_gather = [&](const std::string& bytes) { return of_group(mpi.all_gather(bytes)); }};
  ASSIGN_OR_RETURN(const PeerGroup* const peers, ops.join_peers(device, setup));
  if (peers == nullptr && spec.deterministic && spec.device == "cuda") {
    return unsupported("--deterministic adds up over GPUs in an order of its own, and these " +
                       std::to_string(ranks.tp_size) +
                       " cannot write to each other's memory: use tensor-parallel-size 1, or leave it out");
  }
  return peers;
}

DeviceConfig device_config(const ReplicaSpec& spec, int rank) {
  const int device = spec.places.empty() ? spec.first_device + rank : spec.places[static_cast<size_t>(rank)].device;
  const int place = spec.places.empty() ? rank : device;  // among the ranks of the node
  return {.index = device,
          .threads = spec.threads,
          .pin_threads = spec.first_core >= 0,
          .first_core = spec.first_core + place * spec.threads,
          .deterministic = spec.deterministic};
}

// RegisterReplica::rank_bytes of this rank, which had `before` of its host's memory when it began to load. Pages and
// activations count whole, though the kernel gives them when they are first touched.
int64_t held_bytes(const ReplicaSpec& spec, int64_t before, const Executor& executor, const Ops& ops, Device& device) {
  if (spec.device == "cpu") return before + executor.device_bytes();
  const Result<DeviceMemory> memory = ops.memory(device);
  return memory.ok() ? memory->total - memory->free : executor.device_bytes();
}

// What may wait for other ranks, or for a device, when it is taken down: left alone by an error.
struct Rank {
  std::unique_ptr<MpiSession> mpi;
  std::unique_ptr<Communicator> communicator;
  std::unique_ptr<Device> device;
  std::unique_ptr<Collectives> collectives;
};

// Registers, again and again as frames may be lost, until the coordinator says that it has it all.
Status tell(const RegisterReplica& registration, const ReplicaSpec& spec) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MessageSocket> socket, connect_to_coordinator(spec));
  const auto end = std::chrono::steady_clock::now() + kTellPatience;
  while (std::chrono::steady_clock::now() < end) {
    (void)socket->send("", registration);
    while (const std::optional<MessageSocket::Received> received = socket->receive()) {
      if (received->frame.ok() && std::holds_alternative<Stop>(*received->frame)) return {};
    }
    pollfd fd{.fd = socket->fd(), .events = POLLIN, .revents = 0};
    poll(&fd, 1, kTellAgainMs);
  }
  return unavailable("the coordinator has not answered to what a probe measured");
}

// ReplicaSpec::probe
Status probe(const ReplicaSpec& spec, const std::vector<RankReport>& reports, Rank& rank) {
  MpiSession& mpi = *rank.mpi;
  const CommunicatorConfig ranks{.pp_size = 2, .pp_rank = mpi.rank(), .spin = spec.spin};
  ASSIGN_OR_RETURN(rank.communicator, join_ranks(ranks, spec, reports, mpi));
  ASSIGN_OR_RETURN(const Ops* const ops, ops_of(spec));
  ASSIGN_OR_RETURN(rank.device, ops->open(device_config(spec, mpi.rank())));
  ASSIGN_OR_RETURN(rank.collectives,
                   make_collectives(ranks, ops->native_stream(*rank.device), *rank.communicator, mpi));
  const StageLinks links{.communicator = *rank.communicator, .collectives = *rank.collectives};
  ASSIGN_OR_RETURN(const std::vector<ProbeSample> samples, probe_sends(links, *ops, *rank.device, mpi));
  if (mpi.rank() == 0) {
    RETURN_IF_ERROR(tell({.replica = spec.replica,
                          .launch = spec.launch,
                          .build = SKEIN_BUILD,
                          .transport = transport_of(spec, reports, false),
                          .samples = to_json(samples).dump()},
                         spec));
  }
  mpi.barrier();  // who leaves first would be lost to the other
  return {};
}

Status run(const char* spec_path, Rank& rank) {
  const auto started = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(rank.mpi, MpiSession::start());
  MpiSession& mpi = *rank.mpi;
  ASSIGN_OR_RETURN(const ReplicaSpec spec, read_spec(spec_path, mpi));
  std::vector<RankReport> reports;
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, preflight(spec, mpi, &reports));
  RETURN_IF_ERROR(name_interface(spec, reports));
  if (spec.probe) return probe(spec, reports, rank);
  ASSIGN_OR_RETURN(const std::vector<ShardPlan> shards, plan_shards(checkpoint->description(), spec));
  RETURN_IF_ERROR(check_shard_formats(*checkpoint, shards));
  const ShardPlan& shard = shards[static_cast<size_t>(mpi.rank())];
  const CommunicatorConfig ranks{.tp_size = shard.tp_size, .pp_size = shard.pp_size, .tp_rank = shard.tp_rank,
                                 .pp_rank = shard.pp_rank, .spin = spec.spin};
  ASSIGN_OR_RETURN(rank.communicator, join_ranks(ranks, spec, reports, mpi));
  Communicator& communicator = *rank.communicator;
  ASSIGN_OR_RETURN(const Ops* const ops, ops_of(spec));
  ASSIGN_OR_RETURN(rank.device, ops->open(device_config(spec, mpi.rank())));
  Device& device = *rank.device;
  RETURN_IF_ERROR(check_devices(*ops, device, mpi));
  const int64_t logits = int64_t{std::min(spec.slots, ops->logit_rows_max)} * checkpoint->description().vocabulary;
  ASSIGN_OR_RETURN(rank.collectives, make_collectives(ranks, ops->native_stream(device), communicator, mpi));
  ASSIGN_OR_RETURN(const PeerGroup* const peers,
                   join_peers(ranks, spec, reports, *ops, device, checkpoint->description().hidden, logits, mpi));
  const RankLinks links{.communicator = communicator, .collectives = *rank.collectives,
                        .minimum = [&](int64_t value) { return std::ranges::min(mpi.all_gather(value)); },
                        .peers = peers};
  const int64_t before = own_memory();
  ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor,
                   Executor::create(spec, *checkpoint, shard, *ops, device, links));
  mpi.barrier();  // from here on nobody waits long for another rank's device
  const bool answers = shard.last_stage() && shard.tp_rank == 0;
  const int kv_groups = static_cast<int>(checkpoint->description().kv_groups.size());
  const auto serve = [&] {
    // On CPUs this thread computes, and what wakes goes first; on GPUs it wakes.
    set_time_slice(spec.device == "cpu" ? TimeSlice::kSystem : TimeSlice::kShort);
    if (const Status served = serve_plans(*executor, communicator, answers); !served.ok()) end(served);
  };
  if (const Status warm = warm_up(*executor, communicator, spec, kv_groups, mpi.rank(), answers); !warm.ok()) end(warm);
  const std::vector<int64_t> held = mpi.all_gather(held_bytes(spec, before, *executor, *ops, device));
  if (mpi.rank() != 0) {
    serve();
    return {};
  }

  set_time_slice(TimeSlice::kShort);  // for the threads of the socket and of the leader
  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket, connect_to_coordinator(spec));
  const uint64_t numerics = numerics_id(spec, checkpoint->fingerprint(), ops->numerics(device));
  ASSIGN_OR_RETURN(std::unique_ptr<Batcher> batcher,
                   make_batcher(spec, executor->kv_blocks(), checkpoint->description(), numerics));
  Leader leader(spec, std::move(socket), std::move(batcher), communicator);
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - started;
  leader.start({.replica = spec.replica,
                .launch = spec.launch,
                .build = SKEIN_BUILD,
                .numerics_id = numerics,
                .ranks = static_cast<uint32_t>(spec.ranks()),
                .slots = static_cast<uint32_t>(spec.slots),
                .kv_tokens = static_cast<uint64_t>(executor->kv_blocks()) * static_cast<uint64_t>(spec.block_tokens),
                .context_max = static_cast<uint32_t>(spec.context_max),
                .load_seconds = load_time.count(),
                .transport = transport_of(spec, reports, peers != nullptr),
                .rank_bytes = {held.begin(), held.end()}});
  serve();
  leader.join();
  return {};
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  // Whoever started this rank owns it: mpirun's end is its end.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  skein::set_time_slice(skein::TimeSlice::kSystem);  // whatever whoever started this has
  const bool probing = argc == 3 && std::string_view(argv[1]) == "--probe";
  if (argc != 2 && !probing) {
    std::fprintf(stderr, "skein-worker: usage: skein-worker [--probe] SPEC.json, under mpirun; people start `skein serve`\n");
    return 2;
  }
  skein::Rank rank;
  const skein::Status status = probing ? skein::run_probe(argv[2]) : skein::run(argv[1], rank);
  if (!status.ok()) skein::end(status);
  return 0;
}
