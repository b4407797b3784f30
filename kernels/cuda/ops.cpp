#include <span>

#include "base/check.h"
#include "base/checked.h"
#include "base/log.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/pack.h"
#include "kernels/ops.h"

// The GPUs' table.

namespace skein {
namespace {

constexpr int64_t kAlignment = 256;

Result<void*> allocate(Device& device, int64_t bytes) { return cuda::device_of(device).allocate(bytes); }
void release(Device& device, void* data) { cuda::device_of(device).release(data); }
Result<DeviceMemory> memory(Device& device) { return cuda::device_of(device).memory(); }
Result<void*> allocate_host(Device& device, int64_t bytes) { return cuda::device_of(device).allocate_host(bytes); }
void release_host(Device& device, void* data) { cuda::device_of(device).release_host(data); }

void copy_to_device(Device& device, void* to, const void* from_host, int64_t bytes) {
  cuda::device_of(device).copy_to_device(to, from_host, bytes);
}
void copy_to_host(Device& device, void* to_host, const void* from, int64_t bytes) {
  cuda::device_of(device).copy_to_host(to_host, from, bytes);
}

uint64_t mark(Device& device) { return cuda::device_of(device).mark(); }
Result<bool> reached(Device& device, uint64_t mark) { return cuda::device_of(device).reached(mark); }
Result<int64_t> since(Device& device, uint64_t mark) { return cuda::device_of(device).since(mark); }
Status synchronize(Device& device) { return cuda::device_of(device).synchronize(); }

bool replay(Device& device, uint64_t key) { return cuda::device_of(device).replay(key); }
void record(Device& device, uint64_t key) { cuda::device_of(device).record(key); }
void forget_recorded(Device& device) { cuda::device_of(device).forget_recorded(); }
Status end_record(Device& device) { return cuda::device_of(device).end_record(); }

Result<const PeerGroup*> join_peers(Device& device, const PeerSetup& setup) {
  return cuda::device_of(device).join_peers(setup);
}

std::string identity(Device& device) { return cuda::device_of(device).uuid(); }
std::string numerics(const Device& device) {
  const auto& gpu = static_cast<const cuda::CudaDevice&>(device);
  return gpu.deterministic() ? "cuda " + gpu.architecture() : "";
}

void* native_stream(Device& device) { return cuda::device_of(device).stream(); }

// Every weight is kept as bf16.
Format weight_format(Format) { return Format::kBF16; }
Format activation_format(Format weight) {
  CHECK(weight == Format::kBF16);
  return Format::kBF16;
}

int64_t tensor_bytes(Format format, int64_t rows, int64_t columns) {
  CHECK_GE(rows, 0);
  CHECK_EQ(info(format).block_elements, 1);
  return round_up<int64_t>(rows * row_bytes(format, columns), kAlignment);
}

Tensor make_tensor(void* memory, Format format, int64_t rows, int64_t columns) {
  CHECK_EQ(info(format).block_elements, 1);
  return {.data = memory, .rows = rows, .columns = columns, .format = format, .row_stride = columns};
}

Status prepare(Device& device, const PrepareArgs& args) {
  cuda::CudaDevice& gpu = cuda::device_of(device);
  gpu.end_weight_upload();  // weights are there
  if (gpu.deterministic()) return {};  // what is fastest differs with the number of tokens
  cuda::ProductTimings timings(args.cache_path);
  RETURN_IF_ERROR(
      gpu.linear_choice().tune(gpu, std::span(args.products, static_cast<size_t>(args.count)), timings));
  const Status kept = timings.save();
  if (!kept.ok()) {
    log_warning("timings of products are not kept; the next start measures again", {{"cause", kept.message()}});
  }
  return {};
}

}  // namespace

const Ops& cuda_ops() {
  static constexpr Ops kOps = {
      .name = "cuda",
      .stream_format = Format::kBF16,
      .kv_format = Format::kBF16,
      .logit_rows_max = 512,
      .records = true,
      .open = cuda::CudaDevice::open,
      .allocate = allocate,
      .release = release,
      .memory = memory,
      .allocate_host = allocate_host,
      .release_host = release_host,
      .copy_to_device = copy_to_device,
      .copy_to_host = copy_to_host,
      .mark = mark,
      .reached = reached,
      .since = since,
      .synchronize = synchronize,
      .replay = replay,
      .record = record,
      .end_record = end_record,
      .forget_recorded = forget_recorded,
      .join_peers = join_peers,
      .identity = identity,
      .numerics = numerics,
      .native_stream = native_stream,
      .weight_format = weight_format,
      .activation_format = activation_format,
      .tensor_bytes = tensor_bytes,
      .make_tensor = make_tensor,
      .linear_bytes = cuda::linear_bytes,
      .pack_linear = cuda::pack_linear,
      .prepare = prepare,
      .scatter = cuda::scatter,
      .gather = cuda::gather,
      .store_tokens = cuda::store_tokens,
      .embed = cuda::embed,
      .add_norm = cuda::add_norm,
      .linear = cuda::linear,
      .gated_linear = cuda::gated_linear,
      .rope_append = cuda::rope_append,
      .attention = cuda::attention,
      .silu_mul = cuda::silu_mul,
      .gather_rows = cuda::gather_rows,
      .sample = cuda::sample,
      .copy_blocks = cuda::copy_blocks,
      .peer_sum = cuda::peer_sum,
      .peer_meet = cuda::peer_meet,
  };
  return kOps;
}

}  // namespace skein
