#include "topology/memory.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>

#include "base/checked.h"

namespace skein {
namespace {

constexpr int kDefaultContextsHeld = 8;       // full-length requests that the default pool holds
constexpr int64_t kDefaultPoolBytesMax = int64_t{4} << 30;
constexpr int kCpuLogitRows = 32;  // rows of logits that a rank holds at once
constexpr int kGpuLogitRows = 512;
constexpr int64_t kSlotBytes = 2640;            // sampling parameters and places in a step (worker/step_buffers.h)
constexpr int64_t kStepTableBytes = 64 << 10;  // block assignments of a step
constexpr int64_t kDefaultPoolShare = 2;      // one of so many parts of what weights and activations leave

int64_t element_bytes(Format format) { return info(format).block_bytes / info(format).block_elements; }

Format kept_format(Format stored, const MemoryRequest& request) {
  const std::string& dtype = request.dtype;
  if (request.gpu) return Format::kBF16;
  if (dtype == "float32") return Format::kF32;
  if (dtype == "bfloat16") return Format::kBF16;
  if (dtype == "float16") return Format::kF16;
  return stored;
}

Format kv_format(const MemoryRequest& request) {
  const std::string name = kv_cache_dtype(request);
  return name == "float32" ? Format::kF32 : name == "bfloat16" ? Format::kBF16 : Format::kF16;
}

// Weights that read one input are kept in float32 where quantised ones are among them, but not all are
// (worker/model_weights.cpp).
void join(std::initializer_list<Format*> weights) {
  const auto quantised = [](const Format* format) { return info(*format).block_elements > 1; };
  if (std::ranges::any_of(weights, quantised) == std::ranges::all_of(weights, quantised)) return;
  for (Format* format : weights) *format = Format::kF32;
}

LayerFormats layer_formats(const Checkpoint& checkpoint, int layer, const MemoryRequest& request) {
  const auto format_of = [&](WeightRole role) { return kept_format(checkpoint.weight(role, layer).format, request); };
  LayerFormats formats{.q = format_of(WeightRole::kQ),
                       .k = format_of(WeightRole::kK),
                       .v = format_of(WeightRole::kV),
                       .o = format_of(WeightRole::kO),
                       .gate = format_of(WeightRole::kGate),
                       .up = format_of(WeightRole::kUp),
                       .down = format_of(WeightRole::kDown)};
  join({&formats.q, &formats.k, &formats.v});
  join({&formats.gate, &formats.up});
  return formats;
}

Format whole_format(const Checkpoint& checkpoint, WeightRole role, const MemoryRequest& request) {
  return kept_format(checkpoint.weight(role, -1).format, request);
}

int64_t slice_bytes(Format format, const MemoryRequest& request, int64_t rows, int64_t columns) {
  if (request.gpu) return rows * row_bytes(format, columns);
  const int64_t padded = round_up(columns, int64_t{info(format).block_elements});
  return round_up(rows, int64_t{16}) * row_bytes(format, padded);
}

// The residual is float32; what goes from launch to launch is float32 on CPUs, bfloat16 on GPUs.
int64_t step_bytes(const ModelDescription& model, const ShardPlan& shard, const MemoryRequest& request) {
  const int64_t q = int64_t{shard.q_heads.size()} * model.head_dim;
  const int64_t kv = int64_t{shard.kv_heads.size()} * model.head_dim;
  const int64_t mlp = shard.intermediate.size();
  const int64_t streamed = 2 * int64_t{model.hidden} + q + 2 * kv + 2 * mlp + std::max(q, mlp);
  return request.step_tokens_max * (4 * int64_t{model.hidden} + (request.gpu ? 2 : 4) * streamed);
}

// Rotation table, the slots' tokens and sampling, block tables, a step's inputs.
int64_t slot_bytes(const ModelDescription& model, const MemoryRequest& request) {
  const int64_t context = request.context_max.value_or(model.context_max);
  const auto groups = static_cast<int64_t>(model.kv_groups.size());
  const int64_t tables = groups * ceil_div(context, int64_t{request.block_tokens});
  return context * model.rope.rotary_dim * 4 + request.slots * (4 * (context + tables) + kSlotBytes) + kStepTableBytes;
}

// A rank's slice of the logits, or all of them where they are gathered: on GPUs straight into the first rank's memory,
// with room for NCCL's way on each.
int64_t logit_bytes(const ModelDescription& model, const ShardPlan& shard, const MemoryRequest& request) {
  const int64_t rows = request.gpu ? std::min(request.slots, kGpuLogitRows) : std::min(request.slots, kCpuLogitRows);
  const bool direct = request.gpu && shard.tp_size > 1;
  int64_t columns = direct ? 0 : shard.vocabulary.size();
  if (shard.tp_size > 1 && shard.tp_rank == 0) columns += model.vocabulary;
  if (shard.tp_size > 1 && request.gpu) columns += model.vocabulary;
  return 4 * rows * columns;
}

Status does_not_fit(const std::string& what, int64_t needed, int64_t there, const std::string& remedy) {
  return resource_exhausted(what + " takes " + readable_bytes(needed) + " but " + readable_bytes(std::max<int64_t>(there, 0)) +
                            " can be had; " + remedy);
}

// What shares one memory: each rank, or all of them together.
std::vector<RankMemory> by_memory(const MemoryPlan& plan, const MemoryRequest& request) {
  if (request.gpu || request.apart) return plan.ranks;
  RankMemory sum;
  for (const RankMemory& rank : plan.ranks) {
    sum.weights += rank.weights;
    sum.activations += rank.activations;
    sum.runtime += rank.runtime;
    sum.kv_per_token += rank.kv_per_token;
  }
  return {sum};
}

}  // namespace

std::string kv_cache_dtype(const MemoryRequest& request) {
  if (request.gpu) return "bfloat16";
  if (request.kv_cache_dtype != "auto") return request.kv_cache_dtype;
  return request.dtype == "float32" ? "float32" : "float16";
}

ModelFormats formats_of(const Checkpoint& checkpoint, const MemoryRequest& request) {
  const ModelDescription& model = checkpoint.description();
  const WeightRole output = model.tied_embeddings ? WeightRole::kTokenEmbedding : WeightRole::kOutput;
  ModelFormats formats{.output = whole_format(checkpoint, output, request),
                       .kv = static_cast<double>(element_bytes(kv_format(request))),
                       .stream = request.gpu ? 2.0 : 4.0};
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    formats.layers.push_back(layer_formats(checkpoint, static_cast<int>(layer), request));
  }
  return formats;
}

