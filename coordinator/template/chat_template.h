#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "base/status.h"

namespace skein {

struct TemplateLimits {
  size_t source_bytes_max = 256 << 10;
  int parse_depth_max = 64;
  int call_depth_max = 256;
  int64_t steps_max = 1'000'000;
  size_t output_bytes_max = 16 << 20;
  size_t memory_bytes_max = 64 << 20;  // of all values and intermediate texts of one rendering
};

// A Jinja template as Hugging Face chat templates use it (transformers' settings: trim_blocks,
// lstrip_blocks, loop controls, raise_exception, strftime_now, tojson). Immutable, thread-safe.
class ChatTemplate {
 public:
  // kInvalidArgument with line and cause.
  static Result<ChatTemplate> compile(std::string source, const TemplateLimits& limits = {});
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `variables` is an object: messages, add_generation_prompt, bos_token, eos_token, tools, ...
  // kInvalidArgument carries raise_exception's message, or what went wrong and in which line.
  Result<std::string> render(const Json& variables) const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<const Program> program);
  std::unique_ptr<const Program> program_;
};

}  // namespace skein
