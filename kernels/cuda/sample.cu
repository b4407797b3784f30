#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample_choose.cuh"
#include "kernels/cuda/sample_greedy.cuh"

// One launch for all rows: clusters of eight blocks take rows in turns, greedy ones first, but those whose token the
// product has found. Which way a row goes is decided on the device, so that the launch is the same in every step.

namespace skein::cuda {
namespace {

constexpr int kSlicesOfWarps = kClusterBlocks * kSampleWarps;
constexpr int64_t kSharedKeyBytesMax = 208 << 10;

struct RowList {
  uint16_t rows[kSampleRowsAtOnce];
  uint32_t of_warps[kSampleWarps];
  int count;
};

struct SampleShared {
  SearchShared search;  // first: search_shared()
  ChooseShared choose;
  GreedyShared greedy;
  RowList greedy_rows;
  RowList drawn_rows;  // by noise, and nothing reported
  RowList other_rows;
};
static_assert(sizeof(SampleShared) <= kStateBytes);

// The rows r of those threads r that want theirs, in rising order. Complete behind the next barrier.
__device__ void list_rows(RowList& list, bool mine) {
  const int r = static_cast<int>(threadIdx.x);
  const uint32_t lanes = __ballot_sync(~0u, mine);
  if (r % 32 == 0) list.of_warps[r / 32] = static_cast<uint32_t>(__popc(lanes));
  __syncthreads();
  int before = __popc(lanes & ((1u << r % 32) - 1));
  int total = 0;
  for (int warp = 0; warp < kSampleWarps; ++warp) {
    const int rows = static_cast<int>(list.of_warps[warp]);
    before += warp < r / 32 ? rows : 0;
    total += rows;
  }
  if (mine) list.rows[before] = static_cast<uint16_t>(r);
  if (r == 0) list.count = total;
}

__device__ void write_padding(const SampleJob& job, int r) {
  int32_t* words = reinterpret_cast<int32_t*>(job.out + r);
  for (int i = 0; i < kResultWords; ++i) words[i] = i == 0 ? -1 : 0;
  job.tokens[r] = -1;
}

template <bool kSharedKeys>
__global__ void __launch_bounds__(kSampleThreads, kSharedKeys ? 2 : 1)
    sample_rows(const __grid_constant__ SampleJob job, uint32_t* memory, int chunk) {
  SampleShared& shared = *reinterpret_cast<SampleShared*>(block_memory());
  __shared__ RowSlice<kSharedKeys> slice;  // in memory rather than in registers
  cluster_arrive();
  const int r = static_cast<int>(threadIdx.x);
  const bool real = r < job.rows && job.row[r].slot >= 0;
  const bool other = real && needs_choice(job, job.row[r]);
  const bool drawn = real && !other && job.state.sampling[job.row[r].slot].temperature >= kGreedyBelow;
  const bool greedy = real && !other && !drawn;
  const bool may_have_key = greedy && job.largest != nullptr && !reports(job.state.sampling[job.row[r].slot]);
  list_rows(shared.greedy_rows, greedy);
  list_rows(shared.drawn_rows, drawn);
  list_rows(shared.other_rows, other);
  if (r == 0) {
    shared.search.listed = 0;
    shared.search.turn = 0;
    shared.choose.next = static_cast<int>(blockIdx.x / kClusterBlocks);
    const int slice_tokens = kSampleWarps * chunk;
    slice = {.memory = memory + int64_t{blockIdx.x} * slice_tokens,
             .chunk = chunk,
             .first = static_cast<int>(cluster_rank()) * slice_tokens,
             .n = static_cast<int>(job.vocabulary),
             .mass_scale = __uint_as_float(static_cast<uint32_t>(127 + 62 - (64 - __clzll(job.vocabulary))) << 23)};
  }
  const bool look_for_keys = __syncthreads_or(may_have_key) != 0;
  cluster_wait();
  wait_for_previous_launch();
  let_next_launch_start();
  if (blockIdx.x == 0 && r < job.rows && !real) write_padding(job, r);
  if (look_for_keys) {
    const uint64_t key = may_have_key ? __ldcg(job.largest + r) : 0;
    if (blockIdx.x == 0) take_keys(job, key);
    list_rows(shared.greedy_rows, greedy && key == 0);
    __syncthreads();
  }

  int turn = 0;
  work_in_one_pass<false>(job, shared.greedy_rows.rows, shared.greedy_rows.count, shared.greedy, turn);
  work_in_one_pass<true>(job, shared.drawn_rows.rows, shared.drawn_rows.count, shared.greedy, turn);
  while (shared.choose.next < shared.other_rows.count) work_on_row(slice, job, shared.other_rows.rows, shared.choose);
}

// Rows [first, first + rows) of the launch.
SampleJob make_job(const CudaDevice& device, const SampleArgs& args, int first, int rows) {
  const int64_t mask_words = ceil_div<int64_t>(args.vocabulary, 32);
  return {.out = args.out + first,
          .tokens = args.tokens + first,
          .logits = args.logits + first * args.vocabulary,
          .vocabulary = args.vocabulary,
          .row = args.row + first,
          .state = *args.state,
          .token_mask = args.token_mask == nullptr ? nullptr : args.token_mask + first * mask_words,
          .rows = rows,
          // So few rows are one part. Others have no keys: without the pointer they are not listed a second time.
          .largest = args.rows <= kLargestTokensMax && !device.deterministic() ? args.largest : nullptr};
}

// How many the device runs side by side; what is more would begin when the others have ended.
template <typename Kernel>
int clusters_at_once(CudaDevice& device, Kernel* kernel, size_t shared_bytes) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kClusterBlocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = kClusterBlocks;
  config.blockDim = kSampleThreads;
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  device.check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "cudaOccupancyMaxActiveClusters");
  return std::max(clusters, 1);
}

