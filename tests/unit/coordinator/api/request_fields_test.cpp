#include <gtest/gtest.h>

#include "tests/unit/coordinator/api/fakes.h"

// Every field at and beyond its bounds: what is taken, and what is refused with which `param`.

namespace skein {
namespace {

using testing::fake_model;
using testing::FakeTokenizer;

struct Outcome {
  int status = 0;  // 0: accepted
  std::string param;
  std::string message;
  PreparedRequest request;
};

const ServedModel& model() {
  static const ServedModel served = fake_model();
  return served;
}

Outcome prepare(bool chat, const std::string& members, const ServedModel& served = model()) {
  const std::string base = chat ? R"({"messages":[{"role":"user","content":"hi"}])" : R"({"prompt":"hi")";
  Outcome outcome;
  Json body;
  std::optional<HttpError> error =
      parse_body(base + (members.empty() ? "" : ",") + members + "}", ApiLimits{}, &body);
  if (!error) error = (chat ? prepare_chat : prepare_completion)(body, served, ApiLimits{}, &outcome.request);
  if (!error) return outcome;
  outcome.status = error->status;
  outcome.param = error->param;
  outcome.message = error->message;
  return outcome;
}

TEST(RequestFields, AcceptsEverythingWithinBounds) {
  const std::vector<std::string> table = {
      "", R"("model":"org/fake")", R"("model":null)", R"("model":"")",
      R"("n":1)", R"("n":64,"max_tokens":1)", R"("n":null)", R"("n":2.0,"max_tokens":4)",
      R"("temperature":0)", R"("temperature":0.0)", R"("temperature":2)", R"("temperature":1000)", R"("temperature":null)",
      R"("top_p":1)", R"("top_p":0.0001)", R"("top_k":-1)", R"("top_k":0)", R"("top_k":1)", R"("top_k":2147483647)",
      R"("min_p":0)", R"("min_p":1)", R"("presence_penalty":-2)", R"("presence_penalty":2)",
      R"("frequency_penalty":-2)", R"("frequency_penalty":2.0)",
      R"("repetition_penalty":0.0001)", R"("repetition_penalty":2)",
      R"("seed":0)", R"("seed":-9223372036854775808)", R"("seed":9223372036854775807)",
      R"("max_tokens":1)", R"("max_completion_tokens":5)",
      R"("min_tokens":0)", R"("min_tokens":5,"max_tokens":5)",
      R"("stop":"x")", R"("stop":[])", R"("stop":"")", R"("stop":null)",
      R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16"])",
      R"("stop_token_ids":[])", R"("stop_token_ids":[0,260])",
      R"("logit_bias":{})", R"("logit_bias":{"0":-100,"260":100,"5":1.5})", R"("logit_bias":null)",
      R"("ignore_eos":true)", R"("include_stop_str_in_output":false)", R"("skip_special_tokens":false)",
      R"("stream":true)", R"("stream":false)", R"("stream":true,"stream_options":{"include_usage":true})",
      R"("stream":true,"stream_options":{})", R"("stream_options":null)",
      R"("stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true,"other":1})",
      R"("return_token_ids":true)", R"("return_tokens_as_token_ids":true)", R"("add_special_tokens":false)",
      R"("prompt_logprobs":0)", R"("prompt_logprobs":20)", R"("cache_salt":"salt")", R"("best_of":1)",
      R"("n":2,"best_of":2,"max_tokens":4)", R"("truncate_prompt_tokens":1)", R"("truncate_prompt_tokens":-1)",
      // Harmless or unknown.
      R"("user":"u")", R"("user":17)", R"("priority":3)", R"("metadata":{"a":1})", R"("store":true)",
      R"("service_tier":"auto")", R"("no_such_field":[1,2])", R"("length_penalty":2)",
      R"("parallel_tool_calls":true)", R"("spaces_between_special_tokens":true)",
      // Unsupported, but asking for nothing.
      R"("tools":[])", R"("tools":null)", R"("tool_choice":"none")", R"("functions":[])", R"("function_call":"none")",
      R"("response_format":{"type":"text"})", R"("use_beam_search":false)", R"("guided_json":null)",
      R"("modalities":["text"])", R"("suffix":"")", R"("bad_words":[])", R"("logits_processors":[])",
      R"("structured_outputs":{})", R"("prompt_embeds":null)", R"("audio":null)"};
  for (const bool chat : {false, true}) {
    for (const std::string& members : table) {
      const Outcome outcome = prepare(chat, members);
      EXPECT_EQ(outcome.status, 0) << members << ": " << outcome.message;
    }
  }
}

