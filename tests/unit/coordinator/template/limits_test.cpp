// Hostile templates and messages: they must end with an error, soon, without much memory or stack.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/template/chat_template.h"

namespace skein {
namespace {

using testing::HasSubstr;

std::string repeat(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::string outcome(const std::string& source, const Json& variables = Json::object(),
                    TemplateLimits limits = {}) {
  auto compiled = ChatTemplate::compile(source, limits);
  if (!compiled.ok()) return compiled.status().message();
  auto result = compiled->render(variables);
  if (result.ok()) return "rendered " + std::to_string(result->size()) + " bytes";
  EXPECT_EQ(result.status().code(), Code::kInvalidArgument);
  return result.status().message();
}

constexpr const char* kSteps = "steps";
constexpr const char* kMemory = "bytes";

TEST(TemplateLimits, Source) {
  EXPECT_THAT(outcome(repeat("a", (256 << 10) + 1)), HasSubstr("over the limit"));
  EXPECT_EQ(outcome(repeat("a", 256 << 10)), "rendered 262144 bytes");
}

TEST(TemplateLimits, NestingOfTheSource) {
  for (const auto& [open, close] : {std::pair{"(", ")"},
                                    {"[", "]"},
                                    {"{1: ", "}"},
                                    {"-", ""},
                                    {"not ", ""},
                                    {"x[", "]"},
                                    {"f(", ")"},
                                    {"1 if 1 else ", ""},
                                    {"a|d(", ")"}}) {
    const std::string source = "{{ " + repeat(open, 5000) + "1" + repeat(close, 5000) + " }}";
    EXPECT_THAT(outcome(source), HasSubstr("deep")) << open;
  }
  EXPECT_THAT(outcome(repeat("{% if 1 %}", 3000)), HasSubstr("nested deeper than"));
  EXPECT_THAT(outcome(repeat("{% for x in y %}", 3000)), HasSubstr("nested deeper than"));
  EXPECT_THAT(outcome(repeat("{% macro m() %}", 3000)), HasSubstr("nested deeper than"));
  EXPECT_THAT(outcome("{% set " + repeat("(", 3000) + "x" + repeat(")", 3000) + " = 1 %}"),
              HasSubstr("nested deeper than"));
  EXPECT_THAT(outcome("{{ x" + repeat(".a", 5000) + " }}"), HasSubstr("too deeply"));
  EXPECT_THAT(outcome("{{ x" + repeat("|d", 5000) + " }}"), HasSubstr("too deeply"));
}

TEST(TemplateLimits, LongSourcesThatDoNotNest) {
  EXPECT_EQ(outcome("{{ 1" + repeat(" + 1", 20000) + " }}"), "rendered 5 bytes");
  EXPECT_EQ(outcome("{{ 1" + repeat(" and 1", 20000) + " }}"), "rendered 1 bytes");
  EXPECT_EQ(outcome("{{ 1" + repeat(" < 1", 20000) + " }}"), "rendered 5 bytes");
  EXPECT_EQ(outcome("{{ 'a'" + repeat(" 'b'", 20000) + " }}"), "rendered 20001 bytes");
  EXPECT_EQ(outcome("{% if 0 %}" + repeat("{% elif 0 %}", 15000) + "{% else %}x{% endif %}"),
            "rendered 1 bytes");
  EXPECT_EQ(outcome(repeat("{% set x = 1 %}", 15000)), "rendered 0 bytes");
  EXPECT_THAT(outcome("{{ f(" + repeat("a=1, ", 20000) + ") }}"), HasSubstr("given twice"));
}

TEST(TemplateLimits, Steps) {
  EXPECT_THAT(
      outcome("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
      HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% for a in range(2000) %}{{ range(99999)|list|length }}{% endfor %}"),
              HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% for a in range(2000) %}{{ range(99999)|sum }}{% endfor %}"),
              HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% for a in range(2000) %}{{ range(99999)|sort }}{% endfor %}"),
              HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% set l = range(9999)|list %}{% for a in l %}{{ a in l }}{% endfor %}"),
              HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% for a in range(9999) if not range(9999)|list %}{% endfor %}"),
              HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% set l = range(50000)|list %}{% for a in range(9999) %}{{ l == l[:] + [] "
                      "}}{% endfor %}"),
              HasSubstr(kSteps));
}

TEST(TemplateLimits, StepsCountManyVariables) {
  std::string many;
  for (int i = 0; i < 10000; ++i) many += "{% set a" + std::to_string(i) + "=1 %}";
  EXPECT_THAT(outcome(many + "{% for i in range(99999) %}{{ x }}{{ a9999 }}{% endfor %}"),
              HasSubstr(kSteps));
  EXPECT_THAT(outcome("{% for i in range(99999) %}" + many + "{% endfor %}"), HasSubstr(kSteps));
}