RankMemory rank_memory(const Checkpoint& checkpoint, const ShardPlan& shard, const MemoryRequest& request) {
  const ModelDescription& model = checkpoint.description();
  const int64_t q = int64_t{shard.q_heads.size()} * model.head_dim;
  const int64_t kv = int64_t{shard.kv_heads.size()} * model.head_dim;
  const int64_t mlp = shard.intermediate.size();
  const int64_t hidden = model.hidden;
  const auto bytes = [&](Format format, int64_t rows, int64_t columns) {
    return slice_bytes(format, request, rows, columns);
  };
  RankMemory memory;
  for (int layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
    const LayerFormats formats = layer_formats(checkpoint, layer, request);
    memory.weights += bytes(formats.q, q, hidden) + bytes(formats.k, kv, hidden) + bytes(formats.v, kv, hidden) +
                      bytes(formats.o, hidden, q) + bytes(formats.gate, mlp, hidden) + bytes(formats.up, mlp, hidden) +
                      bytes(formats.down, hidden, mlp) + 2 * int64_t{4} * hidden;
    memory.kv_per_token += 2 * kv * element_bytes(kv_format(request));
  }
  const int64_t vocabulary = shard.vocabulary.size();
  const auto vocabulary_bytes = [&](WeightRole role) {
    return bytes(whole_format(checkpoint, role, request), vocabulary, hidden);
  };
  if (shard.first_stage()) memory.weights += vocabulary_bytes(WeightRole::kTokenEmbedding);
  if (shard.last_stage() && !(model.tied_embeddings && shard.first_stage())) {
    memory.weights += vocabulary_bytes(model.tied_embeddings ? WeightRole::kTokenEmbedding : WeightRole::kOutput);
  }
  memory.activations = step_bytes(model, shard, request) + slot_bytes(model, request);
  if (shard.last_stage()) memory.activations += logit_bytes(model, shard, request);
  if (request.gpu) {
    const bool receives = shard.pp_size == 1 || !shard.first_stage();
    memory.runtime = std::max<int64_t>(request.runtime_bytes - (receives ? 0 : request.receiver_bytes), 0);
  }
  return memory;
}

int64_t default_pool_tokens(int64_t left, int64_t kv_per_token, const MemoryRequest& request, int context) {
  const int64_t all = std::max<int64_t>(left, 0);
  const int64_t of_token = std::max<int64_t>(kv_per_token, 1);
  if (request.gpu) return all / of_token;
  const int64_t share = std::min(kDefaultPoolBytesMax, all / kDefaultPoolShare);
  const int64_t wanted = int64_t{std::min(kDefaultContextsHeld, request.slots)} * context;
  return std::min(wanted, share / of_token);
}

int64_t MemoryPlan::weights() const {
  int64_t sum = 0;
  for (const RankMemory& rank : ranks) sum += rank.weights;
  return sum;
}

int64_t MemoryPlan::kv_per_token() const {
  int64_t sum = 0;
  for (const RankMemory& rank : ranks) sum += rank.kv_per_token;
  return sum;
}

