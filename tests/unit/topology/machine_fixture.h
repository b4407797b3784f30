#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/unit/topology/fake_nvml.h"
#include "topology/discovery.h"

namespace skein::test {

// A machine that a test made up: a folder in place of /sys and /dev, and a library in place of NVML. It goes when the
// test ends.
class FakeMachine {
 public:
  explicit FakeMachine(const char* nvml = FAKE_NVML);
  ~FakeMachine();
  FakeMachine(const FakeMachine&) = delete;
  FakeMachine& operator=(const FakeMachine&) = delete;

  void file(const std::string& path, const std::string& text);     // below /sys
  void link(const std::string& path, const std::string& target);   // both below /sys
  void device_file(const std::string& path);                       // below /dev
  void pci_device(const std::string& folder, int numa);            // folder: "pci0000:17/0000:17:01.0/0000:18:00.0"
  void rdma(const std::string& name, const std::string& folder, const std::string& state = "4: ACTIVE",
            const std::string& layer = "InfiniBand", const std::string& rate = "400 Gb/sec (4X NDR)");
  void interface(const std::string& name, const std::string& folder, int mbit, const std::string& state = "up");
  void gpus(const std::vector<FakeGpu>& gpus);

  DiscoveryRoots roots() const;
  Discovery discover(const std::vector<DeviceKind>& kinds = {}) const;

 private:
  std::filesystem::path root_;
  const char* nvml_;
};

// An HGX board: two sockets; behind each of eight PCIe switches a GPU and an InfiniBand port, one Ethernet port; all
// GPUs on NVSwitch.
void make_hgx(FakeMachine* machine);
std::vector<FakeGpu> hgx_gpus();
std::string hgx_nic_folder(int index);

}  // namespace skein::test
