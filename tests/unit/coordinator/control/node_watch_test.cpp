#include "coordinator/control/node_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/unit/topology/machine_fixture.h"

namespace skein {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Gpu h100() {
  Gpu gpu;
  gpu.name = "NVIDIA H100";
  gpu.memory_total = int64_t{80} << 30;
  gpu.memory_free = int64_t{70} << 30;
  gpu.compute_major = 9;
  return gpu;
}

std::string sentence(const LaunchShare& share, const std::vector<Gpu>& gpus) {
  return check_share(share, gpus).message();
}

TEST(LaunchShare, IsWhatASpecificationPlacesOnANode) {
  ReplicaSpec spec;
  spec.device = "cuda";
  spec.rank_memory_bytes = {5, 6, 7};
  spec.places = {{"a", 1}, {"a", 3}, {"b", 0}};
  const LaunchShare share = share_of(spec, "a");
  EXPECT_THAT(share.devices, ElementsAre(1, 3));
  EXPECT_TRUE(share.gpus);
  EXPECT_THAT(share.device_bytes, ElementsAre(5, 6));
  spec.device = "cpu";
  EXPECT_FALSE(share_of(spec, "b").gpus);
  EXPECT_TRUE(share_of(spec, "c").devices.empty());
}

TEST(LaunchShare, ThatFitsIsGranted) {
  EXPECT_EQ(sentence({.devices = {0, 1}, .gpus = true, .device_bytes = {70ull << 30, 1}}, {h100(), h100()}), "");
  EXPECT_EQ(sentence({.devices = {0, 1}, .gpus = false, .device_bytes = {70ull << 30, 1}}, {}), "");
}

TEST(LaunchShare, NamesTheGpuThatDoesNotDo) {
  Gpu old = h100();
  old.name = "NVIDIA A100";
  old.compute_major = 8;
  Gpu full = h100();
  full.memory_free = int64_t{3} << 30;
  const LaunchShare share{.devices = {0, 1}, .gpus = true, .device_bytes = {4ull << 30, 70ull << 30}};
  EXPECT_THAT(sentence(share, {}), HasSubstr("it has no NVIDIA GPU with a driver"));
  EXPECT_THAT(sentence(share, {h100()}), HasSubstr("there is no GPU 1, for it has 1"));
  EXPECT_THAT(sentence(share, {h100(), old}), HasSubstr("its GPU 1 (NVIDIA A100) has compute capability 8.0"));
  EXPECT_THAT(sentence(share, {full, h100()}),
              HasSubstr("its GPU 0 has 3.0 GiB free of 80.0 GiB where a rank needs 4.0 GiB"));
}

constexpr uint64_t kH200Free = 143771ull << 19;
constexpr double kPatience = 3;  // seconds

// What the child would write of a machine that a test made up.
class NodeWatchTest : public testing::Test {
 protected:
  using Clock = NodeWatch::Clock;

  NodeWatchTest() {
    machine_.gpus(test::hgx_gpus());
    unsetenv("CUDA_VISIBLE_DEVICES");
  }

  void look(NodeWatch* watch, Clock::time_point at) {
    const std::chrono::nanoseconds begun = at.time_since_epoch();
    const GpuWatch gpus(machine_.roots().nvml.c_str());
    watch->take(std::string(kLookLine) + to_text(NodeLook{.begun_ns = begun.count(), .gpus = gpus.look()}), at);
  }

  // Time goes by, as an agent's turns see it.
  static AgentStatus status_after(NodeWatch* watch, double seconds) {
    AgentStatus status;
    for (int turn = 0; turn <= seconds * 10; ++turn) {
      status = {};
      watch->tell(kStart + turn * std::chrono::milliseconds(100), &status);
    }
    return status;
  }

