#include "topology/gpus.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <sstream>
#include <string_view>

namespace skein {
namespace {

// The part of NVML's stable interface that is needed here (NVML API reference, "Device Queries", "NvLink Methods").
using NvmlDevice = void*;
struct NvmlMemory {
  unsigned long long total, free, used;
};
struct NvmlPci {
  char legacy_bus_id[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];  // "00000000:1B:00.0"
};
struct NvmlFabric {
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state;
};
constexpr int kNvmlSuccess = 0;
constexpr unsigned kNameBytes = 96;
constexpr unsigned kNvlinksMax = 18;
constexpr int kPeerReadStatus = 0;    // nvmlGpuP2PCapsIndex_t
constexpr int kPeerNvlinkStatus = 2;
constexpr int kPeerOk = 0;
constexpr unsigned char kFabricStarting = 1;  // nvmlGpuFabricState_t: not started, then in progress
constexpr unsigned char kFabricCompleted = 3;

// "0000:1b:00.0" for NVML's "00000000:1B:00.0".
std::string sysfs_address(std::string bus_id) {
  std::ranges::transform(bus_id, bus_id.begin(), [](unsigned char c) { return std::tolower(c); });
  const size_t colon = bus_id.find(':');
  return colon != bus_id.npos && colon > 4 ? bus_id.substr(colon - 4) : bus_id;
}

}  // namespace

class Nvml {
 public:
  explicit Nvml(const char* library) : library_(dlopen(library, RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    load("nvmlErrorString", &error_string_);
    need("nvmlInit_v2", &init_);
    need("nvmlShutdown", &shutdown_);
    need("nvmlDeviceGetCount_v2", &count_);
    need("nvmlDeviceGetHandleByIndex_v2", &handle_);
    need("nvmlDeviceGetName", &name_);
    need("nvmlDeviceGetMemoryInfo", &memory_);
    need("nvmlDeviceGetCudaComputeCapability", &capability_);
    load("nvmlDeviceGetUUID", &uuid_);
    load("nvmlDeviceGetPciInfo_v3", &pci_);
    load("nvmlDeviceGetNvLinkState", &nvlink_state_);
    load("nvmlDeviceGetP2PStatus", &peer_status_);
    load("nvmlDeviceGetGpuFabricInfo", &fabric_);
    load("nvmlDeviceGetMaxPcieLinkGeneration", &pcie_generation_);
    load("nvmlDeviceGetMaxPcieLinkWidth", &pcie_lanes_);
    if (complete_) status_ = init_();
    ready_ = complete_ && status_ == kNvmlSuccess;
  }
  ~Nvml() {
    if (ready_) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // `links`: also how they are joined to each other and the host. `faults` may be null.
  std::vector<Gpu> gpus(bool links, std::vector<std::string>* faults) const {
    std::vector<Gpu> gpus;
    std::vector<NvmlDevice> devices;
    const auto tell = [&](const std::string& fault) {
      if (faults != nullptr) faults->push_back(fault);
    };
    unsigned count = 0;
    const int status = ready_ ? count_(&count) : status_;
    const std::string remedy = "): see what nvidia-smi says";
    if (library_ != nullptr && !complete_) {
      tell("the NVIDIA driver's library lacks what is asked of it: install a newer driver");
    } else if (status != kNvmlSuccess) {
      tell("the NVIDIA driver does not answer (" + text_of(status) + remedy);
    }
    for (unsigned i = 0; i < count; ++i) {
      NvmlDevice device = nullptr;
      Gpu gpu;
      if (const int fault = ask_itself(i, &device, &gpu); fault != kNvmlSuccess) {
        tell("GPU " + std::to_string(i) + " of the driver's does not answer (" + text_of(fault) + remedy);
        continue;
      }
      char uuid[kNameBytes] = "";
      if (uuid_ != nullptr && uuid_(device, uuid, kNameBytes) == kNvmlSuccess) gpu.uuid = uuid;
      if (links) ask_links(device, &gpu);
      gpus.push_back(std::move(gpu));
      devices.push_back(device);
    }
    if (links) ask_peers(devices, &gpus);
    return gpus;
  }

 private:
  template <typename Function>
  void load(const char* symbol, Function* out) {
    *out = reinterpret_cast<Function>(dlsym(library_, symbol));
  }
  template <typename Function>
  void need(const char* symbol, Function* out) {
    load(symbol, out);
    complete_ = complete_ && *out != nullptr;
  }

  // What every driver tells. NVML's status.
  int ask_itself(unsigned index, NvmlDevice* device, Gpu* gpu) const {
    NvmlMemory memory{};
    char name[kNameBytes] = "";
    if (const int status = handle_(index, device); status != kNvmlSuccess) return status;
    if (const int status = memory_(*device, &memory); status != kNvmlSuccess) return status;
    if (const int status = name_(*device, name, kNameBytes); status != kNvmlSuccess) return status;
    gpu->name = name;
    gpu->memory_total = static_cast<int64_t>(memory.total);
    gpu->memory_free = static_cast<int64_t>(memory.free);
    return capability_(*device, &gpu->compute_major, &gpu->compute_minor);
  }

  // "Driver/library version mismatch, NVML status 18"
  std::string text_of(int status) const {
    const char* text = error_string_ == nullptr ? nullptr : error_string_(status);
    return (text == nullptr ? std::string() : std::string(text) + ", ") + "NVML status " + std::to_string(status);
  }

  // What an older driver or a virtual machine does not tell stays unknown.
  void ask_links(NvmlDevice device, Gpu* gpu) const {
    NvmlPci pci{};
    if (pci_ != nullptr && pci_(device, &pci) == kNvmlSuccess) gpu->pci = sysfs_address(pci.bus_id);
    for (unsigned link = 0; nvlink_state_ != nullptr && link < kNvlinksMax; ++link) {
      int active = 0;
      if (nvlink_state_(device, link, &active) != kNvmlSuccess) continue;
      ++gpu->nvlinks;
      gpu->nvlinks_up += active != 0;
    }
    NvmlFabric fabric{};
    if (fabric_ != nullptr && fabric_(device, &fabric) == kNvmlSuccess && fabric.state >= kFabricStarting) {
      gpu->fabric = fabric.state < kFabricCompleted  ? NvSwitchFabric::kStarting
                    : fabric.status == kNvmlSuccess ? NvSwitchFabric::kReady
                                                    : NvSwitchFabric::kFailed;
    }
    unsigned value = 0;
    if (pcie_generation_ != nullptr && pcie_generation_(device, &value) == kNvmlSuccess) {
      gpu->pcie_generation = static_cast<int>(value);
    }
    if (pcie_lanes_ != nullptr && pcie_lanes_(device, &value) == kNvmlSuccess) {
      gpu->pcie_lanes = static_cast<int>(value);
    }
  }

  void ask_peers(const std::vector<NvmlDevice>& devices, std::vector<Gpu>* gpus) const {
    for (size_t i = 0; peer_status_ != nullptr && i < devices.size(); ++i) {
      for (size_t j = 0; j < devices.size(); ++j) {
        const auto can = [&](int what) {
          int status = -1;
          return peer_status_(devices[i], devices[j], what, &status) == kNvmlSuccess && status == kPeerOk;
        };
        if (i == j) continue;
        if (can(kPeerNvlinkStatus)) (*gpus)[i].nvlink_peers.push_back(static_cast<int>(j));
        if (can(kPeerReadStatus)) (*gpus)[i].memory_peers.push_back(static_cast<int>(j));
      }
    }
  }

  void* const library_;
  bool complete_ = true;
  bool ready_ = false;
  int status_ = kNvmlSuccess;  // of its start
  const char* (*error_string_)(int) = nullptr;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*count_)(unsigned*) = nullptr;
  int (*handle_)(unsigned, NvmlDevice*) = nullptr;
  int (*name_)(NvmlDevice, char*, unsigned) = nullptr;
  int (*memory_)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*capability_)(NvmlDevice, int*, int*) = nullptr;
  int (*uuid_)(NvmlDevice, char*, unsigned) = nullptr;
  int (*pci_)(NvmlDevice, NvmlPci*) = nullptr;
  int (*nvlink_state_)(NvmlDevice, unsigned, int*) = nullptr;
  int (*peer_status_)(NvmlDevice, NvmlDevice, int, int*) = nullptr;
  int (*fabric_)(NvmlDevice, NvmlFabric*) = nullptr;
  int (*pcie_generation_)(NvmlDevice, unsigned*) = nullptr;
  int (*pcie_lanes_)(NvmlDevice, unsigned*) = nullptr;
};

GpuWatch::GpuWatch(const char* library) : nvml_(std::make_unique<Nvml>(library)) {}
GpuWatch::~GpuWatch() = default;
std::vector<Gpu> GpuWatch::look() const { return nvml_->gpus(false, nullptr); }

std::vector<Gpu> discover_gpus(const char* library, std::vector<std::string>* faults) {
  return Nvml(library).gpus(true, faults);
}

namespace {

struct Shown {
  std::vector<Gpu> gpus = {};
  std::optional<std::string> unknown = {};  // the entry that ends the list before its end
  std::optional<std::string> twice = {};    // the entry of a GPU that was there already
};

// How strtoul(3) reads an entry.
size_t by_number(const std::vector<Gpu>& gpus, std::string_view entry) {
  entry.remove_prefix(std::min(entry.find_first_not_of(" \t"), entry.size()));
  if (entry.starts_with('+')) entry.remove_prefix(1);
  size_t number = gpus.size();
  const auto read = std::from_chars(entry.data(), entry.data() + entry.size(), number);
  return read.ec == std::errc() ? number : gpus.size();
}

size_t by_uuid(const std::vector<Gpu>& gpus, std::string_view entry) {
  const auto is_meant = [&](const Gpu& gpu) { return gpu.uuid.starts_with(entry); };
  if (entry.empty() || std::ranges::count_if(gpus, is_meant) != 1) return gpus.size();
  return static_cast<size_t>(std::ranges::find_if(gpus, is_meant) - gpus.begin());
}

// CUDA C++ Programming Guide, "CUDA Environment Variables", for the first invalid entry; the rest as PyTorch saw the
// driver read it (torch/cuda/__init__.py, _parse_visible_devices).
Shown shown_gpus(const std::vector<Gpu>& gpus, const std::string& visible) {
  const auto index_of = visible.starts_with("GPU-") ? by_uuid : by_number;
  Shown shown;
  std::vector<size_t> seen;
  std::istringstream list(visible);
  for (std::string entry; std::getline(list, entry, ',');) {
    const size_t index = index_of(gpus, entry);
    if (index >= gpus.size()) {
      shown.unknown = entry;
      break;
    }
    if (std::ranges::find(seen, index) != seen.end()) return {.twice = entry};
    seen.push_back(index);
    shown.gpus.push_back(gpus[index]);
  }
  return shown;
}

}  // namespace

std::vector<Gpu> visible_gpus(const std::vector<Gpu>& gpus, const char* visible) {
  return visible == nullptr ? gpus : shown_gpus(gpus, visible).gpus;
}

std::string hidden_gpus(const std::vector<Gpu>& gpus, const char* visible) {
  if (visible == nullptr || gpus.empty()) return "";
  const Shown shown = shown_gpus(gpus, visible);
  const std::string said = "CUDA_VISIBLE_DEVICES=" + std::string(visible);
  const std::string of = "of this machine's " + std::to_string(gpus.size()) + (gpus.size() == 1 ? " GPU" : " GPUs");
  if (shown.twice) return said + " names the GPU " + *shown.twice + " twice, and CUDA shows none " + of + ": name each once";
  if (shown.gpus.empty()) return said + " hides all " + of + ": unset it, or name some of them";
  if (!shown.unknown) return "";
  const std::string what = shown.unknown->empty() ? " has an empty entry" : " names " + *shown.unknown + ", which is none " + of;
  return said + what + ", and CUDA shows only the " + std::to_string(shown.gpus.size()) + " before it: correct it";
}

std::string gpu_name(const std::vector<Gpu>& gpus, size_t index, const char* visible) {
  const Gpu& gpu = gpus[index];
  const std::string number = "GPU " + std::to_string(index);
  if (visible == nullptr) return number + " (" + gpu.name + ")";
  return number + " of those that CUDA_VISIBLE_DEVICES shows (" + gpu.name + (gpu.uuid.empty() ? "" : ", " + gpu.uuid) + ")";
}

}  // namespace skein
