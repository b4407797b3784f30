#include "coordinator/cli/bench_request.h"

#include "base/json.h"

namespace skein {
namespace {

// A token each with most tokenizers, with the blank before them.
constexpr std::string_view kWords[] = {
    "the",  "of",   "and",  "to",    "in",   "is",   "that", "for",  "was",  "on",   "with",
    "as",   "by",   "at",   "from",  "his",  "are",  "be",   "this", "have", "an",   "which",
    "or",   "were", "not",  "but",   "had",  "one",  "all",  "new",  "time", "year",
};

std::string token_ids(BenchRandom& random, const RequestShape& shape, int count) {
  std::string text = "\"prompt\":[";
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(random.within(shape.token_ids));
  }
  return text + ']';
}

std::string words(BenchRandom& random, int count) {
  std::string text = "\"messages\":[{\"role\":\"user\",\"content\":\"";
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += kWords[random.within({0, static_cast<int>(std::size(kWords)) - 1})];
  }
  return text + "\"}]";
}

// A number of tokens that an answer can have.
std::optional<int64_t> count_in(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  if (value == nullptr || !value->is_int() || value->as_int() < 0 || value->as_int() > 1 << 30) return std::nullopt;
  return value->as_int();
}

bool has_text(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value != nullptr && value->is_string() && !value->as_string().empty();
}

std::string error_in(const Json& error) {
  const Json* message = error.is_object() ? error.find("message") : &error;
  return message != nullptr && message->is_string() ? message->as_string() : error.dump().substr(0, 200);
}

}  // namespace

BenchRequest make_request(const RequestShape& shape, uint64_t index) {
  BenchRandom random(shape.seed, index + 1);  // stream 0 is the schedule's
  const int input_len = random.within(shape.input_len);
  const int output_len = random.within(shape.output_len);
  const bool chat = shape.endpoint.ends_with("/chat/completions");
  Json fields = Json::object();
  fields.set("model", shape.model);
  fields.set("max_tokens", output_len);
  fields.set("temperature", shape.temperature);
  fields.set("stream", true);
  Json options = Json::object();
  options.set("include_usage", true);
  if (shape.count_by == "usage") options.set("continuous_usage_stats", true);
  fields.set("stream_options", std::move(options));
  if (shape.count_by == "ids") fields.set("return_token_ids", true);
  if (shape.ignore_eos) fields.set("ignore_eos", true);
  std::string body = fields.dump();
  body.back() = ',';
  body += (chat ? words(random, input_len) : token_ids(random, shape, input_len)) + '}';
  return {.body = std::move(body), .output_len = output_len};
}

Result<AnswerEvent> read_event(std::string_view data) {
  const Result<Json> json = parse_json(data);
  if (!json.ok()) return corrupt("an event of the stream is not JSON: " + json.status().message());
  if (!json->is_object()) return corrupt("an event of the stream is no JSON object");
  AnswerEvent event;
  if (const Json* error = json->find("error"); error != nullptr && !error->is_null()) {
    event.error = error_in(*error);
    return event;
  }
  const Json* choices = json->find("choices");
  if (choices == nullptr || !choices->is_array()) return corrupt("an event of the stream has no choices");
  for (const Json& choice : choices->as_array()) {
    event.has_choice = true;
    const Json* ids = choice.find("token_ids");
    if (ids != nullptr && ids->is_array()) {
      event.token_ids = event.token_ids.value_or(0) + static_cast<int64_t>(ids->as_array().size());
    }
    const Json* delta = choice.find("delta");
    const Json& holder = delta == nullptr ? choice : *delta;
    for (const char* key : {"text", "content", "reasoning_content", "reasoning"}) {
      event.has_text = event.has_text || has_text(holder, key);
    }
  }
  if (const Json* usage = json->find("usage"); usage != nullptr && usage->is_object()) {
    event.completion_tokens = count_in(*usage, "completion_tokens");
    event.prompt_tokens = count_in(*usage, "prompt_tokens");
  }
  return event;
}

void AnswerProgress::on_event(const AnswerEvent& event, double seconds_since_sent, Durations* inter_token) {
  if (event.prompt_tokens) prompt_tokens_ = *event.prompt_tokens;
  if (event.has_choice) {
    const int64_t tokens = event.token_ids           ? *event.token_ids
                           : event.completion_tokens ? *event.completion_tokens - seen_tokens_
                                                     : int64_t{event.has_text};
    if (tokens > 0) {
      if (seen_tokens_ == 0) {
        first_s_ = seconds_since_sent;
      } else {
        inter_token->add((seconds_since_sent - last_s_) / static_cast<double>(tokens), tokens);
      }
      last_s_ = seconds_since_sent;
      seen_tokens_ += tokens;
    }
  }
  output_tokens_ = event.completion_tokens.value_or(seen_tokens_);
}

RequestTimes AnswerProgress::times(double e2e_s) const {
  RequestTimes times{.ttft_s = first_s_, .e2e_s = e2e_s, .tpot_s = {}};
  if (seen_tokens_ > 1) times.tpot_s = (last_s_ - first_s_) / static_cast<double>(seen_tokens_ - 1);
  return times;
}

}  // namespace skein
