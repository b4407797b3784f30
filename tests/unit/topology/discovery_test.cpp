#include "topology/discovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/topology/machine_fixture.h"
#include "topology/cluster_file.h"
#include "topology/contradictions.h"
#include "topology/gpus.h"

namespace skein::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const Node& node_of(const Discovery& discovery) { return discovery.cluster.nodes.front(); }

const Nic& nic(const Node& node, const std::string& name) {
  const auto found = std::ranges::find(node.nics, name, &Nic::name);
  EXPECT_NE(found, node.nics.end()) << name;
  return found != node.nics.end() ? *found : node.nics.front();
}

// How a process with that CUDA_VISIBLE_DEVICES sees four GPUs.
std::vector<std::string> visible(const char* list) {
  FakeMachine machine;
  machine.gpus({{.uuid = "GPU-aa1"}, {.uuid = "GPU-ab2"}, {.uuid = "GPU-b3"}, {.uuid = ""}});
  std::vector<std::string> uuids;
  for (const Gpu& gpu : visible_gpus(discover_gpus(machine.roots().nvml.c_str()), list)) uuids.push_back(gpu.uuid);
  return uuids;
}

TEST(VisibleGpus, AreAsCudaCountsThem) {
  EXPECT_THAT(visible(nullptr), ElementsAre("GPU-aa1", "GPU-ab2", "GPU-b3", ""));
  EXPECT_THAT(visible("2,0"), ElementsAre("GPU-b3", "GPU-aa1"));
  EXPECT_THAT(visible("GPU-ab,GPU-b3"), ElementsAre("GPU-ab2", "GPU-b3"));
  EXPECT_THAT(visible("1,4,0"), ElementsAre("GPU-ab2")) << "none behind one that is not there";
  EXPECT_THAT(visible("0,-1,1"), ElementsAre("GPU-aa1"));
  EXPECT_THAT(visible("0,,1"), ElementsAre("GPU-aa1"));
  EXPECT_THAT(visible("0,2,"), ElementsAre("GPU-aa1", "GPU-b3"));
  EXPECT_THAT(visible("1, 0"), ElementsAre("GPU-ab2", "GPU-aa1"));
  EXPECT_THAT(visible("2x,0-1"), ElementsAre("GPU-b3", "GPU-aa1")) << "what follows a number is not read";
  EXPECT_THAT(visible("GPU-b3,GPU-a,GPU-aa"), ElementsAre("GPU-b3")) << "two begin like that";
  EXPECT_THAT(visible("GPU-b3,0"), ElementsAre("GPU-b3")) << "in a list of UUIDs";
  EXPECT_THAT(visible("0,GPU-b3"), ElementsAre("GPU-aa1")) << "in a list of numbers";
  EXPECT_THAT(visible("0,1,0"), IsEmpty()) << "it is there twice";
  EXPECT_THAT(visible("GPU-aa,GPU-aa1"), IsEmpty()) << "the same one";
  for (const char* none : {"", ",", ",0", "-1", "NoDevFiles", "GPU-c", "GPU-", "MIG-aa1", "x1", "99999999999999999999"}) {
    EXPECT_THAT(visible(none), IsEmpty()) << none;
  }
}

// What is said of four GPUs' CUDA_VISIBLE_DEVICES.
std::string hidden(const char* list) {
  FakeMachine machine;
  machine.gpus({{.uuid = "GPU-aa1"}, {.uuid = "GPU-ab2"}, {.uuid = "GPU-b3"}, {.uuid = ""}});
  return hidden_gpus(discover_gpus(machine.roots().nvml.c_str()), list);
}

