#include "coordinator/api/api.h"

#include <algorithm>
#include <utility>

#include "coordinator/api/random.h"

namespace skein {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kMemberBytesMax = 64;  // of an unknown field's name in an error

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

// JSON must be announced: a browser then asks before it sends another site's request here.
bool is_json(const HttpRequest& request) {
  const std::string* type = request.header("content-type");
  if (type == nullptr) return false;
  std::string media = lower(type->substr(0, type->find(';')));
  while (!media.empty() && (media.back() == ' ' || media.back() == '\t')) media.pop_back();
  return media == "application/json";
}

// The client's own id for the request, where it is a plain word; else a random one.
std::string request_id(const HttpRequest& request) {
  const std::string* given = request.header("x-request-id");
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.';
  };
  const bool usable = given != nullptr && !given->empty() && given->size() <= kRequestIdBytesMax &&
                      std::all_of(given->begin(), given->end(), plain);
  return usable ? *given : random_hex32();
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
    if (low < 0) {
      out += text[i];
      continue;
    }
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

HttpError busy() {
  return {.status = 503, .message = "Too many requests wait to be tokenized; try again.", .code = "busy"};
}

}  // namespace

struct Api::Route {
  std::string_view path;
  std::string_view method;
  void (Api::*answer)(HttpRequest&&, const Writer&);
};

const Api::Route Api::kRoutes[] = {
    {"/v1/completions", "POST", &Api::complete},
    {"/v1/chat/completions", "POST", &Api::chat},
    {"/tokenize", "POST", &Api::tokenize},
    {"/detokenize", "POST", &Api::detokenize},
    {"/v1/models", "GET", &Api::models},
    {"/health", "GET", &Api::health},
    {"/readyz", "GET", &Api::health},
    {"/livez", "GET", &Api::live},
    {"/metrics", "GET", &Api::metrics},
    {"/version", "GET", &Api::version},
    {"/v1/skein/nodes", "GET", &Api::nodes},
};

Api::Api(Engine& engine, const ServedModel& model, RequestObserver& observer, TextPool& pool,
         const ApiLimits& limits)
    : limits_(limits),
      model_(model),
      engine_(engine),
      pool_(pool),
      context_{engine, model, limits_, observer} {}

void Api::handle(HttpRequest request, const Writer& writer) {
  constexpr std::string_view kModelPrefix = "/v1/models/";
  const bool one_model_path = request.path.starts_with(kModelPrefix);
  std::string_view allowed = one_model_path ? "GET" : "";
  for (const Route& route : kRoutes) {
    if (route.path != request.path) continue;
    allowed = route.method;
    if (route.method == request.method) return (this->*route.answer)(std::move(request), writer);
  }
  if (allowed.empty()) {
    return writer->respond(error_response(
        {.status = 404, .message = "There is nothing at this path.", .code = "unknown_url"}));
  }
  if (one_model_path && request.method == "GET") {
    return one_model(percent_decode(std::string_view(request.path).substr(kModelPrefix.size())), writer);
  }
  HttpResponse response = error_response(
      {.status = 405, .message = "This path takes " + std::string(allowed) + " only.",
       .code = "method_not_allowed"});
  response.headers.push_back({"Allow", std::string(allowed)});
  writer->respond(std::move(response));
}

// ---- plain answers

Json Api::model_json() const {
  return Json::Object{{"id", model_.name},       {"object", "model"},
                      {"created", model_.created}, {"owned_by", "skein"},
                      {"root", model_.root},     {"parent", nullptr},
                      {"max_model_len", model_.context_max}, {"permission", Json::array()}};
}

void Api::models(HttpRequest&&, const Writer& writer) {
  Json list = Json::array();
  list.push_back(model_json());
  writer->respond({.body = Json(Json::Object{{"object", "list"}, {"data", std::move(list)}}).dump()});
}

void Api::one_model(const std::string& name, const Writer& writer) {
  if (name == model_.name) return writer->respond({.body = model_json().dump()});
  writer->respond(error_response({.status = 404,
                                  .message = "The model `" + name.substr(0, 256) + "` does not exist.",
                                  .param = "model",
                                  .code = "model_not_found"}));
}

void Api::health(HttpRequest&&, const Writer& writer) {
  const EngineHealth health = engine_.health();
  const bool ready = health.ready && !health.draining;
  const char* status = health.draining ? "draining" : ready ? "ready" : "starting";
  writer->respond({.status = ready ? 200 : 503,
                   .body = Json(Json::Object{{"status", status},
                                             {"replicas_ready", health.replicas_ready},
                                             {"replicas", health.replicas}})
                               .dump()});
}

