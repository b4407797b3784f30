#include "coordinator/api/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/coordinator/api/fakes.h"

// From a request's body through frames to the bytes of its answer.

namespace skein {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::ApiUnderTest;
using testing::FakeTokenizer;
using testing::FakeWriter;
using testing::fake_model;

constexpr char kCompletions[] = "/v1/completions";
constexpr char kChat[] = "/v1/chat/completions";

std::string chat_body(const std::string& members = {}) {
  return R"({"messages":[{"role":"user","content":"hi"}])" + (members.empty() ? "" : "," + members) + "}";
}
std::string prompt_body(const std::string& members = {}) {
  return R"({"prompt":"hi","add_special_tokens":false)" + (members.empty() ? "" : "," + members) + "}";
}

// An event with what differs from run to run taken out.
std::string without_id(Json event) {
  EXPECT_FALSE(event.find("id")->as_string().empty());
  EXPECT_GT(event.find("created")->as_int(), 1'600'000'000);
  Json::Object& members = event.as_object();
  members.erase(members.begin());
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].first == "created") members.erase(members.begin() + static_cast<ptrdiff_t>(i));
  }
  return event.dump();
}
std::vector<std::string> shapes(const FakeWriter& writer) {
  std::vector<std::string> out;
  for (const std::string& event : writer.events()) {
    out.push_back(event == "[DONE]" ? event : without_id(parse_json(event).value()));
  }
  return out;
}
Json choice_of(const FakeWriter& writer, size_t index = 0) {
  const Json answer = writer.json();
  return answer.find("choices")->as_array().at(index);
}
std::string choice_text(const FakeWriter& writer, size_t index = 0) {
  const Json choice = choice_of(writer, index);
  const Json* message = choice.find("message");
  return (message ? message->find("content") : choice.find("text"))->as_string();
}

TEST(Generation, AnswersACompletion) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body());
  ASSERT_EQ(under.engine.submitted.size(), 1u);
  EXPECT_THAT(under.request().tokens, ElementsAre('h', 'i'));
  EXPECT_EQ(under.request().prompt_tokens, 2);
  EXPECT_EQ(under.request().sampling.max_tokens, 16);
  under.engine.send_text("o");
  EXPECT_FALSE(writer->ended);
  under.engine.send_text("k", FinishReason::kLength);
  ASSERT_TRUE(writer->ended);
  EXPECT_EQ(writer->response.status, 200);
  EXPECT_TRUE(writer->json().find("id")->as_string().starts_with("cmpl-"));
  EXPECT_EQ(without_id(writer->json()),
            R"({"object":"text_completion","model":"org/fake","choices":[{"index":0,"text":"ok","logprobs":null,)"
            R"("finish_reason":"length","stop_reason":null,"prompt_logprobs":null}],"usage":{"prompt_tokens":2,)"
            R"("completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}})");
}

TEST(Generation, AnswersAChat) {
  ApiUnderTest under;
  const auto writer = under.post(kChat, chat_body());
  under.engine.send({FakeTokenizer::kHello});
  under.engine.send({FakeTokenizer::kWorld, FakeTokenizer::kEos}, FinishReason::kStop);
  ASSERT_TRUE(writer->ended);
  EXPECT_TRUE(writer->json().find("id")->as_string().starts_with("chatcmpl-"));
  EXPECT_EQ(without_id(writer->json()),
            R"({"object":"chat.completion","model":"org/fake","choices":[{"index":0,"message":{"role":"assistant",)"
            R"("content":"hello world","refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],)"
            R"("usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23,)"
            R"("prompt_tokens_details":{"cached_tokens":0}},"prompt_logprobs":null})");
}

TEST(Generation, StreamsACompletion) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stream":true)"));
  EXPECT_TRUE(writer->started);
  EXPECT_EQ(writer->response.content_type, "text/event-stream; charset=utf-8");
  under.engine.send_text("o");
  under.engine.send_text("k", FinishReason::kLength);
  EXPECT_TRUE(writer->ended);
  const std::string head = R"({"object":"text_completion","model":"org/fake","choices":[{"index":0,"text":)";
  EXPECT_THAT(shapes(*writer),
              ElementsAre(head + R"("o","logprobs":null,"finish_reason":null,"stop_reason":null}]})",
                          head + R"("k","logprobs":null,"finish_reason":"length","stop_reason":null}]})", "[DONE]"));
}

