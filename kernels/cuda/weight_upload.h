#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/ops.h"

struct CUevent_st;
struct CUstream_st;

namespace skein::cuda {

class CudaDevice;

// Weights on their way to the device. Threads copy rows from the page cache, which one thread alone does not read at
// its rate, into pieces of page-locked memory; the executor thread sends full pieces off. What one weight leaves in the
// ring of pieces goes on while the next is being added. Pieces go by turns on two streams, so that one is converted
// while the next is on the bus. Conversions use the device's working memory until finish().
// Single-owner (executor thread) but for its own threads.
class WeightUpload {
 public:
  explicit WeightUpload(CudaDevice& device);
  ~WeightUpload();  // what has not been sent never is
  WeightUpload(const WeightUpload&) = delete;

  // Reads the source rows, but not the array of pointers, until finish() has returned. Waits while the ring is full.
  void add(const PackArgs& args);
  // Returns when the device has all that was added.
  void finish();

 private:
  struct Weight {
    Tensor out;
    int64_t first_row;
    std::vector<const void*> rows;
    Format format;
    int64_t row_bytes;
    int64_t piece_rows;
  };
  struct Piece {
    std::shared_ptr<const Weight> weight;
    int64_t begin, end;  // rows
  };

  void fill_pieces();
  void fill(const Piece& piece, std::byte* to) const;
  // Sends pieces, in the order of their numbers, until `left` have not been sent.
  void send_until(int64_t left);
  void send(const Piece& piece, int64_t slot);
  std::byte* memory(int64_t slot) const;

  static constexpr int kStreams = 2;
  CudaDevice& device_;
  CUstream_st* streams_[kStreams] = {};
  CUevent_st* before_ = nullptr;    // what the device was given before a weight
  std::byte* ring_ = nullptr;       // page-locked
  std::vector<CUevent_st*> read_;   // by slot: the device has read it

  std::mutex mutex_;                // guards what follows
  std::condition_variable filled_, room_;
  std::deque<Piece> pieces_;        // not yet sent: numbers sent_ ...
  std::vector<bool> full_;          // by slot
  int64_t sent_ = 0;
  int64_t free_ = 0;                // pieces whose slot is free again
  int64_t taken_ = 0;               // pieces that threads have taken to fill
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace skein::cuda
