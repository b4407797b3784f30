#include "coordinator/api/sampling_fields.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/checked.h"
#include "coordinator/api/random.h"

namespace skein {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr double kTemperatureMax = 1000;
constexpr double kRepetitionMax = 1000;

float as_float(std::optional<double> value, std::optional<double> fallback, double otherwise) {
  return static_cast<float>(value.value_or(fallback.value_or(otherwise)));
}

void read_numbers(Fields& fields, const SamplingDefaults& defaults, SamplingParams* out) {
  const auto temperature = fields.number("temperature", {0, kTemperatureMax});
  const auto top_p = fields.number("top_p", {0, 1, true});
  const auto min_p = fields.number("min_p", {0, 1});
  const auto repetition = fields.number("repetition_penalty", {0, kRepetitionMax, true});
  const auto top_k = fields.integer("top_k", -1, kInt32Max);
  out->temperature = as_float(temperature, defaults.temperature, 1);
  out->top_p = as_float(top_p, defaults.top_p, 1);
  out->min_p = as_float(min_p, defaults.min_p, 0);
  out->repetition_penalty = as_float(repetition, defaults.repetition_penalty, 1);
  out->top_k = std::max<int32_t>(0, static_cast<int32_t>(top_k.value_or(defaults.top_k.value_or(0))));
  out->presence_penalty = as_float(fields.number("presence_penalty", {-2, 2}), {}, 0);
  out->frequency_penalty = as_float(fields.number("frequency_penalty", {-2, 2}), {}, 0);
  const auto seed = fields.integer("seed", std::numeric_limits<int64_t>::min(),
                                   std::numeric_limits<int64_t>::max());
  out->seed = seed ? static_cast<uint64_t>(*seed) : random_u64();
  out->min_tokens = static_cast<int32_t>(fields.integer("min_tokens", 0, kInt32Max).value_or(0));
}

void add_stop(Fields& fields, const Json& value, const ApiLimits& limits, AnswerOptions* out) {
  if (!value.is_string() || value.as_string().empty()) {
    return fields.fail("stop", "`stop` must be a string or an array of strings, none of them empty.");
  }
  if (value.as_string().size() > limits.stop_bytes_max) {
    return fields.fail("stop", "A stop string is longer than " +
                                   std::to_string(limits.stop_bytes_max) + " bytes.");
  }
  out->stops.push_back(value.as_string());
}

void read_stops(Fields& fields, const ServedModel& model, const ApiLimits& limits,
                AnswerOptions* out) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  if (stop->is_string() && stop->as_string().empty()) return;  // as in vLLM: no stop string
  if (!stop->is_array()) {
    add_stop(fields, *stop, limits, out);
  } else if (stop->as_array().size() > limits.stops_max) {
    fields.fail("stop", "`stop` has " + std::to_string(stop->as_array().size()) +
                            " strings; the limit is " + std::to_string(limits.stops_max) + ".");
  } else {
    for (const Json& item : stop->as_array()) add_stop(fields, item, limits, out);
  }
  if (!out->stops.empty() && model.tokenizer == nullptr) {
    fields.fail("stop", "This model has no tokenizer, so stop strings cannot be found.");
  }
}

bool in_vocabulary(std::optional<int64_t> token, const ServedModel& model) {
  return token && *token >= 0 && *token < model.vocabulary;
}

std::string token_range(const ServedModel& model) {
  return "token ids from 0 to " + std::to_string(model.vocabulary - 1);
}

void read_stop_tokens(Fields& fields, const ServedModel& model, const ApiLimits& limits,
                      PreparedRequest* out) {
  std::vector<int32_t>& stops = out->sampling.stop_tokens;
  if (!out->answer.ignore_eos) stops = model.eos_tokens;
  const Json* ids = fields.array("stop_token_ids", limits.stop_tokens_max);
  if (ids == nullptr) return;
  for (const Json& item : ids->as_array()) {
    const std::optional<int64_t> token = as_integer(item);
    if (!in_vocabulary(token, model)) {
      return fields.fail("stop_token_ids", "`stop_token_ids` must be " + token_range(model) + ".");
    }
    const auto id = static_cast<int32_t>(*token);
    if (std::find(stops.begin(), stops.end(), id) == stops.end()) stops.push_back(id);
  }
}

void read_logit_bias(Fields& fields, const ServedModel& model, const ApiLimits& limits,
                     SamplingParams* out) {
  const Json* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
  if (bias->as_object().size() > limits.logit_bias_max) {
    return fields.fail("logit_bias", "`logit_bias` has more than " +
                                         std::to_string(limits.logit_bias_max) + " entries.");
  }
  for (const auto& [key, value] : bias->as_object()) {
    int64_t token = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, token);
    if (parsed.ec != std::errc() || parsed.ptr != end || !in_vocabulary(token, model)) {
      return fields.fail("logit_bias", "The keys of `logit_bias` must be " + token_range(model) + ".");
    }
    if (!value.is_number() || value.as_double() < -100 || value.as_double() > 100) {
      return fields.fail("logit_bias", "The values of `logit_bias` must be numbers from -100 to 100.");
    }
    out->logit_bias.emplace_back(static_cast<int32_t>(token), static_cast<float>(value.as_double()));
  }
}