void launch_rows(CudaDevice& device, const SampleJob& job) {
  const int64_t chunk = round_up<int64_t>(ceil_div<int64_t>(job.vocabulary, kSlicesOfWarps), 128);
  const int64_t key_bytes = kSampleWarps * chunk * 4;  // of a block
  const bool in_shared = key_bytes <= kSharedKeyBytesMax;
  const auto kernel = in_shared ? sample_rows<true> : sample_rows<false>;
  const auto shared_bytes = static_cast<size_t>(kStateBytes + (in_shared ? key_bytes : 0));
  allow_shared_memory(device, kernel, shared_bytes);
  int64_t clusters = std::min(job.rows, clusters_at_once(device, kernel, shared_bytes));
  if (!in_shared) clusters = std::min(clusters, CudaDevice::kScratchBytes / (kClusterBlocks * key_bytes));
  CHECK_GE(clusters, 1);
  launch(device, "sample", kernel,
         {.blocks = static_cast<unsigned>(clusters * kClusterBlocks),
          .threads = kSampleThreads,
          .shared_bytes = shared_bytes,
          .cluster = kClusterBlocks},
         job, static_cast<uint32_t*>(device.scratch()), static_cast<int>(chunk));
}

}  // namespace

// Reads `row` and the slots' sampling before the launch in front of it has ended: that one must not write them.
void sample(Device& device, const SampleArgs& args) {
  CHECK(args.vocabulary > 0 && args.vocabulary <= kSampleVocabularyMax);
  CHECK_GE(args.rows, 0);
  if (args.rows == 0) return;
  CHECK(args.out != nullptr && args.tokens != nullptr && args.logits != nullptr);
  CHECK(args.row != nullptr && args.state != nullptr);
  CudaDevice& gpu = device_of(device);
  for (int first = 0; first < args.rows; first += kSampleRowsAtOnce) {
    launch_rows(gpu, make_job(gpu, args, first, std::min(args.rows - first, kSampleRowsAtOnce)));
  }
}

}  // namespace skein::cuda
