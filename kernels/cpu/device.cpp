#include "kernels/cpu/device.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cpu/isa.h"

namespace skein {
namespace {

constexpr int64_t kAttentionBytes = round_up<int64_t>(sizeof(AttentionScratch), 4096);
constexpr int64_t kCountBytes = kSampleVocabularyMax * int64_t{sizeof(int32_t)};
constexpr int64_t kWeightBytes = kSampleVocabularyMax * int64_t{sizeof(float)};
constexpr int64_t kCandidateBytes = kSampleVocabularyMax * int64_t{sizeof(Candidate)};
constexpr int64_t kScratchBytes = kAttentionBytes + kCountBytes + 2 * kWeightBytes + kCandidateBytes;

}  // namespace

Result<std::unique_ptr<Device>> CpuDevice::open(const DeviceConfig& config) {
  if (config.threads < 1 || config.threads > 1024) {
    return invalid_argument("a CPU rank can't run " + std::to_string(config.threads) +
                            " threads: give it 1 to 1024");
  }
  std::unique_ptr<CpuDevice> device(new CpuDevice);
  ASSIGN_OR_RETURN(device->kernels_, choose_kernels());
  for (int i = 0; i < config.threads; ++i) {
    ASSIGN_OR_RETURN(Mapping scratch, Mapping::make(kScratchBytes, false));
    device->scratch_.push_back(std::move(scratch));
  }
  ASSIGN_OR_RETURN(device->team_, ThreadTeam::start({.threads = config.threads,
                                                     .pin = config.pin_threads,
                                                     .first_core = config.first_core}));
  return std::unique_ptr<Device>(std::move(device));
}

AttentionScratch* CpuDevice::attention_scratch(int thread) {
  return reinterpret_cast<AttentionScratch*>(scratch_[static_cast<size_t>(thread)].data());
}

SampleScratch CpuDevice::sample_scratch(int thread) {
  auto* base = scratch_[static_cast<size_t>(thread)].data() + kAttentionBytes;
  return {reinterpret_cast<int32_t*>(base), reinterpret_cast<float*>(base + kCountBytes),
          reinterpret_cast<float*>(base + kCountBytes + kWeightBytes),
          reinterpret_cast<Candidate*>(base + kCountBytes + 2 * kWeightBytes)};
}

}  // namespace skein
