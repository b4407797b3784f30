#include "kernels/cuda/pack.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/checked.h"

namespace skein::cuda {
namespace {

constexpr int kSlots = 16;      // pieces of the staging memory
constexpr int kInFlight = 4;    // of them, on their way to the device; the others are being filled
constexpr int kFillersMax = 16;  // threads: one alone does not read the page cache at its rate

// Rows on their way to the device: threads fill pieces of page-locked memory, which the caller sends off in turn. Rows
// to be converted go through the device's working memory, which has room for all pieces.
class RowUpload {
 public:
  RowUpload(CudaDevice& device, const PackArgs& args)
      : device_(device),
        args_(args),
        ring_(device.borrow_staging()),
        row_bytes_(row_bytes(args.source_format, args.out.columns)) {
    CHECK_LE(static_cast<int64_t>(ring_.size()), CudaDevice::kScratchBytes);
    slot_bytes_ = static_cast<int64_t>(ring_.size()) / kSlots;
    piece_rows_ = slot_bytes_ / row_bytes_;
    CHECK_GE(piece_rows_, 1);
    pieces_ = ceil_div(args.row_count, piece_rows_);
    for (cudaEvent_t& event : events_) {
      device_.check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    }
  }
  ~RowUpload() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  RowUpload(const RowUpload&) = delete;

  void run() {
    const auto processors = static_cast<int64_t>(std::max(std::thread::hardware_concurrency(), 1u));
    std::vector<std::jthread> fillers;
    if (pieces_ > 1) {
      const int64_t count = std::min({pieces_, processors, int64_t{kFillersMax}});
      for (int64_t i = 0; i < count; ++i) fillers.emplace_back([this] { fill_pieces(); });
    } else {
      fill_pieces();
    }
    for (int64_t piece = 0; piece < pieces_; ++piece) send(piece);
    device_.check(cudaStreamSynchronize(device_.stream()), "copy of weights");
  }

 private:
  int64_t slot_offset(int64_t piece) const { return piece % kSlots * slot_bytes_; }

  void fill_pieces() {
    for (;;) {
      int64_t piece;
      {
        std::unique_lock lock(mutex_);
        piece = next_++;
        if (piece >= pieces_) return;
        changed_.wait(lock, [&] { return piece < sent_ + kSlots; });
      }
      const int64_t begin = piece * piece_rows_;
      const int64_t end = std::min(begin + piece_rows_, args_.row_count);
      std::byte* to = ring_.data() + slot_offset(piece);
      for (int64_t row = begin; row < end; ++row, to += row_bytes_) {
        std::memcpy(to, args_.source_rows[row], static_cast<size_t>(row_bytes_));
      }
      std::lock_guard lock(mutex_);
      filled_[piece % kSlots] = piece;
      changed_.notify_all();
    }
  }

  void send(int64_t piece) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return filled_[piece % kSlots] == piece; });
    }
    const int64_t begin = piece * piece_rows_;
    const int64_t rows = std::min(piece_rows_, args_.row_count - begin);
    auto* out = static_cast<uint16_t*>(args_.out.data) + (args_.first_row + begin) * args_.out.columns;
    const bool convert = args_.source_format != Format::kBF16;
    void* to = convert ? static_cast<std::byte*>(device_.scratch()) + slot_offset(piece)
                       : static_cast<void*>(out);
    device_.check(cudaMemcpyAsync(to, ring_.data() + slot_offset(piece), static_cast<size_t>(rows * row_bytes_),
                                  cudaMemcpyHostToDevice, device_.stream()),
                  "copy of weights");
    if (convert) convert_rows(device_, out, to, args_.source_format, rows, args_.out.columns);
    device_.check(cudaEventRecord(events_[piece % kSlots], device_.stream()), "cudaEventRecord");
    if (piece < kInFlight) return;
    device_.check(cudaEventSynchronize(events_[(piece - kInFlight) % kSlots]), "copy of weights");
    std::lock_guard lock(mutex_);
    sent_ = piece - kInFlight + 1;
    changed_.notify_all();
  }

  CudaDevice& device_;
  const PackArgs& args_;
  const std::span<std::byte> ring_;
  const int64_t row_bytes_;  // in the file
  int64_t slot_bytes_ = 0;
  int64_t piece_rows_ = 0;
  int64_t pieces_ = 0;
  cudaEvent_t events_[kSlots] = {};

  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t next_ = 0;  // piece to fill
  int64_t sent_ = 0;  // pieces that the device has read
  int64_t filled_[kSlots] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
};

}  // namespace

int64_t linear_bytes(Format format, int64_t rows, int64_t columns) {
  CHECK(format == Format::kBF16);
  CHECK(rows >= 0 && columns >= 0);
  return round_up<int64_t>(rows * row_bytes(format, columns), 256);
}

void pack_linear(Device& device, const PackArgs& args) {
  const Tensor& out = args.out;
  CHECK(out.layout == Layout::kPacked && out.data != nullptr);
  CHECK(out.format == Format::kBF16);
  CHECK(args.first_row >= 0 && args.row_count >= 0);
  CHECK_LE(args.first_row + args.row_count, out.rows);
  CHECK(args.source_format != Format::kI8Block32 && args.source_format != Format::kI32);
  CHECK_EQ(out.columns % info(args.source_format).block_elements, 0);
  if (args.row_count == 0 || out.columns == 0) return;
  CHECK(args.source_rows != nullptr);
  RowUpload(device_of(device), args).run();
}

}  // namespace skein::cuda
