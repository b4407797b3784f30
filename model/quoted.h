#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace skein {

// A name from a file, for an error message: quoted, without control characters or invalid UTF-8,
// cut to 80 bytes.
inline std::string quoted(std::string_view name) {
  std::string out;
  append_json_string(name.substr(0, 80), &out);
  return out;
}

}  // namespace skein