std::vector<std::string> streamed_texts(const FakeWriter& writer) {
  std::vector<std::string> texts;
  for (const std::string& event : writer.events()) {
    if (event == "[DONE]") continue;
    const Json json = parse_json(event).value();
    const Json* choices = json.find("choices");
    texts.push_back(choices ? choices->as_array().at(0).find("text")->as_string() : "error");
  }
  return texts;
}

TEST(Generation, JoinsWhatComesWhileEarlierBytesWait) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stream":true,"n":2,"logprobs":0)"));
  under.engine.send_text("a");
  writer->busy = true;
  for (const char* text : {"b", "c", "d"}) under.engine.send_text(text);
  under.engine.send_text("x", FinishReason::kNone, 1);
  EXPECT_THAT(streamed_texts(*writer), ElementsAre("a"));
  writer->leave();
  EXPECT_THAT(streamed_texts(*writer), ElementsAre("a", "bcd", "x"));
  const Json event = parse_json(writer->events().at(1)).value();
  EXPECT_EQ(event.find("choices")->as_array().at(0).find("logprobs")->find("tokens")->as_array().size(), 3u);
  writer->leave();
  EXPECT_EQ(writer->events().size(), 3u) << "nothing twice";
}

TEST(Generation, WhatIsHeldComesAheadOfTheEnd) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stream":true)"));
  writer->busy = true;
  under.engine.send_text("a");
  under.engine.send_text("b", FinishReason::kLength);
  EXPECT_TRUE(writer->ended);
  EXPECT_THAT(streamed_texts(*writer), ElementsAre("ab"));
  EXPECT_EQ(writer->events().back(), "[DONE]");

  const auto failing = under.post(kCompletions, prompt_body(R"("stream":true)"));
  failing->busy = true;
  under.engine.send_text("a");
  under.engine.send({}, FinishReason::kError);
  EXPECT_TRUE(failing->ended);
  EXPECT_THAT(streamed_texts(*failing), ElementsAre("a", "error"));
}

TEST(Generation, HoldsABoundedAmount) {
  ApiUnderTest under(fake_model(), {.held_bytes_max = 100});
  const auto writer = under.post(kCompletions, prompt_body(R"("stream":true,"max_tokens":90)"));
  writer->busy = true;
  for (int i = 0; i < 12; ++i) under.engine.send_text("a");
  EXPECT_THAT(streamed_texts(*writer), ElementsAre("aaaaaaaaaaaa"));
}

TEST(Generation, StreamsAChatWithUsage) {
  ApiUnderTest under;
  const auto writer =
      under.post(kChat, chat_body(R"("stream":true,"stream_options":{"include_usage":true})"));
  under.engine.send_text("o");
  under.engine.send({FakeTokenizer::kEos}, FinishReason::kStop);
  const std::string head = R"({"object":"chat.completion.chunk","model":"org/fake","choices":[)";
  const std::string delta = head + R"({"index":0,"delta":)";
  EXPECT_THAT(
      shapes(*writer),
      ElementsAre(delta + R"({"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null})",
                  delta + R"({"content":"o"},"logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null})",
                  delta + R"({"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":null})",
                  head + R"(],"usage":{"prompt_tokens":20,"completion_tokens":2,"total_tokens":22,)" +
                      R"("prompt_tokens_details":{"cached_tokens":0}}})",
                  "[DONE]"));
}

TEST(Generation, CountsUsageInEveryChunkWhereAsked) {
  ApiUnderTest under;
  const auto writer = under.post(
      kCompletions,
      prompt_body(R"("stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true})"));
  under.engine.send_text("ab");
  under.engine.send_text("c", FinishReason::kLength);
  std::vector<int64_t> counts;
  for (const std::string& event : writer->events()) {
    if (event == "[DONE]") continue;
    const Json chunk = parse_json(event).value();
    counts.push_back(chunk.find("usage")->find("completion_tokens")->as_int());
  }
  EXPECT_THAT(counts, ElementsAre(2, 3, 3));
}

