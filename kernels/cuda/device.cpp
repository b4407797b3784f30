#include "kernels/cuda/device.h"

#include <cuda_runtime.h>

#include <cstring>
#include <string>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/weight_upload.h"

namespace skein::cuda {
namespace {

constexpr int64_t kRingHalf = int64_t{16} << 20;
constexpr size_t kMarks = 64;  // more than steps in flight

Status failure(cudaError_t error, const std::string& what, Scope scope) {
  return Status(error == cudaErrorMemoryAllocation ? Code::kResourceExhausted : Code::kInternal,
                what + ": " + cudaGetErrorString(error), scope);
}

}  // namespace

Result<std::unique_ptr<Device>> CudaDevice::open(const DeviceConfig& config) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found == cudaErrorInsufficientDriver || found == cudaErrorNoDevice || (found == cudaSuccess && count == 0)) {
    return unsupported("no NVIDIA GPU with a driver for CUDA 13 may be used here (CUDA_VISIBLE_DEVICES can hide them); use --device cpu");
  }
  if (found != cudaSuccess) return failure(found, "the NVIDIA driver cannot be used", Scope::kReplica);
  if (config.index >= count) {
    return unsupported("GPU " + std::to_string(config.index) + " is not there: this machine shows " +
                       std::to_string(count) + "; use fewer ranks");
  }
  cudaDeviceProp properties{};
  const cudaError_t read = cudaGetDeviceProperties(&properties, config.index);
  if (read != cudaSuccess) return failure(read, "GPU " + std::to_string(config.index), Scope::kReplica);
  if (properties.major != 9) {
    return unsupported("GPU " + std::to_string(config.index) + " (" + properties.name + ") has compute capability " +
                       std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                       "; this build runs on 9.0 (H100, H200, GH200)");
  }
  std::unique_ptr<CudaDevice> device(new CudaDevice);
  device->multiprocessors_ = properties.multiProcessorCount;
  device->l2_bytes_ = properties.l2CacheSize;
  device->uuid_.assign(properties.uuid.bytes, sizeof properties.uuid.bytes);
  device->deterministic_ = config.deterministic;
  device->architecture_ = "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
  RETURN_IF_ERROR(device->prepare(config.index));
  return std::unique_ptr<Device>(std::move(device));
}

Status CudaDevice::prepare(int index) {
  index_ = index;
  check(cudaSetDevice(index), "cudaSetDevice");
  // One after the other, so that the driver gives them queues of their own.
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaStreamCreateWithFlags(&clock_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaMalloc(&scratch_, kScratchBytes), "cudaMalloc of working memory");
  void* counters = nullptr;
  check(cudaMalloc(&counters, kCounters * sizeof(uint32_t)), "cudaMalloc of counters");
  counters_ = static_cast<uint32_t*>(counters);
  RETURN_IF_ERROR(first_error_);
  check(cudaMemset(counters_, 0, kCounters * sizeof(uint32_t)), "cudaMemset");
  void* ring = nullptr;
  check(cudaMallocHost(&ring, 2 * kRingHalf), "cudaMallocHost of staging memory");
  ring_ = static_cast<std::byte*>(ring);
  for (CUevent_st*& event : half_read_) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
  for (size_t i = 0; i < kMarks; ++i) {
    CUevent_st* event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    marks_.push_back(event);
  }
  check(cudaEventCreate(&now_), "cudaEventCreate");
  RETURN_IF_ERROR(first_error_);
  ASSIGN_OR_RETURN(cublas_, CublasLt::open());
  linear_choice_ = std::make_unique<LinearChoice>();
  return {};
}

CudaDevice::CudaDevice() = default;

