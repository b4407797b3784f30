#pragma once

#include <span>
#include <string>
#include <string_view>

#include "coordinator/template/functions.h"

namespace skein::jinja {

std::span<const Callable> string_methods();

// What filters share with methods. Each keeps the mark of `self`.
Result<Value> strip(Run& run, const Value& self, const Value* characters, bool left, bool right);
// At most `count` times, or always if it is negative.
Result<Value> replace(Run& run, const Value& self, std::string_view from, std::string_view to,
                      int64_t count);
Result<Value> center(Run& run, const Value& self, int64_t width, std::string_view fill);
// The result of a case mapping.
Result<Value> mapped(Run& run, const Value& self, std::string (*mapping)(std::string_view));
// At line ends as str.splitlines() knows them.
Result<Value> split_lines(Run& run, const Value& self, bool keep_ends);
bool all_cased(std::string_view text, bool (*is_wanted)(uint32_t), bool (*is_other)(uint32_t));

}  // namespace skein::jinja