TEST(Generation, NeverSendsHalfACharacter) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stream":true)"));
  for (const char* byte : {"a", "\xF0", "\x9F", "\x98", "\x80", "b"}) under.engine.send_text(byte);
  under.engine.send_text("\xE2", FinishReason::kLength);
  std::vector<std::string> texts;
  for (const std::string& event : writer->events()) {
    if (event == "[DONE]") continue;
    texts.push_back(parse_json(event)->find("choices")->as_array()[0].find("text")->as_string());
  }
  EXPECT_THAT(texts, ElementsAre("a", "\xF0\x9F\x98\x80", "b", "\xEF\xBF\xBD"));
}

TEST(Generation, EndsAtAStopStringAndCancels) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stop":["END","x"])"));
  under.engine.send_text("okE");
  under.engine.send_text("N");
  EXPECT_THAT(under.engine.cancelled, IsEmpty());
  under.engine.send_text("Dmore");
  ASSERT_TRUE(writer->ended);
  EXPECT_THAT(under.engine.cancelled, ElementsAre(0u));
  const Json choice = choice_of(*writer);
  EXPECT_EQ(choice.find("text")->as_string(), "ok");
  EXPECT_EQ(choice.find("finish_reason")->as_string(), "stop");
  EXPECT_EQ(choice.find("stop_reason")->as_string(), "END");
  EXPECT_EQ(writer->json().find("usage")->find("completion_tokens")->as_int(), 5);
}

TEST(Generation, KeepsTheStopStringWhereAsked) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stop":"END","include_stop_str_in_output":true)"));
  under.engine.send_text("okENDx");
  EXPECT_EQ(choice_text(*writer), "okEND");
}

TEST(Generation, HoldsBackWhatMayBecomeAStopString) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stop":"END","stream":true)"));
  under.engine.send_text("E");
  EXPECT_THAT(writer->events(), IsEmpty());
  under.engine.send_text("N");
  under.engine.send_text("O", FinishReason::kLength);
  const Json chunk = parse_json(writer->events()[0]).value();
  EXPECT_EQ(chunk.find("choices")->as_array()[0].find("text")->as_string(), "ENO");
}

TEST(Generation, LooksForStopStringsAfterMinTokens) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stop":"x","min_tokens":3)"));
  under.engine.send_text("xaxbxc");
  EXPECT_EQ(choice_text(*writer), "xaxb");
}

TEST(Generation, NamesTheStopReason) {
  struct Row {
    const char* members;
    int32_t last;
    const char* reason;
    const char* text;
  };
  for (const Row& row : {Row{"", FakeTokenizer::kEos, "null", "a"}, Row{"", FakeTokenizer::kEot, "null", "a"},
                         Row{R"("stop_token_ids":[98])", 'b', "98", "a"},
                         Row{R"("stop_token_ids":[98],"include_stop_str_in_output":true)", 'b', "98", "ab"},
                         Row{R"("ignore_eos":true,"stop_token_ids":[257])", FakeTokenizer::kEos, "257", "a"},
                         Row{R"("skip_special_tokens":false,"include_stop_str_in_output":true)", FakeTokenizer::kEos,
                             "null", "a</s>"}}) {
    ApiUnderTest under;
    const auto writer = under.post(kCompletions, prompt_body(row.members));
    under.engine.send({'a', row.last}, FinishReason::kStop);
    EXPECT_EQ(choice_of(*writer).find("stop_reason")->dump(), row.reason) << row.members;
    EXPECT_EQ(choice_text(*writer), row.text) << row.members;
    EXPECT_EQ(writer->json().find("usage")->find("completion_tokens")->as_int(), 2);
  }
}

