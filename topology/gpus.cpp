#include "topology/gpus.h"

#include <dlfcn.h>

namespace skein {
namespace {

// The part of NVML's stable interface that is needed here (NVML API reference, "Device Queries").
using NvmlDevice = void*;
struct NvmlMemory {
  unsigned long long total, free, used;
};
constexpr int kNvmlSuccess = 0;
constexpr unsigned kNameBytes = 96;

class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    load("nvmlInit_v2", &init_);
    load("nvmlShutdown", &shutdown_);
    load("nvmlDeviceGetCount_v2", &count_);
    load("nvmlDeviceGetHandleByIndex_v2", &handle_);
    load("nvmlDeviceGetName", &name_);
    load("nvmlDeviceGetMemoryInfo", &memory_);
    load("nvmlDeviceGetCudaComputeCapability", &capability_);
    ready_ = complete_ && init_() == kNvmlSuccess;
  }
  ~Nvml() {
    if (ready_) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::vector<Gpu> gpus() const {
    std::vector<Gpu> gpus;
    unsigned count = 0;
    if (!ready_ || count_(&count) != kNvmlSuccess) return gpus;
    for (unsigned i = 0; i < count; ++i) {
      NvmlDevice device = nullptr;
      NvmlMemory memory{};
      char name[kNameBytes] = "";
      Gpu gpu;
      if (handle_(i, &device) != kNvmlSuccess || memory_(device, &memory) != kNvmlSuccess ||
          name_(device, name, kNameBytes) != kNvmlSuccess ||
          capability_(device, &gpu.compute_major, &gpu.compute_minor) != kNvmlSuccess) {
        continue;
      }
      gpu.name = name;
      gpu.memory_total = static_cast<int64_t>(memory.total);
      gpu.memory_free = static_cast<int64_t>(memory.free);
      gpus.push_back(gpu);
    }
    return gpus;
  }

 private:
  template <typename Function>
  void load(const char* symbol, Function* out) {
    *out = reinterpret_cast<Function>(dlsym(library_, symbol));
    complete_ = complete_ && *out != nullptr;
  }

  void* const library_;
  bool complete_ = true;
  bool ready_ = false;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*count_)(unsigned*) = nullptr;
  int (*handle_)(unsigned, NvmlDevice*) = nullptr;
  int (*name_)(NvmlDevice, char*, unsigned) = nullptr;
  int (*memory_)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*capability_)(NvmlDevice, int*, int*) = nullptr;
};

}  // namespace

std::vector<Gpu> discover_gpus() { return Nvml().gpus(); }

}  // namespace skein
