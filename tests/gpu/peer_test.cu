#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/ptx.cuh"
#include "tests/gpu/rank_group.h"

// Sums over several GPUs. Needs two that reach each other's memory; groups of more run where there are so many.

namespace skein::cuda {
namespace {

using test::RankGroup;

constexpr int kMessages = 12;  // launches over peers in one round of the long test

template <typename T>
T* device_array(CudaDevice& device, int64_t count) {
  auto memory = device.allocate(count * static_cast<int64_t>(sizeof(T)));
  CHECK(memory.ok());
  return static_cast<T*>(*memory);
}

template <typename T>
T* upload(CudaDevice& device, const std::vector<T>& values) {
  T* memory = device_array<T>(device, static_cast<int64_t>(values.size()));
  device.copy_to_device(memory, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  return memory;
}

template <typename T>
std::vector<T> download(CudaDevice& device, const T* from, int64_t count) {
  EXPECT_TRUE(device.synchronize().ok());
  std::vector<T> values(static_cast<size_t>(count));
  CHECK_EQ(static_cast<int>(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost)), 0);
  return values;
}

Tensor matrix(void* data, Format format, int64_t rows, int64_t columns) {
  return {.data = data, .rows = rows, .columns = columns, .format = format, .row_stride = columns};
}

// --- One launch against the host ---

struct Case {
  int64_t tokens;
  int64_t columns;
  std::vector<std::vector<uint16_t>> x;  // by rank
  std::vector<float> residual;
  std::vector<float> weight;
};

Case random_case(std::mt19937& random, int ranks, int64_t tokens, int64_t columns) {
  std::normal_distribution<float> normal;
  Case c{.tokens = tokens, .columns = columns, .x = {}, .residual = {}, .weight = {}};
  c.x.resize(static_cast<size_t>(ranks));
  for (auto& x : c.x) {
    for (int64_t i = 0; i < tokens * columns; ++i) x.push_back(f32_to_bf16(normal(random)));
  }
  for (int64_t i = 0; i < tokens * columns; ++i) c.residual.push_back(normal(random));
  for (int64_t i = 0; i < columns; ++i) c.weight.push_back(normal(random));
  return c;
}

// `rounded`: the sum, to bf16, before the residual is added.
void check_case(const Case& c, bool rounded, const std::vector<float>& residual, const std::vector<uint16_t>& out) {
  for (int64_t t = 0; t < c.tokens; ++t) {
    double squares = 0;
    for (int64_t i = t * c.columns; i < (t + 1) * c.columns; ++i) {
      const auto at = static_cast<size_t>(i);
      float sum = 0;
      for (const std::vector<uint16_t>& x : c.x) sum += bf16_to_f32(x[at]);
      if (rounded) sum = bf16_to_f32(f32_to_bf16(sum));
      const float expected = c.residual[at] + sum;
      ASSERT_EQ(residual[at], expected) << "token " << t << " of " << c.tokens << ", element " << i - t * c.columns;
      squares += static_cast<double>(expected) * expected;
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c.columns) + 1e-5);
    for (int64_t i = t * c.columns; i < (t + 1) * c.columns; ++i) {
      const double weight = c.weight[static_cast<size_t>(i - t * c.columns)];
      const double expected = residual[static_cast<size_t>(i)] * scale * weight;
      ASSERT_NEAR(bf16_to_f32(out[static_cast<size_t>(i)]), expected, 1e-6 + std::fabs(expected) * 0.005);
    }
  }
}

// By the size of the group.
class PeersTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!RankGroup::there(GetParam())) GTEST_SKIP() << "there are no " << GetParam() << " GPUs that reach each other";
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, PeersTest, testing::Values(2, 3, 4, 8));

class PeerRows : public testing::TestWithParam<std::tuple<int, int64_t, bool>> {};

