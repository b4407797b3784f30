#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace skein {

// The candidate with the fewest edits to `word`, if it is near enough to be what was meant.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace skein
