#include "worker/probe_caches.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace skein {
namespace {

constexpr ProductShape kTurnsWeight = {3072, 576};
constexpr Format kTurnsFormat = Format::kQ4_1;  // gains the most from caches
constexpr ProductShape kBusyWeight = {512, 512};  // a core's own cache holds it
constexpr int kBusyTokens = 64;
constexpr std::chrono::microseconds kAges[] = {std::chrono::microseconds(2500), std::chrono::milliseconds(5),
                                               std::chrono::milliseconds(10), std::chrono::milliseconds(20)};
constexpr int64_t kAgedBytes = 4 * kCachedBytes;
constexpr int kAgedRounds = 9;
constexpr int kAgedWarmRounds = 2;

using Clock = std::chrono::steady_clock;
using Us = std::chrono::duration<double, std::micro>;

class CacheProbe {
 public:
  CacheProbe(const Ops& ops, Device& device, ProbeTensors& tensors, ProbeTimer& timer)
      : ops_(ops), device_(device), tensors_(tensors), timer_(timer), arena_(ops, device) {}

  Result<std::vector<ProbeSample>> run() {
    const int64_t turn_bytes = tensors_.turn_bytes();
    const Format format = ops_.weight_format(kTurnsFormat);
    weight_bytes_ = ops_.linear_bytes(format, kTurnsWeight.outputs, kTurnsWeight.inputs);
    ASSIGN_OR_RETURN(weights_, tensors_.weights_for_turns(format, kTurnsWeight));
    ASSIGN_OR_RETURN(one_, product(format, 1, kTurnsWeight));
    ASSIGN_OR_RETURN(busy_, product(format, kBusyTokens, kBusyWeight));
    ASSIGN_OR_RETURN(busy_.weight, tensors_.packed_weight(arena_, format, kBusyWeight));
    for (int64_t bytes = kCachedBytes;; bytes = std::min(bytes * 3 / 2, turn_bytes)) {
      RETURN_IF_ERROR(measure_turns(bytes));
      if (bytes == turn_bytes) break;
    }
    for (const std::chrono::microseconds age : kAges) measure_aged(age);
    return std::move(samples_);
  }

 private:
  Result<LinearArgs> product(Format format, int tokens, const ProductShape& shape) {
    LinearArgs args;
    ASSIGN_OR_RETURN(args.x, tensors_.activation(arena_, ops_.activation_format(format), tokens, shape.inputs));
    ASSIGN_OR_RETURN(args.out, tensors_.activation(arena_, ops_.stream_format, tokens, shape.outputs));
    return args;
  }

  size_t weights_of(int64_t bytes) const { return count_with(bytes, weight_bytes_, weights_.size()); }
  void multiply(size_t weight) {
    one_.weight = weights_[weight];
    ops_.linear(device_, one_);
  }

  Status measure_turns(int64_t bytes) {
    const size_t count = weights_of(bytes);
    size_t turn = 0;
    while (turn < kWarmTurns * count) multiply(turn++ % count);
    ASSIGN_OR_RETURN(const double us, timer_.time_us([&] { multiply(turn++ % count); }));
    samples_.push_back(
        {.what = "turns", .tokens = 1, .size = double(bytes), .bytes = double(weight_bytes_), .us = us});
    return {};
  }

  // All cores are at work between two turns, with what their own caches hold. Each turn is the only one in its time, as
  // in steps: what is read twice in a row stays in caches for longer. Launches on cores end before they return.
  void measure_aged(std::chrono::microseconds age) {
    const size_t count = weights_of(kAgedBytes);
    std::vector<double> times;
    double ages_us = 0;
    for (int round = -kAgedWarmRounds; round < kAgedRounds; ++round) {
      const auto read = Clock::now();
      while (Clock::now() - read < age) ops_.linear(device_, busy_);
      const auto begin = Clock::now();
      for (size_t turn = 0; turn < count; ++turn) multiply(turn);
      if (round < 0) continue;
      ages_us += Us(begin - read).count();
      times.push_back(Us(Clock::now() - begin).count() / static_cast<double>(count));
    }
    std::ranges::sort(times);
    samples_.push_back({.what = "aged", .tokens = 1, .size = double(kAgedBytes), .bytes = double(weight_bytes_),
                        .age_us = ages_us / kAgedRounds, .us = times[times.size() / 2]});
  }

  const Ops& ops_;
  Device& device_;
  ProbeTensors& tensors_;
  ProbeTimer& timer_;
  DeviceArena arena_;
  int64_t weight_bytes_ = 0;
  std::vector<Tensor> weights_;
  LinearArgs one_;   // token, by any of them
  LinearArgs busy_;
  std::vector<ProbeSample> samples_;
};

}  // namespace

Result<std::vector<ProbeSample>> probe_caches(const Ops& ops, Device& device, ProbeTensors& tensors,
                                              ProbeTimer& timer) {
  return CacheProbe(ops, device, tensors, timer).run();
}

}  // namespace skein
