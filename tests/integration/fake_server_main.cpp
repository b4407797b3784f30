// The HTTP server and the API over an engine that needs no model: it answers every prompt with the same text, one byte a
// token. For clients to be tested against: fake_server [--port N] [--api-key-file F] [--token-ms N]

#include <csignal>
#include <cstdio>
#include <map>
#include <string>

#include "coordinator/http/loop.h"
#include "coordinator/http/server.h"
#include "tests/unit/coordinator/api/fakes.h"

namespace skein {
namespace {

constexpr std::string_view kAnswer = "Geese fly in a skein. \xF0\x9F\xAA\xBF Each rests behind another. ";

class AnswerEngine : public Engine {
 public:
  AnswerEngine(Loop& loop, int64_t token_ms) : loop_(loop), token_ms_(token_ms) {}

  Result<uint64_t> submit(GenerationRequest request, OnFrame on_frame) override {
    const uint64_t id = ++last_id_;
    running_[id] = {std::move(request), std::move(on_frame), 0};
    ++submitted_;
    schedule(id);
    return id;
  }
  void cancel(uint64_t id) override { cancelled_ += static_cast<int64_t>(running_.erase(id)); }
  EngineHealth health() const override {
    return {.ready = true, .draining = draining, .replicas_ready = 1, .replicas = 1};
  }
  std::string metrics() const override {
    return "fake_running " + std::to_string(running_.size()) + "\nfake_submitted " +
           std::to_string(submitted_) + "\nfake_cancelled " + std::to_string(cancelled_) + "\n";
  }

  bool draining = false;

 private:
  struct Running {
    GenerationRequest request;
    OnFrame on_frame;
    int32_t index;
  };

  void schedule(uint64_t id) {
    const auto step = [this, id] { send_next(id); };
    if (token_ms_ > 0) {
      loop_.call_after(token_ms_, step);
    } else {
      loop_.post(step);
    }
  }

  static TokenLogprob logprob(int32_t token, int32_t top) {
    TokenLogprob out{.token = token, .logprob = -0.25f, .rank = 1, .top = {}};
    for (int32_t i = 0; i < top; ++i) out.top.emplace_back((token + i) % 256, -0.25f - static_cast<float>(i));
    return out;
  }

  TokenFrame next_frame(const Running& running, int32_t choice) const {
    const SamplingParams& sampling = running.request.sampling;
    const auto at = static_cast<size_t>(running.index);
    const bool over = at >= kAnswer.size() && !sampling.stop_tokens.empty();
    const int32_t token = over ? sampling.stop_tokens[0]
                               : static_cast<unsigned char>(kAnswer[at % kAnswer.size()]);
    TokenFrame frame{.choice = choice, .first_index = running.index, .tokens = {token}};
    if (sampling.top_logprobs >= 0) frame.logprobs = {logprob(token, sampling.top_logprobs)};
    if (running.index == 0 && sampling.prompt_logprobs >= 0) {
      for (size_t i = 1; i < running.request.tokens.size(); ++i) {
        frame.prompt_logprobs.push_back(logprob(running.request.tokens[i], sampling.prompt_logprobs));
      }
    }
    frame.finish = over                                          ? FinishReason::kStop
                   : running.index + 1 == sampling.max_tokens ? FinishReason::kLength
                                                                : FinishReason::kNone;
    return frame;
  }

  void send_next(uint64_t id) {
    const auto found = running_.find(id);
    if (found == running_.end()) return;
    const Running running = found->second;
    ++found->second.index;
    bool over = false;
    for (int32_t c = 0; c < running.request.choices; ++c) {
      const TokenFrame frame = next_frame(running, c);
      over = frame.finish != FinishReason::kNone;
      running.on_frame(frame);
    }
    if (over) {
      running_.erase(id);
    } else {
      schedule(id);
    }
  }

  Loop& loop_;
  const int64_t token_ms_;
  std::map<uint64_t, Running> running_;
  uint64_t last_id_ = 0;
  int64_t submitted_ = 0, cancelled_ = 0;
};

int serve(HttpConfig config, int64_t token_ms) {
  Loop loop;
  AnswerEngine engine(loop, token_ms);
  const ServedModel model = testing::fake_model(4096);
  testing::FakeObserver observer;
  TextPool pool(2, 64, [&loop](std::function<void()> fn) { loop.post(std::move(fn)); });
  Api api(engine, model, observer, pool, ApiLimits{});
  HttpServer server(loop, std::move(config), [&](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    api.handle(std::move(request), std::move(writer));
  });
  if (const Status status = server.listen(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  loop.on_signal({SIGTERM, SIGINT}, [&](int) {
    engine.draining = true;
    server.drain([&] { loop.stop(); });
  });
  std::printf("listening on %d\n", server.port());
  std::fflush(stdout);
  loop.run();
  return 0;
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  skein::HttpConfig config;
  config.port = 0;
  int64_t token_ms = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--port") config.port = static_cast<uint16_t>(std::stoi(argv[i + 1]));
    if (flag == "--token-ms") token_ms = std::stoll(argv[i + 1]);
    if (flag == "--api-key-file") {
      auto keys = skein::load_api_keys(argv[i + 1]);
      if (!keys.ok()) {
        std::fprintf(stderr, "%s\n", keys.status().message().c_str());
        return 1;
      }
      config.access.api_keys = std::move(keys).value();
    }
  }
  return skein::serve(std::move(config), token_ms);
}
