#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace skein {

// A YAML value with the line that it stands in. Scalars are text; whoever reads one decides its type.
struct Yaml {
  enum class Kind : unsigned char { kNull, kScalar, kList, kMap };
  struct Member;
  Kind kind = Kind::kNull;
  int line = 0;  // from 1
  std::string scalar;
  std::vector<Yaml> list;
  std::vector<Member> map;  // in order; keys are unique
};

struct Yaml::Member {
  std::string key;
  int line = 0;
  Yaml value;
};

// kInvalidArgument with the line: bad syntax, anchors and aliases, keys given twice, more than 1 MiB, deeper than 32.
Result<Yaml> parse_yaml(std::string_view text);

}  // namespace skein
