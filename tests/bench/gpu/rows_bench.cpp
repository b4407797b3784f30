#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "tests/bench/gpu/bench.h"

// The operations around products and attention, at the shapes of Llama-3.1-8B (hidden 4096, intermediate 14336,
// vocabulary 128256). Every call is one of a chain, as in a step.

namespace skein::bench {
namespace {

constexpr int64_t kHidden = 4096;
constexpr int64_t kIntermediate = 14336;
constexpr int64_t kVocabulary = 128256;

Tensor matrix(void* data, Format format, int64_t rows, int64_t columns) {
  return {.data = data, .rows = rows, .columns = columns, .format = format, .row_stride = columns};
}

int calls_for(int64_t tokens) { return tokens <= 256 ? 200 : 20; }

void bench_add_norm(int64_t tokens) {
  void* residual = device_memory(tokens * kHidden * 4);
  gpu().copy_to_device(residual, std::vector<float>(static_cast<size_t>(tokens * kHidden), 0.5f).data(),
                       tokens * kHidden * 4);
  void* x = random_bf16(tokens * kHidden, 0.01);
  void* out = device_memory(tokens * kHidden * 2);
  const float* weight = upload(std::vector<float>(kHidden, 1.0f));
  const double us = time_us(
      [&](int) {
        cuda::add_norm(gpu(), {.out = matrix(out, Format::kBF16, tokens, kHidden),
                               .residual = matrix(residual, Format::kF32, tokens, kHidden),
                               .x = matrix(x, Format::kBF16, tokens, kHidden), .weight = weight, .epsilon = 1e-5f});
      },
      calls_for(tokens));
  report({.name = "add_norm 4096 m=" + std::to_string(tokens), .us = us,
          .bytes = static_cast<double>(tokens * kHidden * 12)});
}

void bench_silu_mul(int64_t tokens) {
  void* gate_up = random_bf16(tokens * 2 * kIntermediate);
  void* out = device_memory(tokens * kIntermediate * 2);
  const double us = time_us(
      [&](int) {
        cuda::silu_mul(gpu(), {.out = matrix(out, Format::kBF16, tokens, kIntermediate),
                               .gate_up = matrix(gate_up, Format::kBF16, tokens, 2 * kIntermediate)});
      },
      calls_for(tokens));
  report({.name = "silu_mul 14336 m=" + std::to_string(tokens), .us = us,
          .bytes = static_cast<double>(tokens * kIntermediate * 6)});
}

void bench_embed(int64_t tokens) {
  std::mt19937 random(1);
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocabulary);
  const int32_t* token_ids = upload(ids);
  void* table = random_bf16(kVocabulary * kHidden);
  void* out = device_memory(tokens * kHidden * 4);
  const double us = time_us(
      [&](int) {
        cuda::embed(gpu(), {.out = matrix(out, Format::kF32, tokens, kHidden), .token_ids = token_ids,
                            .table = matrix(table, Format::kBF16, kVocabulary, kHidden)});
      },
      calls_for(tokens));
  report({.name = "embed 4096 m=" + std::to_string(tokens), .us = us,
          .bytes = static_cast<double>(tokens * kHidden * 6)});
}

SlotState make_slots(int slots, int tokens_max, const SlotSampling& how) {
  SlotState state = {.slots = slots, .tokens_max = tokens_max};
  state.tokens = upload(std::vector<int32_t>(static_cast<size_t>(slots * tokens_max), 1));
  state.lengths = upload(std::vector<int32_t>(static_cast<size_t>(slots), 1000));
  std::vector<SlotSampling> sampling(static_cast<size_t>(slots), how);
  for (size_t s = 0; s < sampling.size(); ++s) sampling[s].seed = s * 77;
  state.sampling = upload(sampling);
  return state;
}

void bench_gather(int rows, int tokens_of_first) {
  const SlotState state = make_slots(rows, 16384, {});
  std::vector<int32_t> slots, firsts, begins = {0};
  for (int r = 0; r < rows; ++r) {
    slots.push_back(r);
    firsts.push_back(r == 0 ? 0 : -1);
    begins.push_back(begins.back() + (r == 0 ? tokens_of_first : 1));
  }
  const StepView step = {.rows = rows, .tokens = begins.back(), .query_begin = upload(begins), .slots = upload(slots)};
  auto* ids = static_cast<int32_t*>(device_memory(step.tokens * 4));
  auto* positions = static_cast<int32_t*>(device_memory(step.tokens * 4));
  const int32_t* first_position = upload(firsts);
  const double us = time_us(
      [&](int) {
        cuda::gather(gpu(), {.token_ids = ids, .positions = positions, .step = step,
                             .first_position = first_position, .state = state});
      },
      200);
  report({.name = "gather rows=" + std::to_string(rows) + " tokens=" + std::to_string(step.tokens), .us = us,
          .bytes = static_cast<double>(step.tokens * 12)});
}

void bench_store(int rows) {
  const SlotState state = make_slots(rows, 2048, {});
  std::vector<int32_t> slots;
  for (int r = 0; r < rows; ++r) slots.push_back(r);
  const int32_t* to = upload(slots);
  const double us = time_us(
      [&](int) {
        cuda::store_tokens(gpu(), {.state = state, .count = rows, .slots = to, .positions = to, .tokens = to});
      },
      200);
  report({.name = "store_tokens rows=" + std::to_string(rows), .us = us, .bytes = static_cast<double>(rows * 16)});
}

// As after a step with prompts, whose last tokens become logits.
void bench_gather_rows(int rows) {
  constexpr int64_t kTokens = 8192;
  void* x = random_bf16(kTokens * kHidden);
  void* out = device_memory(rows * kHidden * 2);
  std::vector<int32_t> picked;
  for (int r = 0; r < rows; ++r) picked.push_back(static_cast<int32_t>((r + 1) * kTokens / rows - 1));
  const int32_t* from = upload(picked);
  const double us = time_us(
      [&](int) {
        cuda::gather_rows(gpu(), {.out = matrix(out, Format::kBF16, rows, kHidden),
                                  .x = matrix(x, Format::kBF16, kTokens, kHidden), .rows = from, .count = rows});
      },
      200);
  report({.name = "gather_rows 4096 m=" + std::to_string(rows), .us = us,
          .bytes = static_cast<double>(rows * kHidden * 4)});
}

// Entries of block tables: a step of decodes has few new ones, a long prompt thousands.
void bench_scatter(int count) {
  constexpr int64_t kSize = 256 * 2048;
  std::vector<int32_t> pairs;
  for (int i = 0; i < count; ++i) pairs.insert(pairs.end(), {static_cast<int32_t>(i * (kSize / count)), i});
  const int32_t* device_pairs = upload(pairs);
  auto* to = static_cast<int32_t*>(device_memory(kSize * 4));
  const double us = time_us(
      [&](int) { cuda::scatter(gpu(), {.to = to, .size = kSize, .pairs = device_pairs, .count = count}); }, 200);
  report({.name = "scatter n=" + std::to_string(count), .us = us, .bytes = static_cast<double>(count * 12)});
}

// Blocks of one layer, 256 KiB each; every call copies others.
void bench_copy_blocks(int count) {
  KvPages pages = {.format = Format::kBF16, .kv_heads = 8, .block_tokens = 64, .head_dim = 128};
  const int64_t block_bytes = int64_t{2} * pages.kv_heads * pages.block_tokens * pages.head_dim * 2;
  const int copies = rotations(2 * count * block_bytes);
  pages.blocks = 2 * count * copies;
  pages.data = random_bf16(pages.blocks * block_bytes / 2);
  std::vector<int32_t> pairs;
  for (int32_t pair = 0; pair < count * copies; ++pair) pairs.insert(pairs.end(), {2 * pair, 2 * pair + 1});
  const int32_t* device_pairs = upload(pairs);
  const double us = time_us(
      [&](int i) {
        cuda::copy_blocks(gpu(), {.pages = pages, .pairs = device_pairs + int64_t{i % copies} * 2 * count,
                                  .count = count});
      },
      std::max(20, copies));
  report({.name = "copy_blocks n=" + std::to_string(count), .us = us,
          .bytes = static_cast<double>(2 * count * block_bytes)});
}

// Logits as a model has them: most far below the best few. `spread` is their standard deviation, `peak` what is added
// to a few of them.
std::vector<float> make_logits(int64_t rows, float spread, float peak) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> one(1 << 20);
  for (float& x : one) x = normal(random);
  std::vector<float> logits(static_cast<size_t>(rows * kVocabulary));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = one[(i + i / one.size() * 7919) % one.size()];
  for (int64_t r = 0; r < rows; ++r) {
    for (int j = 0; j < 12; ++j) {
      logits[static_cast<size_t>(r * kVocabulary + random() % kVocabulary)] = peak - 0.5f * static_cast<float>(j);
    }
  }
  return logits;
}

