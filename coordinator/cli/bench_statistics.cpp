#include "coordinator/cli/bench_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/parse_number.h"

namespace skein {
namespace {

// Buckets of nanoseconds: one each below 2^kExactBits, and kHalf for each doubling above.
constexpr int kExactBits = 10;
constexpr uint64_t kHalf = uint64_t{1} << (kExactBits - 1);
constexpr uint64_t kNanosecondsMax = uint64_t{1} << 44;  // 4.9 hours

size_t bucket_of(uint64_t ns) {
  const int shift = std::bit_width(ns) - kExactBits;
  if (shift <= 0) return ns;
  return static_cast<uint64_t>(shift) * kHalf + (ns >> shift);
}

double middle_of(size_t bucket) {
  if (bucket < 2 * kHalf) return static_cast<double>(bucket) * 1e-9;
  const uint64_t shift = bucket / kHalf - 1;
  const uint64_t first = (bucket - shift * kHalf) << shift;
  return (static_cast<double>(first) + static_cast<double>(uint64_t{1} << shift) / 2) * 1e-9;
}

}  // namespace

double median(std::vector<double> values) {
  CHECK(!values.empty());
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void Durations::add(double seconds, int64_t times) {
  if (times <= 0) return;
  seconds = std::max(seconds, 0.0);
  const auto ns = static_cast<uint64_t>(std::min(seconds * 1e9 + 0.5, static_cast<double>(kNanosecondsMax)));
  const size_t bucket = bucket_of(ns);
  if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
  buckets_[bucket] += times;
  min_s_ = count_ == 0 ? seconds : std::min(min_s_, seconds);
  max_s_ = std::max(max_s_, seconds);
  sum_s_ += seconds * static_cast<double>(times);
  count_ += times;
}

double Durations::percentile_ms(double share) const {
  if (count_ == 0) return 0;
  const auto rank = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(share * static_cast<double>(count_))));
  int64_t seen = 0;
  size_t bucket = 0;
  while ((seen += buckets_[bucket]) < rank) ++bucket;
  return std::clamp(middle_of(bucket), min_s_, max_s_) * 1e3;
}

Result<LengthRange> parse_range(std::string_view text, int least) {
  const size_t colon = text.find(':');
  const std::optional<int> low = parse_number<int>(text.substr(0, colon));
  const std::optional<int> high = colon == text.npos ? low : parse_number<int>(text.substr(colon + 1));
  if (!low || !high || *low < least || *high < *low || *high > 1 << 20) {
    return invalid_argument("must be a whole number from " + std::to_string(least) + " to " + std::to_string(1 << 20) +
                            ", or two as LOW:HIGH, not \"" + std::string(text) + "\"");
  }
  return LengthRange{.least = *low, .most = *high};
}

// Streams of one seed must differ from each other and from the next seed's: hence the mixing (splitmix64's).
BenchRandom::BenchRandom(uint64_t seed, uint64_t stream) {
  uint64_t mixed = seed + stream * 0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  engine_.seed(mixed ^ (mixed >> 31));
}

int BenchRandom::within(LengthRange range) {
  return range.least + static_cast<int>(unit() * (range.most - range.least + 1.0));
}

ArrivalSchedule::ArrivalSchedule(double per_second, int64_t count, uint64_t seed) : random_(seed) {
  const BenchRandom start = random_;
  double last = 0;
  for (int64_t i = 1; i < count; ++i) last -= std::log1p(-random_.unit());
  random_ = start;
  if (last > 0) scale_ = static_cast<double>(count - 1) / per_second / last;
}

double ArrivalSchedule::next_s() {
  at_ = at_ < 0 ? 0 : at_ - std::log1p(-random_.unit());
  return at_ * scale_;
}

bool GoodputLimits::met_by(const RequestTimes& times) const {
  if (ttft_ms && times.ttft_s * 1e3 > *ttft_ms) return false;
  if (itl_ms && times.tpot_s && *times.tpot_s * 1e3 > *itl_ms) return false;
  return !e2e_ms || times.e2e_s * 1e3 <= *e2e_ms;
}

Result<GoodputLimits> parse_goodput(std::string_view text) {
  const std::string shown(text);
  GoodputLimits limits;
  do {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    text.remove_prefix(comma == text.npos ? text.size() : comma + 1);
    const size_t colon = item.find(':');
    const std::string_view name = item.substr(0, colon);
    std::optional<double>* limit = name == "ttft"  ? &limits.ttft_ms
                                   : name == "itl" ? &limits.itl_ms
                                   : name == "e2e" ? &limits.e2e_ms
                                                   : nullptr;
    const std::optional<double> ms = colon == item.npos ? std::nullopt : parse_number<double>(item.substr(colon + 1));
    if (limit == nullptr || limit->has_value() || !ms || !(*ms > 0) || std::isinf(*ms)) {
      return invalid_argument("must be milliseconds like ttft:500,itl:30,e2e:9000, each at most once, not \"" + shown +
                              "\"");
    }
    *limit = *ms;
  } while (!text.empty());
  return limits;
}

}  // namespace skein