struct Refused {
  const char* members;
  const char* param;
};

constexpr Refused kRefused[] = {
    {R"("model":5)", "model"},
    {R"("n":0)", "n"}, {R"("n":-1)", "n"}, {R"("n":65)", "n"}, {R"("n":1.5)", "n"}, {R"("n":"2")", "n"},
    {R"("n":true)", "n"}, {R"("n":[])", "n"}, {R"("n":{})", "n"}, {R"("n":9223372036854775808)", "n"},
    {R"("n":1e300)", "n"}, {R"("n":2147483649)", "n"}, {R"("n":4294967297)", "n"},
    {R"("temperature":-0.1)", "temperature"}, {R"("temperature":1001)", "temperature"},
    {R"("temperature":"1")", "temperature"}, {R"("temperature":true)", "temperature"},
    {R"("temperature":[1])", "temperature"}, {R"("temperature":1e300)", "temperature"},
    {R"("temperature":-1e300)", "temperature"},
    {R"("top_p":0)", "top_p"}, {R"("top_p":-0.5)", "top_p"}, {R"("top_p":1.0001)", "top_p"},
    {R"("top_p":"1")", "top_p"}, {R"("top_p":{})", "top_p"},
    {R"("top_k":-2)", "top_k"}, {R"("top_k":2147483648)", "top_k"}, {R"("top_k":0.5)", "top_k"},
    {R"("top_k":"5")", "top_k"}, {R"("top_k":9223372036854775808)", "top_k"},
    {R"("min_p":-0.01)", "min_p"}, {R"("min_p":1.01)", "min_p"}, {R"("min_p":"0")", "min_p"},
    {R"("presence_penalty":-2.01)", "presence_penalty"}, {R"("presence_penalty":2.01)", "presence_penalty"},
    {R"("presence_penalty":"0")", "presence_penalty"}, {R"("presence_penalty":false)", "presence_penalty"},
    {R"("frequency_penalty":-2.01)", "frequency_penalty"}, {R"("frequency_penalty":3)", "frequency_penalty"},
    {R"("frequency_penalty":[])", "frequency_penalty"},
    {R"("repetition_penalty":0)", "repetition_penalty"}, {R"("repetition_penalty":-1)", "repetition_penalty"},
    {R"("repetition_penalty":1001)", "repetition_penalty"}, {R"("repetition_penalty":"1")", "repetition_penalty"},
    {R"("seed":1.5)", "seed"}, {R"("seed":"1")", "seed"}, {R"("seed":9223372036854775808)", "seed"},
    {R"("seed":-9223372036854775809)", "seed"}, {R"("seed":true)", "seed"}, {R"("seed":1e19)", "seed"},
    {R"("max_tokens":-1)", "max_tokens"}, {R"("max_tokens":2147483648)", "max_tokens"},
    {R"("max_tokens":9223372036854775808)", "max_tokens"}, {R"("max_tokens":1.5)", "max_tokens"},
    {R"("max_tokens":"16")", "max_tokens"}, {R"("max_tokens":true)", "max_tokens"},
    {R"("max_tokens":0)", "max_tokens"}, {R"("max_tokens":513)", "max_tokens"},
    {R"("max_tokens":2147483647)", "max_tokens"},
    {R"("max_completion_tokens":0)", "max_completion_tokens"},
    {R"("max_completion_tokens":-5)", "max_completion_tokens"},
    {R"("max_completion_tokens":600)", "max_completion_tokens"},
    {R"("max_completion_tokens":"5")", "max_completion_tokens"},
    {R"("min_tokens":-1)", "min_tokens"}, {R"("min_tokens":6,"max_tokens":5)", "min_tokens"},
    {R"("min_tokens":2147483648)", "min_tokens"}, {R"("min_tokens":"1")", "min_tokens"},
    {R"("stop":5)", "stop"}, {R"("stop":true)", "stop"}, {R"("stop":{})", "stop"}, {R"("stop":[5])", "stop"},
    {R"("stop":[""])", "stop"}, {R"("stop":["a",null])", "stop"}, {R"("stop":[["a"]])", "stop"},
    {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "stop"},
    {R"("stop_token_ids":5)", "stop_token_ids"}, {R"("stop_token_ids":[-1])", "stop_token_ids"},
    {R"("stop_token_ids":[261])", "stop_token_ids"}, {R"("stop_token_ids":["1"])", "stop_token_ids"},
    {R"("stop_token_ids":[1.5])", "stop_token_ids"}, {R"("stop_token_ids":[null])", "stop_token_ids"},
    {R"("stop_token_ids":[9223372036854775808])", "stop_token_ids"},
    {R"("stop_token_ids":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1])", "stop_token_ids"},
    {R"("logit_bias":[])", "logit_bias"}, {R"("logit_bias":5)", "logit_bias"},
    {R"("logit_bias":{"a":1})", "logit_bias"}, {R"("logit_bias":{"":1})", "logit_bias"},
    {R"("logit_bias":{"-1":1})", "logit_bias"}, {R"("logit_bias":{"261":1})", "logit_bias"},
    {R"("logit_bias":{"1.5":1})", "logit_bias"}, {R"("logit_bias":{" 1":1})", "logit_bias"},
    {R"("logit_bias":{"1":100.1})", "logit_bias"}, {R"("logit_bias":{"1":-101})", "logit_bias"},
    {R"("logit_bias":{"1":"5"})", "logit_bias"}, {R"("logit_bias":{"1":null})", "logit_bias"},
    {R"("logit_bias":{"99999999999999999999":1})", "logit_bias"},
    {R"("ignore_eos":1)", "ignore_eos"}, {R"("ignore_eos":"true")", "ignore_eos"},
    {R"("skip_special_tokens":0)", "skip_special_tokens"},
    {R"("include_stop_str_in_output":"no")", "include_stop_str_in_output"},
    {R"("stream":1)", "stream"}, {R"("stream":"true")", "stream"}, {R"("stream":[])", "stream"},
    {R"("stream_options":{})", "stream_options"}, {R"("stream_options":{"include_usage":true})", "stream_options"},
    {R"("stream":true,"stream_options":5)", "stream_options"},
    {R"("stream":true,"stream_options":[])", "stream_options"},
    {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
    {R"("stream":true,"stream_options":{"continuous_usage_stats":"y"})", "stream_options.continuous_usage_stats"},
    {R"("return_token_ids":1)", "return_token_ids"},
    {R"("return_tokens_as_token_ids":"x")", "return_tokens_as_token_ids"},
    {R"("add_special_tokens":2)", "add_special_tokens"},
    {R"("prompt_logprobs":-1)", "prompt_logprobs"}, {R"("prompt_logprobs":21)", "prompt_logprobs"},
    {R"("prompt_logprobs":true)", "prompt_logprobs"}, {R"("prompt_logprobs":1.5)", "prompt_logprobs"},
    {R"("stream":true,"prompt_logprobs":1)", "prompt_logprobs"},
    {R"("cache_salt":5)", "cache_salt"}, {R"("cache_salt":[])", "cache_salt"},
    {R"("best_of":2)", "best_of"}, {R"("best_of":0)", "best_of"}, {R"("best_of":"1")", "best_of"},
    {R"("n":2,"best_of":1)", "best_of"},
    {R"("truncate_prompt_tokens":0)", "truncate_prompt_tokens"},
    {R"("truncate_prompt_tokens":-2)", "truncate_prompt_tokens"},
    {R"("truncate_prompt_tokens":513)", "truncate_prompt_tokens"},
    {R"("truncate_prompt_tokens":"1")", "truncate_prompt_tokens"},
    {R"("echo":1)", "echo"}, {R"("echo":"yes")", "echo"},
    // Would change the output, and nothing implements them.
    {R"("tools":[{"type":"function"}])", "tools"}, {R"("tools":5)", "tools"},
    {R"("tool_choice":"auto")", "tool_choice"}, {R"("tool_choice":"required")", "tool_choice"},
    {R"("tool_choice":{"type":"function"})", "tool_choice"}, {R"("functions":[{}])", "functions"},
    {R"("function_call":"auto")", "function_call"},
    {R"("response_format":{"type":"json_object"})", "response_format"},
    {R"("response_format":{"type":"json_schema"})", "response_format"}, {R"("response_format":{})", "response_format"},
    {R"("response_format":"text")", "response_format"},
    {R"("structured_outputs":{"regex":"a"})", "structured_outputs"}, {R"("guided_json":{"a":1})", "guided_json"},
    {R"("guided_regex":"a+")", "guided_regex"}, {R"("guided_choice":["a"])", "guided_choice"},
    {R"("guided_grammar":"g")", "guided_grammar"}, {R"("use_beam_search":true)", "use_beam_search"},
    {R"("allowed_token_ids":[1])", "allowed_token_ids"}, {R"("bad_words":["a"])", "bad_words"},
    {R"("logits_processors":["a"])", "logits_processors"}, {R"("modalities":["text","audio"])", "modalities"},
    {R"("modalities":"text")", "modalities"}, {R"("audio":{"voice":"a"})", "audio"},
    {R"("prompt_embeds":"AAAA")", "prompt_embeds"}, {R"("suffix":"end")", "suffix"},
    {R"("chat_template":"{{ 1 }}")", "chat_template"}, {R"("kv_transfer_params":{"a":1})", "kv_transfer_params"},
    {R"("vllm_xargs":{"a":1})", "vllm_xargs"}, {R"("web_search_options":{"a":1})", "web_search_options"},
};

TEST(RequestFields, RefusesTheRestNamingTheField) {
  for (const bool chat : {false, true}) {
    for (const Refused& row : kRefused) {
      const Outcome outcome = prepare(chat, row.members);
      EXPECT_EQ(outcome.status, 400) << row.members;
      EXPECT_EQ(outcome.param, row.param) << row.members << ": " << outcome.message;
      const std::string_view name = std::string_view(row.param).substr(std::string_view(row.param).rfind('.') + 1);
      EXPECT_NE(outcome.message.find(name), std::string::npos) << outcome.message;
    }
  }
}

TEST(RequestFields, RefusesLongStringsAndLists) {
  EXPECT_EQ(prepare(false, R"("stop":")" + std::string(256, 'x') + '"').status, 0);
  EXPECT_EQ(prepare(false, R"("stop":")" + std::string(257, 'x') + '"').param, "stop");
  EXPECT_EQ(prepare(false, R"("cache_salt":")" + std::string(257, 'x') + '"').param, "cache_salt");
  std::string bias;
  for (int i = 0; i < 301; ++i) bias += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":0";
  EXPECT_EQ(prepare(false, R"("logit_bias":{)" + bias + "}").param, "logit_bias");
  std::string members;
  for (int i = 0; i < 300; ++i) members += ",\"x" + std::to_string(i) + "\":0";
  EXPECT_EQ(prepare(false, members.substr(1)).status, 400);
}

TEST(RequestFields, NamesAnUnknownModel) {
  const Outcome outcome = prepare(false, R"("model":"other")");
  EXPECT_EQ(outcome.status, 404);
  EXPECT_EQ(outcome.param, "model");
}

TEST(RequestFields, RefusesJsonThatIsNone) {
  for (const char* members : {R"("temperature":NaN)", R"("temperature":Infinity)", R"("temperature":1e400)",
                              R"("temperature":01)", R"("temperature":+1)", R"("temperature":)", R"("n":1,"n":2)",
                              "\"user\":\"\xff\"", "\"user\":\"\xed\xa0\x80\"", R"("user":"\ud800")"}) {
    EXPECT_EQ(prepare(false, members).status, 400) << members;
  }
  for (const char* number : {"NaN", "1e400", "-1e400"}) {
    EXPECT_EQ(prepare(false, std::string(R"("temperature":)") + number).param, "temperature") << number;
  }
  EXPECT_EQ(prepare(false, "\"x\":" + std::string(100, '[') + std::string(100, ']')).status, 400);
}

// ---- completions

struct PromptRow {
  const char* prompt;
  std::vector<std::vector<int32_t>> tokens;  // empty: refused
};

TEST(CompletionRequest, TakesPromptsInEveryForm) {
  const std::vector<PromptRow> table = {
      {R"("ab")", {{256, 97, 98}}}, {R"(["ab","c"])", {{256, 97, 98}, {256, 99}}}, {"[1,2,3]", {{1, 2, 3}}},
      {"[[1,2],[3]]", {{1, 2}, {3}}}, {"[0,260]", {{0, 260}}}, {R"(["a",[1]])", {{256, 97}, {1}}}, {"[1.0]", {{1}}},
      {R"("")", {}}, {"[]", {}}, {"[[]]", {}}, {R"([""])", {}}, {"null", {}}, {"5", {}}, {"true", {}}, {"{}", {}},
      {"[null]", {}}, {"[true]", {}}, {"[{}]", {}}, {"[1,\"a\"]", {}}, {"[1,null]", {}}, {"[-1]", {}}, {"[261]", {}},
      {"[1.5]", {}}, {"[2147483648]", {}}, {"[4294967297]", {}}, {"[9223372036854775808]", {}}, {"[[1],[261]]", {}},
      {"[[1],[]]", {}}, {"[[1],5]", {}}, {"[[\"a\"]]", {}}, {"[[[1]]]", {}}};
  for (const PromptRow& row : table) {
    Json body;
    ASSERT_FALSE(parse_body(std::string("{\"prompt\":") + row.prompt + "}", ApiLimits{}, &body)) << row.prompt;
    PreparedRequest request;
    const auto error = prepare_completion(body, model(), ApiLimits{}, &request);
    ASSERT_EQ(error.has_value(), row.tokens.empty()) << row.prompt;
    if (error) {
      EXPECT_EQ(error->status, 400) << row.prompt;
      EXPECT_EQ(error->param, "prompt") << row.prompt;
      continue;
    }
    ASSERT_EQ(request.prompts.size(), row.tokens.size());
    for (size_t i = 0; i < row.tokens.size(); ++i) EXPECT_EQ(request.prompts[i].tokens, row.tokens[i]) << row.prompt;
  }
}

TEST(CompletionRequest, BoundsThePrompts) {
  std::string prompts = "\"a\"";
  for (int i = 0; i < 256; ++i) prompts += ",\"a\"";
  Json body;
  ASSERT_FALSE(parse_body("{\"prompt\":[" + prompts + "]}", ApiLimits{}, &body));
  PreparedRequest request;
  EXPECT_EQ(prepare_completion(body, model(), ApiLimits{}, &request)->param, "prompt");
}

Outcome prepare_text(size_t length, const std::string& members) {
  Outcome outcome;
  Json body(Json::Object{{"prompt", std::string(length, 'x')}, {"add_special_tokens", false}});
  const Json extra = parse_json("{" + members + "}").value();
  for (const auto& [name, value] : extra.as_object()) body.set(name, value);
  if (const auto error = prepare_completion(body, model(), ApiLimits{}, &outcome.request)) {
    outcome.status = error->status;
    outcome.param = error->param;
    outcome.message = error->message;
  }
  return outcome;
}

TEST(CompletionRequest, FitsPromptAndAnswerIntoTheContext) {
  EXPECT_EQ(prepare_text(10, "").request.prompts[0].max_tokens, 16);
  EXPECT_EQ(prepare_text(500, "").request.prompts[0].max_tokens, 12);
  EXPECT_EQ(prepare_text(511, "").request.prompts[0].max_tokens, 1);
  EXPECT_EQ(prepare_text(10, R"("max_tokens":502)").request.prompts[0].max_tokens, 502);
  EXPECT_EQ(prepare_text(10, R"("max_tokens":503)").param, "max_tokens");
  const Outcome full = prepare_text(512, "");
  EXPECT_EQ(full.param, "prompt");
  EXPECT_NE(full.message.find("512"), std::string::npos);
  EXPECT_EQ(prepare_text(600, R"("max_tokens":5)").param, "prompt");
  EXPECT_EQ(prepare_text(600, R"("truncate_prompt_tokens":10)").request.prompts[0].tokens.size(), 10u);
  EXPECT_EQ(prepare_text(600, R"("truncate_prompt_tokens":-1,"max_tokens":12)").request.prompts[0].tokens.size(), 500u);
}

TEST(CompletionRequest, BoundsTheWorkOfOneRequest) {
  ApiLimits limits;
  limits.request_tokens_max = 100;
  PreparedRequest request;
  const auto prepare_n = [&](int64_t n) {
    request = {};
    return prepare_completion(Json(Json::Object{{"prompt", "aaaa"}, {"n", n}, {"max_tokens", 15}}), model(), limits,
                              &request);
  };
  EXPECT_FALSE(prepare_n(5));
  const auto error = prepare_n(6);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "n");
}

TEST(CompletionRequest, ReadsLogprobsAndEcho) {
  EXPECT_EQ(prepare(false, "").request.sampling.top_logprobs, -1);
  EXPECT_EQ(prepare(false, R"("logprobs":0)").request.sampling.top_logprobs, 0);
  EXPECT_EQ(prepare(false, R"("logprobs":20)").request.sampling.top_logprobs, 20);
  for (const char* wrong : {R"("logprobs":21)", R"("logprobs":-1)", R"("logprobs":true)", R"("logprobs":"5")"}) {
    EXPECT_EQ(prepare(false, wrong).param, "logprobs") << wrong;
  }
  const Outcome echo = prepare(false, R"("echo":true,"logprobs":3)");
  EXPECT_EQ(echo.request.sampling.prompt_logprobs, 3);
  EXPECT_EQ(echo.request.prompts[0].echo, "hi");
  const Outcome only = prepare(false, R"("echo":true,"max_tokens":0)");
  EXPECT_EQ(only.status, 0) << only.message;
  EXPECT_TRUE(only.request.answer.echo_only);
  EXPECT_EQ(only.request.prompts[0].max_tokens, 1);
}

TEST(CompletionRequest, PutsStopTokensTogether) {
  EXPECT_EQ(prepare(false, "").request.sampling.stop_tokens, (std::vector<int32_t>{257, 260}));
  EXPECT_EQ(prepare(false, R"("stop_token_ids":[5,257])").request.sampling.stop_tokens,
            (std::vector<int32_t>{257, 260, 5}));
  EXPECT_EQ(prepare(false, R"("ignore_eos":true,"stop_token_ids":[5])").request.sampling.stop_tokens,
            (std::vector<int32_t>{5}));
}

TEST(CompletionRequest, StartsFromTheModelsDefaults) {
  ServedModel served = fake_model();
  served.defaults = {.temperature = 0.6, .top_p = 0.9, .min_p = 0.05, .repetition_penalty = 1.1, .top_k = 20,
                     .max_tokens = 8};
  const SamplingParams plain = prepare(false, "", served).request.sampling;
  EXPECT_FLOAT_EQ(plain.temperature, 0.6f);
  EXPECT_FLOAT_EQ(plain.top_p, 0.9f);
  EXPECT_FLOAT_EQ(plain.min_p, 0.05f);
  EXPECT_FLOAT_EQ(plain.repetition_penalty, 1.1f);
  EXPECT_EQ(plain.top_k, 20);
  EXPECT_EQ(prepare(false, "", served).request.prompts[0].max_tokens, 8);
  EXPECT_EQ(prepare(true, "", served).request.prompts[0].max_tokens, 8);
  const SamplingParams asked =
      prepare(false, R"("temperature":0,"top_k":-1,"top_p":1,"min_p":0,"repetition_penalty":1)", served).request.sampling;
  EXPECT_EQ(asked.temperature, 0);
  EXPECT_EQ(asked.top_k, 0);
  EXPECT_EQ(asked.top_p, 1);
  EXPECT_EQ(asked.min_p, 0);
  EXPECT_EQ(asked.repetition_penalty, 1);
}

TEST(CompletionRequest, DrawsASeedWhereNoneIsGiven) {
  EXPECT_NE(prepare(false, "").request.sampling.seed, prepare(false, "").request.sampling.seed);
  EXPECT_EQ(prepare(false, R"("seed":7)").request.sampling.seed, 7u);
}

TEST(CompletionRequest, NeedsNoTokenizerForIds) {
  ServedModel served = fake_model();
  served.tokenizer.reset();
  PreparedRequest request;
  EXPECT_FALSE(prepare_completion(Json(Json::Object{{"prompt", Json::Array{1, 2}}}), served, ApiLimits{}, &request));
  EXPECT_EQ(prepare_completion(Json(Json::Object{{"prompt", "a"}}), served, ApiLimits{}, &request)->param, "prompt");
  EXPECT_EQ(prepare(true, "", served).status, 400);
}

// ---- chats

struct ChatRow {
  const char* members;
  const char* text;   // what was tokenized; nullptr: refused
  const char* param;
};

TEST(ChatRequest, RendersMessagesOrNamesWhatIsWrong) {
  constexpr const char* kRole = "messages[0].role";
  constexpr const char* kContent = "messages[0].content";
  const ChatRow table[] = {
      {R"("messages":[{"role":"user","content":"a"}])", "<user>a\n<assistant>", ""},
      {R"("messages":[{"role":"system","content":"s"},{"role":"user","content":"a"}])", "<system>s\n<user>a\n<assistant>", ""},
      {R"("messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])",
       "<user>a\nb\n<assistant>", ""},
      {R"("messages":[{"role":"user","content":[]}])", "<user>\n<assistant>", ""},
      {R"("messages":[{"role":"user","content":""}])", "<user>\n<assistant>", ""},
      {R"("messages":[{"role":"developer","content":"d","name":"n"}])", "<developer>d\n<assistant>", ""},
      {R"("messages":[{"role":"user","content":"a"}],"add_generation_prompt":false)", "<user>a\n", ""},
      {R"("messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"continue_final_message":true)",
       "<user>a\n<assistant>b", ""},
      {R"("messages":[{"role":"assistant","content":" b "}],"continue_final_message":true,"add_generation_prompt":false)",
       "<assistant> b ", ""},
      {R"("messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"enable_thinking":false})",
       "<user>a\n<assistant>", ""},
      {R"("model":null)", nullptr, "messages"},
      {R"("messages":[])", nullptr, "messages"},
      {R"("messages":"hi")", nullptr, "messages"},
      {R"("messages":{})", nullptr, "messages"},
      {R"("messages":[5])", nullptr, kRole},
      {R"("messages":[{}])", nullptr, kRole},
      {R"("messages":[{"role":5,"content":"a"}])", nullptr, kRole},
      {R"("messages":[{"role":"","content":"a"}])", nullptr, kRole},
      {R"("messages":[{"role":"user"}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":null}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":5}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":{"type":"text","text":"a"}}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":["a"]}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":[{"type":"text"}]}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":[{"type":"text","text":5}]}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])", nullptr, kContent},
      {R"("messages":[{"role":"user","content":"a"},{"role":"user","content":7}])", nullptr, "messages[1].content"},
      {R"("messages":[{"role":"user","content":"a","name":5}])", nullptr, "messages[0].name"},
      {R"("messages":[{"role":"assistant","content":"a","tool_calls":5}])", nullptr, "messages[0].tool_calls"},
      {R"("messages":[{"role":"user","content":"a"}],"continue_final_message":true,"add_generation_prompt":true)",
       nullptr, "continue_final_message"},
      {R"("messages":[{"role":"user","content":"a"}],"continue_final_message":1)", nullptr, "continue_final_message"},
      {R"("messages":[{"role":"user","content":"a"}],"add_generation_prompt":"x")", nullptr, "add_generation_prompt"},
      {R"("messages":[{"role":"user","content":"a"}],"chat_template_kwargs":[])", nullptr, "chat_template_kwargs"},
      {R"("messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"messages":[]})", nullptr,
       "chat_template_kwargs"},
      {R"("messages":[{"role":"user","content":"a"}],"logprobs":5)", nullptr, "logprobs"},
      {R"("messages":[{"role":"user","content":"a"}],"top_logprobs":5)", nullptr, "top_logprobs"},
      {R"("messages":[{"role":"user","content":"a"}],"logprobs":true,"top_logprobs":21)", nullptr, "top_logprobs"},
      {R"("messages":[{"role":"user","content":"a"}],"logprobs":true,"top_logprobs":-1)", nullptr, "top_logprobs"},
  };
  for (const ChatRow& row : table) {
    Json body;
    ASSERT_FALSE(parse_body(std::string("{") + row.members + "}", ApiLimits{}, &body)) << row.members;
    PreparedRequest request;
    const auto error = prepare_chat(body, model(), ApiLimits{}, &request);
    ASSERT_EQ(error.has_value(), row.text == nullptr) << row.members << (error ? error->message : "");
    if (error) {
      EXPECT_EQ(error->param, row.param) << row.members;
      continue;
    }
    EXPECT_EQ(model().tokenizer->decode(request.prompts[0].tokens, false), row.text) << row.members;
  }
}

TEST(ChatRequest, AnswersAsLongAsTheContextLasts) {
  const Outcome outcome = prepare(true, "");
  const auto prompt = static_cast<int32_t>(outcome.request.prompts[0].tokens.size());
  EXPECT_EQ(outcome.request.prompts[0].max_tokens, 512 - prompt);
  EXPECT_EQ(prepare(true, R"("max_tokens":5)").request.prompts[0].max_tokens, 5);
  EXPECT_EQ(prepare(true, R"("max_tokens":5,"max_completion_tokens":6)").request.prompts[0].max_tokens, 6);
}

TEST(ChatRequest, ReadsLogprobs) {
  EXPECT_EQ(prepare(true, R"("logprobs":true)").request.sampling.top_logprobs, 0);
  EXPECT_EQ(prepare(true, R"("logprobs":true,"top_logprobs":5)").request.sampling.top_logprobs, 5);
  EXPECT_EQ(prepare(true, R"("logprobs":false,"top_logprobs":0)").request.sampling.top_logprobs, -1);
}

}  // namespace
}  // namespace skein
