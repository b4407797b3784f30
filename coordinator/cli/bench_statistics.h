#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

// The arithmetic of `skein bench`: no clock, no socket. Everything here is single-owner.

namespace skein {

// Of an even number, the mean of the middle two. Requires: not empty.
double median(std::vector<double> values);

// A distribution of durations in at most 150 KB, whatever their number. Percentiles are off by at most 0.1 %, counts,
// mean and maximum by nothing.
class Durations {
 public:
  void add(double seconds, int64_t times = 1);

  int64_t count() const { return count_; }
  // 0 where there is none. `share`: from 0 to 1; the least duration that so large a share does not exceed.
  double percentile_ms(double share) const;
  double mean_ms() const { return count_ == 0 ? 0 : sum_s_ * 1e3 / static_cast<double>(count_); }
  double max_ms() const { return max_s_ * 1e3; }

 private:
  std::vector<int64_t> buckets_;
  int64_t count_ = 0;
  double sum_s_ = 0;
  double min_s_ = 0;
  double max_s_ = 0;
};

// Whole numbers from `least` to `most`, drawn evenly.
struct LengthRange {
  int least = 1;
  int most = 1;
};

// "N" or "LOW:HIGH", each from 1 (or `least`) to 2^20.
Result<LengthRange> parse_range(std::string_view text, int least = 1);

// Random numbers that are the same with every standard library.
class BenchRandom {
 public:
  explicit BenchRandom(uint64_t seed, uint64_t stream = 0);
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }  // from 0, below 1
  int within(LengthRange range);

 private:
  std::mt19937_64 engine_;
};

// When requests are to be sent, whatever becomes of them: a Poisson process, of which the first of `count` arrivals is
// at 0 and the last where the rate puts it, so that what is offered is what was asked for. An infinite rate: all at 0.
class ArrivalSchedule {
 public:
  // Draws all gaps once, to scale them.
  ArrivalSchedule(double per_second, int64_t count, uint64_t seed);
  // Seconds since the start, never less than the one before.
  double next_s();

 private:
  BenchRandom random_;
  double scale_ = 0;
  double at_ = -1;  // in mean gaps
};

// What one completed request took.
struct RequestTimes {
  double ttft_s = 0;
  double e2e_s = 0;
  std::optional<double> tpot_s;  // mean time between its tokens; none with fewer than two
};

// The limits that a request must meet all of to count as good.
struct GoodputLimits {
  std::optional<double> ttft_ms;
  std::optional<double> itl_ms;  // on the request's mean
  std::optional<double> e2e_ms;

  bool met_by(const RequestTimes& times) const;
};

// "ttft:500,itl:30,e2e:9000": one at least, each once.
Result<GoodputLimits> parse_goodput(std::string_view text);

}  // namespace skein
