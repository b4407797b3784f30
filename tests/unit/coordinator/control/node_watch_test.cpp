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

class NodeWatchTest : public testing::Test {
 protected:
  NodeWatchTest() { test::make_hgx(&machine_); }
  test::FakeMachine machine_;
};

TEST_F(NodeWatchTest, DescribesItsNodeAndSaysWhatIsFree) {
  NodeWatch watch(machine_.roots());
  const Interface ethernet{.name = "eth0", .address = "10.0.0.1", .prefix = 24};
  const auto report = parse_node_report(watch.describe("a", ethernet), "a");
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->cluster->nodes[0].devices.size(), 8u);
  AgentStatus status;
  const NodeWatch::Clock::time_point now = NodeWatch::Clock::now();
  watch.look(now, &status);
  EXPECT_GT(status.memory_free, 0u);
  EXPECT_EQ(status.gpu_memory_free, std::vector<uint64_t>(8, 143771ull << 19));
}

TEST_F(NodeWatchTest, AsksTheDriverEveryTwoSecondsAtMost) {
  NodeWatch watch(machine_.roots());
  AgentStatus status;
  const NodeWatch::Clock::time_point now = NodeWatch::Clock::now();
  watch.look(now, &status);
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  gpus[3].memory_free = 5;
  machine_.gpus(gpus);
  watch.look(now + std::chrono::milliseconds(1999), &status);
  EXPECT_EQ(status.gpu_memory_free[3], 143771ull << 19);
  watch.look(now + std::chrono::milliseconds(2000), &status);
  EXPECT_EQ(status.gpu_memory_free[3], 5u);
}

TEST_F(NodeWatchTest, ChecksAShareAgainstTheGpusOfNow) {
  const NodeWatch watch(machine_.roots());
  const LaunchShare share{.devices = {7}, .gpus = true, .device_bytes = {1ull << 30}};
  EXPECT_TRUE(watch.check(share).ok());
  std::vector<test::FakeGpu> gpus = test::hgx_gpus();
  gpus[7].memory_free = 5;
  machine_.gpus(gpus);
  EXPECT_EQ(watch.check(share).code(), Code::kResourceExhausted);
  gpus[7].compute_major = 10;
  machine_.gpus(gpus);
  EXPECT_EQ(watch.check(share).code(), Code::kUnsupported);
}

}  // namespace
}  // namespace skein
