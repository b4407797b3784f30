#pragma once

#include <cstdint>

namespace skein::test {

// What the NVML of fake_nvml.cpp answers. It is a library of its own; fake_nvml_set() tells it.
struct FakeGpu {
  const char* name = "NVIDIA H200";
  const char* bus_id = "";
  const char* uuid = "";
  unsigned long long memory = 143771ull << 20;
  unsigned long long memory_free = 143771ull << 19;
  int compute_major = 9;
  unsigned links = 18;
  unsigned links_up = 18;
  uint32_t nvlink_peers = 0;  // bit i: GPU i
  uint32_t memory_peers = ~0u;
  unsigned char fabric_state = 3;
  int fabric_status = 0;
  unsigned pcie_lanes = 16;
  int fault = 0;         // what the driver answers when it is asked for this GPU
  int driver_fault = 0;  // of the first: what the driver does not start with
};

using SetFakeNvml = void (*)(const FakeGpu*, int);

}  // namespace skein::test
