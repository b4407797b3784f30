#pragma once

#include <string_view>

namespace skein::jinja {

// As std::string_view::find and rfind, but in linear time whatever the texts are. Requires: from <=
// text.size().
size_t find_text(std::string_view text, std::string_view what, size_t from = 0);
size_t rfind_text(std::string_view text, std::string_view what);

}  // namespace skein::jinja