int64_t MemoryPlan::total(int block_tokens) const {
  int64_t sum = kv_per_token() * kv_blocks * block_tokens;
  for (const RankMemory& rank : ranks) sum += rank.fixed();
  return sum;
}

Status check_context(const ModelDescription& model, const MemoryRequest& request) {
  if (request.context_max.value_or(0) <= model.context_max) return {};
  return invalid_argument("max-model-len " + std::to_string(*request.context_max) + " is more than the " +
                          std::to_string(model.context_max) + " tokens that the model was made for; lower it");
}

Result<MemoryPlan> plan_memory(const Checkpoint& checkpoint, const std::vector<ShardPlan>& shards,
                               const MemoryRequest& request) {
  const int model_context = checkpoint.description().context_max;
  MemoryPlan plan;
  for (const ShardPlan& shard : shards) plan.ranks.push_back(rank_memory(checkpoint, shard, request));
  const std::vector<RankMemory> memories = by_memory(plan, request);
  const auto there = [&](size_t i) {
    return request.memory_by_rank.empty() ? request.memory_bytes : request.memory_by_rank[i];
  };
  size_t tightest = 0;
  for (size_t i = 1; i < memories.size(); ++i) {
    if (there(i) - memories[i].fixed() < there(tightest) - memories[tightest].fixed()) tightest = i;
  }
  const int64_t left = there(tightest) - memories[tightest].fixed();
  if (left <= 0) {
    return does_not_fit("the model with its activations", memories[tightest].fixed(), there(tightest),
                        (request.held.empty() ? "" : request.held + ", or ") +
                            (request.gpu ? "use more GPUs (tensor-parallel-size), a smaller model, or a smaller "
                                           "max-num-batched-tokens"
                                         : "use a smaller or quantised model, fewer replicas, or a smaller "
                                           "max-num-batched-tokens"));
  }
  RETURN_IF_ERROR(check_context(checkpoint.description(), request));
  const int wanted = request.context_max.value_or(model_context);
  int64_t pool = INT64_MAX;     // tokens that are asked for, or the default
  int64_t largest = INT64_MAX;  // tokens that fit
  const int64_t most = std::max<int64_t>(std::ranges::max(plan.ranks, {}, &RankMemory::kv_per_token).kv_per_token, 1);
  for (size_t i = 0; i < memories.size(); ++i) {
    const int64_t left_here = there(i) - memories[i].fixed();
    largest = std::min(largest, left_here / std::max<int64_t>(memories[i].kv_per_token, 1));
    pool = std::min(pool, default_pool_tokens(left_here, memories[i].kv_per_token, request, wanted));
  }
  if (request.kv_bytes_per_rank) pool = *request.kv_bytes_per_rank / most;
  const int64_t tokens = pool / request.block_tokens * request.block_tokens;
  if (request.kv_bytes_per_rank && tokens == 0) {
    const int64_t least = round_up<int64_t>(request.context_max.value_or(1), request.block_tokens);
    const std::string what = "block of " + std::to_string(request.block_tokens) + " tokens";
    return pool_holds_no(*request.kv_bytes_per_rank, what, least * most, "or leave it out");
  }
  if (tokens < request.block_tokens) {
    const std::string gpus = (request.held.empty() ? "free memory" : request.held) + ", or use more GPUs";
    return does_not_fit("the KV cache of a single block", request.block_tokens * plan.kv_per_token(),
                        tokens * plan.kv_per_token(),
                        request.gpu ? gpus : "free memory, or give it a size with kv-cache-memory-bytes");
  }
  const int64_t needed = round_up(int64_t{wanted}, int64_t{request.block_tokens});
  if (tokens < needed && request.context_max) {
    const bool all = request.gpu && !request.kv_bytes_per_rank;  // that fit
    return does_not_fit("a context of " + std::to_string(wanted) + " tokens", needed * plan.kv_per_token(),
                        tokens * plan.kv_per_token(), "lower max-model-len to " + std::to_string(tokens) +
                                                          (all ? "" : " or raise kv-cache-memory-bytes"));
  }
  if (tokens > largest) {
    return does_not_fit("the KV cache that was asked for", tokens * plan.kv_per_token(), largest * plan.kv_per_token(),
                        "lower kv-cache-memory-bytes");
  }
  plan.context_max = static_cast<int>(std::min<int64_t>(wanted, tokens));
  plan.context_lowered = plan.context_max < model_context;
  plan.kv_blocks = static_cast<int>(std::min<int64_t>(tokens / request.block_tokens, INT32_MAX));
  return plan;
}

Status pool_holds_no(int64_t asked, const std::string& what, int64_t needed, const std::string& remedy) {
  return resource_exhausted("kv-cache-memory-bytes of " + readable_bytes(asked) + " a rank holds no " + what +
                            "; raise it to " + std::to_string(needed) + " (" + readable_bytes(needed) + "), " + remedy);
}

std::string readable_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace skein
