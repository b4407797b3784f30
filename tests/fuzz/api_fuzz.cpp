#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/log.h"
#include "coordinator/api/generation.h"
#include "tests/unit/coordinator/api/fakes.h"

// A request's body through every endpoint that takes one. What is accepted runs to its end against an engine whose
// tokens are the body's bytes: the answer is whole JSON, of whole characters.

namespace {

using namespace skein;
using skein::testing::FakeEngine;
using skein::testing::FakeObserver;
using skein::testing::FakeTokenizer;
using skein::testing::FakeWriter;

const ApiLimits kLimits{.prompts_max = 8, .messages_max = 64, .choices_max = 4, .request_tokens_max = 4096};

const ServedModel& model() {
  static const ServedModel served = [] {
    ServedModel made = skein::testing::fake_model(256);
    made.name = "m";
    return made;
  }();
  return served;
}

void check_error(const HttpError& error) {
  CHECK(error.status == 400 || error.status == 404);
  CHECK(!error.message.empty());
  CHECK(parse_json(error_json(error)).ok());
}

// The next frame of a choice that has `index` tokens so far.
TokenFrame next_frame(const GenerationRequest& request, std::string_view bytes, int32_t choice, int32_t index) {
  TokenFrame frame;
  frame.choice = choice;
  frame.first_index = index;
  const int32_t count = std::min(request.sampling.max_tokens - index, 1 + index % 3);
  for (int32_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(index + i + choice) % bytes.size();
    frame.tokens.push_back(bytes[at] == '!' ? FakeTokenizer::kEos : static_cast<unsigned char>(bytes[at]));
  }
  if (request.sampling.top_logprobs >= 0) {
    for (const int32_t token : frame.tokens) {
      frame.logprobs.push_back({.token = token, .logprob = -1, .rank = 1, .top = {{token, -1.0f}, {7, -2.0f}}});
    }
  }
  if (index == 0 && request.sampling.prompt_logprobs >= 0) frame.prompt_logprobs.resize(request.tokens.size() - 1);
  if (index + count >= request.sampling.max_tokens) frame.finish = FinishReason::kLength;
  return frame;
}

void check_answer(const FakeWriter& writer, bool stream) {
  if (!stream) {
    CHECK(parse_json(writer.response.body).ok());
    return;
  }
  const std::vector<std::string> events = writer.events();
  CHECK(!events.empty() && events.back() == "[DONE]");
  for (const std::string& event : events) CHECK(event == "[DONE]" || parse_json(event).ok());
}

void run(PreparedRequest prepared, std::string_view bytes) {
  FakeEngine engine;
  FakeObserver observer;
  const GenerationContext context{engine, model(), kLimits, observer};
  const auto writer = std::make_shared<FakeWriter>();
  const auto generation = std::make_shared<Generation>(context, writer, "id", "/fuzz");
  const bool stream = prepared.answer.stream;
  const bool leaves = bytes.size() % 5 == 0;
  generation->watch_client();
  generation->start(std::move(prepared));
  for (size_t p = 0; p < engine.submitted.size(); ++p) {
    const GenerationRequest request = engine.submitted[p].request;
    CHECK_LE(request.tokens.size() + static_cast<size_t>(request.sampling.max_tokens), 256u);
    for (int32_t choice = 0; choice < request.choices; ++choice) {
      for (int32_t index = 0; index < request.sampling.max_tokens && engine.submitted[p].on_frame;) {
        TokenFrame frame = next_frame(request, bytes, choice, index);
        index += static_cast<int32_t>(frame.tokens.size());
        engine.send_frame(std::move(frame), static_cast<int64_t>(p));
        if (leaves && index > 9) writer->close();
      }
    }
  }
  if (!writer->ended) {
    CHECK(leaves);
    return;
  }
  check_answer(*writer, stream);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  set_log_level(LogLevel::kError);
  const std::string text(reinterpret_cast<const char*>(data), size);
  Json body;
  if (const auto error = parse_body(text, kLimits, &body)) {
    check_error(*error);
    return 0;
  }
  for (const auto prepare : {prepare_completion, prepare_chat}) {
    PreparedRequest request;
    if (const auto error = prepare(body, model(), kLimits, &request)) {
      check_error(*error);
    } else {
      run(std::move(request), text);
    }
  }
  for (const auto answer : {answer_tokenize, answer_detokenize}) {
    std::string out;
    if (const auto error = answer(body, model(), kLimits, &out)) {
      check_error(*error);
    } else {
      CHECK(parse_json(out).ok());
    }
  }
  return 0;
}