TEST(Generation, NumbersChoicesOfSeveralPrompts) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, R"({"prompt":[[1],[2,3]],"n":2})");
  ASSERT_EQ(under.engine.submitted.size(), 2u);
  EXPECT_EQ(under.request(0).choices, 2);
  EXPECT_THAT(under.request(1).tokens, ElementsAre(2, 3));
  under.engine.send_text("d", FinishReason::kLength, 1, 1);
  under.engine.send_text("a", FinishReason::kLength, 0, 0);
  under.engine.send_text("c", FinishReason::kLength, 0, 1);
  EXPECT_FALSE(writer->ended);
  under.engine.send_text("b", FinishReason::kLength, 1, 0);
  ASSERT_TRUE(writer->ended);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(choice_text(*writer, i), std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(choice_of(*writer, i).find("index")->as_int(), static_cast<int64_t>(i));
  }
  EXPECT_EQ(writer->json().find("usage")->find("prompt_tokens")->as_int(), 3);
  EXPECT_EQ(writer->json().find("usage")->find("completion_tokens")->as_int(), 4);
}

TEST(Generation, CancelsOnlyWhenAllChoicesHaveEnded) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("n":2,"stop":"x")"));
  under.engine.send_text("ax", FinishReason::kNone, 0);
  under.engine.send_text("ignored", FinishReason::kNone, 0);
  EXPECT_THAT(under.engine.cancelled, IsEmpty());
  under.engine.send_text("bx", FinishReason::kNone, 1);
  EXPECT_THAT(under.engine.cancelled, ElementsAre(0u));
  EXPECT_EQ(choice_text(*writer, 0), "a");
  EXPECT_EQ(choice_text(*writer, 1), "b");
}

TEST(Generation, DoesNotCancelWhatTheEngineHasFinished) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("n":2,"stop":"x")"));
  under.engine.send_text("ax", FinishReason::kNone, 0);
  under.engine.send_text("b", FinishReason::kLength, 0);
  under.engine.send_text("c", FinishReason::kLength, 1);
  EXPECT_TRUE(writer->ended);
  EXPECT_THAT(under.engine.cancelled, IsEmpty());
}

// ---- log-probabilities and ids

TokenFrame frame_with_logprobs(std::vector<int32_t> tokens, FinishReason finish) {
  TokenFrame frame;
  frame.tokens = std::move(tokens);
  frame.finish = finish;
  for (const int32_t token : frame.tokens) {
    frame.logprobs.push_back({.token = token, .logprob = -0.5f, .rank = 2, .top = {{'z', -0.25f}, {token, -0.5f}}});
  }
  return frame;
}

TEST(Generation, ShowsCompletionLogprobs) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("logprobs":2)"));
  EXPECT_EQ(under.request().sampling.top_logprobs, 2);
  // The euro sign is three tokens: the text grows with the last of them.
  TokenFrame frame = frame_with_logprobs({FakeTokenizer::kHello, 0xE2, 0x82, 0xAC, 'b'}, FinishReason::kLength);
  frame.logprobs[4].logprob = -INFINITY;
  under.engine.send_frame(frame);
  EXPECT_EQ(choice_of(*writer).find("logprobs")->dump(),
            R"({"text_offset":[0,5,5,5,6],"token_logprobs":[-0.5,-0.5,-0.5,-0.5,-9999.0],)"
            "\"tokens\":[\"hello\",\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\",\"b\"],"
            R"("top_logprobs":[{"hello":-0.5,"z":-0.25},)"
            "{\"\xEF\xBF\xBD\":-0.5,\"z\":-0.25},{\"\xEF\xBF\xBD\":-0.5,\"z\":-0.25},{\"\xEF\xBF\xBD\":-0.5,\"z\":-0.25},"
            R"({"b":-9999.0,"z":-0.25}]})");
}

TEST(Generation, ShowsChatLogprobs) {
  ApiUnderTest under;
  const auto writer = under.post(kChat, chat_body(R"("logprobs":true,"top_logprobs":2)"));
  under.engine.send_frame(frame_with_logprobs({0xE2}, FinishReason::kLength));
  EXPECT_EQ(choice_of(*writer).find("logprobs")->dump(),
            "{\"content\":[{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[226],\"top_logprobs\":["
            R"({"token":"z","logprob":-0.25,"bytes":[122]},)"
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[226]}]}]}");
}

