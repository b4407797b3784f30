// libFuzzer: a template, then, behind a NUL, the JSON of its variables. Must neither crash nor
// hang, whatever they say.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/json.h"
#include "coordinator/template/chat_template.h"

namespace {

constexpr skein::TemplateLimits kLimits = {.source_bytes_max = 16 << 10,
                                           .steps_max = 20'000,
                                           .output_bytes_max = 1 << 20,
                                           .memory_bytes_max = 4 << 20};

const skein::Json& conversation() {
  static const skein::Json variables = *skein::parse_json(
      R"({"messages": [{"role": "system", "content": "Bé <&> 'x'"}, {"role": "user", "content": "a\n b "},
          {"role": "assistant", "content": null, "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {"k": [1, 2.5]}}}]},
          {"role": "tool", "content": [{"type": "text", "text": "t"}]}],
          "tools": [{"function": {"name": "f", "parameters": {}}}], "add_generation_prompt": true, "bos_token": "<s>",
          "eos_token": "</s>", "n": 3, "s": "text", "l": [3, 1, 2], "d": {"a": 1, "b": "c"}})");
  return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t split = input.find('\0');
  const auto compiled = skein::ChatTemplate::compile(std::string(input.substr(0, split)), kLimits);
  if (!compiled.ok()) return 0;
  if (split != input.npos) {
    const auto variables = skein::parse_json(input.substr(split + 1));
    if (variables.ok() && variables->is_object()) {
      (void)compiled->render(*variables);
      return 0;
    }
  }
  (void)compiled->render(conversation());
  return 0;
}
