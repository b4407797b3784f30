#include "base/node_name.h"

#include <algorithm>
#include <string>

namespace skein {
namespace {

bool allowed(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

// What a terminal can show of it.
std::string shown(std::string_view name) {
  std::string text(name);
  std::ranges::replace_if(text, [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

}  // namespace

Status check_node_name(std::string_view name) {
  const bool fits = !name.empty() && name.front() != '-' && name != "." && name != "..";
  if (fits && std::ranges::all_of(name, allowed)) return {};
  return invalid_argument("\"" + shown(name) + "\" cannot be a node's name: give one of letters, digits, '-', '_' and '.', "
                          "which does not begin with '-'");
}

}  // namespace skein