TEST_P(PeerRows, AddNormOfASum) {
  const auto [ranks, columns, deterministic] = GetParam();
  if (!RankGroup::there(ranks)) GTEST_SKIP() << "there are no " << ranks << " GPUs that reach each other";
  constexpr int64_t kRows = 700;
  RankGroup group(ranks, {.rows = kRows, .row_bytes = columns * 2, .deterministic = deterministic});
  std::mt19937 random(static_cast<uint32_t>(columns));
  std::vector<Case> cases;
  for (const int64_t tokens : {1, 1, 2, 131, 1, 132, 265, 3, 700, 1, 530, 64}) {
    if (tokens * columns <= 2'200'000) cases.push_back(random_case(random, ranks, tokens, columns));
  }
  std::vector<char> rounded(cases.size());
  std::vector<std::vector<std::vector<uint16_t>>> outs(static_cast<size_t>(ranks));
  std::vector<std::vector<std::vector<float>>> residuals(static_cast<size_t>(ranks));
  group.run([&, columns = columns](const RankGroup::Rank& rank) {
    const auto index = static_cast<size_t>(rank.index);
    std::vector<std::pair<float*, uint16_t*>> made;
    std::vector<Tensor> xs;
    for (const Case& c : cases) {
      xs.push_back(matrix(upload(rank.device, c.x[index]), Format::kBF16, c.tokens, columns));
      made.emplace_back(upload(rank.device, c.residual), device_array<uint16_t>(rank.device, c.tokens * columns));
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      const bool two_trips = rank.group.two_trips(c.tokens * columns * 2);
      if (rank.index == 0) rounded[i] = two_trips;
      const int64_t held = two_trips ? rank.group.rows_normed(columns * 2) : rank.group.rows_held(columns * 2);
      const auto part = [&](Tensor whole, int64_t first) {
        whole.data = static_cast<std::byte*>(whole.data) + first * columns * info(whole.format).block_bytes;
        whole.rows = std::min(held, whole.rows - first);
        return whole;
      };
      const float* weight = upload(rank.device, c.weight);
      for (int64_t first = 0; first < c.tokens; first += held) {
        add_norm(rank.device,
                 {.out = part(matrix(made[i].second, Format::kBF16, c.tokens, columns), first),
                  .residual = part(matrix(made[i].first, Format::kF32, c.tokens, columns), first),
                  .x = part(xs[i], first), .weight = weight, .epsilon = 1e-5f, .sum = &rank.group});
      }
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      residuals[index].push_back(download(rank.device, made[i].first, cases[i].tokens * columns));
      outs[index].push_back(download(rank.device, made[i].second, cases[i].tokens * columns));
    }
  });
  for (size_t i = 0; i < cases.size(); ++i) {
    check_case(cases[i], rounded[i] != 0, residuals[0][i], outs[0][i]);
    for (size_t rank = 1; rank < outs.size(); ++rank) {
      EXPECT_EQ(residuals[0][i], residuals[rank][i]) << "rank " << rank;
      EXPECT_EQ(outs[0][i], outs[rank][i]) << "rank " << rank;
    }
  }
}

std::string name_of(const testing::TestParamInfo<PeerRows::ParamType>& info) {
  const auto [ranks, columns, deterministic] = info.param;
  return std::to_string(ranks) + "_by_" + std::to_string(columns) + (deterministic ? "_deterministic" : "");
}

INSTANTIATE_TEST_SUITE_P(Columns, PeerRows,
                         testing::Combine(testing::Values(2, 3, 4, 8), testing::Values(8, 576, 4096, 5120, 8192, 16384),
                                          testing::Bool()),
                         name_of);

// --- Thousands of rounds with skewed ranks ---

__device__ uint32_t hash(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t x = a * 0x9E3779B9u ^ b * 0x85EBCA6Bu ^ c * 0xC2B2AE35u;
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// Element i of what that rank sends in that round: all bit patterns but NaNs and infinities, and -0.
__device__ float element(int rank, uint32_t round, uint32_t message, int64_t i) {
  const auto place = static_cast<uint32_t>(i) * PeerGroup::kRanksMax + static_cast<uint32_t>(rank);
  const uint32_t h = hash(place, round, message);
  return __uint_as_float((h & 0x807f0000u) | ((0x70u + (h >> 8 & 15)) << 23));
}

// The round begins: now and then, one rank is late.
__global__ void delay(const uint32_t* round, int rank, uint32_t message) {
  wait_for_previous_launch();
  const uint32_t h = hash(*round, message, static_cast<uint32_t>(rank) + 77);
  if (h % 8 >= 2) return;
  const uint64_t ns = h % 8 == 0 ? h / 8 % 3000 : h / 8 % 40000;
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < ns);
}

__global__ void fill(__nv_bfloat16* x, float* residual, float* flat, int64_t count, const uint32_t* round, int rank,
                     uint32_t message) {
  wait_for_previous_launch();
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const float v = element(rank, *round, message, i);
    x[i] = __float2bfloat16(v);
    flat[i] = v;
    residual[i] = 0;
  }
}