void Api::live(HttpRequest&&, const Writer& writer) {
  writer->respond({.body = Json(Json::Object{{"status", "live"}}).dump()});
}

void Api::metrics(HttpRequest&&, const Writer& writer) {
  writer->respond({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = engine_.metrics()});
}

void Api::version(HttpRequest&&, const Writer& writer) {
  writer->respond({.body = Json(Json::Object{{"version", SKEIN_BUILD}}).dump()});
}

void Api::nodes(HttpRequest&&, const Writer& writer) { writer->respond({.body = engine_.nodes()}); }

// ---- answers that need the text pool

std::optional<HttpError> parse_body(const std::string& body, const ApiLimits& limits, Json* out) {
  std::string member;
  Result<Json> parsed = parse_json(body, {.bytes_max = limits.json_bytes_max,
                                          .depth_max = limits.json_depth_max,
                                          .values_max = limits.json_values_max},
                                   &member);
  if (!parsed.ok()) {
    return HttpError{.message = "The request's body is no valid " + parsed.status().message() + ".",
                     .param = member.substr(0, kMemberBytesMax),
                     .code = "invalid_json"};
  }
  if (!parsed->is_object()) return HttpError{.message = "The request's body must be a JSON object."};
  if (parsed->as_object().size() > limits.members_max) {
    return HttpError{.message = "The request has more than " + std::to_string(limits.members_max) +
                                " fields."};
  }
  *out = std::move(*parsed);
  return std::nullopt;
}

void Api::complete(HttpRequest&& request, const Writer& writer) {
  generate(std::move(request), writer, "cmpl-", prepare_completion);
}

void Api::chat(HttpRequest&& request, const Writer& writer) {
  generate(std::move(request), writer, "chatcmpl-", prepare_chat);
}

void Api::tokenize(HttpRequest&& request, const Writer& writer) {
  answer_text(std::move(request), writer, answer_tokenize);
}

void Api::detokenize(HttpRequest&& request, const Writer& writer) {
  answer_text(std::move(request), writer, answer_detokenize);
}

void Api::generate(HttpRequest request, const Writer& writer, std::string_view id_prefix,
                   Prepare prepare) {
  const auto generation = std::make_shared<Generation>(
      context_, writer, std::string(id_prefix) + request_id(request), request.path);
  generation->watch_client();
  if (!is_json(request)) {
    return generation->refuse({.status = 415, .message = "The Content-Type must be application/json."});
  }
  if (engine_.health().draining) {
    return generation->refuse({.status = 503, .message = "The server is shutting down.", .code = "draining"});
  }
  struct Job {
    HttpRequest http;
    PreparedRequest prepared;
    std::optional<HttpError> error;
  };
  const auto job = std::make_shared<Job>();
  job->http = std::move(request);
  auto work = [this, job, prepare, abandoned = generation->abandoned()] {
    if (abandoned->load(std::memory_order_relaxed)) return;
    Json body;
    job->error = parse_body(job->http.body, limits_, &body);
    job->http = {};
    if (!job->error) job->error = prepare(body, model_, limits_, &job->prepared);
  };
  auto done = [job, generation] {
    if (job->error) return generation->refuse(*job->error);
    generation->start(std::move(job->prepared));
  };
  if (!pool_.submit(std::move(work), std::move(done))) generation->refuse(busy());
}

void Api::answer_text(HttpRequest request, const Writer& writer, AnswerText answer) {
  if (!is_json(request)) {
    return writer->respond(
        error_response({.status = 415, .message = "The Content-Type must be application/json."}));
  }
  struct Job {
    HttpRequest http;
    std::string text;
    std::optional<HttpError> error;
  };
  const auto job = std::make_shared<Job>();
  job->http = std::move(request);
  auto work = [this, job, answer] {
    Json body;
    job->error = parse_body(job->http.body, limits_, &body);
    job->http = {};
    if (!job->error) job->error = answer(body, model_, limits_, &job->text);
  };
  auto done = [job, writer] {
    writer->respond(job->error ? error_response(*job->error) : HttpResponse{.body = std::move(job->text)});
  };
  if (!pool_.submit(std::move(work), std::move(done))) writer->respond(error_response(busy()));
}

}  // namespace skein
