// Renders templates for differential.py: one JSON object {"template", "variables"} per line of
// standard input, one
// {"ok": text} or {"error": message} per line of standard output.

#include <iostream>
#include <string>

#include "base/json.h"
#include "coordinator/template/chat_template.h"

namespace {

skein::Result<std::string> render(const std::string& line) {
  ASSIGN_OR_RETURN(const skein::Json request, skein::parse_json(line));
  const skein::Json* const source = request.find("template");
  const skein::Json* const variables = request.find("variables");
  if (source == nullptr || variables == nullptr)
    return skein::invalid_argument("no template or no variables");
  ASSIGN_OR_RETURN(const skein::ChatTemplate compiled,
                   skein::ChatTemplate::compile(source->as_string()));
  return compiled.render(*variables);
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    auto result = render(line);
    skein::Json answer = skein::Json::object();
    if (result.ok()) {
      answer.set("ok", *result);
    } else {
      answer.set("error", result.status().message());
    }
    std::cout << answer.dump() << '\n';
  }
}