TEST(VisibleGpus, AreExplainedWhereSomeAreHiddenByMistake) {
  for (const char* meant : {"0", "2,0", "GPU-ab"}) EXPECT_EQ(hidden(meant), "") << meant;
  EXPECT_EQ(hidden(nullptr), "");
  EXPECT_EQ(hidden_gpus({}, "0"), "") << "there are none to hide";
  for (const char* none : {"", "-1", "GPU-c"}) {
    EXPECT_EQ(hidden(none), "CUDA_VISIBLE_DEVICES=" + std::string(none) +
                                " hides all of this machine's 4 GPUs: unset it, or name some of them");
  }
  EXPECT_EQ(hidden("1,4,0"), "CUDA_VISIBLE_DEVICES=1,4,0 names 4, which is none of this machine's 4 GPUs, and CUDA "
                             "shows only the 1 before it: correct it");
  EXPECT_EQ(hidden("0,1,,2"), "CUDA_VISIBLE_DEVICES=0,1,,2 has an empty entry, and CUDA shows only the 2 before it: correct it");
  EXPECT_EQ(hidden("1,1"), "CUDA_VISIBLE_DEVICES=1,1 names the GPU 1 twice, and CUDA shows none of this machine's 4 GPUs: name "
                           "each once");
  EXPECT_EQ(hidden("0,1,"), "") << "nothing is behind it";
}

TEST(VisibleGpus, HaveNamesThatAnOperatorFinds) {
  std::vector<Gpu> gpus(2);
  for (Gpu& gpu : gpus) gpu.name = "H200";
  gpus[0].uuid = "GPU-b3";
  EXPECT_EQ(gpu_name(gpus, 1, nullptr), "GPU 1 (H200)");
  EXPECT_EQ(gpu_name(gpus, 0, "2,3"), "GPU 0 of those that CUDA_VISIBLE_DEVICES shows (H200, GPU-b3)");
  EXPECT_EQ(gpu_name(gpus, 1, "2,3"), "GPU 1 of those that CUDA_VISIBLE_DEVICES shows (H200)");
}

class HgxBoard : public testing::Test {
 protected:
  HgxBoard() { make_hgx(&machine_); }
  FakeMachine machine_;
};

TEST_F(HgxBoard, HasGpusOnNvlinkWithAPortBesideEach) {
  const Discovery found = machine_.discover();
  EXPECT_THAT(found.notes, IsEmpty());
  const Node& node = node_of(found);
  ASSERT_EQ(node.devices.size(), 8u);
  ASSERT_EQ(node.nics.size(), 9u);
  for (int i = 0; i < 8; ++i) {
    const Device& device = node.devices[static_cast<size_t>(i)];
    EXPECT_EQ(device.nvlink_domain, 0);
    EXPECT_EQ(device.nvlinks_up, 18);
    EXPECT_EQ(device.numa, i / 4);
    EXPECT_EQ(device.memory_free, int64_t{143771} << 19);
    const Nic& port = nic(node, "mlx5_" + std::to_string(i));
    EXPECT_THAT(port.devices, ElementsAre(i));
    EXPECT_EQ(port.network, NetworkKind::kInfiniBand);
    EXPECT_DOUBLE_EQ(port.bytes_per_s, 50e9);
    EXPECT_TRUE(port.up);
    EXPECT_EQ(device.nics[0], i);
  }
  EXPECT_EQ(node.devices[0].pci, "0000:18:00.0");
  EXPECT_THAT(nic(node, "eth0").devices, ElementsAre(0, 1, 2, 3));  // of its socket
  EXPECT_THAT(doubts(found.cluster, 0), IsEmpty());
}

TEST_F(HgxBoard, ReportsWhatAClusterFileSays) {
  const Discovery found = machine_.discover();
  const Result<Cluster> read = parse_cluster(to_yaml(found.cluster));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(to_yaml(*read), to_yaml(found.cluster));
  EXPECT_THAT(differences(*read, 0, found.cluster), IsEmpty());
}

