#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace skein::text {

// What tokenizer.ggml.pre stands for.
struct GgufPre {
  // Each pattern cuts the pieces of the one before it into its matches and what lies between.
  std::span<const std::string_view> patterns;
  bool ignore_merges = false;
  bool add_bos = false;  // unless the file says otherwise
};

// An empty name means "default". kUnsupported for an unknown one, listing those that are known.
Result<GgufPre> gguf_pre(std::string_view name);

}  // namespace skein::text
