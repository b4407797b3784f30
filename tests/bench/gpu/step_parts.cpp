#include "tests/bench/gpu/step_parts.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>

#include "kernels/cuda/device.h"

namespace skein::bench {
namespace {

std::mutex mutex;  // guards parts
std::vector<StepPart> parts;
std::atomic<int> kept = std::numeric_limits<int>::max();
std::atomic<int> context_tokens = 0;
thread_local bool counts = false;  // this thread's rank is the group's first

double bytes_of(const Tensor& tensor) {
  return tensor.data == nullptr ? 0 : static_cast<double>(tensor.rows * row_bytes(tensor.format, tensor.columns));
}

double flops_of(const Tensor& x, const Tensor& weight) {
  return 2.0 * static_cast<double>(x.rows) * static_cast<double>(weight.rows) * static_cast<double>(weight.columns);
}

std::string shape_of(const Tensor& weight) {
  return std::to_string(weight.rows) + "x" + std::to_string(weight.columns);
}

// Whether the launch is to be made. The first rank, which makes the most of them, numbers the kinds.
bool keeps(const std::string& name, double bytes, double flops = 0) {
  std::lock_guard lock(mutex);
  auto part = std::ranges::find(parts, name, &StepPart::name);
  if (part == parts.end()) {
    if (!counts) return true;
    part = parts.insert(parts.end(), {.name = name});
  }
  const bool keep = part - parts.begin() < kept;
  if (counts && keep) {
    ++part->launches;
    part->bytes += bytes;
    part->flops += flops;
  }
  return keep;
}

void forget_counts() {
  std::lock_guard lock(mutex);
  for (StepPart& part : parts) part = {.name = part.name};
}

Ops make_ops() {
  Ops ops = cuda_ops();
  ops.record = [](Device& d, uint64_t key) {
    int rank = 0;
    (void)cudaGetDevice(&rank);
    counts = rank == 0;
    if (counts) forget_counts();
    cuda_ops().record(d, key);
  };
  ops.gather = [](Device& d, const GatherArgs& a) {
    if (keeps("launch of the step, token ids", 0)) cuda_ops().gather(d, a);
  };
  ops.embed = [](Device& d, const EmbedArgs& a) {
    if (keeps("embedding", 1.5 * bytes_of(a.out))) cuda_ops().embed(d, a);
  };
  ops.add_norm = [](Device& d, const AddNormArgs& a) {
    const double bytes = 2 * bytes_of(a.residual) + bytes_of(a.x) + bytes_of(a.out);
    if (keeps(a.sum == nullptr ? "residual + norm" : "sum + residual + norm", bytes)) cuda_ops().add_norm(d, a);
  };
  ops.linear = [](Device& d, const LinearArgs& a) {
    const double bytes = bytes_of(a.weight) + bytes_of(a.x) + bytes_of(a.out);
    if (keeps("product " + shape_of(a.weight), bytes, flops_of(a.x, a.weight))) cuda_ops().linear(d, a);
  };
  ops.gated_linear = [](Device& d, const GatedLinearArgs& a) {
    const double bytes = bytes_of(a.weight) + bytes_of(a.x) + bytes_of(a.out);
    if (keeps("gate and up, SwiGLU " + shape_of(a.weight), bytes, flops_of(a.x, a.weight))) {
      cuda_ops().gated_linear(d, a);
    }
  };
  ops.attention = [](Device& d, const AttentionArgs& a) {
    const double keys = static_cast<double>(a.step.rows) * context_tokens;
    const double of_key = 2.0 * a.pages.kv_heads * static_cast<double>(row_bytes(a.pages.format, a.pages.head_dim));
    const double bytes = keys * of_key + bytes_of(a.out) + bytes_of(a.q);
    if (keeps("rotation, append, attention", bytes, keys * 4 * a.q_heads * a.pages.head_dim)) {
      cuda_ops().attention(d, a);
    }
  };
  ops.gather_rows = [](Device& d, const GatherRowsArgs& a) {
    if (keeps("rows that become logits", 2 * bytes_of(a.out))) cuda_ops().gather_rows(d, a);
  };
  ops.peer_sum = [](Device& d, const PeerSumArgs& a) {
    if (keeps("sum of the embedding", 2 * bytes_of(a.x))) cuda_ops().peer_sum(d, a);
  };
  ops.peer_meet = [](Device& d, const PeerMeetArgs& a) {
    if (keeps(a.values == nullptr ? "meeting behind the logits" : "tokens to all ranks", 0)) cuda_ops().peer_meet(d, a);
  };
  ops.sample = [](Device& d, const SampleArgs& a) {
    if (keeps("sampling", 4.0 * a.rows * a.vocabulary)) cuda_ops().sample(d, a);
  };
  ops.store_tokens = [](Device& d, const StoreTokensArgs& a) {
    if (keeps("tokens kept", 0)) cuda_ops().store_tokens(d, a);
  };
  return ops;
}

}  // namespace

const Ops& partial_ops() {
  static const Ops ops = make_ops();
  return ops;
}

void set_context(int tokens) { context_tokens = tokens; }
void keep_parts(int count) { kept = count; }

std::vector<StepPart> step_parts() {
  std::lock_guard lock(mutex);
  return parts;
}

}  // namespace skein::bench
