#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/request.h"
#include "base/status.h"
#include "coordinator/template/chat_template.h"
#include "coordinator/text/tokenizer.h"

// The seam between the HTTP API and the replicas. Everything is called on the coordinator's loop thread.

namespace skein {

// generation_config.json, as far as it gives sampling defaults.
struct SamplingDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k, max_tokens;
};

// What the API must know about the model it serves. Immutable after start.
struct ServedModel {
  std::string name;  // --served-model-name
  std::string root;  // where it was loaded from
  int64_t created = 0;  // Unix seconds
  int32_t vocabulary = 0;
  int32_t context_max = 0;  // prompt + generated tokens of one sequence
  std::vector<int32_t> eos_tokens;
  SamplingDefaults defaults;
  std::unique_ptr<Tokenizer> tokenizer;  // null: the model has none; only token-id prompts and outputs then
  std::optional<ChatTemplate> chat_template;
  std::string bos_token, eos_token;  // text, for the template
};

struct EngineHealth {
  bool ready = false;   // at least one replica serves and the server is not draining
  bool draining = false;
  int replicas_ready = 0;
  int replicas = 0;
};

class Engine {
 public:
  // Called on the loop thread for every frame, in order; after one with finish != kNone for each choice, never again.
  using OnFrame = std::function<void(const TokenFrame&)>;

  virtual ~Engine() = default;
  // Assigns the id. kResourceExhausted when the queue is full (429), kUnavailable when no replica is there (503).
  // On success frames follow; never before submit returns.
  virtual Result<uint64_t> submit(GenerationRequest request, OnFrame on_frame) = 0;
  // No frame follows. Unknown ids are ignored.
  virtual void cancel(uint64_t id) = 0;
  virtual EngineHealth health() const = 0;
  // Prometheus text exposition of everything.
  virtual std::string metrics() const = 0;
  // The machines that replicas run on, as JSON (docs/bare-metal.md).
  virtual std::string nodes() const = 0;
};

}  // namespace skein