  static constexpr Clock::time_point kStart = Clock::time_point(std::chrono::hours(1));
  const LaunchShare last_gpu_{.devices = {7}, .gpus = true, .device_bytes = {1ull << 30}};
  test::FakeMachine machine_;
  NodeWatch watch_{"a", "eth0", kPatience};
};

TEST_F(NodeWatchTest, SaysWhatIsFreeAsOfTheLastLook) {
  look(&watch_, kStart);
  EXPECT_EQ(status_after(&watch_, 0).gpu_memory_free, std::vector<uint64_t>(8, kH200Free));
  EXPECT_GT(status_after(&watch_, 0).memory_free, 0u);
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  gpus[3].memory_free = 5;
  machine_.gpus(gpus);
  look(&watch_, kStart);
  EXPECT_EQ(status_after(&watch_, 0).gpu_memory_free[3], 5u);
}

TEST_F(NodeWatchTest, SaysForHowLongTheDriverHasNotAnswered) {
  look(&watch_, kStart);
  EXPECT_EQ(status_after(&watch_, kPatience).driver_silent_s, 0u);
  look(&watch_, kStart);
  const AgentStatus silent = status_after(&watch_, 12);
  EXPECT_EQ(silent.driver_silent_s, 12u);
  EXPECT_THAT(silent.gpu_memory_free, ElementsAre());
  EXPECT_GT(silent.memory_free, 0u);
  const Clock::time_point now = kStart + std::chrono::seconds(12);
  EXPECT_TRUE(watch_.knows(now, now));
  EXPECT_THAT(watch_.check(last_gpu_, now).message(), HasSubstr("its GPU driver has not answered for 12 s"));
  EXPECT_TRUE(watch_.check({.devices = {7}}, now).ok()) << "cores need no driver";
  look(&watch_, now);
  EXPECT_EQ(status_after(&watch_, 0).driver_silent_s, 0u);
  EXPECT_TRUE(watch_.check(last_gpu_, now).ok());
}

TEST_F(NodeWatchTest, OfANodeWithoutADriverNothingIsExpected) {
  machine_.gpus({});
  look(&watch_, kStart);
  EXPECT_EQ(status_after(&watch_, 12).driver_silent_s, 0u);
  EXPECT_TRUE(watch_.knows(kStart + std::chrono::seconds(12), kStart));
  EXPECT_THAT(watch_.check(last_gpu_, kStart).message(), HasSubstr("it has no NVIDIA GPU with a driver"));
}

TEST_F(NodeWatchTest, KnowsOnceALookBeganAfterItWasAsked) {
  const Clock::time_point asked = kStart + std::chrono::milliseconds(1);
  EXPECT_FALSE(watch_.knows(asked, asked));
  look(&watch_, kStart);
  EXPECT_FALSE(watch_.knows(asked, asked));
  look(&watch_, asked);
  EXPECT_TRUE(watch_.knows(asked, asked));
}

TEST_F(NodeWatchTest, ChecksAShareAgainstTheGpusOfTheLastLook) {
  look(&watch_, kStart);
  EXPECT_TRUE(watch_.check(last_gpu_, kStart).ok());
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  gpus[7].memory_free = 5;
  machine_.gpus(gpus);
  look(&watch_, kStart);
  EXPECT_EQ(watch_.check(last_gpu_, kStart).code(), Code::kResourceExhausted);
  gpus[7].compute_major = 10;
  machine_.gpus(gpus);
  look(&watch_, kStart);
  EXPECT_EQ(watch_.check(last_gpu_, kStart).code(), Code::kUnsupported);
}

TEST_F(NodeWatchTest, StartsNothingOnceAGpuIsLost) {
  look(&watch_, kStart);
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  gpus.erase(gpus.begin() + 2);
  machine_.gpus(gpus);
  look(&watch_, kStart);
  EXPECT_THAT(watch_.check({.devices = {0}, .gpus = true}, kStart).message(),
              HasSubstr("its driver shows 7 GPUs where it showed 8"));
}

TEST_F(NodeWatchTest, RemembersALostGpuWhenItsChildIsReplaced) {
  look(&watch_, kStart);
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  gpus.erase(gpus.begin() + 2);
  machine_.gpus(gpus);
  watch_.ended();
  watch_.turn(kStart);  // starts another
  look(&watch_, kStart);
  EXPECT_THAT(watch_.check({.devices = {0}, .gpus = true}, kStart).message(),
              HasSubstr("its driver shows 7 GPUs where it showed 8"));
}

TEST_F(NodeWatchTest, StartsNothingOnceGpusAreCountedOtherwise) {
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  for (size_t i = 0; i < gpus.size(); ++i) gpus[i].uuid = i == 0 ? "GPU-a" : "GPU-b";
  machine_.gpus(gpus);
  look(&watch_, kStart);
  EXPECT_TRUE(watch_.check(last_gpu_, kStart).ok());
  std::swap(gpus[0], gpus[1]);
  machine_.gpus(gpus);
  look(&watch_, kStart);
  EXPECT_THAT(watch_.check(last_gpu_, kStart).message(), HasSubstr("in another order"));
}

TEST_F(NodeWatchTest, OneEmptyLookDoesNotMakeANodeOneWithoutADriver) {
  look(&watch_, kStart);
  machine_.gpus({});
  look(&watch_, kStart);
  EXPECT_THAT(watch_.check(last_gpu_, kStart).message(), HasSubstr("its driver shows 0 GPUs where it showed 8"));
  EXPECT_FALSE(watch_.knows(kStart + std::chrono::milliseconds(1), kStart)) << "it is asked again";
  EXPECT_EQ(status_after(&watch_, 12).driver_silent_s, 12u);
}

TEST_F(NodeWatchTest, StartsNothingWherePlacesWouldCountOtherGpus) {
  look(&watch_, kStart);
  setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7", 1);
  EXPECT_THAT(watch_.check(last_gpu_, kStart).message(), HasSubstr("its agent has CUDA_VISIBLE_DEVICES set"));
  EXPECT_TRUE(watch_.check({.devices = {7}}, kStart).ok()) << "cores are counted as they are";
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_TRUE(watch_.check(last_gpu_, kStart).ok());
}

TEST_F(NodeWatchTest, TakesNothingForALookThatIsNone) {
  for (const char* line : {"look", "look {}", "look {\"begun_ns\":-1,\"gpus\":[]}", "look {\"begun_ns\":1,\"gpus\":[{}]}",
                           R"(look {"begun_ns":1,"gpus":[{"name":"x","total":1,"free":2,"major":9,"minor":0}]})",
                           "a library's words"}) {
    watch_.take(line, kStart);
    EXPECT_FALSE(watch_.knows(Clock::time_point(), kStart)) << line;
  }
}

}  // namespace
}  // namespace skein
