#include "worker/probe_timer.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

namespace skein {
namespace {

constexpr double kChainUs = 2000;    // of one chain, about
constexpr double kBudgetUs = 30000;  // of all chains of one figure, about
constexpr int kCallsMax = 64;
constexpr int kRoundsMax = 9;
constexpr int kRoundsMin = 1;
constexpr uint64_t kKey = 1;

}  // namespace

double ProbeTimer::slowest(double us) {
  const std::vector<int64_t> all = mpi_.all_gather(static_cast<int64_t>(us * 1e3));
  return static_cast<double>(*std::ranges::max_element(all)) / 1e3;
}

Result<double> ProbeTimer::chain_us(int calls, int replays, const std::function<void()>& body) {
  mpi_.barrier();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < replays; ++i) {
    if (ops_.replay(device_, kKey)) continue;
    for (int call = 0; call < calls; ++call) body();
  }
  RETURN_IF_ERROR(ops_.synchronize(device_));
  return slowest(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
}

Result<double> ProbeTimer::time_us(const std::function<void()>& body) {
  Result<double> us = figure_us(body);
  ops_.forget_recorded(device_);
  return us;
}

Result<double> ProbeTimer::figure_us(const std::function<void()>& body) {
  body();
  RETURN_IF_ERROR(ops_.synchronize(device_));
  mpi_.barrier();
  const auto begin = std::chrono::steady_clock::now();
  body();
  RETURN_IF_ERROR(ops_.synchronize(device_));
  const std::chrono::duration<double, std::micro> once = std::chrono::steady_clock::now() - begin;
  const double estimate = std::max(slowest(once.count()), 1.0);
  const int calls = static_cast<int>(std::clamp(kChainUs / estimate, 1.0, double{kCallsMax}));
  if (ops_.records) {
    ops_.record(device_, kKey);
    for (int call = 0; call < calls; ++call) body();
    RETURN_IF_ERROR(ops_.end_record(device_));
  }
  const int rounds = static_cast<int>(
      std::clamp(kBudgetUs / (estimate * calls), double{kRoundsMin}, double{kRoundsMax}));
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    // The longer less the shorter: what starting and waiting takes drops out.
    ASSIGN_OR_RETURN(const double one, chain_us(calls, 1, body));
    if (!ops_.records) {
      times.push_back(one / calls);
      continue;
    }
    ASSIGN_OR_RETURN(const double three, chain_us(calls, 3, body));
    times.push_back(std::max(three - one, 0.0) / (2 * calls));
  }
  // On cores a step meets all that happens to its threads, what is rare, too.
  if (!ops_.records) return std::reduce(times.begin(), times.end()) / static_cast<double>(times.size());
  std::ranges::sort(times);
  return times[times.size() / 2];
}

std::vector<ProbeSample> medians_of(const std::vector<std::vector<ProbeSample>>& passes) {
  std::vector<ProbeSample> samples = passes.front();
  std::vector<double> times(passes.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    std::ranges::transform(passes, times.begin(), [&](const std::vector<ProbeSample>& pass) { return pass[i].us; });
    const auto middle = times.begin() + static_cast<ptrdiff_t>(times.size() / 2);
    std::ranges::nth_element(times, middle);
    samples[i].us = *middle;
  }
  return samples;
}

}  // namespace skein
