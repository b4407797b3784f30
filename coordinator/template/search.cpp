#include "coordinator/template/search.h"

#include <string.h>  // memmem: the two-way algorithm

#include <string>

namespace skein::jinja {

size_t find_text(std::string_view text, std::string_view what, size_t from) {
  if (what.empty()) return from;
  const void* const at = memmem(text.data() + from, text.size() - from, what.data(), what.size());
  return at == nullptr ? text.npos
                       : static_cast<size_t>(static_cast<const char*>(at) - text.data());
}

size_t rfind_text(std::string_view text, std::string_view what) {
  if (what.size() <= 1) return text.rfind(what);
  const std::string backward_text(text.rbegin(), text.rend());
  const std::string backward_what(what.rbegin(), what.rend());
  const size_t at = find_text(backward_text, backward_what);
  return at == text.npos ? text.npos : text.size() - at - what.size();
}

}  // namespace skein::jinja
