#include "topology/device_kinds.h"

#include <algorithm>
#include <cctype>

#include "base/nearest.h"

namespace skein {
namespace {

struct Sheet {
  const char* name;
  int memory_mib;
  double read_tb;      // TB/s
  double bf16_tflops;  // dense
  double fp8_tflops;
  double nvlink_gb;    // GB/s, one direction
  int nvlinks;
  double pcie_gb;      // GB/s, one direction
  int compute;         // capability, times ten
  const char* source;
};

constexpr char kGuess[] = "a guess: `skein topology --measure` measures it";

constexpr Sheet kSheets[] = {
    {"NVIDIA H100 80GB HBM3", 81559, 3.35, 989, 1979, 450, 18, 64, 90, "NVIDIA H100 data sheet, SXM5"},
    {"NVIDIA H100 PCIe", 81559, 2.0, 756, 1513, 300, 12, 64, 90, "NVIDIA H100 PCIe product brief"},
    {"NVIDIA H100 NVL", 95830, 3.9, 835, 1671, 300, 12, 64, 90, "NVIDIA H100 data sheet, NVL"},
    {"NVIDIA H200", 143771, 4.8, 989, 1979, 450, 18, 64, 90, "NVIDIA H200 data sheet, SXM5"},
    {"NVIDIA H200 NVL", 143771, 4.8, 835, 1671, 450, 18, 64, 90, "NVIDIA H200 data sheet, NVL"},
    {"NVIDIA GH200 480GB", 97871, 4.0, 989, 1979, 450, 18, 450, 90, "NVIDIA GH200 data sheet, HBM3; host over NVLink-C2C"},
    {"NVIDIA B200", 183359, 7.7, 2250, 4500, 900, 18, 64, 100, "NVIDIA DGX B200 data sheet, an eighth"},
    {"NVIDIA GB200", 189471, 8.0, 2500, 5000, 900, 18, 450, 100, "NVIDIA GB200 NVL72 data sheet; host over NVLink-C2C"},
    {"NVIDIA A100-SXM4-80GB", 81920, 2.039, 312, 0, 300, 12, 32, 80, "NVIDIA A100 data sheet"},
    {"NVIDIA A100-SXM4-40GB", 40960, 1.555, 312, 0, 300, 12, 32, 80, "NVIDIA A100 data sheet"},
    {"NVIDIA A100 80GB PCIe", 81920, 1.935, 312, 0, 300, 12, 32, 80, "NVIDIA A100 data sheet"},
    {"NVIDIA A100-PCIE-40GB", 40960, 1.555, 312, 0, 300, 12, 32, 80, "NVIDIA A100 data sheet"},
    {"NVIDIA L40S", 46068, 0.864, 362, 733, 0, 0, 32, 89, "NVIDIA L40S data sheet"},
    {"NVIDIA L4", 23034, 0.3, 121, 242, 0, 0, 32, 89, "NVIDIA L4 data sheet"},
    {"NVIDIA A10", 23028, 0.6, 125, 0, 0, 0, 32, 86, "NVIDIA A10 data sheet"},
};

DeviceKind kind_of(const Sheet& sheet) {
  return {.name = sheet.name,
          .gpu = true,
          .memory_bytes = int64_t{sheet.memory_mib} << 20,
          .read_bytes_per_s = sheet.read_tb * 1e12,
          .bf16_flops = sheet.bf16_tflops * 1e12,
          .fp8_flops = sheet.fp8_tflops * 1e12,
          .nvlink_bytes_per_s = sheet.nvlink_gb * 1e9,
          .pcie_bytes_per_s = sheet.pcie_gb * 1e9,
          .nvlinks = sheet.nvlinks,
          .source = sheet.source};
}

const Sheet* find_sheet(std::string_view name) {
  const auto* found = std::ranges::find_if(kSheets, [&](const Sheet& sheet) { return sheet.name == name; });
  return found == std::end(kSheets) ? nullptr : found;
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](unsigned char c) { return std::tolower(c); });
  return result;
}

}  // namespace

const std::vector<DeviceKind>& known_gpus() {
  static const std::vector<DeviceKind> kinds = [] {
    std::vector<DeviceKind> made;
    for (const Sheet& sheet : kSheets) made.push_back(kind_of(sheet));
    return made;
  }();
  return kinds;
}

const DeviceKind* find_known_gpu(std::string_view name) {
  const auto found = std::ranges::find(known_gpus(), name, &DeviceKind::name);
  return found == known_gpus().end() ? nullptr : &*found;
}

std::string unknown_gpu(std::string_view name) {
  std::vector<std::string> all;
  std::string meant;
  for (const DeviceKind& kind : known_gpus()) {
    all.push_back(kind.name);
    if (!name.empty() && lower(kind.name).find(lower(name)) != std::string::npos) {
      meant += (meant.empty() ? "\"" : ", \"") + kind.name + "\"";
    }
  }
  if (const auto guess = nearest(name, all); meant.empty() && guess) meant = "\"" + *guess + "\"";
  return "the device kind \"" + std::string(name) + "\" is not known" +
         (meant.empty() ? "" : "; did you mean " + meant + "?") +
         (meant.empty() ? ": describe it" : " Otherwise describe it") +
         " under kinds with memory_gib, read_gb_per_s, tflops and pcie_gb_per_s";
}

bool is_guess(const DeviceKind& kind) { return kind.source == kGuess; }

DeviceKind guessed_cores(std::string processor) {
  return {.name = std::move(processor),
          .gpu = false,
          .read_bytes_per_s = 20e9,
          .bf16_flops = 40e9,
          .source = kGuess};
}

int compute_capability(std::string_view name) {
  const Sheet* sheet = find_sheet(name);
  return sheet == nullptr ? 0 : sheet->compute;
}

}  // namespace skein
