#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/api/api.h"

// What the API is tested against: an engine that a test plays by hand, a tokenizer of bytes, a writer that remembers.

namespace skein::testing {

// Ids 0 to 255 are bytes; a few longer and special tokens follow.
class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256, kEos = 257, kHello = 258, kWorld = 259, kEot = 260;
  static constexpr int32_t kSize = 261;

  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> ids;
    if (add_special_tokens) ids.push_back(kBos);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override {
    IncrementalDecoder decoder(*this, skip_special_tokens);
    std::string text;
    for (const int32_t id : ids) text += decoder.push(id);
    return text + decoder.finish();
  }
  std::string token_bytes(int32_t id) const override {
    static constexpr const char* kLong[] = {"<s>", "</s>", "hello", " world", "<eot>"};
    return id < 256 ? std::string(1, static_cast<char>(id)) : kLong[id - 256];
  }
  bool is_special(int32_t id) const override { return id == kBos || id == kEos || id == kEot; }
  std::optional<int32_t> find(std::string_view) const override { return std::nullopt; }
  int32_t size() const override { return kSize; }
  std::optional<int32_t> bos() const override { return kBos; }
  std::optional<int32_t> eos() const override { return kEos; }
};

inline constexpr char kTemplate[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

inline ServedModel fake_model(int32_t context_max = 512) {
  ServedModel model;
  model.name = "org/fake";
  model.root = "/models/fake";
  model.created = 1700000000;
  model.vocabulary = FakeTokenizer::kSize;
  model.context_max = context_max;
  model.eos_tokens = {FakeTokenizer::kEos, FakeTokenizer::kEot};
  model.tokenizer = std::make_unique<FakeTokenizer>();
  Result<ChatTemplate> chat = ChatTemplate::compile(kTemplate);
  if (chat.ok()) model.chat_template.emplace(std::move(chat).value());
  return model;
}

// Takes what it is given; the test sends the frames.
class FakeEngine : public Engine {
 public:
  struct Submitted {
    GenerationRequest request;
    OnFrame on_frame;
  };

  Result<uint64_t> submit(GenerationRequest request, OnFrame on_frame) override {
    if (refusal) return *refusal;
    request.id = submitted.size();
    submitted.push_back({std::move(request), std::move(on_frame)});
    return submitted.size() - 1;
  }
  void cancel(uint64_t id) override {
    cancelled.push_back(id);
    if (id < submitted.size()) submitted[id].on_frame = nullptr;
  }
  EngineHealth health() const override { return health_now; }
  std::string metrics() const override { return "# fake\n"; }
  std::string nodes() const override { return "{\"nodes\":[]}"; }

  // A frame of `tokens` for the newest request, or for request `id`.
  void send(std::vector<int32_t> tokens, FinishReason finish = FinishReason::kNone,
            int32_t choice = 0, int64_t id = -1) {
    TokenFrame frame;
    frame.choice = choice;
    frame.tokens = std::move(tokens);
    frame.finish = finish;
    send_frame(std::move(frame), id);
  }
  void send_frame(TokenFrame frame, int64_t id = -1) {
    Submitted& to = submitted[id < 0 ? submitted.size() - 1 : static_cast<size_t>(id)];
    frame.request = to.request.id;
    if (!to.on_frame) return;
    const OnFrame call = to.on_frame;
    call(frame);
  }
  void send_text(std::string_view text, FinishReason finish = FinishReason::kNone, int32_t choice = 0,
                 int64_t id = -1) {
    std::vector<int32_t> tokens;
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    send(std::move(tokens), finish, choice, id);
  }

  std::optional<Status> refusal;
  EngineHealth health_now{.ready = true, .replicas_ready = 1, .replicas = 1};
  std::vector<Submitted> submitted;
  std::vector<uint64_t> cancelled;
};

class FakeWriter : public ResponseWriter {
 public:
  void respond(HttpResponse answer) override {
    response = std::move(answer);
    ended = true;
    closed_ = ready_ = nullptr;
  }
  void start(int status, std::string_view content_type) override {
    response.status = status;
    response.content_type = content_type;
    started = true;
  }
  void write(std::string_view bytes) override { response.body += bytes; }
  void end() override {
    ended = true;
    closed_ = ready_ = nullptr;
  }
  bool ready() const override { return !busy; }
  void on_ready(std::function<void()> fn) override { ready_ = std::move(fn); }
  void on_closed(std::function<void()> fn) override { closed_ = std::move(fn); }

  // What was written has left.
  void leave() {
    busy = false;
    if (const auto fn = ready_) fn();
  }

  void close() {
    if (const auto fn = std::exchange(closed_, nullptr)) fn();
  }
  // The data of every server-sent event so far.
  std::vector<std::string> events() const {
    std::vector<std::string> out;
    std::string_view rest = response.body;
    for (size_t end; (end = rest.find("\n\n")) != rest.npos; rest.remove_prefix(end + 2)) {
      std::string_view event = rest.substr(0, end);
      if (event.starts_with("data: ")) event.remove_prefix(6);
      out.emplace_back(event);
    }
    return out;
  }
  Json json() const { return parse_json(response.body).value(); }

  HttpResponse response;
  bool started = false;
  bool ended = false;
  bool busy = false;  // what was written waits

 private:
  std::function<void()> closed_, ready_;
};

class FakeObserver : public RequestObserver {
 public:
  void first_token(double, int64_t prompt_tokens) override { prompts.push_back(prompt_tokens); }
  void tokens_generated(int64_t tokens) override { generated += tokens; }
  void inter_token(double, int64_t tokens) override { gaps += tokens; }
  void choice_finished(std::string_view reason) override { reasons.emplace_back(reason); }
  void request_finished(const RequestSummary& summary) override { summaries.push_back(summary); }

  std::vector<int64_t> prompts;
  int64_t generated = 0, gaps = 0;
  std::vector<std::string> reasons;
  std::vector<RequestSummary> summaries;
};

// The loop's end of a TextPool: calls posted from its threads, run by the test.
class PostedCalls {
 public:
  void post(std::function<void()> fn) {
    {
      std::lock_guard lock(mutex_);
      calls_.push_back(std::move(fn));
    }
    filled_.notify_one();
  }
  void run_one() {
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [&] { return !calls_.empty(); });
    const std::function<void()> call = std::move(calls_.front());
    calls_.pop_front();
    lock.unlock();
    call();
  }

 private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::function<void()>> calls_;
};

// An Api with all that it needs.
struct ApiUnderTest {
  explicit ApiUnderTest(ServedModel served = fake_model(), ApiLimits limits = {})
      : model(std::move(served)), api(engine, model, observer, pool, limits) {}

  std::shared_ptr<FakeWriter> call(std::string method, std::string path, std::string body = {},
                                   std::vector<HttpHeader> headers = {{"content-type", "application/json"}}) {
    auto writer = std::make_shared<FakeWriter>();
    api.handle({.method = std::move(method), .path = std::move(path), .query = {},
                .headers = std::move(headers), .body = std::move(body), .body_charge = nullptr},
               writer);
    if (!writer->ended) calls.run_one();
    return writer;
  }
  std::shared_ptr<FakeWriter> post(std::string path, std::string body) {
    return call("POST", std::move(path), std::move(body));
  }
  const GenerationRequest& request(size_t i = 0) const { return engine.submitted.at(i).request; }

  FakeEngine engine;
  FakeObserver observer;
  PostedCalls calls;
  ServedModel model;
  TextPool pool{1, 8, [this](std::function<void()> fn) { calls.post(std::move(fn)); }};
  Api api;
};

}  // namespace skein::testing