TEST_F(HgxBoard, TellsOfAPortThatIsDown) {
  machine_.rdma("mlx5_8", "pci0000:70/0000:70:02.0/0000:71:00.0", "1: DOWN", "InfiniBand", "10 Gb/sec (4X SDR)");
  const Discovery found = machine_.discover();
  EXPECT_FALSE(nic(node_of(found), "mlx5_8").up);
  EXPECT_THAT(doubts(found.cluster, 0), ElementsAre(HasSubstr("the InfiniBand port mlx5_8 is down")));
}

TEST_F(HgxBoard, TellsWhenNcclWouldUseTcpForWantOfDeviceFiles) {
  FakeMachine bare;
  make_hgx(&bare);
  EXPECT_THAT(bare.discover().notes, IsEmpty());
  FakeMachine container;
  container.rdma("mlx5_0", "pci0000:70/0000:70:02.0/0000:71:00.0");
  container.device_file("infiniband/rdma_cm");  // of the connection manager alone
  EXPECT_THAT(container.discover().notes, ElementsAre(HasSubstr("NCCL would use TCP without saying so")));
}

TEST_F(HgxBoard, IsWatchedThroughAnOpenLibrary) {
  const GpuWatch watch(FAKE_NVML);
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[6].memory_free = 7;
  gpus[6].compute_major = 8;
  machine_.gpus(gpus);
  const std::vector<Gpu> seen = watch.look();
  ASSERT_EQ(seen.size(), 8u);
  EXPECT_EQ(seen[5].memory_free, int64_t{143771} << 19);
  EXPECT_EQ(seen[6].memory_free, 7);
  EXPECT_EQ(seen[6].memory_total, int64_t{143771} << 20);
  EXPECT_TRUE(seen[5].supported() && !seen[6].supported());
  EXPECT_TRUE(GpuWatch("libno-such-library.so").look().empty());
}

TEST_F(HgxBoard, TellsOfAGpuThatDoesNotAnswer) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[2].fault = 15;
  machine_.gpus(gpus);
  const Discovery found = machine_.discover();
  EXPECT_EQ(node_of(found).devices.size(), 7u);
  EXPECT_THAT(found.notes, ElementsAre("GPU 2 of the driver's does not answer (GPU is lost, NVML status 15): see what "
                                       "nvidia-smi says"));
}

TEST_F(HgxBoard, TellsOfADriverThatDoesNotStart) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[0].driver_fault = 18;
  machine_.gpus(gpus);
  const Discovery found = machine_.discover();
  ASSERT_FALSE(found.cluster.kinds.empty());
  EXPECT_FALSE(found.cluster.kinds[0].gpu);
  EXPECT_THAT(found.notes, Contains(HasSubstr("the NVIDIA driver does not answer (another error, NVML status 18)")));
  std::vector<std::string> faults;
  EXPECT_THAT(discover_gpus("libno-such-library.so", &faults), IsEmpty());
  EXPECT_THAT(faults, IsEmpty()) << "a machine without a driver has nothing to tell";
}

TEST_F(HgxBoard, TellsOfNvlinksThatAreDown) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[3].links_up = 16;
  machine_.gpus(gpus);
  EXPECT_THAT(doubts(machine_.discover().cluster, 0), ElementsAre(HasSubstr("device 3 has 16 of 18 NVLinks up")));
}

TEST_F(HgxBoard, TellsOfAGpuThatNvlinkDoesNotReach) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  for (FakeGpu& gpu : gpus) gpu.nvlink_peers = 0x7f;
  gpus[7].nvlink_peers = 0;
  machine_.gpus(gpus);
  const Discovery found = machine_.discover();
  EXPECT_EQ(node_of(found).devices[7].nvlink_domain, -1);
  EXPECT_EQ(path_between(found.cluster, {0, 0}, {0, 7})->link, LinkKind::kSocket);
  EXPECT_THAT(doubts(found.cluster, 0), ElementsAre(HasSubstr("NVLink is missing: of 8 x NVIDIA H200 device 7")));
}

