#include <chrono>
#include <numeric>
#include <tuple>

#include "kernels/cuda/pack.h"
#include "tests/gpu/fixture.h"

namespace skein::test {
namespace {

// More than the staging ring holds, several times over, in sizes that fill it unevenly, to a device that is still busy;
// the source changes at once after each call.
TEST(CudaDevice, CopiesArriveWhole) {
  constexpr int64_t kCounts[] = {1 << 20, 5'000'000, 1, (1 << 20) + 3, 1 << 22};  // the last: half of the ring
  constexpr int kRounds = 4;
  int64_t total = 0;
  for (const int64_t count : kCounts) total += kRounds * count;
  const GpuMemory memory(gpu(), total * 4);
  for (int i = 0; i < 2000; ++i) poison_scratch(gpu());
  std::vector<int32_t> values(5'000'000), wanted;
  std::iota(values.begin(), values.end(), 7);
  for (int round = 0; round < kRounds; ++round) {
    for (const int64_t count : kCounts) {
      gpu().copy_to_device(memory.as<int32_t>() + wanted.size(), values.data(), count * 4);
      wanted.insert(wanted.end(), values.begin(), values.begin() + count);
      for (int32_t& value : values) value += 3;
    }
  }
  EXPECT_TRUE(download<int32_t>(gpu(), memory.as(), total) == wanted);
  EXPECT_TRUE(memory.intact());
}

TEST(CudaDevice, MarksAreReachedInOrder) {
  GpuMemory memory(gpu(), 64 << 20);
  memory.poison();
  const uint64_t first = gpu().mark();
  memory.poison();
  const uint64_t second = gpu().mark();
  EXPECT_EQ(second, first + 1);
  ASSERT_TRUE(gpu().synchronize().ok());
  for (const uint64_t mark : {first, second}) {
    const auto reached = gpu().reached(mark);
    ASSERT_TRUE(reached.ok());
    EXPECT_TRUE(*reached);
  }
}

TEST(CudaDevice, TellsForHowLongItHasBeenPastAMark) {
  using Clock = std::chrono::steady_clock;
  const auto ns_since = [](Clock::time_point from) { return std::chrono::nanoseconds(Clock::now() - from).count(); };
  constexpr int64_t kSlack = 100'000;  // clocks of two makers, over milliseconds
  GpuMemory memory(gpu(), 64 << 20);
  const Clock::time_point launched = Clock::now();
  memory.poison();
  const uint64_t mark = gpu().mark();
  ASSERT_TRUE(gpu().synchronize().ok());
  const Clock::time_point through = Clock::now();
  while (ns_since(through) < 3'000'000) continue;
  memory.poison();  // what comes behind does not matter
  const int64_t least = ns_since(through);
  const auto since = gpu().since(mark);
  ASSERT_TRUE(since.ok());
  EXPECT_GE(*since, least - kSlack);
  EXPECT_LE(*since, ns_since(launched) + kSlack);
}

// A weight whose rows lie all over a pool of numbers, and where it is to be.
struct PoolWeight {
  Format format;
  int64_t rows, columns;
  GpuMemory memory;

  int64_t element(int64_t row, int64_t pool) const { return row * 769 % (pool - columns); }
};

TEST(WeightUpload, WeightsOfManyPiecesComeWholeAndInPlace) {
  std::mt19937 random(3);
  const std::vector<float> floats = bf16_normals(random, 1 << 20);
  const std::vector<uint16_t> halves = to_bf16(floats);
  const auto pool = static_cast<int64_t>(floats.size());
  for (int round = 0; round < 2; ++round) {  // the second with threads and memory anew
    std::vector<PoolWeight> weights;
    for (const auto& [format, rows, columns] :
         {std::tuple{Format::kBF16, 40'001, 2048}, {Format::kF32, 9'999, 2048}, {Format::kBF16, 3, 64},
          {Format::kBF16, 1, 300'000}, {Format::kF32, 5'000, 4096}}) {
      weights.push_back({format, rows, columns, GpuMemory(gpu(), int64_t{rows} * columns * 2)});
    }
    for (const PoolWeight& weight : weights) {
      std::vector<const void*> rows;
      for (int64_t row = 0; row < weight.rows; ++row) {
        const int64_t at = weight.element(row, pool);
        rows.push_back(weight.format == Format::kF32 ? static_cast<const void*>(&floats[static_cast<size_t>(at)])
                                                     : &halves[static_cast<size_t>(at)]);
      }
      Tensor out = matrix(weight.memory.as(), Format::kBF16, weight.rows, weight.columns);
      out.layout = Layout::kPacked;
      const int64_t half = weight.rows / 2;
      cuda::pack_linear(gpu(), {.out = out, .first_row = half, .row_count = weight.rows - half,
                                .source_rows = rows.data() + half, .source_format = weight.format});
      cuda::pack_linear(gpu(), {.out = out, .first_row = 0, .row_count = half, .source_rows = rows.data(),
                                .source_format = weight.format});
    }
    ASSERT_TRUE(gpu().synchronize().ok());
    gpu().end_weight_upload();
    for (const PoolWeight& weight : weights) {
      const auto found = download<uint16_t>(gpu(), weight.memory.as(), weight.rows * weight.columns);
      int64_t wrong = 0;
      for (int64_t row = 0; row < weight.rows; ++row) {
        wrong += std::memcmp(&found[static_cast<size_t>(row * weight.columns)],
                             &halves[static_cast<size_t>(weight.element(row, pool))],
                             static_cast<size_t>(weight.columns) * 2) != 0;
      }
      EXPECT_EQ(wrong, 0) << weight.rows << " rows of " << weight.columns;
      EXPECT_TRUE(weight.memory.intact());
    }
  }
}

TEST(CudaDevice, RefusesWhatIsNotThere) {
  const auto device = cuda::CudaDevice::open({.index = 99});
  ASSERT_FALSE(device.ok());
  EXPECT_NE(device.status().message().find("GPU 99"), std::string::npos);
  const auto memory = gpu().allocate(int64_t{1} << 50);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(gpu().synchronize().ok()) << "running out of memory spoils nothing";
}

// In a process of its own, whose GPU is lost for good.
[[noreturn]] void fault() {
  const GpuMemory pair = test::upload(gpu(), std::vector<int32_t>{0, 1});
  cuda::scatter(gpu(), {.to = reinterpret_cast<int32_t*>(64), .size = 1, .pairs = pair.as<int32_t>(), .count = 1});
  const uint64_t mark = gpu().mark();
  Status status;
  while (status.ok()) {
    const auto reached = gpu().reached(mark);
    status = reached.status();
    if (reached.ok() && *reached) break;
  }
  std::fprintf(stderr, "%s\n", status.message().c_str());
  const bool lasts = !gpu().synchronize().ok() && !gpu().reached(gpu().mark()).ok() && !gpu().allocate(64).ok();
  std::_Exit(!status.ok() && status.scope() == Scope::kReplica && lasts ? 0 : 1);
}

TEST(CudaDeviceDeathTest, AFaultIsToldAtOnceAndFromThenOn) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(fault(), ::testing::ExitedWithCode(0), "GPU 0: a launch failed: ");
}

}  // namespace
}  // namespace skein::test