void read_stream_options(Fields& fields, AnswerOptions* out) {
  const Json* options = fields.object("stream_options");
  if (options == nullptr) return;
  if (!out->stream) {
    return fields.fail("stream_options", "`stream_options` can only be given with `stream`: true.");
  }
  Fields nested(*options, "stream_options.");
  out->include_usage = nested.boolean("include_usage", false);
  out->continuous_usage = nested.boolean("continuous_usage_stats", false) && out->include_usage;
  if (nested.error()) fields.fail(*nested.error());
}

void read_choices(Fields& fields, const ApiLimits& limits, PreparedRequest* out) {
  out->choices = static_cast<int32_t>(fields.integer("n", 1, limits.choices_max).value_or(1));
  const auto best_of = fields.integer("best_of", 1, limits.choices_max);
  if (best_of && *best_of != out->choices) {
    fields.fail("best_of", "`best_of` is supported only where it equals `n`.",
                "unsupported_parameter");
  }
}

}  // namespace

void check_model(Fields& fields, const ServedModel& model) {
  const Json* name = fields.find("model");
  if (name == nullptr || *name == Json("") || *name == Json(model.name)) return;
  if (!name->is_string()) return fields.fail("model", "`model` must be a string.");
  fields.fail({.status = 404,
               .message = "The model `" + name->as_string().substr(0, 256) + "` does not exist.",
               .param = "model",
               .code = "model_not_found"});
}

void read_shared_fields(Fields& fields, const ServedModel& model, const ApiLimits& limits,
                        PreparedRequest* out) {
  AnswerOptions& answer = out->answer;
  answer.stream = fields.boolean("stream", false);
  answer.return_token_ids = fields.boolean("return_token_ids", false);
  answer.tokens_as_ids =
      fields.boolean("return_tokens_as_token_ids", false) || model.tokenizer == nullptr;
  answer.skip_special_tokens = fields.boolean("skip_special_tokens", true);
  answer.include_stop_text = fields.boolean("include_stop_str_in_output", false);
  answer.ignore_eos = fields.boolean("ignore_eos", false);
  out->cache_salt = fields.string("cache_salt", limits.cache_salt_bytes_max).value_or("");
  read_stream_options(fields, &answer);
  read_choices(fields, limits, out);
  read_numbers(fields, model.defaults, &out->sampling);
  read_stops(fields, model, limits, &answer);
  read_stop_tokens(fields, model, limits, out);
  read_logit_bias(fields, model, limits, &out->sampling);
  const auto prompt_logprobs = fields.integer("prompt_logprobs", 0, limits.logprobs_max);
  if (!prompt_logprobs) return;
  if (answer.stream) {
    return fields.fail("prompt_logprobs", "`prompt_logprobs` are not available when streaming.");
  }
  answer.prompt_logprobs = true;
  out->sampling.prompt_logprobs = static_cast<int32_t>(*prompt_logprobs);
}

TokenBudget read_token_budget(Fields& fields, bool zero_allowed) {
  TokenBudget budget;
  const int64_t min = zero_allowed ? 0 : 1;
  budget.asked = fields.integer("max_tokens", min, kInt32Max);
  const auto completion = fields.integer("max_completion_tokens", min, kInt32Max);
  if (completion) {
    budget.asked = completion;
    budget.param = "max_completion_tokens";
  }
  return budget;
}

void apply_budget(Fields& fields, std::string_view prompt_param, const TokenBudget& budget,
                  const ServedModel& model, const ApiLimits& limits, PreparedRequest* out) {
  const std::string context = "This model's context is " + std::to_string(model.context_max) + " tokens";
  int64_t total = 0;
  for (Prompt& prompt : out->prompts) {
    const auto length = static_cast<int64_t>(prompt.tokens.size());
    const int64_t left = model.context_max - length;
    if (left < 1) {
      return fields.fail(prompt_param,
                         context + "; the prompt has " + std::to_string(length) +
                             ", which leaves no room for an answer. Shorten the prompt.",
                         "context_length_exceeded");
    }
    if (budget.asked.value_or(0) > left) {
      return fields.fail(budget.param,
                         context + "; the prompt has " + std::to_string(length) + " and `" +
                             budget.param + "` asks for " + std::to_string(*budget.asked) +
                             " more. At most " + std::to_string(left) + " are left.",
                         "context_length_exceeded");
    }
    int64_t tokens = budget.asked.value_or(std::min(left, budget.otherwise.value_or(left)));
    if (model.defaults.max_tokens) tokens = std::min<int64_t>(tokens, *model.defaults.max_tokens);
    // Where only the prompt is echoed one token is generated and dropped.
    prompt.max_tokens = static_cast<int32_t>(std::max<int64_t>(tokens, 1));
    if (out->sampling.min_tokens > prompt.max_tokens) {
      return fields.fail("min_tokens", "`min_tokens` is " + std::to_string(out->sampling.min_tokens) +
                                           ", more than the " + std::to_string(prompt.max_tokens) +
                                           " tokens that may be generated.");
    }
    total += out->choices * (length + prompt.max_tokens);
  }
  if (total > limits.request_tokens_max) {
    fields.fail("n", "n x (prompt + max_tokens) is " + std::to_string(total) +
                         " tokens; the limit is " + std::to_string(limits.request_tokens_max) +
                         ". Give a smaller `n` or `max_tokens`.");
  }
}

}  // namespace skein