TEST(Generation, StreamsLogprobsWithTheirTokens) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("logprobs":0,"stream":true)"));
  TokenFrame frame = frame_with_logprobs({0xC3}, FinishReason::kNone);
  frame.logprobs[0].top.clear();
  under.engine.send_frame(frame);
  frame = frame_with_logprobs({0xA9}, FinishReason::kLength);
  frame.logprobs[0].top.clear();
  under.engine.send_frame(frame);
  const Json first = parse_json(writer->events()[0])->find("choices")->as_array()[0];
  EXPECT_EQ(first.find("text")->as_string(), "");
  EXPECT_EQ(first.find("logprobs")->find("text_offset")->dump(), "[0]");
  const Json second = parse_json(writer->events()[1])->find("choices")->as_array()[0];
  EXPECT_EQ(second.find("text")->as_string(), "\xC3\xA9");
  EXPECT_EQ(second.find("logprobs")->find("text_offset")->dump(), "[0]");
}

TEST(Generation, EchoesThePromptWithItsLogprobs) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, R"({"prompt":"hi","echo":true,"logprobs":0})");
  EXPECT_EQ(under.request().sampling.prompt_logprobs, 0);
  TokenFrame frame = frame_with_logprobs({'!'}, FinishReason::kLength);
  frame.logprobs[0].top.clear();
  frame.prompt_logprobs = {{.token = 'h', .logprob = -1, .rank = 1, .top = {}},
                           {.token = 'i', .logprob = -2, .rank = 1, .top = {}}};
  under.engine.send_frame(frame);
  EXPECT_EQ(choice_text(*writer), "hi!");
  EXPECT_EQ(choice_of(*writer).find("logprobs")->dump(),
            R"({"text_offset":[0,0,1,2],"token_logprobs":[null,-1.0,-2.0,-0.5],"tokens":["<s>","h","i","!"],)"
            R"("top_logprobs":[null,{"h":-1.0},{"i":-2.0},{"!":-0.5}]})");
  EXPECT_TRUE(choice_of(*writer).find("prompt_logprobs")->is_null());
}

TEST(Generation, EchoesThePromptAlone) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("echo":true,"max_tokens":0,"logprobs":0)"));
  EXPECT_EQ(under.request().sampling.max_tokens, 1);
  TokenFrame frame = frame_with_logprobs({'!'}, FinishReason::kLength);
  frame.prompt_logprobs = {{.token = 'i', .logprob = -2, .rank = 1, .top = {}}};
  under.engine.send_frame(frame);
  EXPECT_EQ(choice_text(*writer), "hi");
  EXPECT_EQ(choice_of(*writer).find("logprobs")->find("tokens")->dump(), R"(["h","i"])");
  EXPECT_EQ(choice_of(*writer).find("finish_reason")->as_string(), "length");
  EXPECT_EQ(writer->json().find("usage")->find("completion_tokens")->as_int(), 0);
}

TEST(Generation, EchoesInAStream) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("echo":true,"stream":true)"));
  under.engine.send_text("!", FinishReason::kLength);
  const Json chunk = parse_json(writer->events()[0]).value();
  EXPECT_EQ(chunk.find("choices")->as_array()[0].find("text")->as_string(), "hi!");
}

TEST(Generation, ShowsPromptLogprobsByName) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("prompt_logprobs":1)"));
  TokenFrame frame;
  frame.prompt_logprobs = {{.token = 'i', .logprob = -2, .rank = 5, .top = {{'j', -0.5f}}}};
  under.engine.send_frame(frame);
  under.engine.send_text("!", FinishReason::kLength);
  EXPECT_EQ(choice_of(*writer).find("prompt_logprobs")->dump(),
            R"([null,{"105":{"logprob":-2.0,"rank":5,"decoded_token":"i"},)"
            R"("106":{"logprob":-0.5,"rank":1,"decoded_token":"j"}}])");
}