// `largest`: the rows' keys, if a product has told them.
void bench_sample(int rows, const char* what, const SlotSampling& how, float spread, float peak,
                  const uint64_t* largest = nullptr) {
  SlotState state = make_slots(rows, 2048, how);
  float* logits = upload(make_logits(rows, spread, peak));
  std::vector<SampleRow> requests;
  for (int r = 0; r < rows; ++r) requests.push_back({.slot = r, .position = 999});
  const SampleRow* row = upload(requests);
  auto* out = static_cast<SampledToken*>(device_memory(rows * static_cast<int64_t>(sizeof(SampledToken))));
  auto* tokens = static_cast<int32_t*>(device_memory(rows * 4));
  const double us = time_us(
      [&](int) {
        cuda::sample(gpu(), {.out = out, .tokens = tokens, .logits = logits, .vocabulary = kVocabulary, .rows = rows,
                             .row = row, .state = &state, .largest = largest});
      },
      rows <= 64 ? 50 : 20);
  report({.name = std::string("sample ") + what + " m=" + std::to_string(rows), .us = us,
          .bytes = largest != nullptr ? 0 : static_cast<double>(rows * kVocabulary * 4)});
}

void run() {
  for (const int64_t tokens : {1, 16, 64, 256, 2048, 8192}) bench_add_norm(tokens);
  for (const int64_t tokens : {1, 16, 64, 256, 2048, 8192}) bench_silu_mul(tokens);
  for (const int64_t tokens : {1, 64, 256, 8192}) bench_embed(tokens);
  bench_gather(1, 1);
  bench_gather(256, 1);
  bench_gather(1, 8192);
  bench_gather(256, 7937);
  bench_store(1);
  bench_store(256);
  for (const int rows : {1, 256}) bench_gather_rows(rows);
  for (const int count : {1, 256, 8192}) bench_scatter(count);
  for (const int count : {1, 64, 1024}) bench_copy_blocks(count);
  const SlotSampling greedy = {.temperature = 0}, plain = {}, nucleus = {.top_p = 0.9f};
  const SlotSampling drawn_alone = {.top_logprobs = -1};
  SlotSampling mixed = {.temperature = 0.8f, .top_p = 0.95f, .top_k = 50, .repetition_penalty = 1.1f};
  mixed.top_logprobs = 5;
  const SlotSampling greedy_alone = {.temperature = 0, .top_logprobs = -1};
  const uint64_t* keys = upload(std::vector<uint64_t>(16, uint64_t{0xc1800000} << 32 | ~7u));
  for (const int rows : {1, 8, 16}) {
    bench_sample(rows, "greedy, token alone", greedy_alone, 2, 16);
    bench_sample(rows, "greedy, token of the product", greedy_alone, 2, 16, keys);
  }
  for (const int rows : {1, 64, 256}) {
    bench_sample(rows, "greedy", greedy, 2, 16);
    bench_sample(rows, "plain", plain, 2, 16);
    bench_sample(rows, "plain, token alone", drawn_alone, 2, 16);
    bench_sample(rows, "top-p 0.9", nucleus, 2, 16);
    bench_sample(rows, "top-p 0.9 flat", nucleus, 1, 4);
    bench_sample(rows, "penalty, top-k, top-p, logprobs", mixed, 2, 16);
  }
}

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) {
  if (const int status = skein::bench::open_bench(argc, argv)) return status;
  skein::bench::run();
  return 0;
}