TEST(TemplateLimits, StepsCountTheTextThatIsReadAgain) {
  const std::string text = "{% set s = 'ab' * 1000000 %}{% for a in range(99999) %}";
  for (const char* const use :
       {"{{ s.find('aa') }}", "{{ s == s ~ '' }}", "{{ 'x' in s }}", "{{ s|length }}",
        "{{ s[-1] }}", "{{ s.count('zz') }}", "{{ s.strip('ab')|length }}", "{{ s.isalpha() }}",
        "{{ s.rfind('aa') }}", "{{ {s: 1}|length }}", "{{ s < s ~ 'a' }}",
        "{{ s.split('aa')|length }}", "{{ s|wordcount }}", "{{ s.title()|length }}",
        "{{ s.replace('x', 'y')|length }}", "{{ s|int }}"}) {
    EXPECT_THAT(outcome(text + use + "{% endfor %}", Json::object(), {.steps_max = 200'000}),
                testing::AnyOf(HasSubstr(kSteps), HasSubstr(kMemory)))
        << use;
  }
}

TEST(TemplateLimits, SearchIsLinear) {
  Json variables = Json::object();
  variables.set("hay", repeat("a", 4 << 20));
  variables.set("needle", repeat("a", 1 << 20) + "b" + repeat("a", 1 << 20));
  EXPECT_EQ(outcome("{{ needle in hay }}{{ hay.rfind(needle) }}{{ hay.count(needle) }}", variables),
            "rendered 8 bytes");
}

TEST(TemplateLimits, Memory) {
  for (const char* const source : {"{{ 'a' * 1000000000 }}",
                                   "{{ 'a' * 9223372036854775807 }}",
                                   "{{ [1] * 1000000000 }}",
                                   "{{ [1, 2, 3] * 9223372036854775807 }}",
                                   "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
                                   "{{ ('a' * 100000)|join('b' * 100000) }}",
                                   "{{ ('b' * 100000).join('a' * 100000) }}",
                                   "{{ 'a'|center(1000000000) }}",
                                   "{{ 'a'.ljust(9223372036854775807) }}",
                                   "{{ 'a'.rjust(1000000000) }}",
                                   "{{ '1'.zfill(1000000000) }}",
                                   "{{ ('a\n' * 1000000)|indent('x' * 1000) }}",
                                   "{{ [['x' * 100000] * 1000] * 1000 }}",
                                   "{{ ([['x' * 100000] * 1000] * 1000)|tojson }}",
                                   "{{ [1]|batch(1000000000, 0)|list }}",
                                   "{{ [1]|slice(1000000000)|list }}",
                                   "{{ ('a,' * 8000000).split(',')|length }}",
                                   "{{ ('a' * 8000000)|list|length }}",
                                   "{{ ('\n' * 8000000).splitlines()|length }}",
                                   "{{ ('a ' * 8000000).split()|length }}",
                                   "{{ ('<' * 8000000)|e|e|e|length }}",
                                   "{{ ('\x01' * 8000000)|tojson|length }}",
                                   "{{ ('\\x01' * 8000000)|tojson|length }}",
                                   "{{ ('a' * 4000000)|urlencode|urlencode|length }}",
                                   "{{ ('%s' * 100000) % (('x' * 10000,) * 100000) }}"}) {
    EXPECT_THAT(outcome(source), testing::AnyOf(HasSubstr(kMemory), HasSubstr(kSteps))) << source;
  }
  EXPECT_THAT(outcome("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ "
                      "n.s %}{% endfor %}"),
              testing::AnyOf(HasSubstr(kMemory), HasSubstr(kSteps)));
  EXPECT_THAT(outcome("{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = n.l + "
                      "n.l %}{% endfor %}"),
              testing::AnyOf(HasSubstr(kMemory), HasSubstr(kSteps)));
  EXPECT_THAT(outcome("{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = [n.l, "
                      "n.l] %}{% endfor %}{{ n.l }}"),
              testing::AnyOf(HasSubstr(kMemory), HasSubstr(kSteps)));
}

TEST(TemplateLimits, WidthsAndPrecisions) {
  for (const char* const source :
       {"{{ '%1000000000d' % 1 }}", "{{ '%.1000000000f' % 1 }}", "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}", "{{ '{:.1000000000f}'.format(1.0) }}",
        "{{ 1|tojson(indent=1000000000) }}", "{{ 'a\nb'|indent(1000000000) }}"}) {
    EXPECT_THAT(outcome(source),
                testing::AnyOf(HasSubstr("too large"), HasSubstr("more than 1024")))
        << source;
  }
}

TEST(TemplateLimits, Output) {
  TemplateLimits limits;
  limits.output_bytes_max = 1000;
  EXPECT_EQ(outcome("{% for i in range(1000) %}x{% endfor %}", Json::object(), limits),
            "rendered 1000 bytes");
  EXPECT_THAT(outcome("{% for i in range(1001) %}x{% endfor %}", Json::object(), limits),
              HasSubstr("longer than 1000"));
  EXPECT_THAT(outcome("{% set x %}{{ 'a' * 1001 }}{% endset %}", Json::object(), limits),
              HasSubstr("longer than 1000"));
}

TEST(TemplateLimits, CallDepth) {
  EXPECT_THAT(outcome("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("levels deep"));
  EXPECT_THAT(
      outcome(
          "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}"),
      HasSubstr("levels deep"));
  EXPECT_THAT(outcome("{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller() }}{% "
                      "endmacro %}{{ m() }}"),
              HasSubstr("deep"));
  EXPECT_THAT(outcome("{% macro m(a=m()) %}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
  const std::string body =
      repeat("{% if 1 %}", 20) + "{{ ((((m(1)))))|trim }}" + repeat("{% endif %}", 20);
  EXPECT_THAT(outcome("{% macro m(x) %}" + body + "{% endmacro %}{{ m(1) }}"), HasSubstr("deep"));
  EXPECT_EQ(outcome("{% macro m(n) %}{{ m(n - 1) if n }}{% endmacro %}{{ m(200) }}"),
            "rendered 0 bytes");
}

TEST(TemplateLimits, DeepValues) {
  const std::string deep =
      "{% set n = namespace(l=[]) %}{% for i in range(50000) %}{% set n.l = [n.l] %}{% endfor %}";
  for (const char* const use :
       {"{{ n.l }}", "{{ n.l|tojson }}", "{{ n.l|string }}", "{{ '%r' % [n.l] }}"}) {
    EXPECT_THAT(outcome(deep + use), HasSubstr("too deeply")) << use;
  }
  const std::string twins =
      "{% set n = namespace(a=(), b=()) %}{% for i in range(20000) %}{% set n.a = (n.a,) %}"
      "{% set n.b = (n.b,) %}{% endfor %}";
  for (const char* const use :
       {"{{ n.a == n.b }}", "{{ n.a < n.b }}", "{{ {n.a: 1} }}", "{{ [n.a, n.b]|sort }}"}) {
    EXPECT_THAT(outcome(twins + use), HasSubstr("too deeply")) << use;
  }
  EXPECT_THAT(outcome("{% set n = namespace() %}{% set n.self = n %}{{ n }}"),
              HasSubstr("too deeply"));
  EXPECT_EQ(outcome(deep), "rendered 0 bytes");
}

TEST(TemplateLimits, DeepVariables) {
  Json json;
  for (int i = 0; i < 5000; ++i) {
    Json outer = Json::array();
    outer.push_back(std::move(json));
    json = std::move(outer);
  }
  Json variables = Json::object();
  variables.set("x", std::move(json));
  EXPECT_THAT(outcome("{{ x }}", variables), HasSubstr("too deeply"));
  EXPECT_EQ(outcome("{{ y }}", variables), "rendered 0 bytes");
}

TEST(TemplateLimits, ScopesThatMacrosKeep) {
  EXPECT_THAT(outcome("{% for i in range(99999) %}{% for j in range(9) %}{% macro m() %}{% "
                      "endmacro %}{% endfor %}{% endfor %}"),
              testing::AnyOf(HasSubstr(kMemory), HasSubstr(kSteps)));
}

TEST(TemplateLimits, LongConversationsFit) {
  Json::Array messages;
  for (int i = 0; i < 4000; ++i) {
    messages.push_back(Json(Json::Object{{"role", i % 2 == 0 ? "user" : "assistant"},
                                         {"content", repeat("word ", 200)}}));
  }
  Json variables = Json::object();
  variables.set("messages", std::move(messages));
  EXPECT_EQ(outcome("{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) "
                    "%}{{ raise_exception('x') }}"
                    "{% endif %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + '<|end|>\n' "
                    "}}{% endfor %}",
                    variables),
            "rendered " + std::to_string(4000 * 999 + 2000 * (9 + 14) + 4000 * 8) + " bytes");
}

}  // namespace
}  // namespace skein
