#include "coordinator/cli/bench_load.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

namespace skein {
namespace {

constexpr int kSendsPerTurn = 16;  // then answers get their turn
constexpr int64_t kProgressMs = 10'000;

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

std::string error_kind(const StreamEnd& end) {
  switch (end.kind) {
    case StreamEnd::Kind::kDone: return "empty";
    case StreamEnd::Kind::kConnect: return "connect";
    case StreamEnd::Kind::kCut: return "cut";
    case StreamEnd::Kind::kStatus: return "http_" + std::to_string(end.status);
    case StreamEnd::Kind::kMalformed: return "malformed";
    case StreamEnd::Kind::kTimeout: return "timeout";
  }
  return {};
}

}  // namespace

struct LoadGenerator::Request {
  int output_len = 0;
  Clock::time_point sent;
  AnswerProgress progress;
  std::string error;  // that an event reported
};

LoadGenerator::LoadGenerator(HttpTarget target, const LoadConfig& config)
    : config_(config), schedule_(config.request_rate, config.num_prompts, config.shape.seed) {
  client_.emplace(loop_, std::move(target), config.timeout_seconds * 1000);
}

Result<LoadResult> LoadGenerator::run() {
  RETURN_IF_ERROR(client_->resolve());
  loop_.on_signal({SIGINT, SIGTERM}, [this](int) {
    result_.interrupted = true;
    loop_.stop();
  });
  if (config_.progress) loop_.call_after(kProgressMs, [this] { report_progress(); });
  const double cpu_before = cpu_seconds();
  start_ = free_since_ = Clock::now();
  next_s_ = schedule_.next_s();
  loop_.post([this] { advance(); });
  loop_.run();
  client_.reset();
  result_.duration_s = since_start(Clock::now());
  result_.cpu_share = (cpu_seconds() - cpu_before) / result_.duration_s;
  return std::move(result_);
}

// Sends what is due and arranges to be called for the next.
void LoadGenerator::advance() {
  for (int sends = 0; result_.sent < config_.num_prompts; ++sends) {
    if (config_.max_concurrency > 0 && running_ >= config_.max_concurrency) return;  // on_end() advances
    const auto due = start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(next_s_));
    const bool later = due > Clock::now();
    if (later || sends == kSendsPerTurn) {
      if (std::exchange(turn_pending_, true)) return;
      const auto turn = [this] {
        turn_pending_ = false;
        advance();
      };
      if (later) {
        loop_.call_at(due, turn);
      } else {
        loop_.post(turn);
      }
      return;
    }
    send(due);
  }
}

void LoadGenerator::send(Clock::time_point due) {
  BenchRequest made = make_request(config_.shape, static_cast<uint64_t>(result_.sent));
  const auto request = std::make_shared<Request>();
  request->output_len = made.output_len;
  request->sent = Clock::now();
  const Clock::time_point allowed = std::max(due, free_since_);
  result_.held.add(std::chrono::duration<double>(allowed - due).count());
  result_.lag.add(std::chrono::duration<double>(request->sent - allowed).count());
  result_.sent_s = since_start(request->sent);
  result_.concurrency_peak = std::max(result_.concurrency_peak, ++running_);
  ++result_.sent;
  next_s_ = schedule_.next_s();
  client_->post(config_.shape.endpoint, made.body,
                {.on_event = [this, request](std::string_view data) { return on_event(*request, data); },
                 .on_end = [this, request](const StreamEnd& end) { on_end(*request, end); }});
}

Status LoadGenerator::on_event(Request& request, std::string_view data) {
  const Clock::time_point now = Clock::now();
  ASSIGN_OR_RETURN(const AnswerEvent event, read_event(data));
  if (!event.error.empty()) {
    request.error = event.error;
    return unavailable("the server reported an error within the stream");
  }
  request.progress.on_event(event, std::chrono::duration<double>(now - request.sent).count(), &result_.inter_token);
  return {};
}

void LoadGenerator::on_end(Request& request, const StreamEnd& end) {
  const Clock::time_point now = Clock::now();
  if (end.kind == StreamEnd::Kind::kDone && request.progress.has_tokens()) {
    complete(request, std::chrono::duration<double>(now - request.sent).count());
  } else {
    count_error(request, end);
  }
  if (running_-- == config_.max_concurrency) free_since_ = now;
  if (result_.completed + result_.failed == config_.num_prompts) return loop_.stop();
  advance();
}

void LoadGenerator::complete(const Request& request, double e2e_s) {
  const RequestTimes times = request.progress.times(e2e_s);
  ++result_.completed;
  result_.good += config_.goodput.met_by(times);
  result_.short_answers += request.progress.output_tokens() < request.output_len;
  result_.prompt_tokens += request.progress.prompt_tokens();
  result_.output_tokens += request.progress.output_tokens();
  result_.ttft.add(times.ttft_s);
  result_.e2e.add(times.e2e_s);
  if (times.tpot_s) result_.tpot.add(*times.tpot_s);
}

void LoadGenerator::count_error(const Request& request, const StreamEnd& end) {
  ++result_.failed;
  const bool reported = !request.error.empty();
  LoadErrors& errors = result_.errors[reported ? "error_event" : error_kind(end)];
  if (errors.count++ == 0) {
    errors.example = reported              ? request.error
                     : end.message.empty() ? "the stream ended without a token"
                                           : end.message;
  }
  if (end.kind == StreamEnd::Kind::kStatus && end.retry_after_s) {
    ++result_.retry_after_answers;
    result_.retry_after_s_max = std::max(result_.retry_after_s_max, *end.retry_after_s);
  }
}

void LoadGenerator::report_progress() {
  const double seconds = since_start(Clock::now());
  std::fprintf(stderr, "bench: %.0f s: of %lld requests %lld sent, %lld completed, %lld failed; %.1f output tokens/s\n",
               seconds, static_cast<long long>(config_.num_prompts), static_cast<long long>(result_.sent),
               static_cast<long long>(result_.completed), static_cast<long long>(result_.failed),
               static_cast<double>(result_.output_tokens) / seconds);
  loop_.call_after(kProgressMs, [this] { report_progress(); });
}

}  // namespace skein