TEST_F(HgxBoard, TellsOfTwoHalves) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  for (size_t i = 0; i < 8; ++i) gpus[i].nvlink_peers = i < 4 ? 0x0f : 0xf0;
  machine_.gpus(gpus);
  const Discovery found = machine_.discover();
  EXPECT_EQ(node_of(found).devices[5].nvlink_domain, 4);
  EXPECT_THAT(doubts(found.cluster, 0), ElementsAre(HasSubstr("in 2 NVLink domains that only PCIe joins")));
}

TEST_F(HgxBoard, TellsOfAnNvswitchFabricThatIsNotReady) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[2].fabric_state = 1;
  gpus[4].fabric_status = 999;
  machine_.gpus(gpus);
  EXPECT_THAT(machine_.discover().notes, ElementsAre(HasSubstr("GPU 2 (NVIDIA H200) is not part of the NVSwitch fabric "
                                                               "(Fabric Manager says not yet)"),
                                                     HasSubstr("GPU 4 (NVIDIA H200) is not part of the NVSwitch fabric "
                                                               "(Fabric Manager says failed)")));
}

TEST_F(HgxBoard, TellsOfANarrowSlotAndOfMemoryThatPeersCannotReach) {
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[0].pcie_lanes = 4;
  gpus[1].memory_peers = 0x01;
  machine_.gpus(gpus);
  EXPECT_THAT(machine_.discover().notes, ElementsAre(HasSubstr("the slot of GPU 0 (NVIDIA H200) has 4 lanes of PCIe 5"),
                                                     HasSubstr("GPU 1 (NVIDIA H200) can address the memory of 1 of 7 other "
                                                               "GPUs")));
}

TEST_F(HgxBoard, TellsOfACardOnTheWrongSocket) {
  // All ports moved to socket 1.
  FakeMachine machine;
  for (int i = 0; i < 2; ++i) {
    const std::string folder = "pci0000:0" + std::to_string(i) + "/0000:0" + std::to_string(i) + ":01.0/0000:1";
    machine.pci_device(folder + std::to_string(i) + ":00.0", i);
  }
  machine.pci_device("pci0000:01/0000:01:09.0/0000:20:00.0", 1);
  machine.rdma("mlx5_0", "pci0000:01/0000:01:09.0/0000:20:00.0");
  machine.device_file("infiniband/uverbs0");
  machine.gpus({{.bus_id = "00000000:10:00.0", .nvlink_peers = 3}, {.bus_id = "00000000:11:00.0", .nvlink_peers = 3}});
  const Discovery found = machine.discover();
  EXPECT_THAT(nic(node_of(found), "mlx5_0").devices, ElementsAre(1));
  EXPECT_THAT(doubts(found.cluster, 0), ElementsAre(HasSubstr("device 0 reaches mlx5_0 across sockets")));
}

TEST_F(HgxBoard, AnUnknownGpuIsOneSentenceAndADescriptionHelps) {
  std::vector<FakeGpu> gpus(1);
  gpus[0].name = "NVIDIA H900";
  machine_.gpus(gpus);
  EXPECT_THAT(machine_.discover().notes, ElementsAre(HasSubstr("the device kind \"NVIDIA H900\" is not known")));
  const Discovery described = machine_.discover({{.name = "NVIDIA H900", .read_bytes_per_s = 9e12, .source = "a guess"}});
  EXPECT_THAT(described.notes, IsEmpty());
  EXPECT_DOUBLE_EQ(described.cluster.kinds[0].read_bytes_per_s, 9e12);
  EXPECT_EQ(described.cluster.kinds[0].memory_bytes, int64_t{143771} << 20);
}

TEST(OldDriver, TellsNamesAndMemoryOnly) {
  FakeMachine machine(FAKE_OLD_NVML);
  machine.gpus(std::vector<FakeGpu>(2));
  const Discovery found = machine.discover();
  ASSERT_EQ(node_of(found).devices.size(), 2u);
  EXPECT_EQ(node_of(found).devices[0].pci, "");
  EXPECT_EQ(node_of(found).devices[0].nvlink_domain, -1);
  EXPECT_EQ(node_of(found).devices[0].nvlinks_up, -1);
}

