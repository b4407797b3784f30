#include "worker/preflight.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace skein {
namespace {

ReplicaSpec spec() {
  ReplicaSpec spec;
  spec.model = "/models/m";
  spec.tensor_parallel_size = 3;
  spec.places = {{"node-a", 0}, {"node-a", 1}, {"node-b", 0}};
  spec.rank_memory_bytes = {3'000'000'000, 5'000'000'000, 4'000'000'000};
  return spec;
}

std::vector<RankReport> reports() {
  std::vector<RankReport> reports(3);
  for (size_t rank = 0; rank < 3; ++rank) {
    reports[rank] = {.build = "1", .host = rank < 2 ? "a" : "b", .fingerprint = 5, .memory_free = 8'000'000'000,
                     .clock_ms = 1'000'000, .error = {}};
  }
  return reports;
}

std::string sentence(const std::function<void(std::vector<RankReport>&)>& change) {
  std::vector<RankReport> changed = reports();
  change(changed);
  return compare(spec(), changed).message();
}

TEST(Preflight, RanksThatFitTogetherGoOn) { EXPECT_EQ(sentence([](auto&) {}), ""); }

TEST(Preflight, NamesTheRankThatDoesNotFit) {
  EXPECT_EQ(sentence([](auto& r) { r[2].error = "there is no model"; }), "rank 2 on node-b: there is no model");
  EXPECT_NE(sentence([](auto& r) { r[1].build = "2"; }).find("rank 1 on node-a runs Skein 2"), std::string::npos);
  EXPECT_NE(sentence([](auto& r) { r[2].fingerprint = 6; }).find("files of rank 2 on node-b differ"), std::string::npos);
  EXPECT_NE(sentence([](auto& r) { r[2].clock_ms += 60'000; }).find("rank 2 on node-b is 60 s ahead"), std::string::npos);
  EXPECT_NE(sentence([](auto& r) { r[2].clock_ms -= 60'000; }).find("behind"), std::string::npos);
}

TEST(Preflight, CountsTheRanksThatShareAMachinesMemory) {
  EXPECT_EQ(sentence([](auto& r) { r[2].memory_free = 4'000'000'000; }), "");
  const std::string said = sentence([](auto& r) { r[0].memory_free = 7'900'000'000; });
  EXPECT_NE(said.find("rank 0 on node-a has 7.9 GB of memory free where its 2 ranks need 8.0 GB"), std::string::npos)
      << said;
}

TEST(Preflight, WhatRanksTakeOfTheirGpusIsNotWantedOfTheHost) {
  ReplicaSpec on_gpus = spec();
  on_gpus.rank_memory_bytes[1] = int64_t{1} << 50;
  EXPECT_FALSE(compare(on_gpus, reports()).ok());
  on_gpus.device = "cuda";
  EXPECT_TRUE(compare(on_gpus, reports()).ok());
}

TEST(Preflight, OneNodeWithoutInfiniBandIsNamed) {
  ReplicaSpec on_gpus = spec();
  on_gpus.device = "cuda";
  std::vector<RankReport> some = reports();
  EXPECT_EQ(transport_of(on_gpus, some, false), "NCCL over TCP");
  some[0].rdma = some[1].rdma = true;
  const std::string said = compare(on_gpus, some).message();
  EXPECT_NE(said.find("rank 0 on node-a has an InfiniBand or RoCE port that is up and rank 2 on node-b has none"),
            std::string::npos)
      << said;
  EXPECT_TRUE(compare(spec(), some).ok()) << "cores do not use it";
  some[2].rdma = true;
  EXPECT_TRUE(compare(on_gpus, some).ok());
  EXPECT_EQ(transport_of(on_gpus, some, true), "peer memory, NCCL over InfiniBand or RoCE");
  for (RankReport& report : some) report.host = "a";
  EXPECT_EQ(transport_of(on_gpus, some, true), "peer memory, NCCL in one machine");
  EXPECT_EQ(transport_of(spec(), some, false), "shared memory");
}

TEST(Preflight, InfiniBandIsUsableWithAnActivePortAndItsDeviceFile) {
  const std::filesystem::path root = std::filesystem::path(testing::TempDir()) / "skein_preflight_rdma";
  std::filesystem::remove_all(root);
  const auto usable = [&] { return rdma_usable(root / "sys", root / "dev"); };
  const auto write = [&](const std::filesystem::path& path, const char* text) {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  EXPECT_FALSE(usable());
  write("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
  EXPECT_FALSE(usable()) << "without a device file";
  write("dev/infiniband/uverbs0", "");
  EXPECT_TRUE(usable());
  write("sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n");
  EXPECT_FALSE(usable());
  std::filesystem::remove_all(root);
}

TEST(Preflight, AReportSurvivesTheRoundTrip) {
  RankReport report = look_around();
  report.fingerprint = ~uint64_t{0};
  report.rdma = true;
  EXPECT_GT(report.memory_free, 0);
  EXPECT_GT(report.clock_ms, 0);
  const auto back = decode_rank_report(encode(report));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->fingerprint, report.fingerprint);
  EXPECT_EQ(back->host, report.host);
  EXPECT_EQ(back->memory_free, report.memory_free);
  EXPECT_TRUE(back->rdma);
  EXPECT_FALSE(decode_rank_report("{}").ok());
  EXPECT_FALSE(decode_rank_report("no JSON").ok());
}

TEST(Preflight, CountsTheMemoryThatThisProcessTouched) {
  constexpr size_t kBytes = size_t{64} << 20;
  const int64_t before = own_memory();
  EXPECT_GT(before, 0);
  const std::vector<char> touched(kBytes, 1);
  EXPECT_GE(own_memory(), before + static_cast<int64_t>(kBytes) * 9 / 10) << touched.size();
}

}  // namespace
}  // namespace skein
