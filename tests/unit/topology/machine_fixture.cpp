#include "tests/unit/topology/machine_fixture.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <fstream>

#include "base/check.h"

namespace skein::test {
namespace {

constexpr const char* kBridges[] = {"18", "2a", "3a", "5d", "9a", "ab", "ba", "db"};  // bus behind each root port
constexpr const char* kGpuIds[] = {"00000000:18:00.0", "00000000:2A:00.0", "00000000:3A:00.0", "00000000:5D:00.0",
                                   "00000000:9A:00.0", "00000000:AB:00.0", "00000000:BA:00.0", "00000000:DB:00.0"};

// The switch behind a root port.
std::string hgx_switch(int index) {
  return "pci0000:" + std::to_string(10 + index) + "/0000:" + std::to_string(10 + index) + ":01.0/0000:0" +
         std::to_string(index) + ":00.0";
}

}  // namespace

FakeMachine::FakeMachine(const char* nvml) : nvml_(nvml) {
  std::string folder = (std::filesystem::temp_directory_path() / "skein-machine-XXXXXX").string();
  CHECK(mkdtemp(folder.data()) != nullptr);
  root_ = folder;
  std::filesystem::create_directories(root_ / "sys");
  std::filesystem::create_directories(root_ / "dev");
  gpus({});
}

FakeMachine::~FakeMachine() { std::filesystem::remove_all(root_); }

void FakeMachine::file(const std::string& path, const std::string& text) {
  const std::filesystem::path full = root_ / "sys" / path;
  std::filesystem::create_directories(full.parent_path());
  std::ofstream(full) << text << "\n";
}

void FakeMachine::link(const std::string& path, const std::string& target) {
  const std::filesystem::path full = root_ / "sys" / path;
  std::filesystem::create_directories(full.parent_path());
  std::filesystem::create_symlink(root_ / "sys" / target, full);
}

void FakeMachine::device_file(const std::string& path) {
  const std::filesystem::path full = root_ / "dev" / path;
  std::filesystem::create_directories(full.parent_path());
  std::ofstream{full};
}

void FakeMachine::pci_device(const std::string& folder, int numa) {
  file("devices/" + folder + "/numa_node", std::to_string(numa));
  link("bus/pci/devices/" + folder.substr(folder.rfind('/') + 1), "devices/" + folder);
}

void FakeMachine::rdma(const std::string& name, const std::string& folder, const std::string& state,
                       const std::string& layer, const std::string& rate) {
  link("class/infiniband/" + name + "/device", "devices/" + folder);
  const std::string port = "class/infiniband/" + name + "/ports/1/";
  file(port + "state", state);
  file(port + "link_layer", layer);
  file(port + "rate", rate);
}

void FakeMachine::interface(const std::string& name, const std::string& folder, int mbit, const std::string& state) {
  if (!folder.empty()) link("class/net/" + name + "/device", "devices/" + folder);
  file("class/net/" + name + "/type", "1");
  file("class/net/" + name + "/operstate", state);
  file("class/net/" + name + "/speed", std::to_string(mbit));
}

void FakeMachine::gpus(const std::vector<FakeGpu>& gpus) {
  void* const library = dlopen(nvml_, RTLD_NOW | RTLD_LOCAL);
  CHECK(library != nullptr);
  const auto set = reinterpret_cast<SetFakeNvml>(dlsym(library, "fake_nvml_set"));
  CHECK(set != nullptr);
  set(gpus.data(), static_cast<int>(gpus.size()));  // the library stays loaded: it has to remember
}

DiscoveryRoots FakeMachine::roots() const { return {.sysfs = root_ / "sys", .dev = root_ / "dev", .nvml = nvml_}; }

Discovery FakeMachine::discover(const std::vector<DeviceKind>& kinds) const { return skein::discover(kinds, roots()); }

std::vector<FakeGpu> hgx_gpus() {
  std::vector<FakeGpu> gpus;
  for (const char* id : kGpuIds) gpus.push_back({.bus_id = id, .nvlink_peers = 0xff});
  return gpus;
}

std::string hgx_nic_folder(int index) { return hgx_switch(index) + "/0000:" + kBridges[index] + ":01.0"; }

void make_hgx(FakeMachine* machine) {
  for (int i = 0; i < 8; ++i) {
    machine->pci_device(hgx_switch(i) + "/0000:" + kBridges[i] + ":00.0", i / 4);
    machine->pci_device(hgx_nic_folder(i), i / 4);
    machine->rdma("mlx5_" + std::to_string(i), hgx_nic_folder(i));
  }
  machine->pci_device("pci0000:70/0000:70:02.0/0000:71:00.0", 0);
  machine->interface("eth0", "pci0000:70/0000:70:02.0/0000:71:00.0", 100000);
  machine->device_file("infiniband/uverbs0");
  machine->gpus(hgx_gpus());
}

}  // namespace skein::test
