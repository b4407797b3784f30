#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/api/answer_json.h"
#include "coordinator/api/observer.h"
#include "coordinator/engine.h"
#include "coordinator/http/message.h"

namespace skein {

// What every request of one API works with. All outlive the requests.
struct GenerationContext {
  Engine& engine;
  const ServedModel& model;
  const ApiLimits& limits;
  RequestObserver& observer;
};

// One completion or chat request from its arrival to its last byte: submits its prompts, turns frames into the answer,
// cancels what nobody waits for any more. Loop thread only. The engine's callbacks keep it alive.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(const GenerationContext& context, std::shared_ptr<ResponseWriter> writer,
             std::string id, std::string path);

  // Call once, first: from then on the client's leaving ends the request.
  void watch_client();
  // Then either of these, once.
  void start(PreparedRequest request);
  void refuse(const HttpError& error);

  // Set when nobody waits for the answer any more. Readable from any thread.
  const std::shared_ptr<const std::atomic<bool>> abandoned() const { return abandoned_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct PromptState {
    uint64_t id = 0;
    int32_t engine_open = 0;  // choices the engine has not finished
    int32_t text_open = 0;    // choices whose text goes on
    std::vector<TokenLogprob> logprobs;
    int64_t cached_tokens = 0;
    bool started = false;     // its first token came
    bool submitted = false;
  };
  struct ChoiceState {
    Choice choice;
    ChoiceDelta held = {};    // not yet written: the whole choice when not streaming
    bool holds = false;       // is in holding_
    bool sent = false;        // its first chunk
    bool engine_done = false;
    Clock::time_point last{};
  };

  bool submit(size_t p);
  void on_frame(size_t p, const TokenFrame& frame);
  void on_choice_frame(size_t p, ChoiceState& state, size_t index, const TokenFrame& frame);
  void observe(PromptState& prompt, ChoiceState& state, const TokenFrame& frame);
  void hold(size_t index, ChoiceState& state, ChoiceDelta delta);
  void send_held();
  void send(size_t index, ChoiceState& state, const ChoiceDelta& delta);
  void write_event(const std::string& json);
  void cancel_all();
  void complete();
  void fail(const HttpError& error);
  void finish(int status, std::string_view reason);
  void log_end(int status, const RequestSummary& summary, std::string_view reason) const;
  Usage usage() const;
  Usage choice_usage(size_t index) const;
  double seconds_since_start() const;

  const GenerationContext& context_;
  const std::shared_ptr<ResponseWriter> writer_;
  const std::string id_;
  const std::string path_;
  const Clock::time_point arrived_ = Clock::now();
  const std::shared_ptr<std::atomic<bool>> abandoned_ = std::make_shared<std::atomic<bool>>(false);

  PreparedRequest request_;
  std::unique_ptr<AnswerJson> json_;
  std::vector<PromptState> prompts_;
  std::vector<ChoiceState> choices_;  // index: prompt x n + choice
  int64_t text_open_ = 0;
  size_t held_bytes_ = 0;             // of all choices
  std::vector<size_t> holding_;       // choices that hold something, when streaming
  double ttft_s_ = -1;
  bool over_ = false;
};

}  // namespace skein