TEST(Differences, NameTheLineAndWhatWasFound) {
  FakeMachine machine;
  make_hgx(&machine);
  std::vector<FakeGpu> gpus = hgx_gpus();
  for (size_t i = 0; i < 8; ++i) gpus[i].nvlink_peers = i < 4 ? 0x0f : 0xf0;
  gpus[6].name = "NVIDIA H100 80GB HBM3";
  machine.gpus(gpus);
  const Discovery found = machine.discover();
  const Result<Cluster> described = parse_cluster(R"(
nodes:
  - name: a
    cores: 1
    memory_gib: 1
    devices:
      - {kind: NVIDIA H200, count: 8, numa: <0/2>, nvlink_domain: 0}
    nics:
      - {name: mlx5_<0>, count: 7, network: infiniband, gbit_per_s: 800, devices: [<1>]}
      - {name: ib9, network: infiniband, gbit_per_s: 400}
)");
  ASSERT_TRUE(described.ok()) << described.status().message();
  const std::vector<std::string> told = differences(*described, 0, found.cluster);
  EXPECT_THAT(told, Contains("line 7 says that device 6 should be NVIDIA H200; found NVIDIA H100 80GB HBM3"));
  EXPECT_THAT(told, Contains("line 7 says that devices 2, 3 should be on NUMA node 1; found on 0"));
  EXPECT_THAT(told, Contains("line 7 says that NVLink joins devices 0, 1, 2, 3, 4, 5, 7; it joins them as [0, 1, 2, 3] "
                             "[4, 5, 7]"));
  EXPECT_THAT(told, Contains("line 9 says that mlx5_0 is at 800 Gb/s; its link runs at 400 Gb/s"));
  EXPECT_THAT(told, Contains("line 9 says that mlx5_0 is nearest to device 1; it is nearest to 0"));
  EXPECT_THAT(told, Contains("line 10 says that ib9 is InfiniBand at 400 Gb/s; there is no ib9"));
  EXPECT_THAT(told, Contains("line 3 does not have mlx5_7 (InfiniBand, 400 Gb/s)"));
}

TEST(Doubts, OfAGpuNodeOnTcpInAClusterOfSeveral) {
  const Result<Cluster> mixed = read_cluster_file("configs/clusters/mixed-32.yaml");
  ASSERT_TRUE(mixed.ok()) << mixed.status().message();
  EXPECT_THAT(doubts(*mixed, find_node(*mixed, "l40s-03")), ElementsAre(HasSubstr("NCCL would use TCP")));
  EXPECT_THAT(doubts(*mixed, find_node(*mixed, "h200-02")), IsEmpty());
  EXPECT_EQ(find_node(*mixed, "nobody"), -1);
}

// As a virtual machine with two GPUs passed through showed it: no NUMA nodes told, a network interface without a speed.
TEST(VirtualMachine, HasDevicesWithoutDistances) {
  FakeMachine machine;
  for (const char* slot : {"03", "06", "07"}) machine.pci_device("pci0000:00/0000:00:" + std::string(slot) + ".0", -1);
  machine.file("devices/pci0000:00/0000:00:03.0/virtio2/uevent", "DRIVER=virtio_net");
  machine.interface("eth0", "pci0000:00/0000:00:03.0/virtio2", -1);
  machine.interface("ifb0", "", -1, "down");
  machine.device_file("infiniband/rdma_cm");
  machine.gpus({{.bus_id = "00000000:00:06.0", .nvlink_peers = 3}, {.bus_id = "00000000:00:07.0", .nvlink_peers = 3}});
  const Discovery found = machine.discover();
  EXPECT_THAT(found.notes, IsEmpty());
  ASSERT_EQ(node_of(found).nics.size(), 1u);
  EXPECT_TRUE(node_of(found).nics[0].rate_assumed);
  EXPECT_THAT(node_of(found).nics[0].devices, IsEmpty());
  EXPECT_EQ(node_of(found).devices[1].numa, -1);
  EXPECT_EQ(path_between(found.cluster, {0, 0}, {0, 1})->link, LinkKind::kNvlink);
}