__global__ void compare(const float* sums, int64_t count, const uint32_t* round, int ranks, bool rounded,
                        uint32_t message, uint32_t* wrong) {
  wait_for_previous_launch();
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    float expected = 0;
    for (int rank = 0; rank < ranks; ++rank) expected += element(rank, *round, message, i);
    if (rounded) expected = __bfloat162float(__float2bfloat16(expected));
    if (sums[i] != expected && atomicAdd(wrong, 1) < 8) {
      printf("round %u message %u element %lld of %lld: %g instead of %g\n", *round, message,
             static_cast<long long>(i), static_cast<long long>(count), sums[i], expected);
    }
  }
}

__global__ void next_round(uint32_t* round) {
  wait_for_previous_launch();
  ++*round;
}

// What a rank writes into its part of rank 0's memory, and what rank 0 finds there after a meeting.
__global__ void write_shared(uint32_t* to, int count, const uint32_t* round, int rank) {
  wait_for_previous_launch();
  for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = hash(*round, static_cast<uint32_t>(i), rank);
}
__global__ void check_shared(const uint32_t* from, int count, const uint32_t* round, int rank, uint32_t* wrong) {
  wait_for_previous_launch();
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    if (from[i] != hash(*round, static_cast<uint32_t>(i), rank)) atomicAdd(wrong, 1);
  }
}
__global__ void make_values(int32_t* values, int count, const uint32_t* round, int rank) {
  wait_for_previous_launch();
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    values[i] = rank != 0 ? -7 : i == 0 ? -1 : static_cast<int32_t>(hash(*round, 5, i) % 128256);
  }
}
__global__ void check_values(const int32_t* values, int count, const uint32_t* round, uint32_t* wrong) {
  wait_for_previous_launch();
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    if (values[i] != (i == 0 ? -1 : static_cast<int32_t>(hash(*round, 5, i) % 128256))) atomicAdd(wrong, 1);
  }
}

struct Rounds {
  static constexpr int64_t kColumns = 1024;
  static constexpr int64_t kTokensMax = 600;
  static constexpr int kShared = 5000;
  CudaDevice& device;
  const PeerGroup& group;
  int rank;
  uint32_t* round = upload(device, std::vector<uint32_t>{0});
  uint32_t* wrong = upload(device, std::vector<uint32_t>{0});
  __nv_bfloat16* x = device_array<__nv_bfloat16>(device, kTokensMax * kColumns);
  float* residual = device_array<float>(device, kTokensMax * kColumns);
  float* flat = device_array<float>(device, kTokensMax * kColumns);
  uint16_t* out = device_array<uint16_t>(device, kTokensMax * kColumns);
  float* weight = upload(device, std::vector<float>(kColumns, 1.0f));
  int32_t* values = device_array<int32_t>(device, 300);

  void message(uint32_t number, int64_t tokens) {
    const int64_t count = tokens * kColumns;
    launch(device, "delay", delay, {.blocks = 1, .threads = 1}, round, rank, number);
    launch(device, "fill", fill, {.blocks = 32, .threads = 256}, x, residual, flat, count, round, rank, number);
    launch(device, "delay", delay, {.blocks = 1, .threads = 1}, round, rank, number + 1000);
    if (number % 3 == 2) {
      const int64_t rows = std::min(tokens / 2, group.rows_held(kColumns * int64_t{sizeof(float)}));
      peer_sum(device, {.x = matrix(flat, Format::kF32, rows, kColumns), .group = &group});
      launch(device, "compare", compare, {.blocks = 32, .threads = 256}, flat, rows * kColumns, round, group.size,
             false, number, wrong);
      return;
    }
    add_norm(device, {.out = matrix(out, Format::kBF16, tokens, kColumns),
                      .residual = matrix(residual, Format::kF32, tokens, kColumns),
                      .x = matrix(x, Format::kBF16, tokens, kColumns), .weight = weight, .epsilon = 1e-5f,
                      .sum = &group});
    launch(device, "compare", compare, {.blocks = 32, .threads = 256}, residual, count, round, group.size,
           group.two_trips(count * 2), number, wrong);
  }

  uint32_t* shared_of(int from) { return reinterpret_cast<uint32_t*>(group.shared[0]) + (from - 1) * kShared; }

  void meeting(int count) {
    launch(device, "make", make_values, {.blocks = 1, .threads = 128}, values, count, round, rank);
    if (rank != 0) {
      launch(device, "write", write_shared, {.blocks = 1, .threads = 256}, shared_of(rank), kShared, round, rank);
    }
    launch(device, "delay", delay, {.blocks = 1, .threads = 1}, round, rank, 55u);
    peer_meet(device, {.group = &group, .values = nullptr, .count = 0});
    for (int from = 1; rank == 0 && from < group.size; ++from) {
      launch(device, "check", check_shared, {.blocks = 1, .threads = 256}, shared_of(from), kShared, round, from,
             wrong);
    }
    peer_meet(device, {.group = &group, .values = values, .count = count});
    launch(device, "check", check_values, {.blocks = 1, .threads = 128}, values, count, round, wrong);
  }

