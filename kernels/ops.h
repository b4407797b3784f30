#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "kernels/sampling.h"

// One table of launches, chosen once at start and complete for every backend but for those over peers, which are null
// on CPUs. All pointers in the argument structs are device memory unless marked host. A launch is queued on the
// device's single stream and may return before it has run; launches run in order. No launch allocates.
// Nothing here assumes a CPU.

namespace skein {

// The memory and the stream of one rank. Single-owner: the executor thread.
class Device {
 public:
  virtual ~Device() = default;
};

struct DeviceConfig {
  int index = 0;        // GPU ordinal; unused on CPUs
  int threads = 1;      // CPU worker threads of this rank, the calling one included
  bool pin_threads = false;
  int first_core = 0;   // thread i is pinned to core first_core + i
  // A token's results are bitwise the same whatever else the step holds, at whatever price; CPUs never do otherwise.
  bool deterministic = false;
};

// Memory through which the devices of a tensor-parallel group write to each other without a library between them.
// Every rank has an inbox that the others write into, cut into channels (one a block of a launch). What is written
// there, by whom and when is the backend's affair.
struct PeerGroup {
  static constexpr int kRanksMax = 8;
  int rank = 0;
  int size = 1;
  int channels = 0;
  int64_t channel_bytes = 0;  // of one message, in each channel
  std::byte* inboxes[kRanksMax] = {};  // by rank, as this rank's device addresses them
  std::byte* shared[kRanksMax] = {};   // by rank: PeerSetup::shared_bytes, written by whoever the callers agree on
  uint64_t* states = nullptr;          // (channels) of this rank
  uint32_t* gave_up = nullptr;         // device memory: the same as `failed`, for those who wait
  uint32_t* failed = nullptr;          // host memory: not 0 once a peer has not come in time
  int64_t patience_ns = 0;             // how long a launch waits for a peer; then Ops::reached() tells an error
  // In one trip every rank sends its part to all others, and all add up. In two, each row has a rank that gets its
  // parts, adds them up and sends the sum, in the ranks' own format, to the others: fewer words between more than two.
  // A sum with a norm takes two where a rank has more bytes than these.
  int64_t one_trip_bytes = INT64_MAX;
  bool two_trips(int64_t bytes) const { return bytes > one_trip_bytes; }
  // Of rows of so many bytes, as many as one launch sums: alone, and with a norm. At least one.
  int64_t rows_held(int64_t row_bytes) const { return std::max<int64_t>(channels * channel_bytes / row_bytes, 1); }
  int64_t rows_normed(int64_t row_bytes) const {
    if (one_trip_bytes == INT64_MAX) return rows_held(row_bytes);
    return std::max<int64_t>(channels * (channel_bytes / row_bytes / 2 * size), 1);
  }
};

// For how large a sum a replica's ranks make room in their inboxes: larger ones take several launches.
inline int64_t peer_sum_bytes_max(int ranks) { return int64_t{ranks == 2 ? 64 : 16} << 20; }

struct PeerSetup {
  int rank = 0;
  int size = 1;
  int64_t rows = 0;          // of the largest sum
  int64_t row_bytes = 0;
  int64_t shared_bytes = 0;  // of this rank
  bool one_host = true;      // all of the group; elsewhere process numbers and memory handles mean nothing, so no group
  int64_t patience_ns = int64_t{4'000'000'000};  // a lost rank ends its replica within 5 s
  // Host: the group's bytes, by rank. Collective; called equally often whatever comes of it.
  std::function<std::vector<std::string>(const std::string&)> all_gather;
};

// A ragged batch of one step: row r is one sequence, its queries are tokens
// [query_begin[r], query_begin[r + 1]) of the step, at consecutive positions.
struct StepView {
  int rows = 0;
  int tokens = 0;
  int decode_rows = 0;  // the first rows of the step, as many as have one query each; the others may have any number
  const int32_t* query_begin_host = nullptr;  // host: (rows + 1), the same as query_begin
  const int32_t* token_ids = nullptr;    // (tokens)
  const int32_t* positions = nullptr;    // (tokens), also the KV index that the token is stored at
  const int32_t* query_begin = nullptr;  // (rows + 1)
  const int32_t* slots = nullptr;        // (rows) index into block tables and slot state; -1: padding
};

// Per-slot state that outlives a step, so that a step never waits for the host to see a token.
struct SlotState {
  int slots = 0;
  int tokens_max = 0;
  int32_t* tokens = nullptr;   // (slots, tokens_max): prompt, then generated
  int32_t* lengths = nullptr;  // (slots): how many of `tokens` are valid
  SlotSampling* sampling = nullptr;  // (slots)
};

// One layer's pages of one KV group: [block][kv_head][K or V][token][dim].
struct KvPages {
  void* data = nullptr;
  Format format = Format::kF32;
  int blocks = 0;
  int kv_heads = 0;      // of this rank
  int block_tokens = 0;  // tokens in a block
  int head_dim = 0;
  const int32_t* block_table = nullptr;  // (slots, blocks_per_slot); unused entries must not be read
  int blocks_per_slot = 0;
};

struct PackArgs {
  Tensor out;               // from linear_bytes; rows and columns are this rank's slice
  int64_t first_row = 0;    // where in `out` the first source row goes
  int64_t row_count = 0;
  const void* const* source_rows = nullptr;  // host: (row_count) pointers to row-major source rows; read at once
  Format source_format = Format::kF32;       // converted to out.format where they differ
};

struct GatherArgs {
  int32_t* token_ids = nullptr;        // out (tokens)
  int32_t* positions = nullptr;        // out (tokens)
  StepView step;                       // token_ids and positions unused
  const int32_t* first_position = nullptr;  // (rows); -1: the slot's length - 1, as known on the device
  SlotState state;
};

// state.tokens[slots[i]][positions[i]] = tokens[i]; lengths grow to positions[i] + 1. Negative tokens (a row that
// sampled nothing) and negative slots are skipped.
struct StoreTokensArgs {
  SlotState state;
  int count = 0;
  const int32_t* slots = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* tokens = nullptr;
};

struct EmbedArgs {
  Tensor out;                // (tokens, hidden) f32
  const int32_t* token_ids = nullptr;
  Tensor table;              // (vocabulary slice, hidden), either layout
  int64_t first_token = 0;   // id of the table's first row; ids outside the slice give zero rows
};

// residual += x (unless x.data is null), then out = rms_norm(residual) * weight in out.format.
struct AddNormArgs {
  Tensor out;       // (tokens, hidden)
  Tensor residual;  // (tokens, hidden) f32, in place
  Tensor x;         // (tokens, hidden) in Ops::stream_format
  const float* weight = nullptr;  // (hidden)
  float epsilon = 0;
  const PeerGroup* sum = nullptr;  // host: x is added over the group first, in rank order, in f32
};

// x, bf16 or f32, becomes its sum over the group, in rank order and f32, bitwise the same on every rank.
struct PeerSumArgs {
  Tensor x;  // rows without gaps; a multiple of 16 bytes
  const PeerGroup* group = nullptr;  // host
};

// Without values: what the ranks wrote to each other's `shared` before is there for launches behind it. With values:
// every rank gets those of rank 0, and nothing is said of `shared`.
struct PeerMeetArgs {
  const PeerGroup* group = nullptr;  // host
  int32_t* values = nullptr;         // (count), none of them INT32_MAX
  int count = 0;                     // at most 1000
};

// out = x W^T (+ bias). On CPUs and on deterministic devices the accumulation order of an element depends on columns
// alone.
struct LinearArgs {
  Tensor out;     // (tokens, outputs) in Ops::stream_format or f32, row_stride may exceed outputs
  Tensor x;       // (tokens, inputs) in activation_format(weight.format)
  Tensor weight;  // (outputs, inputs) packed
  const float* bias = nullptr;  // (outputs) or null
  // (tokens) for SampleArgs, or null: zeros that a backend may raise to keys of the rows' largest outputs. `out` is
  // whole rows of logits then, in f32.
  uint64_t* largest = nullptr;
};

// gate_up = x W^T (+ bias), then out = silu(gate) * up, maybe in one launch: gate_up is working memory.
struct GatedLinearArgs {
  Tensor out;      // (tokens, n) in the format its reader wants
  Tensor gate_up;  // (tokens, 2 n) in Ops::stream_format
  Tensor x;        // (tokens, inputs) in activation_format(weight.format)
  Tensor weight;   // (2 n, inputs) packed: gate rows, then up rows
  const float* bias = nullptr;  // (2 n) or null
};

// Normalises (optional) and rotates q and k in place, then writes k and v to their pages.
struct RopeAppendArgs {
  Tensor qkv;  // (tokens, (q_heads + 2 kv_heads) * head_dim) in Ops::stream_format: q heads, k heads, v heads
  StepView step;
  KvPages pages;
  int q_heads = 0;
  const float* cos_sin = nullptr;  // (positions, rotary_dim / 2, 2); pairs are (i, i + rotary_dim / 2)
  int rotary_dim = 0;
  const float* q_norm = nullptr;  // (head_dim) or null
  const float* k_norm = nullptr;
  float norm_epsilon = 0;
};

struct AttentionArgs {
  Tensor out;  // (tokens, q_heads * head_dim) in the format its reader wants
  Tensor q;    // (tokens, >= q_heads * head_dim) in Ops::stream_format, row_stride may exceed it
  StepView step;
  KvPages pages;
  int q_heads = 0;
  int group_size = 1;    // q heads per KV head of the whole model
  int group_offset = 0;  // local q head h reads local KV head (h + group_offset) / group_size
  float scale = 0;
  int window = 0;        // keys [position - window + 1, position]; 0: no limit
  const uint64_t* tree_mask = nullptr;  // (tokens): bit j = may see the row's j-th query; null: causal
  // rope_append with these arguments comes first, maybe in the same launch: qkv is working memory afterwards.
  const RopeAppendArgs* append = nullptr;  // host
};

// out = silu(gate) * up, in out.format.
struct SiluMulArgs {
  Tensor out;      // (tokens, n)
  Tensor gate_up;  // (tokens, 2 n) in Ops::stream_format: gate, then up
};

// out[i] = x[rows[i]].
struct GatherRowsArgs {
  Tensor out;  // (count, columns) same format as x
  Tensor x;
  const int32_t* rows = nullptr;
  int count = 0;
  uint64_t* zeroed = nullptr;  // (count) set to 0, or null: LinearArgs::largest of the product behind
};

// to[pairs[i][0]] = pairs[i][1]
struct ScatterArgs {
  int32_t* to = nullptr;           // (size)
  int64_t size = 0;
  const int32_t* pairs = nullptr;  // (count, 2), every index once
  int count = 0;
};

struct CopyBlocksArgs {
  KvPages pages;
  const int32_t* pairs = nullptr;  // (count, 2): source block, destination block; disjoint
  int count = 0;
};

// A product that steps will ask for, followed by SwiGLU if `gated` (tokens, outputs / 2) is there.
struct PreparedProduct {
  LinearArgs linear;
  Tensor gated;
};
// A backend may try its ways to do products and remember the fastest. x should hold numbers like those of a step;
// results are overwritten. Several that differ in their weights alone are run by turns, as in a step.
struct PrepareArgs {
  const PreparedProduct* products = nullptr;
  int count = 0;
  const char* cache_path = "";  // keeps what was found for the next start, if it can be written; empty: none
};

struct DeviceMemory {
  int64_t total = 0;
  int64_t free = 0;  // that allocate() may still give
};

struct Ops {
  const char* name;
  Format stream_format;  // of activations from launch to launch, but for the residual, which is f32
  Format kv_format;      // of pages where nothing else was asked for
  int logit_rows_max;    // rows of logits that are worth holding at once
  bool records;          // record() keeps launches
  Result<std::unique_ptr<Device>> (*open)(const DeviceConfig&);

