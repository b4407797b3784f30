#include "coordinator/cli/bench_report.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace skein {
namespace {

constexpr double kLagMsMax = 10;      // at the 99th percentile
constexpr double kCpuShareMax = 0.9;  // of one core

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void append(std::string* out, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  *out += line;
}

long long number(int64_t value) { return value; }

double per_second(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

// Of arrivals of which the first was at 0.
double sent_rate(const LoadResult& result) { return per_second(result.sent - 1, result.sent_s); }

Json durations_json(const Durations& durations) {
  if (durations.count() == 0) return {};
  Json out = Json::object();
  out.set("mean", durations.mean_ms());
  out.set("p50", durations.percentile_ms(0.5));
  out.set("p90", durations.percentile_ms(0.9));
  out.set("p95", durations.percentile_ms(0.95));
  out.set("p99", durations.percentile_ms(0.99));
  out.set("max", durations.max_ms());
  out.set("count", durations.count());
  return out;
}

Json range_json(const LengthRange& range) { return Json(Json::Array{range.least, range.most}); }

Json goodput_json(const LoadConfig& config, const LoadResult& result) {
  const GoodputLimits& limits = config.goodput;
  if (!limits.ttft_ms && !limits.itl_ms && !limits.e2e_ms) return {};
  Json out = Json::object();
  out.set("ttft_ms", optional_json(limits.ttft_ms));
  out.set("itl_ms", optional_json(limits.itl_ms));
  out.set("e2e_ms", optional_json(limits.e2e_ms));
  out.set("requests", result.good);
  out.set("share", per_second(result.good, static_cast<double>(result.sent)));
  out.set("requests_per_second", per_second(result.good, result.duration_s));
  return out;
}

Json errors_json(const LoadResult& result) {
  Json out = Json::object();
  for (const auto& [kind, errors] : result.errors) {
    Json entry = Json::object();
    entry.set("count", errors.count);
    entry.set("example", errors.example);
    out.set(kind, std::move(entry));
  }
  return out;
}

Json generator_json(const LoadConfig& config, const LoadResult& result) {
  Json out = Json::object();
  out.set("request_rate_sent", result.sent > 1 ? Json(sent_rate(result)) : Json());
  out.set("lag_ms", durations_json(result.lag));
  out.set("held_ms", durations_json(result.held));
  out.set("concurrency_peak", result.concurrency_peak);
  out.set("cpu_share", result.cpu_share);
  out.set("verdict", schedule_verdict(config, result));
  return out;
}

void append_row(const char* name, const Durations& d, std::string* out) {
  if (d.count() == 0) return;
  append(out, "    %-19s %8.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, d.mean_ms(), d.percentile_ms(0.5),
         d.percentile_ms(0.9), d.percentile_ms(0.95), d.percentile_ms(0.99), d.max_ms());
}

void append_goodput(const LoadConfig& config, const LoadResult& result, std::string* out) {
  const GoodputLimits& limits = config.goodput;
  if (!limits.ttft_ms && !limits.itl_ms && !limits.e2e_ms) return;
  append(out, "  goodput    %lld of %lld requests (%.1f %%), %.2f requests/s, within", number(result.good),
         number(result.sent), 100 * per_second(result.good, static_cast<double>(result.sent)),
         per_second(result.good, result.duration_s));
  if (limits.ttft_ms) append(out, " TTFT %g ms", *limits.ttft_ms);
  if (limits.itl_ms) append(out, " ITL %g ms", *limits.itl_ms);
  if (limits.e2e_ms) append(out, " e2e %g ms", *limits.e2e_ms);
  *out += "\n";
}

void append_errors(const LoadResult& result, std::string* out) {
  for (const auto& [kind, errors] : result.errors) {
    append(out, "  error      %s: %lld, such as: %.300s\n", kind.c_str(), number(errors.count), errors.example.c_str());
  }
  if (result.retry_after_answers > 0) {
    append(out, "  refused    %lld with Retry-After, of at most %lld s\n", number(result.retry_after_answers),
           number(result.retry_after_s_max));
  }
}

void append_generator(const LoadConfig& config, const LoadResult& result, std::string* out) {
  if (std::isinf(config.request_rate)) {
    *out += "  generator  asked to send all at once";
  } else {
    append(out, "  generator  asked for %.2f requests/s", config.request_rate);
  }
  if (result.sent > 1) append(out, ", sent %.2f/s", sent_rate(result));
  append(out, "; lag p50 %.2f ms, p99 %.2f ms; %lld at once; %.0f %% of a core\n", result.lag.percentile_ms(0.5),
         result.lag.percentile_ms(0.99), number(result.concurrency_peak), 100 * result.cpu_share);
  if (result.held.max_ms() > 0) {
    append(out, "             held back by --max-concurrency: p50 %.1f ms, p99 %.1f ms\n",
           result.held.percentile_ms(0.5), result.held.percentile_ms(0.99));
  }
  if (const std::string verdict = schedule_verdict(config, result); !verdict.empty()) {
    *out += "  note       " + verdict + "\n";
  }
}

}  // namespace

Json optional_json(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

std::string schedule_verdict(const LoadConfig& config, const LoadResult& result) {
  std::string out;
  const bool finite = !std::isinf(config.request_rate);
  if (result.cpu_share > kCpuShareMax) {
    append(&out, "the generator was the bottleneck: it used %.0f %% of a core", 100 * result.cpu_share);
  } else if (finite && result.lag.percentile_ms(0.99) > kLagMsMax) {
    append(&out, "the generator was late: 1 %% of the requests left %.1f ms or more after their time; give it a free core",
           result.lag.percentile_ms(0.99));
  } else if (finite && result.held.percentile_ms(0.5) > kLagMsMax) {
    append(&out, "--max-concurrency held most requests back: the asked rate was not offered");
  }
  return out;
}

Json load_json(const std::string& url, const LoadConfig& config, const LoadResult& result) {
  const RequestShape& shape = config.shape;
  Json out = Json::object();
  out.set("url", url);
  out.set("endpoint", shape.endpoint);
  out.set("model", shape.model);
  out.set("seed", shape.seed);
  out.set("num_prompts", config.num_prompts);
  out.set("input_len", range_json(shape.input_len));
  out.set("output_len", range_json(shape.output_len));
  out.set("ignore_eos", shape.ignore_eos);
  out.set("temperature", shape.temperature);
  out.set("count_by", shape.count_by);
  out.set("request_rate", std::isinf(config.request_rate) ? Json("inf") : Json(config.request_rate));
  out.set("max_concurrency", config.max_concurrency > 0 ? Json(config.max_concurrency) : Json());
  out.set("interrupted", result.interrupted);
  out.set("duration_seconds", result.duration_s);
  out.set("requests_sent", result.sent);
  out.set("requests_completed", result.completed);
  out.set("requests_failed", result.failed);
  out.set("requests_short", result.short_answers);
  out.set("prompt_tokens", result.prompt_tokens);
  out.set("output_tokens", result.output_tokens);
  out.set("requests_per_second", per_second(result.completed, result.duration_s));
  out.set("output_tokens_per_second", per_second(result.output_tokens, result.duration_s));
  out.set("total_tokens_per_second", per_second(result.prompt_tokens + result.output_tokens, result.duration_s));
  out.set("ttft_ms", durations_json(result.ttft));
  out.set("itl_ms", durations_json(result.inter_token));
  out.set("tpot_ms", durations_json(result.tpot));
  out.set("e2e_ms", durations_json(result.e2e));
  out.set("goodput", goodput_json(config, result));
  out.set("errors", errors_json(result));
  out.set("retry_after_answers", result.retry_after_answers);
  out.set("retry_after_seconds_max", result.retry_after_s_max);
  out.set("generator", generator_json(config, result));
  return out;
}

std::string load_text(const std::string& url, const LoadConfig& config, const LoadResult& result) {
  std::string out = url + config.shape.endpoint + ", model " + config.shape.model + "\n";
  append(&out, "  requests   %lld completed, %lld failed in %.2f s: %.2f requests/s\n", number(result.completed),
         number(result.failed), result.duration_s, per_second(result.completed, result.duration_s));
  append(&out, "  tokens     %lld in, %lld out: %.1f output tokens/s, %.1f tokens/s in all\n",
         number(result.prompt_tokens), number(result.output_tokens),
         per_second(result.output_tokens, result.duration_s),
         per_second(result.prompt_tokens + result.output_tokens, result.duration_s));
  if (result.short_answers > 0) {
    append(&out, "             %lld answers had fewer tokens than asked for\n", number(result.short_answers));
  }
  append(&out, "  %-21s %8s %9s %9s %9s %9s %9s\n", "milliseconds", "mean", "p50", "p90", "p95", "p99", "max");
  append_row("time to first token", result.ttft, &out);
  append_row("inter-token", result.inter_token, &out);
  append_row("mean of a request", result.tpot, &out);
  append_row("end to end", result.e2e, &out);
  append_goodput(config, result, &out);
  append_errors(result, &out);
  append_generator(config, result, &out);
  return out;
}

}  // namespace skein
