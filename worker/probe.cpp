#include "worker/probe.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "base/json.h"
#include "base/probe.h"
#include "comm/collectives.h"
#include "comm/mpi.h"
#ifdef SKEIN_CUDA
#include "comm/nccl_collectives.h"
#endif
#include "kernels/ops.h"
#include "model/mapped_file.h"
#include "worker/model_weights.h"
#include "worker/probe_device.h"
#include "worker/probe_timer.h"

namespace skein {
namespace {

constexpr size_t kSpecBytesMax = 1 << 16;
constexpr int64_t kExchanges[] = {1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10,
                                  1 << 20, 4 << 20, 16 << 20, 64 << 20};
constexpr int64_t kCpuExchangeMax = 4 << 20;
constexpr int kCpuPasses = 3;  // over all sizes: a neighbour may keep the cores busy for a second
constexpr int64_t kSmallest = 8;  // bytes
constexpr double kLongUs = 200e3;
constexpr int64_t kRowBytes = 8192;  // of a sum's rows: bf16, hidden 4096

Result<const Ops*> ops_of(const ProbeSpec& spec) {
  if (spec.device == "cpu") return &cpu_ops();
#ifdef SKEIN_CUDA
  if (spec.device == "cuda") return &cuda_ops();
#endif
  return unsupported("this build of skein-worker cannot run on device \"" + spec.device + "\"");
}

class SendProbe {
 public:
  SendProbe(const StageLinks& links, const Ops& ops, Device& device, MpiSession& mpi)
      : links_(links),
        gpu_(ops.native_stream(device) != nullptr),
        first_(mpi.rank() == 0),
        timer_(ops, device, mpi),
        arena_(ops, device) {}

  // On CPUs a message goes there and a few bytes come back, half of whose round trip is taken off: a chain of sends
  // alone would not show how long one takes to wake its reader.
  Result<std::vector<ProbeSample>> run() {
    const int64_t most = gpu_ ? kExchanges[std::size(kExchanges) - 1] : kCpuExchangeMax;
    ASSIGN_OR_RETURN(data_, arena_.allocate(most));
    double back = 0;
    if (!gpu_) {
      ASSIGN_OR_RETURN(const double us, timer_.time_us([&] { round_trip(kSmallest); }));
      back = us / 2;
    }
    std::vector<ProbeSample> samples;
    for (const int64_t bytes : kExchanges) {
      if (bytes > most) break;
      ASSIGN_OR_RETURN(const double us, timer_.time_us([&] {
        if (gpu_) send(bytes);
        else round_trip(bytes);
      }));
      RETURN_IF_ERROR(links_.collectives.status());
      samples.push_back({.what = "point_to_point", .size = double(bytes), .us = std::max(us - back, back)});
      if (us > kLongUs) break;  // larger ones take longer in proportion
    }
    return samples;
  }

 private:
  void send(int64_t bytes) {
    if (first_) links_.collectives.send_stage(data_, bytes);
    else links_.collectives.receive_stage(data_, bytes);
  }

  void round_trip(int64_t bytes) {
    send(bytes);
    if (first_) links_.communicator.receive_result();
    else links_.communicator.send_result("back");
  }

  const StageLinks& links_;
  const bool gpu_;
  const bool first_;
  ProbeTimer timer_;
  DeviceArena arena_;
  void* data_ = nullptr;
};

// What goes between the ranks of a node.
class GroupProbe {
 public:
  GroupProbe(const ProbeSpec& spec, const Ops& ops, Device& device, MpiSession& mpi)
      : spec_(spec), ops_(ops), device_(device), mpi_(mpi), timer_(ops, device, mpi), arena_(ops, device) {}

