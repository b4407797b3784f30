// A library that answers as NVML does, for GPUs that a test made up. With FAKE_OLD_DRIVER, what newer drivers brought
// is not there.

#include "tests/unit/topology/fake_nvml.h"

#include <cstdio>
#include <cstring>
#include <vector>

namespace {

using skein::test::FakeGpu;

std::vector<FakeGpu> gpus;
constexpr int kSuccess = 0;

uintptr_t index_of(void* device) { return reinterpret_cast<uintptr_t>(device) - 1; }
const FakeGpu& at(void* device) { return gpus[index_of(device)]; }

struct Memory {
  unsigned long long total, free, used;
};
#ifndef FAKE_OLD_DRIVER
struct Pci {
  char legacy_bus_id[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};
struct Fabric {
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state;
};
#endif

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the names of NVIDIA's library
extern "C" {

void fake_nvml_set(const FakeGpu* set, int count) { gpus.assign(set, set + count); }

int nvmlInit_v2() { return gpus.empty() ? kSuccess : gpus[0].driver_fault; }
int nvmlShutdown() { return kSuccess; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(gpus.size());
  return kSuccess;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = reinterpret_cast<void*>(static_cast<uintptr_t>(index) + 1);
  return gpus[index].fault;
}
int nvmlDeviceGetName(void* device, char* name, unsigned bytes) {
  std::snprintf(name, bytes, "%s", at(device).name);
  return kSuccess;
}
int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  *memory = {at(device).memory, at(device).memory_free, at(device).memory - at(device).memory_free};
  return kSuccess;
}
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  *major = at(device).compute_major;
  *minor = 0;
  return kSuccess;
}

#ifndef FAKE_OLD_DRIVER
const char* nvmlErrorString(int status) { return status == 15 ? "GPU is lost" : "another error"; }
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned bytes) {
  std::snprintf(uuid, bytes, "%s", at(device).uuid);
  return kSuccess;
}
int nvmlDeviceGetPciInfo_v3(void* device, Pci* pci) {
  std::memset(pci, 0, sizeof *pci);
  std::snprintf(pci->bus_id, sizeof pci->bus_id, "%s", at(device).bus_id);
  return kSuccess;
}
int nvmlDeviceGetNvLinkState(void* device, unsigned link, int* active) {
  if (link >= at(device).links) return 3;  // NVML_ERROR_NOT_SUPPORTED
  *active = link < at(device).links_up;
  return kSuccess;
}
int nvmlDeviceGetP2PStatus(void* device, void* peer, int what, int* status) {
  const uint32_t peers = what == 2 ? at(device).nvlink_peers : at(device).memory_peers;
  *status = (peers >> index_of(peer) & 1) ? 0 : 1;
  return kSuccess;
}
int nvmlDeviceGetGpuFabricInfo(void* device, Fabric* fabric) {
  std::memset(fabric, 0, sizeof *fabric);
  fabric->status = at(device).fabric_status;
  fabric->state = at(device).fabric_state;
  return kSuccess;
}
int nvmlDeviceGetMaxPcieLinkGeneration(void*, unsigned* generation) {
  *generation = 5;
  return kSuccess;
}
int nvmlDeviceGetMaxPcieLinkWidth(void* device, unsigned* lanes) {
  *lanes = at(device).pcie_lanes;
  return kSuccess;
}
#endif

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