  void one_round() {
    static constexpr int64_t kTokens[kMessages] = {1, 300, 4, 1, 600, 600, 133, 1, 2, 599, 7, 64};
    for (uint32_t i = 0; i < kMessages; ++i) message(i, kTokens[i]);
    meeting(257);
    // Nothing between them.
    for (int i = 0; i < 6; ++i) {
      add_norm(device, {.out = matrix(out, Format::kBF16, 1, kColumns),
                        .residual = matrix(residual, Format::kF32, 1, kColumns),
                        .x = matrix(out, Format::kBF16, 1, kColumns), .weight = weight, .epsilon = 1e-5f,
                        .sum = &group});
    }
    launch(device, "next", next_round, {.blocks = 1, .threads = 1}, round);
  }
};

TEST_P(PeersTest, ThousandsOfRoundsOfAGraph) {
  constexpr int kRounds = 2500;
  RankGroup group(GetParam(), {.rows = Rounds::kTokensMax, .row_bytes = Rounds::kColumns * 2,
                               .shared_bytes = (GetParam() - 1) * Rounds::kShared * 4});
  std::vector<std::vector<float>> residuals(static_cast<size_t>(group.size()));
  group.run([&](const RankGroup::Rank& rank) {
    Rounds rounds{.device = rank.device, .group = rank.group, .rank = rank.index};
    rank.device.record(1);
    rounds.one_round();
    ASSERT_TRUE(rank.device.end_record().ok());
    for (int i = 1; i < kRounds; ++i) ASSERT_TRUE(rank.device.replay(1));
    EXPECT_EQ(download(rank.device, rounds.wrong, 1)[0], 0u) << "rank " << rank.index;
    EXPECT_EQ(download(rank.device, rounds.round, 1)[0], static_cast<uint32_t>(kRounds));
    residuals[static_cast<size_t>(rank.index)] = download(rank.device, rounds.residual, Rounds::kColumns);
  });
  for (const std::vector<float>& residual : residuals) EXPECT_EQ(residual, residuals[0]);
}

// --- What can go wrong ---

// A second group of the same ranks.
void expect_none(int ranks, const PeerSetup& setup) {
  RankGroup group(ranks, {.rows = 64, .row_bytes = 8192});
  group.run([&](const RankGroup::Rank& rank) {
    PeerSetup own = setup;
    own.rank = rank.index;
    own.size = ranks;
    own.all_gather = [&](const std::string& bytes) { return group.all_gather(rank.index, bytes); };
    const auto peers = Peers::join(rank.index, false, own);
    ASSERT_TRUE(peers.ok());
    EXPECT_EQ(*peers, nullptr);
  });
}

TEST_P(PeersTest, RowsThatDoNotFitAreLeftToOthers) {
  PeerSetup setup;
  setup.rows = 4;
  setup.row_bytes = 24;
  expect_none(GetParam(), setup);
}

TEST_P(PeersTest, RanksOfSeveralHostsAreLeftToOthers) {
  PeerSetup setup;
  setup.rows = 4;
  setup.row_bytes = 8192;
  setup.one_host = false;
  expect_none(GetParam(), setup);
}

TEST_P(PeersTest, ARankThatNeverComesIsAnError) {
  RankGroup group(GetParam(), {.rows = 64, .row_bytes = 8192, .patience_ns = 200'000'000});
  group.run([&](const RankGroup::Rank& rank) {
    if (rank.index == group.size() - 1) return;
    const auto begin = std::chrono::steady_clock::now();
    float* flat = device_array<float>(rank.device, 4096);
    for (int i = 0; i < 100; ++i) {
      peer_sum(rank.device, {.x = matrix(flat, Format::kF32, 1, 4096), .group = &rank.group});
    }
    const Status status = rank.device.synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.scope(), Scope::kReplica);
    EXPECT_LT(seconds.count(), 3);
    std::printf("%s, after %.2f s\n", status.message().c_str(), seconds.count());
  });
}

}  // namespace
}  // namespace skein::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!skein::test::RankGroup::there(2)) {
    std::printf("skipped: there are no two GPUs that reach each other's memory\n");
    return 77;
  }
  return RUN_ALL_TESTS();
}
