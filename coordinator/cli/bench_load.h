#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "coordinator/cli/bench_request.h"
#include "coordinator/cli/bench_statistics.h"
#include "coordinator/http/loop.h"
#include "coordinator/http/stream_client.h"

namespace skein {

struct LoadConfig {
  RequestShape shape = {};
  double request_rate = 0;  // a second; may be infinite
  int64_t num_prompts = 0;
  int64_t max_concurrency = 0;  // 0: no bound
  int64_t timeout_seconds = 0;  // of one request
  GoodputLimits goodput = {};
  bool progress = false;  // a line on standard error from time to time
};

struct LoadErrors {
  int64_t count = 0;
  std::string example;  // the first one's sentence
};

struct LoadResult {
  int64_t sent = 0;
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t short_answers = 0;  // completed, with fewer tokens than asked for
  int64_t good = 0;
  int64_t prompt_tokens = 0;  // of completed requests, as is the next
  int64_t output_tokens = 0;
  int64_t concurrency_peak = 0;
  std::map<std::string, LoadErrors> errors;  // connect, http_429, cut, malformed, timeout, error_event, ...
  int64_t retry_after_answers = 0;           // refusals with that header
  int64_t retry_after_s_max = 0;

  Durations ttft, inter_token, tpot, e2e;  // from sent: the connection is part of it
  Durations held;                          // by max_concurrency, after the scheduled arrival
  Durations lag;                           // of the generator behind what schedule and max_concurrency allow

  double duration_s = 0;   // from the start to the last end
  double sent_s = 0;       // from the start to the last one sent
  double cpu_share = 0;    // of one core that the generator used
  bool interrupted = false;
};

// Sends requests on a schedule that does not wait for answers, and measures the answers. Single-owner: the thread in
// run(). Memory depends on the streams at once, not on their number.
class LoadGenerator {
 public:
  LoadGenerator(HttpTarget target, const LoadConfig& config);

  // Until every request has ended, or SIGINT or SIGTERM.
  Result<LoadResult> run();

 private:
  using Clock = std::chrono::steady_clock;
  struct Request;

  void advance();
  void send(Clock::time_point due);
  Status on_event(Request& request, std::string_view data);
  void on_end(Request& request, const StreamEnd& end);
  void complete(const Request& request, double e2e_s);
  void count_error(const Request& request, const StreamEnd& end);
  void report_progress();
  double since_start(Clock::time_point time) const {
    return std::chrono::duration<double>(time - start_).count();
  }

  const LoadConfig& config_;
  Loop loop_;
  std::optional<StreamClient> client_;
  ArrivalSchedule schedule_;
  LoadResult result_;
  int64_t running_ = 0;
  double next_s_ = 0;  // the next arrival's
  bool turn_pending_ = false;  // a timer or a posted call will advance
  Clock::time_point start_;
  Clock::time_point free_since_;  // when max_concurrency last left room
};

}  // namespace skein