  Result<std::vector<ProbeSample>> run() {
    ASSIGN_OR_RETURN(data_, arena_.allocate(kExchanges[std::size(kExchanges) - 1]));
    std::vector<std::vector<ProbeSample>> passes(gpu() ? 1 : kCpuPasses);
    for (std::vector<ProbeSample>& pass : passes) {
      RETURN_IF_ERROR(measure_sums());
      if (mpi_.size() == 2) RETURN_IF_ERROR(measure_sends());
      pass = std::exchange(samples_, {});
    }
    return medians_of(passes);
  }

 private:
  bool gpu() const { return spec_.device == "cuda"; }
  Format format() const { return ops_.stream_format; }

  struct Links {
    std::unique_ptr<Communicator> communicator;
    std::unique_ptr<Collectives> collectives;
  };

  Result<Links> join(const CommunicatorConfig& config) {
    Links links;
    const auto broadcast = [&](std::string bytes) { return mpi_.broadcast(std::move(bytes)); };
    ASSIGN_OR_RETURN(links.communicator,
                     Communicator::create(config, {.broadcast = broadcast, .barrier = [&] { mpi_.barrier(); }}));
    if (!gpu()) {
      links.collectives = std::make_unique<SharedMemoryCollectives>(config, *links.communicator);
      return links;
    }
#ifdef SKEIN_CUDA
    ASSIGN_OR_RETURN(links.collectives,
                     NcclCollectives::create({.ranks = config, .stream = ops_.native_stream(device_),
                                              .broadcast = broadcast}));
#endif
    return links;
  }

  // A library's sums, and those that steps do over peers.
  Status measure_sums() {
    const int ranks = mpi_.size();
    ASSIGN_OR_RETURN(const DeviceMemory before, ops_.memory(device_));
    ASSIGN_OR_RETURN(const Links links, join({.tp_size = ranks, .tp_rank = mpi_.rank(), .spin = spec_.spin}));
    ASSIGN_OR_RETURN(const PeerGroup* const peers, join_peers(ranks));
    // Where peers do the sums of decode steps, the library has not set up its transports when a replica is ready.
    if (peers != nullptr) RETURN_IF_ERROR(measure_memory(before));
    for (const int64_t bytes : kExchanges) {
      if (!gpu() && bytes > kCpuExchangeMax) break;
      const int64_t count = bytes / info(format()).block_bytes;
      ASSIGN_OR_RETURN(const double library,
                       timer_.time_us([&] { links.collectives->all_reduce(data_, format(), count); }));
      RETURN_IF_ERROR(links.collectives->status());
      samples_.push_back({.what = "library_all_reduce", .size = double(bytes), .us = library});
      double us = library;
      const Tensor x = rows_of(bytes);
      if (peers != nullptr) {
        ASSIGN_OR_RETURN(us, added_to_norm_us(x, peers));
      }
      samples_.push_back({.what = "all_reduce", .size = double(bytes), .us = us});
    }
    return gpu() && peers == nullptr ? measure_memory(before) : Status();
  }

  Status measure_memory(const DeviceMemory& before) {
    ASSIGN_OR_RETURN(const DeviceMemory after, ops_.memory(device_));
    const double taken = static_cast<double>(std::max<int64_t>(before.free - after.free, 0));
    samples_.push_back({.what = "library_bytes", .bytes = taken});
    return {};
  }