TEST(Container, CountsVirtualInterfacesWhereThereIsNoOther) {
  FakeMachine machine;
  machine.interface("eth0", "", 10000);
  machine.interface("docker0", "", 10000);
  machine.file("class/net/docker0/bridge/bridge_id", "8000");
  machine.interface("tap0", "", 10000);
  machine.file("class/net/tap0/tun_flags", "0x1");
  machine.interface("dead0", "", 10000, "down");
  machine.file("class/net/lo/type", "772");
  machine.file("class/net/lo/operstate", "unknown");
  const Discovery found = machine.discover();
  ASSERT_EQ(node_of(found).nics.size(), 1u);
  EXPECT_EQ(node_of(found).nics[0].name, "eth0");
  EXPECT_FALSE(node_of(found).devices.empty());  // its cores
  EXPECT_FALSE(found.cluster.kinds[0].gpu);
}

TEST(Roce, IsOneNicAndNotAnInterfaceBesides) {
  FakeMachine machine;
  machine.pci_device("pci0000:00/0000:00:01.0/0000:01:00.0", 0);
  machine.rdma("mlx5_0", "pci0000:00/0000:00:01.0/0000:01:00.0", "4: ACTIVE", "Ethernet", "200 Gb/sec (4X HDR)");
  machine.interface("eth2", "pci0000:00/0000:00:01.0/0000:01:00.0", 200000);
  const Discovery found = machine.discover();
  ASSERT_EQ(node_of(found).nics.size(), 1u);
  EXPECT_EQ(node_of(found).nics[0].network, NetworkKind::kRoce);
  EXPECT_DOUBLE_EQ(node_of(found).nics[0].bytes_per_s, 25e9);
}

TEST(BrokenSysfs, IsAMachineThatKnowsLess) {
  FakeMachine machine;
  machine.file("class/infiniband/mlx5_0/ports/1/state", "");          // no device, no rate
  machine.file("class/infiniband/mlx5_1/uevent", "");                 // no ports
  machine.link("class/infiniband/mlx5_2/device", "devices/nowhere");  // a link into nothing
  machine.file("class/infiniband/mlx5_2/ports/1/rate", "fast");
  machine.file("class/infiniband/mlx5_2/ports/1/state", "4: ACTIVE");
  machine.interface("eth0", "", 1000);
  machine.file("class/net/eth0/speed", "Invalid argument");
  machine.file("devices/system/node/node0/cpulist", "0-,x");
  machine.file("devices/system/node/nodes/cpulist", "0-3");
  machine.device_file("infiniband/uverbs0");
  machine.gpus({{.bus_id = "rubbish"}});
  const Discovery found = machine.discover();
  const Node& node = node_of(found);
  ASSERT_EQ(node.nics.size(), 2u);
  EXPECT_FALSE(nic(node, "mlx5_0").up);
  EXPECT_FALSE(nic(node, "mlx5_2").up);  // at what rate?
  ASSERT_EQ(node.devices.size(), 1u);
  EXPECT_EQ(node.devices[0].numa, -1);
  EXPECT_TRUE(parse_cluster(to_yaml(found.cluster)).ok());
}

TEST(BrokenSysfs, MayBeMissing) {
  const Discovery found = discover({}, {.sysfs = "/nonexistent", .dev = "/nonexistent", .nvml = "nonexistent.so"});
  EXPECT_THAT(node_of(found).nics, IsEmpty());
  EXPECT_FALSE(node_of(found).devices.empty());
}

}  // namespace
}  // namespace skein::test