TEST(Generation, ReturnsTokenIds) {
  ApiUnderTest under;
  auto writer = under.post(kCompletions, prompt_body(R"("return_token_ids":true,"stop":"x")"));
  under.engine.send_text("abxc");
  EXPECT_EQ(choice_of(*writer).find("token_ids")->dump(), "[97,98,120]");
  EXPECT_EQ(choice_of(*writer).find("prompt_token_ids")->dump(), "[104,105]");
  writer = under.post(kChat, chat_body(R"("return_token_ids":true,"stream":true)"));
  under.engine.send({0xC3});
  under.engine.send({0xA9, FakeTokenizer::kEos}, FinishReason::kStop);
  const auto events = writer->events();
  EXPECT_EQ(parse_json(events[0])->find("prompt_token_ids")->as_array().size(), 20u);
  EXPECT_EQ(parse_json(events[1])->find("choices")->as_array()[0].find("token_ids")->dump(), "[195]");
  EXPECT_EQ(parse_json(events[2])->find("choices")->as_array()[0].find("token_ids")->dump(), "[169,257]");
}

TEST(Generation, WritesTokensAsIds) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("logprobs":2,"return_tokens_as_token_ids":true)"));
  under.engine.send_frame(frame_with_logprobs({'a'}, FinishReason::kLength));
  EXPECT_EQ(choice_of(*writer).find("logprobs")->find("tokens")->dump(), R"(["token_id:97"])");
  EXPECT_EQ(choice_of(*writer).find("logprobs")->find("top_logprobs")->dump(),
            R"([{"token_id:97":-0.5,"token_id:122":-0.25}])");
}

TEST(Generation, ServesIdsWithoutATokenizer) {
  ServedModel model = fake_model();
  model.tokenizer.reset();
  ApiUnderTest under(std::move(model));
  const auto writer = under.post(kCompletions, R"({"prompt":[1,2],"return_token_ids":true,"logprobs":0,"echo":true})");
  under.engine.send_frame(frame_with_logprobs({5}, FinishReason::kLength));
  EXPECT_EQ(choice_text(*writer), "");
  EXPECT_EQ(choice_of(*writer).find("token_ids")->dump(), "[5]");
}

TEST(Generation, EchoesAndContinuesTheLastMessage) {
  ApiUnderTest under;
  const auto writer = under.post(
      kChat, R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"so"}],)"
             R"("continue_final_message":true,"echo":true})");
  under.engine.send_text("me", FinishReason::kLength);
  EXPECT_EQ(choice_text(*writer), "some");
}

TEST(Generation, ReportsCachedTokens) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body());
  TokenFrame frame;
  frame.tokens = {'a'};
  frame.cached_tokens = 1;
  frame.finish = FinishReason::kLength;
  under.engine.send_frame(frame);
  EXPECT_EQ(writer->json().find("usage")->find("prompt_tokens_details")->find("cached_tokens")->as_int(), 1);
}

// ---- ends that nobody wants

TEST(Generation, CancelsWhenTheClientGoes) {
  for (const char* stream : {"false", "true"}) {
    ApiUnderTest under;
    const auto writer = under.post(kCompletions, std::string(R"({"prompt":["a","b"],"stream":)") + stream + "}");
    under.engine.send_text("a", FinishReason::kLength, 0, 0);
    writer->close();
    EXPECT_THAT(under.engine.cancelled, ElementsAre(1u));  // the other one is over
    ASSERT_EQ(under.observer.summaries.size(), 1u);
    EXPECT_EQ(under.observer.summaries[0].status, 499);
    EXPECT_THAT(under.observer.reasons, ElementsAre("length", "abort"));
  }
}