  // What a sum over peers adds to the norm that it is one launch with.
  Result<double> added_to_norm_us(const Tensor& x, const PeerGroup* peers) {
    DeviceArena arena(ops_, device_);
    ASSIGN_OR_RETURN(void* const residual, arena.allocate(ops_.tensor_bytes(Format::kF32, x.rows, x.columns)));
    ASSIGN_OR_RETURN(void* const out, arena.allocate(ops_.tensor_bytes(x.format, x.rows, x.columns)));
    ASSIGN_OR_RETURN(const float* const weight, arena.upload(std::vector<float>(static_cast<size_t>(x.columns), 1.0f)));
    const AddNormArgs whole{.out = ops_.make_tensor(out, x.format, x.rows, x.columns),
                            .residual = ops_.make_tensor(residual, Format::kF32, x.rows, x.columns),
                            .x = x, .weight = weight, .epsilon = 1e-5f};
    const int64_t rows = peers->rows_normed(row_bytes(x.format, x.columns));
    const auto sum_and_norm = [&] {  // in as many launches as a step takes
      for (int64_t first = 0; first < x.rows; first += rows) {
        AddNormArgs part = whole;
        part.out = rows_from(whole.out, first, rows);
        part.residual = rows_from(whole.residual, first, rows);
        part.x = rows_from(x, first, rows);
        part.sum = peers;
        ops_.add_norm(device_, part);
      }
    };
    ASSIGN_OR_RETURN(const double with_sum, timer_.time_us(sum_and_norm));
    ASSIGN_OR_RETURN(const double alone, timer_.time_us([&] { ops_.add_norm(device_, whole); }));
    return std::max(with_sum - alone, 0.0);
  }

  Tensor rows_of(int64_t bytes) const {
    const int64_t rows = std::max<int64_t>(bytes / kRowBytes, 1);
    return ops_.make_tensor(data_, format(), rows, bytes / rows / info(format()).block_bytes);
  }

  Result<const PeerGroup*> join_peers(int ranks) {
    return ops_.join_peers(device_, {.rank = mpi_.rank(), .size = ranks,
                                     .rows = peer_sum_bytes_max(ranks) / kRowBytes, .row_bytes = kRowBytes,
                                     .all_gather = [&](const std::string& bytes) { return mpi_.all_gather(bytes); }});
  }

  Status measure_sends() {
    ASSIGN_OR_RETURN(const Links links, join({.pp_size = 2, .pp_rank = mpi_.rank(), .spin = spec_.spin}));
    const StageLinks stages{.communicator = *links.communicator, .collectives = *links.collectives};
    ASSIGN_OR_RETURN(const std::vector<ProbeSample> sends, probe_sends(stages, ops_, device_, mpi_));
    samples_.insert(samples_.end(), sends.begin(), sends.end());
    return {};
  }

  const ProbeSpec& spec_;
  const Ops& ops_;
  Device& device_;
  MpiSession& mpi_;
  ProbeTimer timer_;
  DeviceArena arena_;
  void* data_ = nullptr;
  std::vector<ProbeSample> samples_;
};

Status write_samples(const std::string& path, const std::vector<ProbeSample>& samples) {
  std::ofstream file(path);
  file << to_json(samples).dump() << "\n";
  file.close();
  return file ? Status() : Status(Code::kUnavailable, "cannot write the probe's samples to " + path, Scope::kProcess);
}

}  // namespace

Result<std::vector<ProbeSample>> probe_sends(const StageLinks& links, const Ops& ops, Device& device, MpiSession& mpi) {
  return SendProbe(links, ops, device, mpi).run();
}

Status run_probe(const char* path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kSpecBytesMax));
  ASSIGN_OR_RETURN(const Json json, parse_json(text));
  ASSIGN_OR_RETURN(const ProbeSpec spec, parse_probe_spec(json));
  ASSIGN_OR_RETURN(const std::unique_ptr<MpiSession> mpi, MpiSession::start());
  ASSIGN_OR_RETURN(const Ops* const ops, ops_of(spec));
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> device,
                   ops->open({.index = spec.first_device + mpi->rank(), .threads = spec.threads}));
  std::vector<ProbeSample> samples;
  if (mpi->size() == 1) {
    ProbeTimer timer(*ops, *device, *mpi);
    ASSIGN_OR_RETURN(samples, probe_device(spec, *ops, *device, timer));
  } else {
    ASSIGN_OR_RETURN(samples, GroupProbe(spec, *ops, *device, *mpi).run());
  }
  mpi->barrier();
  return mpi->rank() == 0 ? write_samples(spec.output, samples) : Status();
}

}  // namespace skein
