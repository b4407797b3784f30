#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "coordinator/template/chat_template.h"

namespace skein {
namespace {

using testing::HasSubstr;

Result<std::string> render(const std::string& source, const Json& variables = Json::object()) {
  ASSIGN_OR_RETURN(const ChatTemplate compiled, ChatTemplate::compile(source));
  return compiled.render(variables);
}

std::string text_of(const std::string& source, const Json& variables = Json::object()) {
  auto result = render(source, variables);
  return result.ok() ? *result : "error: " + result.status().message();
}

std::string error_of(const std::string& source, const Json& variables = Json::object()) {
  auto result = render(source, variables);
  if (result.ok()) return "rendered: " + *result;
  EXPECT_EQ(result.status().code(), Code::kInvalidArgument);
  return result.status().message();
}

Json message(const char* role, const char* content) {
  return Json(Json::Object{{"role", role}, {"content", content}});
}

// The template in SmolLM2-135M-Instruct's GGUF file.
constexpr const char* kSmolLm2 =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are "
    "a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif "
    "%}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if "
    "add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}";

TEST(ChatTemplate, RendersSmolLm2) {
  Json variables = Json::object();
  variables.set("messages",
                Json::Array{message("user", "Hi {{ there }}"), message("assistant", "Hello!")});
  variables.set("add_generation_prompt", true);
  EXPECT_EQ(text_of(kSmolLm2, variables),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n"
            "<|im_start|>user\nHi {{ there }}<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(error_of("a\nb\n{{ x.y }}"), HasSubstr("line 3: 'x' is undefined"));
  EXPECT_THAT(error_of("a\n{% if true %}\n{{ 1 + 'a' }}\n{% endif %}"),
              HasSubstr("line 3: '+' does not work"));
  EXPECT_THAT(error_of("a\n{% if true %}\n"), HasSubstr("{% endif %} is missing"));
  EXPECT_THAT(error_of("{#\n\n#}\n{{ 'a' | nosuch }}"),
              HasSubstr("line 4: there is no filter 'nosuch'"));
  EXPECT_THAT(error_of("\n{{ 'a\nb' }}\n{{ {}.a.b }}"),
              HasSubstr("line 4: 'dict object' has no attribute 'a'"));
  EXPECT_THAT(error_of("{% macro m(a) %}\n{{ a.b.c }}\n{% endmacro %}\n\n{{ m({}) }}"),
              HasSubstr("line 2: "));
  EXPECT_THAT(error_of("{%- raw -%}\n\n{% endraw %}\n{{ 1 / 0 }}"),
              HasSubstr("line 4: division by zero"));
}

TEST(ChatTemplate, RaisedMessagesAreVerbatim) {
  EXPECT_THAT(error_of("\n{{ raise_exception('Roles must \"alternate\": {}\\n' ~ 5) }}"),
              testing::EndsWith("line 2: Roles must \"alternate\": {}\n5"));
}

TEST(ChatTemplate, RefusesWhatItDoesNotSupport) {
  EXPECT_THAT(error_of("{% include 'x' %}"), HasSubstr("'include' is not supported"));
  EXPECT_THAT(error_of("{% for x in y recursive %}{% endfor %}"),
              HasSubstr("recursive loops are not supported"));
  EXPECT_THAT(error_of("{{ 'a' | xmlattr }}"), HasSubstr("'xmlattr' is not supported"));
  EXPECT_THAT(error_of("{{ 'a'.encode() }}"), HasSubstr("'encode' is not supported"));
  EXPECT_THAT(error_of("{{ [].append(1) }}"), HasSubstr("must not change lists and dicts"));
  EXPECT_THAT(error_of("{{ 9223372036854775807 + 1 }}"), HasSubstr("out of range (64 bits)"));
  EXPECT_THAT(error_of("{{ 9223372036854775808 }}"), HasSubstr("too large"));
  EXPECT_THAT(error_of("{{ -9223372036854775807 - 2 }}"), HasSubstr("out of range"));
  EXPECT_THAT(error_of("{{ (-9223372036854775807 - 1) // -1 }}"), HasSubstr("out of range"));
  EXPECT_THAT(error_of("{{ 3037000500 * 3037000500 }}"), HasSubstr("out of range"));
  EXPECT_THAT(error_of("{{ 2 ** 63 }}"), HasSubstr("out of range"));
  EXPECT_THAT(error_of("{{ '99999999999999999999' | int }}"), HasSubstr("out of range"));
  EXPECT_THAT(error_of("{{ 1e300 | int }}"), HasSubstr("out of range"));
  EXPECT_THAT(error_of("{{ '\\ud800' }}"), HasSubstr("names no character"));
  EXPECT_THAT(error_of("{{ '\\N{DASH}' }}"), HasSubstr("\\N escapes are not supported"));
}

TEST(ChatTemplate, EdgesOfIntegers) {
  EXPECT_EQ(text_of("{{ -9223372036854775807 - 1 }}"), "-9223372036854775808");
  EXPECT_EQ(text_of("{{ (-9223372036854775807 - 1) % -1 }}"), "0");
  EXPECT_EQ(text_of("{{ 9223372036854775807 // 1 }}"), "9223372036854775807");
  EXPECT_EQ(text_of("{{ 9007199254740993 == 9007199254740992.0 }}"), "False");
  EXPECT_EQ(text_of("{{ 5 in range(0, 4503599627370496, 4503599627370495) }}"), "False");
}

TEST(ChatTemplate, VariablesHideGlobals) {
  Json variables = Json::object();
  variables.set("range", "mine");
  variables.set("strftime_now", nullptr);
  EXPECT_EQ(text_of("{{ range }}{{ strftime_now is none }}", variables), "mineTrue");
}

TEST(ChatTemplate, TellsTheTime) {
  EXPECT_EQ(text_of("{{ strftime_now('100 %%') }}"), "100 %");
  const std::string year = text_of("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4u);
  EXPECT_GE(year, "2024");
}

TEST(ChatTemplate, KeepsOrderOfObjects) {
  auto variables = parse_json(R"({"o": {"z": 1, "a": {"y": [1.0, 2, true, null]}, "m": "é"}})");
  ASSERT_TRUE(variables.ok());
  EXPECT_EQ(text_of("{{ o | tojson }}", *variables),
            R"({"z": 1, "a": {"y": [1.0, 2, true, null]}, "m": "é"})");
}

TEST(ChatTemplate, FindsKeysOfLargeObjects) {
  Json object = Json::object();
  for (int i = 0; i < 1000; ++i) object.as_object().emplace_back("key" + std::to_string(i), i);
  Json variables = Json::object();
  variables.set("o", std::move(object));
  EXPECT_EQ(text_of("{{ o.key0 }} {{ o['key999'] }} {{ o.key1000 is defined }} {{ o | length }}",
                    variables),
            "0 999 False 1000");
}

TEST(ChatTemplate, RepairsInvalidUtf8InVariables) {
  Json variables = Json::object();
  variables.set("x", std::string("a\xFF\xE2\x82") + "b");
  EXPECT_EQ(text_of("{{ x }}{{ x | length }}", variables),
            "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "b5");
  EXPECT_THAT(error_of("a\xFF"), HasSubstr("not valid UTF-8"));
}

TEST(ChatTemplate, LoopOutlivesItsLoop) {
  EXPECT_THAT(error_of("{% set ns = namespace() %}{% for x in [1] %}{% set ns.l = loop %}{% endfor "
                       "%}{{ ns.l.index }}"),
              HasSubstr("the loop is over"));
}

TEST(ChatTemplate, MacrosOutliveTheirBlock) {
  EXPECT_EQ(
      text_of(
          "{% set ns = namespace(m=[]) %}{% for x in 'ab' %}{% macro f() %}{{ x }}{% endmacro %}"
          "{% set ns.m = ns.m + [f] %}{% endfor %}{% for x in 'cd' %}{{ ns.m[loop.index0]() }}{% "
          "endfor %}"),
      "ab");
}

TEST(ChatTemplate, MovesAndRendersOnManyThreads) {
  auto compiled = ChatTemplate::compile("{% for i in range(100) %}{{ i * n }},{% endfor %}");
  ASSERT_TRUE(compiled.ok());
  const ChatTemplate moved = std::move(*compiled);
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      Json variables = Json::object();
      variables.set("n", i);
      auto result = moved.render(variables);
      if (result.ok()) texts[i] = *result;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(texts[i], testing::EndsWith("," + std::to_string(99 * i) + ","));
  }
}

}  // namespace
}  // namespace skein