CudaDevice::~CudaDevice() {
  // After an error nothing here can succeed; the process ends with it.
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  weight_upload_.reset();
  peers_.reset();
  forget_recorded();
  for (CUevent_st* event : marks_) cudaEventDestroy(event);
  if (now_ != nullptr) cudaEventDestroy(now_);
  for (CUevent_st* event : half_read_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  cudaFreeHost(ring_);
  cudaFree(counters_);
  cudaFree(scratch_);
  if (clock_ != nullptr) cudaStreamDestroy(clock_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void CudaDevice::check(int cuda_error, const char* what) {
  if (cuda_error == cudaSuccess || !first_error_.ok()) return;
  first_error_ = failure(static_cast<cudaError_t>(cuda_error), "GPU " + std::to_string(index_) + ": " + what,
                    Scope::kReplica);
}

Result<void*> CudaDevice::allocate(int64_t bytes) {
  CHECK_GE(bytes, 0);
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (error == cudaSuccess) return data;
  cudaGetLastError();  // it is told here, and not sticky
  return failure(error, "GPU " + std::to_string(index_) + " has no room for " + std::to_string(bytes) + " bytes",
                 Scope::kReplica);
}

void CudaDevice::release(void* data) { check(cudaFree(data), "cudaFree"); }

Result<DeviceMemory> CudaDevice::memory() const {
  size_t free = 0;
  size_t total = 0;
  const cudaError_t error = cudaMemGetInfo(&free, &total);
  if (error != cudaSuccess) return failure(error, "cudaMemGetInfo", Scope::kReplica);
  return DeviceMemory{.total = static_cast<int64_t>(total), .free = static_cast<int64_t>(free)};
}

Result<void*> CudaDevice::allocate_host(int64_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocHost(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (error != cudaSuccess) return failure(error, "page-locked host memory", Scope::kReplica);
  return data;
}

void CudaDevice::release_host(void* data) { check(cudaFreeHost(data), "cudaFreeHost"); }

// The ring is used in halves. Entering one waits until the device has read what was in it before, and for no more: the
// steps that were queued since go on.
std::byte* CudaDevice::stage(int64_t bytes) {
  CHECK_LE(bytes, kRingHalf);
  if (half_used_ + bytes > kRingHalf) {
    check(cudaEventRecord(half_read_[half_], stream_), "cudaEventRecord");
    half_ = 1 - half_;
    half_used_ = 0;
    check(cudaEventSynchronize(half_read_[half_]), "waiting for copies");  // at once the first time
  }
  std::byte* room = ring_ + half_ * kRingHalf + half_used_;
  half_used_ += round_up<int64_t>(bytes, 64);
  return room;
}

WeightUpload& CudaDevice::weight_upload() {
  CHECK(!recording_);
  if (weight_upload_ == nullptr) weight_upload_ = std::make_unique<WeightUpload>(*this);
  return *weight_upload_;
}

void CudaDevice::end_weight_upload() { weight_upload_.reset(); }

void CudaDevice::copy_to_device(void* to, const void* from_host, int64_t bytes) {
  CHECK_GE(bytes, 0);
  CHECK(!recording_);
  const auto* from = static_cast<const std::byte*>(from_host);
  auto* target = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const int64_t part = std::min(bytes, kRingHalf);
    std::byte* room = stage(part);
    std::memcpy(room, from, static_cast<size_t>(part));
    check(cudaMemcpyAsync(target, room, static_cast<size_t>(part), cudaMemcpyHostToDevice, stream_), "copy to the GPU");
    from += part;
    target += part;
    bytes -= part;
  }
}

void CudaDevice::copy_to_host(void* to_host, const void* from, int64_t bytes) {
  CHECK(!recording_);
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to_host, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "copy from the GPU");
}

uint64_t CudaDevice::mark() {
  ++last_mark_;
  check(cudaEventRecord(marks_[last_mark_ % kMarks], stream_), "cudaEventRecord");
  return last_mark_;
}

Result<bool> CudaDevice::reached(uint64_t mark) {
  CHECK(mark <= last_mark_ && mark + kMarks > last_mark_);
  RETURN_IF_ERROR(first_error_);
  const cudaError_t error = cudaEventQuery(marks_[mark % kMarks]);
  if (error == cudaErrorNotReady) return false;
  check(error, "a launch failed");
  check_peers();
  RETURN_IF_ERROR(first_error_);
  return true;
}

Result<int64_t> CudaDevice::since(uint64_t mark) {
  CHECK(!recording_);
  CHECK(mark <= last_mark_ && mark + kMarks > last_mark_);
  float milliseconds = 0;
  check(cudaEventRecord(now_, clock_), "cudaEventRecord");
  check(cudaEventSynchronize(now_), "reading the clock");
  check(cudaEventElapsedTime(&milliseconds, marks_[mark % kMarks], now_), "reading the clock");
  RETURN_IF_ERROR(first_error_);
  return static_cast<int64_t>(std::max(milliseconds, 0.0f) * 1e6f);
}

Status CudaDevice::synchronize() {
  if (weight_upload_ != nullptr) weight_upload_->finish();
  check(cudaStreamSynchronize(stream_), "a launch failed");
  check_peers();
  return first_error_;
}

Result<const PeerGroup*> CudaDevice::join_peers(const PeerSetup& setup) {
  CHECK(peers_ == nullptr);
  ASSIGN_OR_RETURN(peers_, Peers::join(index_, deterministic_, setup));
  return peers_ == nullptr ? nullptr : &peers_->group();
}

void CudaDevice::check_peers() {
  if (peers_ == nullptr || !first_error_.ok()) return;
  first_error_ = peers_->status();
}

bool CudaDevice::replay(uint64_t key) {
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) return false;
  check(cudaGraphLaunch(found->second, stream_), "cudaGraphLaunch");
  return true;
}

void CudaDevice::record(uint64_t key) {
  CHECK(!recording_);
  if (const auto old = graphs_.find(key); old != graphs_.end()) {
    check(cudaGraphExecDestroy(old->second), "cudaGraphExecDestroy");
    graphs_.erase(old);
  }
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  recording_ = true;
  recording_key_ = key;
}

void CudaDevice::forget_recorded() {
  for (const auto& [key, graph] : graphs_) check(cudaGraphExecDestroy(graph), "cudaGraphExecDestroy");
  graphs_.clear();
}

Status CudaDevice::end_record() {
  CHECK(recording_);
  recording_ = false;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  RETURN_IF_ERROR(first_error_);
  CUgraphExec_st* executable = nullptr;
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  RETURN_IF_ERROR(first_error_);
  graphs_[recording_key_] = executable;
  check(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch");
  return first_error_;
}

}  // namespace skein::cuda