TEST(Generation, ForgetsARequestWhoseClientGoesBeforeItStarts) {
  ApiUnderTest under;
  const auto writer = std::make_shared<FakeWriter>();
  under.api.handle({.method = "POST", .path = kCompletions, .query = {},
                    .headers = {{"content-type", "application/json"}}, .body = prompt_body(), .body_charge = nullptr},
                   writer);
  writer->close();
  under.calls.run_one();
  EXPECT_THAT(under.engine.submitted, IsEmpty());
  EXPECT_FALSE(writer->ended);
  EXPECT_EQ(writer.use_count(), 1);
}

TEST(Generation, LetsGoOfEverythingAtTheEnd) {
  ApiUnderTest under;
  const auto writer = under.post(kChat, chat_body(R"("stream":true,"stop":"x")"));
  under.engine.send_text("ax");
  EXPECT_TRUE(writer->ended);
  EXPECT_EQ(writer.use_count(), 1);
}

TEST(Generation, AnswersAnEnginesRefusal) {
  struct Row {
    Status status;
    int http;
  };
  for (const Row& row : {Row{resource_exhausted("full"), 429}, Row{unavailable("none"), 503},
                         Row{invalid_argument("bad"), 400}, Row{Status(Code::kInternal, "oh"), 500}}) {
    ApiUnderTest under;
    under.engine.refusal = row.status;
    const auto writer = under.post(kCompletions, prompt_body(R"("stream":true)"));
    EXPECT_EQ(writer->response.status, row.http);
    EXPECT_EQ(writer->json().find("error")->find("message")->as_string(), row.status.message());
    EXPECT_EQ(!writer->response.headers.empty(), row.http == 429 || row.http == 503);
  }
}

TEST(Generation, AnswersAnEnginesErrorWithAStatus) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, R"({"prompt":["a","b"]})");
  TokenFrame frame;
  frame.finish = FinishReason::kError;
  frame.error = "the replica went away";
  under.engine.send_frame(frame, 0);
  EXPECT_EQ(writer->response.status, 500);
  EXPECT_EQ(writer->json().find("error")->find("message")->as_string(), "the replica went away");
  EXPECT_THAT(under.engine.cancelled, ElementsAre(1u));
}

TEST(Generation, AnswersAnEnginesErrorWithinAStream) {
  ApiUnderTest under;
  const auto writer = under.post(kCompletions, prompt_body(R"("stream":true)"));
  under.engine.send_text("a");
  TokenFrame frame;
  frame.finish = FinishReason::kError;
  frame.error = "the replica went away";
  under.engine.send_frame(frame);
  EXPECT_TRUE(writer->ended);
  const auto events = writer->events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(parse_json(events[1])->find("error")->find("message")->as_string(), "the replica went away");
  EXPECT_EQ(parse_json(events[1])->find("error")->find("type")->as_string(), "server_error");
}

TEST(Generation, RefusesToHoldAnEndlessAnswer) {
  ApiLimits limits;
  limits.answer_bytes_max = 100;
  ApiUnderTest under(fake_model(), limits);
  const auto writer = under.post(kCompletions, prompt_body(R"("max_tokens":500)"));
  for (int i = 0; i < 5 && !writer->ended; ++i) under.engine.send_text("0123456789");
  EXPECT_EQ(writer->response.status, 400);
  EXPECT_THAT(under.engine.cancelled, ElementsAre(0u));
}

TEST(Generation, TellsTheObserver) {
  ApiUnderTest under;
  under.post(kCompletions, prompt_body());
  under.engine.send_text("a");
  under.engine.send_text("bc");
  under.engine.send_text("d", FinishReason::kLength);
  EXPECT_THAT(under.observer.prompts, ElementsAre(2));
  EXPECT_EQ(under.observer.generated, 4);
  EXPECT_EQ(under.observer.gaps, 3);
  EXPECT_THAT(under.observer.reasons, ElementsAre("length"));
  ASSERT_EQ(under.observer.summaries.size(), 1u);
  const RequestSummary& summary = under.observer.summaries[0];
  EXPECT_EQ(summary.status, 200);
  EXPECT_EQ(summary.generation_tokens, 4);
  EXPECT_GE(summary.ttft_s, 0);
  EXPECT_GE(summary.e2e_s, summary.ttft_s);
}

}  // namespace
}  // namespace skein
