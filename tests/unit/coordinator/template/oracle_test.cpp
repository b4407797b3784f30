// Compares byte for byte with what Jinja2 made of the corpus in tests/oracles/templates.

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/json.h"
#include "coordinator/template/chat_template.h"

namespace skein {
namespace {

const Json& fixture() {
  static const Json json = [] {
    std::ifstream file("tests/oracles/fixtures/templates.json");
    std::stringstream text;
    text << file.rdbuf();
    auto parsed = parse_json(text.str());
    EXPECT_TRUE(parsed.ok()) << parsed.status().message();
    return parsed.ok() ? *parsed : Json::object();
  }();
  return json;
}

Result<std::string> render(const std::string& source, const Json& variables) {
  ASSIGN_OR_RETURN(const ChatTemplate compiled, ChatTemplate::compile(source));
  return compiled.render(variables);
}

// `expected` is {"ok": text}, {"raised": message} or {"error": Jinja's words, which need not be
// ours}.
void expect_same(const std::string& source, const Json& variables, const Json& expected) {
  SCOPED_TRACE(source.substr(0, 300));
  const auto result = render(source, variables);
  if (const Json* const text = expected.find("ok"); text != nullptr) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(*result, text->as_string());
    return;
  }
  ASSERT_FALSE(result.ok()) << "rendered: " << *result;
  EXPECT_EQ(result.status().code(), Code::kInvalidArgument);
  if (const Json* const raised = expected.find("raised"); raised != nullptr) {
    EXPECT_NE(result.status().message().find(raised->as_string()), std::string::npos)
        << result.status().message();
  }
}

TEST(TemplateOracle, Expressions) {
  const Json* const cases = fixture().find("expressions");
  ASSERT_NE(cases, nullptr);
  EXPECT_GT(cases->as_array().size(), 200u);
  for (const Json& entry : cases->as_array()) {
    expect_same(entry.as_array()[0].as_string(), Json::object(), entry.as_array()[1]);
  }
}

TEST(TemplateOracle, Snippets) {
  const Json* const cases = fixture().find("snippets");
  ASSERT_NE(cases, nullptr);
  const Json* const variables = fixture().find("conversations")->find("tools");
  EXPECT_GT(cases->as_object().size(), 150u);
  for (const auto& [name, entry] : cases->as_object()) {
    SCOPED_TRACE(name);
    expect_same(entry.as_array()[0].as_string(), *variables, entry.as_array()[1]);
  }
}

TEST(TemplateOracle, Families) {
  const Json* const families = fixture().find("families");
  ASSERT_NE(families, nullptr);
  EXPECT_GT(families->as_object().size(), 20u);
  for (const auto& [family, entry] : families->as_object()) {
    for (const auto& [conversation, expected] : entry.find("results")->as_object()) {
      SCOPED_TRACE(family + " of " + conversation);
      expect_same(entry.find("template")->as_string(),
                  *fixture().find("conversations")->find(conversation), expected);
    }
  }
}

}  // namespace
}  // namespace skein
