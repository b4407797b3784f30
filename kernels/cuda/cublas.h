#pragma once

#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/device.h"

namespace skein::cuda {

class ProductTimings;

// Products through cuBLASLt, each with the algorithm that was the fastest for its shape when it was timed, or else the
// library's first proposal. Single-owner: the executor thread.
class CublasLt {
 public:
  // For the current device. Its working memory is its own: a launch after it may use the device's while it ends.
  static Result<std::unique_ptr<CublasLt>> open();
  static size_t version();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;

  // Queues out = x W^T, without the bias. False, and nothing queued, if the library has no way to do it (rows that are
  // not 16-byte aligned, say).
  bool multiply(CudaDevice& device, const LinearArgs& args);

  // Finds the fastest of the library's proposals for each of the products, by running them: x should hold numbers as
  // they will be, for the GPU is faster on zeros; out and the device's scratch memory are overwritten. Products that
  // differ in nothing but their weights are run by turns: several of them, so that weights come from memory. What
  // `timings` knows is not timed again, what is found is added to it. Not while a graph is recorded.
  Status tune(CudaDevice& device, std::span<const LinearArgs> products, ProductTimings& timings);

 private:
  struct State;
  explicit CublasLt(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace skein::cuda
