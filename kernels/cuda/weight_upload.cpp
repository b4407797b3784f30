#include "kernels/cuda/weight_upload.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/pack.h"

namespace skein::cuda {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;  // a copy's fixed cost is that of hundreds of KiB
constexpr int kSlots = 32;       // pieces of the ring
constexpr int kInFlight = 8;     // of them, on their way to the device; the others are being filled
constexpr unsigned kThreadsMax = 14;
constexpr int64_t kConvertedAtOnce = CudaDevice::kScratchBytes / kPieceBytes;

}  // namespace

WeightUpload::WeightUpload(CudaDevice& device) : device_(device), full_(kSlots) {
  // A piece's places in both memories are those of its stream, which uses them in order.
  static_assert(kSlots % kStreams == 0 && kConvertedAtOnce % kStreams == 0 && kConvertedAtOnce > 0);
  for (CUstream_st*& stream : streams_) {
    device_.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  device_.check(cudaEventCreateWithFlags(&before_, cudaEventDisableTiming), "cudaEventCreate");
  void* ring = nullptr;
  device_.check(cudaMallocHost(&ring, kSlots * kPieceBytes), "page-locked memory for weights");
  if (!device_.status().ok()) return;
  ring_ = static_cast<std::byte*>(ring);
  for (int i = 0; i < kSlots; ++i) {
    CUevent_st* event = nullptr;
    device_.check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    read_.push_back(event);
  }
  const unsigned processors = std::max(std::thread::hardware_concurrency(), 2u);
  for (unsigned i = 0; i < std::min(processors - 1, kThreadsMax); ++i) threads_.emplace_back([this] { fill_pieces(); });
}

WeightUpload::~WeightUpload() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  room_.notify_all();
  threads_.clear();
  for (CUstream_st* stream : streams_) {
    if (stream == nullptr) continue;
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  for (CUevent_st* event : read_) cudaEventDestroy(event);
  if (before_ != nullptr) cudaEventDestroy(before_);
  cudaFreeHost(ring_);
}

void WeightUpload::add(const PackArgs& args) {
  if (ring_ == nullptr) return;  // the device remembers why
  const int64_t bytes = row_bytes(args.source_format, args.out.columns);
  CHECK_LE(bytes, kPieceBytes);
  const auto weight = std::make_shared<const Weight>(
      Weight{.out = args.out, .first_row = args.first_row,
             .rows = std::vector<const void*>(args.source_rows, args.source_rows + args.row_count),
             .format = args.source_format,
             .row_bytes = bytes, .piece_rows = kPieceBytes / bytes});
  // What is still queued may use the same memory.
  device_.check(cudaEventRecord(before_, device_.stream()), "cudaEventRecord");
  for (CUstream_st* stream : streams_) device_.check(cudaStreamWaitEvent(stream, before_), "cudaStreamWaitEvent");
  {
    std::lock_guard lock(mutex_);
    for (int64_t begin = 0; begin < args.row_count; begin += weight->piece_rows) {
      pieces_.push_back({weight, begin, std::min(begin + weight->piece_rows, args.row_count)});
    }
  }
  room_.notify_all();
  send_until(kSlots / 2);
}

void WeightUpload::finish() {
  send_until(0);
  for (CUstream_st* stream : streams_) device_.check(cudaStreamSynchronize(stream), "copy of weights");
}

std::byte* WeightUpload::memory(int64_t slot) const { return ring_ + slot * kPieceBytes; }

void WeightUpload::fill_pieces() {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto takes = [&] {
      return taken_ < sent_ + static_cast<int64_t>(pieces_.size()) && taken_ < free_ + kSlots;
    };
    room_.wait(lock, [&] { return stopping_ || takes(); });
    if (stopping_) return;
    const int64_t number = taken_++;
    const Piece piece = pieces_[static_cast<size_t>(number - sent_)];
    lock.unlock();
    fill(piece, memory(number % kSlots));
    lock.lock();
    full_[static_cast<size_t>(number % kSlots)] = true;
    filled_.notify_one();
  }
}

// Neighbouring rows in one go.
void WeightUpload::fill(const Piece& piece, std::byte* to) const {
  const Weight& weight = *piece.weight;
  for (int64_t row = piece.begin; row < piece.end;) {
    const auto* from = static_cast<const std::byte*>(weight.rows[static_cast<size_t>(row)]);
    int64_t bytes = 0;
    do {
      bytes += weight.row_bytes;
      ++row;
    } while (row < piece.end && weight.rows[static_cast<size_t>(row)] == from + bytes);
    std::memcpy(to, from, static_cast<size_t>(bytes));
    to += bytes;
  }
}

void WeightUpload::send_until(int64_t left) {
  std::unique_lock lock(mutex_);
  while (static_cast<int64_t>(pieces_.size()) > left) {
    const int64_t slot = sent_ % kSlots;
    filled_.wait(lock, [&] { return full_[static_cast<size_t>(slot)]; });
    full_[static_cast<size_t>(slot)] = false;
    const Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    const int64_t number = sent_++;
    lock.unlock();
    send(piece, slot);
    const int64_t read = number - kInFlight;
    if (read >= 0) device_.check(cudaEventSynchronize(read_[static_cast<size_t>(read % kSlots)]), "copy of weights");
    lock.lock();
    free_ = std::max(free_, read + 1);
    room_.notify_all();
  }
}

void WeightUpload::send(const Piece& piece, int64_t slot) {
  const Weight& weight = *piece.weight;
  CUstream_st* stream = streams_[slot % kStreams];
  const int64_t rows = piece.end - piece.begin;
  const int64_t columns = weight.out.columns;
  auto* out = static_cast<uint16_t*>(weight.out.data) + (weight.first_row + piece.begin) * columns;
  void* to = out;
  const bool converts = weight.format != Format::kBF16;
  if (converts) to = static_cast<std::byte*>(device_.scratch()) + slot % kConvertedAtOnce * kPieceBytes;
  device_.check(cudaMemcpyAsync(to, memory(slot), static_cast<size_t>(rows * weight.row_bytes), cudaMemcpyHostToDevice,
                                stream),
                "copy of weights");
  if (converts) convert_rows(device_, stream, out, to, weight.format, rows, columns);
  device_.check(cudaEventRecord(read_[static_cast<size_t>(slot)], stream), "cudaEventRecord");
}

}  // namespace skein::cuda
