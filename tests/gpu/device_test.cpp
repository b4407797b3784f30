#include "tests/gpu/fixture.h"

namespace skein::test {
namespace {

TEST(CudaDevice, CopiesArriveInOrder) {
  std::vector<int32_t> values(1 << 20);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * 7);
  GpuMemory memory(gpu(), static_cast<int64_t>(values.size() * 4));
  // More than the staging ring holds, several times over; the source changes at once after each call.
  for (int32_t round = 0; round < 40; ++round) {
    gpu().copy_to_device(memory.as(), values.data(), memory.bytes());
    for (int32_t& value : values) ++value;
  }
  for (int32_t& value : values) --value;
  EXPECT_EQ(download<int32_t>(gpu(), memory.as(), static_cast<int64_t>(values.size())), values);
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