  // Memory of the device, 64-byte aligned (256 on GPUs), contents undefined.
  Result<void*> (*allocate)(Device&, int64_t bytes);
  void (*release)(Device&, void* data);
  Result<DeviceMemory> (*memory)(Device&);
  // Host memory that copy_to_host can write while the host goes on.
  Result<void*> (*allocate_host)(Device&, int64_t bytes);
  void (*release_host)(Device&, void* data);
  // Copies are launches, too. `from_host` has been read when the call returns; `to_host` comes from allocate_host.
  void (*copy_to_device)(Device&, void* to, const void* from_host, int64_t bytes);
  void (*copy_to_host)(Device&, void* to_host, const void* from, int64_t bytes);
  // A point in the stream, behind all launches so far, and whether the device has come to it. An error of any launch
  // before shows in reached() or synchronize(), which waits for the whole stream.
  uint64_t (*mark)(Device&);
  Result<bool> (*reached)(Device&, uint64_t mark);
  // Nanoseconds that have passed since the device came to a mark, by its own clock. Requires: it was reached.
  Result<int64_t> (*since)(Device&, uint64_t mark);
  Status (*synchronize)(Device&);

  // Launches between record() and end_record() are kept under `key`, in the place of others, with their arguments as
  // they are, and run once at end_record(). replay() runs them again; false if there are none under that key. Copies
  // are not recorded.
  // Without `records`, launches run at once and replay() is false. Whoever recorded a library's launches forgets them
  // all before the library is closed: NCCL waits until nobody can replay them.
  bool (*replay)(Device&, uint64_t key);
  void (*record)(Device&, uint64_t key);
  Status (*end_record)(Device&);
  void (*forget_recorded)(Device&);
  // Null, on all ranks alike, where the devices cannot write to each other's memory: then a library does what the peer
  // launches do. Collective over the group; the device owns the result. The peer launches, add_norm with a `sum` among
  // them, are the same in the same order on every rank.
  Result<const PeerGroup*> (*join_peers)(Device&, const PeerSetup&);

