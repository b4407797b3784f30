#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/checkpoint.h"
#include "model/shard.h"

namespace skein {

// What a GPU holds beside weights, activations and pages: the CUDA context, code, libraries' working memory, recorded
// steps. An estimate; the rank measures what is really left before it sizes its pages.
inline constexpr int64_t kGpuReserve = int64_t{1280} << 20;
// What a rank leaves alone when it sizes its pages: code that is loaded when a request first needs it.
inline constexpr int64_t kGpuLateReserve = int64_t{128} << 20;

// Tokens of a step where nobody says.
constexpr int default_step_tokens(bool gpu) { return gpu ? 8192 : 512; }

// What NCCL takes of a GPU whose stage has one before it (two and four H100: 288 to 320 MiB).
inline constexpr int64_t kNcclReceiverBytes = int64_t{288} << 20;

struct MemoryRequest {
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
  bool gpu = false;    // weights, activations and KV are bfloat16
  bool apart = false;  // each rank has memory of its own; GPUs always
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  int block_tokens = 16;
  int slots = 64;
  int step_tokens_max = default_step_tokens(false);
  std::optional<int> context_max = {};             // asked for; else as much as fits, up to the model's
  std::optional<int64_t> kv_bytes_per_rank = {};   // asked for; else chosen
  int64_t runtime_bytes = kGpuReserve;        // GPUs: RankMemory::runtime
  int64_t receiver_bytes = 0;                 // ... that the first of several stages does not take
  int64_t memory_bytes = 0;                   // what this replica may take; apart: what each rank may
  std::vector<int64_t> memory_by_rank = {};   // apart: what each may, where that differs; none: memory_bytes
  std::string held = {};                      // a clause with a remedy: who else has memory here; empty: nobody
};

// The dtype of KV pages: what is asked for, or what "auto" is.
std::string kv_cache_dtype(const MemoryRequest& request);

struct RankMemory {
  int64_t weights = 0;
  int64_t activations = 0;  // and logits, and the state of slots
  int64_t runtime = 0;      // GPUs: what CUDA, its libraries and recorded steps take
  int64_t kv_per_token = 0;
  int64_t fixed() const { return weights + activations + runtime; }  // all but the pages
};

// What a layer's weights are, as the backend keeps them.
struct LayerFormats {
  Format q = Format::kBF16, k = Format::kBF16, v = Format::kBF16, o = Format::kBF16;
  Format gate = Format::kBF16, up = Format::kBF16, down = Format::kBF16;
  bool operator==(const LayerFormats&) const = default;
};

// What a model's numbers are, as the backend keeps them.
struct ModelFormats {
  std::vector<LayerFormats> layers = {};
  Format output = Format::kBF16;
  double kv = 2;      // bytes of an element
  double stream = 2;  // ... of activations from launch to launch
};
ModelFormats formats_of(const Checkpoint& checkpoint, const MemoryRequest& request);

// By exact tensor shapes and formats.
RankMemory rank_memory(const Checkpoint& checkpoint, const ShardPlan& shard, const MemoryRequest& request);

// Tokens of the pages that a rank gets by default where it leaves `left` bytes: on a GPU all that fit, elsewhere what a
// few requests of `context` tokens need, and never more than half. The same for several ranks that share their memory.
int64_t default_pool_tokens(int64_t left, int64_t kv_per_token, const MemoryRequest& request, int context);

struct MemoryPlan {
  std::vector<RankMemory> ranks;
  int context_max = 0;
  int kv_blocks = 0;
  bool context_lowered = false;  // below what the model was made for
  int64_t weights() const;
  int64_t kv_per_token() const;  // over all ranks
  int64_t total(int block_tokens) const;
};

// Refuses pages of `asked` bytes a rank, which hold no `what`, as "block of 16 tokens"; `needed` bytes do.
Status pool_holds_no(int64_t asked, const std::string& what, int64_t needed, const std::string& remedy);

// Refuses a context that is longer than the model's.
Status check_context(const ModelDescription& model, const MemoryRequest& request);

// What each rank of a replica takes, by exact tensor shapes and formats, and how many KV blocks it
// gets. kResourceExhausted has the numbers and what to change.
Result<MemoryPlan> plan_memory(const Checkpoint& checkpoint, const std::vector<ShardPlan>& shards,
                               const MemoryRequest& request);

std::string readable_bytes(int64_t bytes);  // "93.4 MiB"

}  // namespace skein
