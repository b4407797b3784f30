#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/yaml.h"

namespace skein {

// Reads the members of a YAML map one by one, and refuses what nobody asked for. Everywhere in its texts `<4>` stands
// for a counter: 4, 5, 6... for the things that `count` makes of the map; `<04>` pads with zeros, `<4/8>` advances with
// every eighth. The first error stays and is what finish() returns, with its line. Single-owner.
class YamlFields {
 public:
  // `what` names the map in errors: "a node". `index`: of the thing that is made, from 0.
  YamlFields(const Yaml& yaml, std::string what, int index = 0);

  // Targets stay as they are where the key is missing.
  void text(std::string_view key, std::string* target);
  void choice(std::string_view key, const std::vector<std::string>& choices, int* target);
  void flag(std::string_view key, bool* target);
  void integer(std::string_view key, int least, int most, int* target);
  void integers(std::string_view key, int least, int most, std::vector<int>* target);
  // In the target's unit: what is written, times `unit`.
  void real(std::string_view key, double least, double most, double unit, double* target);
  void bytes(std::string_view key, double least_gib, double most_gib, int64_t* target);
  const Yaml* list(std::string_view key);  // nullptr: missing, or no list
  const Yaml* map(std::string_view key);
  void refuse(int line, const std::string& what);

  Status finish();  // also refuses keys that were never asked for, with the nearest one that was

 private:
  const Yaml::Member* find(std::string_view key);
  const std::string* scalar(std::string_view key);  // with counters filled in; nullptr: missing or refused
  bool parse_integer(const Yaml& value, std::string_view key, int least, int most, int* target);
  const Yaml* of_kind(std::string_view key, Yaml::Kind kind, const char* name);

  const Yaml& yaml_;
  const std::string what_;
  const int index_;
  std::vector<std::string> asked_;
  std::string filled_;
  int line_ = 0;  // of the member that was found last
  Status status_;
};

// `text` with its counters filled in for the thing of that index.
Result<std::string> fill_counters(std::string_view text, int index);

}  // namespace skein