  // Names the hardware: no two ranks of a replica may say the same. Empty where they may share it.
  std::string (*identity)(Device&);
  // What the bits of results depend on beside weights, formats and the shape of a replica: the instruction set or the
  // GPU's architecture. Empty where they also depend on what else a step holds, or on what was timed at start.
  std::string (*numerics)(const Device&);

  // The handle that a library of the same vendor queues its own work with (cudaStream_t); null where there is none.
  void* (*native_stream)(Device&);

  // The format in which a weight is held that was asked for in that one.
  Format (*weight_format)(Format);
  // What linear() wants as x for a weight of that format, and the bytes of such an activation.
  Format (*activation_format)(Format weight);
  int64_t (*tensor_bytes)(Format, int64_t rows, int64_t columns);  // data and scales together
  Tensor (*make_tensor)(void* memory, Format, int64_t rows, int64_t columns);
  int64_t (*linear_bytes)(Format, int64_t rows, int64_t columns);
  // The rows are read, and the weight is there, by the end of the next synchronize().
  void (*pack_linear)(Device&, const PackArgs&);
  Status (*prepare)(Device&, const PrepareArgs&);  // after all weights

  void (*scatter)(Device&, const ScatterArgs&);
  void (*gather)(Device&, const GatherArgs&);
  void (*store_tokens)(Device&, const StoreTokensArgs&);
  void (*embed)(Device&, const EmbedArgs&);
  void (*add_norm)(Device&, const AddNormArgs&);
  void (*linear)(Device&, const LinearArgs&);
  void (*gated_linear)(Device&, const GatedLinearArgs&);
  void (*rope_append)(Device&, const RopeAppendArgs&);
  void (*attention)(Device&, const AttentionArgs&);
  void (*silu_mul)(Device&, const SiluMulArgs&);
  void (*gather_rows)(Device&, const GatherRowsArgs&);
  void (*sample)(Device&, const SampleArgs&);
  void (*copy_blocks)(Device&, const CopyBlocksArgs&);
  // Requires: a group, so null where join_peers() never gives one.
  void (*peer_sum)(Device&, const PeerSumArgs&);
  void (*peer_meet)(Device&, const PeerMeetArgs&);
};

const Ops& cpu_ops();
// Only in builds with CUDA (SKEIN_CUDA).
const Ops& cuda_ops();

}  // namespace skein
