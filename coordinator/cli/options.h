#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace skein {

// One setting, as a flag (--max-model-len 4096, --max-model-len=4096) and as a YAML key (max_model_len: 4096).
struct Option {
  std::string name;         // "max-model-len"
  std::string placeholder;  // "N"; empty: a switch
  std::string help;
  std::function<Status(std::string_view)> set;  // of a switch: "true" or "false"
  std::vector<std::string> choices = {};        // of a value that is one of a few
};

// "a, b, c"
std::string joined(const std::vector<std::string>& words);

// Settings of one command. Single-owner.
class OptionTable {
 public:
  void add_text(std::string name, std::string placeholder, std::string help, std::string* target);
  void add_choice(std::string name, std::string help, std::vector<std::string> choices, std::string* target);
  void add_switch(std::string name, std::string help, bool* target);
  void add_integer(std::string name, std::string help, int64_t least, int64_t most, int64_t* target);
  void add_integer(std::string name, std::string help, int64_t least, int64_t most, int* target);
  void add_integer(std::string name, std::string help, int64_t least, int64_t most, std::optional<int64_t>* target);
  void add_real(std::string name, std::string help, double least, double most, double* target);
  void add_list(std::string name, std::string help, std::vector<std::string>* target);  // commas separate

  // Applies one setting. kInvalidArgument names the nearest known name or value. `prefix`: "--", or nothing for a
  // key of a file, which is written with underscores.
  Status apply(std::string_view name, std::string_view value, std::string_view prefix) const;
  // Applies flags; what is no flag goes to *positional. "--" ends the flags. `given`: names of the flags that are there.
  Status parse(const std::vector<std::string>& arguments, std::vector<std::string>* positional,
               std::set<std::string>* given = nullptr) const;
  const Option* find(std::string_view name) const;
  std::string help() const;

 private:
  std::vector<Option> options_;
};

}  // namespace skein
