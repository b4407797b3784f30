#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace skein {

// What Fabric Manager says of the NVSwitches that a GPU hangs on.
enum class NvSwitchFabric : uint8_t { kNone, kStarting, kReady, kFailed };

struct Gpu {
  std::string name;  // "NVIDIA H200"
  std::string uuid;  // "GPU-8932f937-..."; empty: the driver did not say
  int64_t memory_total = 0;
  int64_t memory_free = 0;
  int compute_major = 0;
  int compute_minor = 0;
  std::string pci;                // "0000:1b:00.0"; empty: the driver did not say
  int nvlinks = 0;                // up or down
  int nvlinks_up = 0;
  std::vector<int> nvlink_peers;  // GPUs that it reaches over NVLink, as the driver says
  std::vector<int> memory_peers;  // GPUs whose memory it can address, over whatever
  NvSwitchFabric fabric = NvSwitchFabric::kNone;
  int pcie_generation = 0;        // that card and slot agree on under load; 0: not known
  int pcie_lanes = 0;
  bool supported() const { return compute_major == 9; }  // what kernels/cuda is compiled for
};

class Nvml;

// Keeps the driver's library open, for what changes: a look takes a millisecond, opening it up to seconds.
// Single-owner.
class GpuWatch {
 public:
  explicit GpuWatch(const char* library = "libnvidia-ml.so.1");
  ~GpuWatch();
  // As discover_gpus() counts them, with name, UUID, memory and compute capability alone.
  std::vector<Gpu> look() const;

 private:
  std::unique_ptr<Nvml> nvml_;
};

// The NVIDIA GPUs of this machine, in the driver's order; none where there is no driver. Asks the driver's management
// library (NVML), which is loaded for the occasion: nothing here needs CUDA. `faults` gets a sentence of each GPU that
// does not answer, or of a driver that does not.
std::vector<Gpu> discover_gpus(const char* library = "libnvidia-ml.so.1", std::vector<std::string>* faults = nullptr);

// Those that CUDA shows a process with that CUDA_VISIBLE_DEVICES, as it counts them: numbers, or UUIDs or how one alone
// begins, up to the first that is none of these GPUs; none where one is named twice. Null: all.
std::vector<Gpu> visible_gpus(const std::vector<Gpu>& gpus, const char* visible);
// A sentence where that shows none of them, or has an entry that is none of them; else empty.
std::string hidden_gpus(const std::vector<Gpu>& gpus, const char* visible);
// "GPU 0 (NVIDIA H200)" of visible_gpus(); where CUDA_VISIBLE_DEVICES numbers them, with the UUID that nvidia-smi shows.
std::string gpu_name(const std::vector<Gpu>& gpus, size_t index, const char* visible);

}  // namespace skein
