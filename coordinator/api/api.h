#pragma once

#include <functional>
#include <memory>
#include <string>

#include "coordinator/api/generation.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/observer.h"
#include "coordinator/api/text_pool.h"
#include "coordinator/engine.h"
#include "coordinator/http/message.h"

namespace skein {

// OpenAI's protocol, as vLLM speaks it, over any transport: routes, checks, answers. Loop thread only.
//   GET  /v1/models /v1/models/ID /health /livez /readyz /metrics /version /v1/skein/nodes
//   POST /v1/completions /v1/chat/completions /tokenize /detokenize
class Api {
 public:
  // Requires: everything outlives this object and the last request. `pool` posts to this thread.
  Api(Engine& engine, const ServedModel& model, RequestObserver& observer, TextPool& pool,
      const ApiLimits& limits);
  Api(const Api&) = delete;
  Api& operator=(const Api&) = delete;

  // Answers through `writer`, now or later. For HttpServer.
  void handle(HttpRequest request, const std::shared_ptr<ResponseWriter>& writer);

 private:
  using Writer = std::shared_ptr<ResponseWriter>;
  struct Route;
  static const Route kRoutes[];

  void complete(HttpRequest&& request, const Writer& writer);
  void chat(HttpRequest&& request, const Writer& writer);
  void tokenize(HttpRequest&& request, const Writer& writer);
  void detokenize(HttpRequest&& request, const Writer& writer);
  void models(HttpRequest&& request, const Writer& writer);
  void health(HttpRequest&& request, const Writer& writer);
  void live(HttpRequest&& request, const Writer& writer);
  void metrics(HttpRequest&& request, const Writer& writer);
  void version(HttpRequest&& request, const Writer& writer);
  void nodes(HttpRequest&& request, const Writer& writer);

  void one_model(const std::string& name, const Writer& writer);
  Json model_json() const;
  using Prepare = std::optional<HttpError> (*)(const Json&, const ServedModel&, const ApiLimits&,
                                               PreparedRequest*);
  using AnswerText = std::optional<HttpError> (*)(const Json&, const ServedModel&, const ApiLimits&,
                                                  std::string*);
  void generate(HttpRequest request, const Writer& writer, std::string_view id_prefix, Prepare prepare);
  void answer_text(HttpRequest request, const Writer& writer, AnswerText answer);

  const ApiLimits limits_;
  const ServedModel& model_;
  Engine& engine_;
  TextPool& pool_;
  const GenerationContext context_;
};

// The body as a JSON object, or why not.
std::optional<HttpError> parse_body(const std::string& body, const ApiLimits& limits, Json* out);

}  // namespace skein
