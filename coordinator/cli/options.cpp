#include "coordinator/cli/options.h"

#include <algorithm>

#include "base/check.h"
#include "base/nearest.h"
#include "base/parse_number.h"

namespace skein {
namespace {

template <typename Number>
Status set_number(std::string_view text, Number least, Number most, const std::function<void(Number)>& store) {
  const std::optional<Number> value = parse_number<Number>(text);
  if (!value || !(*value >= least && *value <= most)) {
    std::ostringstream range;
    range << "must be a " << (std::is_integral_v<Number> ? "whole number" : "number") << " from " << least << " to "
          << most << ", not \"" << text << "\"";
    return invalid_argument(range.str());
  }
  store(*value);
  return {};
}

}  // namespace

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

void OptionTable::add_text(std::string name, std::string placeholder, std::string help, std::string* target) {
  options_.push_back({std::move(name), std::move(placeholder), std::move(help), [target](std::string_view value) {
                        *target = value;
                        return Status();
                      }});
}

void OptionTable::add_choice(std::string name, std::string help, std::vector<std::string> choices,
                             std::string* target) {
  std::string placeholder;
  for (const std::string& choice : choices) placeholder += (placeholder.empty() ? "" : "|") + choice;
  auto set = [choices, target](std::string_view value) {
    if (std::ranges::find(choices, value) != choices.end()) {
      *target = value;
      return Status();
    }
    std::string message = "must be one of " + joined(choices) + ", not \"" + std::string(value) + "\"";
    if (const auto guess = nearest(value, choices)) message += "; did you mean " + *guess + "?";
    return invalid_argument(std::move(message));
  };
  options_.push_back({std::move(name), std::move(placeholder), std::move(help), std::move(set), std::move(choices)});
}

void OptionTable::add_switch(std::string name, std::string help, bool* target) {
  options_.push_back({std::move(name), "", std::move(help), [target](std::string_view value) {
                        if (value != "true" && value != "false") return invalid_argument("must be true or false");
                        *target = value == "true";
                        return Status();
                      }});
}

void OptionTable::add_integer(std::string name, std::string help, int64_t least, int64_t most, int64_t* target) {
  options_.push_back({std::move(name), "N", std::move(help), [=](std::string_view value) {
                        return set_number<int64_t>(value, least, most, [target](int64_t v) { *target = v; });
                      }});
}

void OptionTable::add_integer(std::string name, std::string help, int64_t least, int64_t most, int* target) {
  options_.push_back({std::move(name), "N", std::move(help), [=](std::string_view value) {
                        return set_number<int64_t>(value, least, most,
                                                   [target](int64_t v) { *target = static_cast<int>(v); });
                      }});
}

void OptionTable::add_integer(std::string name, std::string help, int64_t least, int64_t most,
                              std::optional<int64_t>* target) {
  options_.push_back({std::move(name), "N", std::move(help), [=](std::string_view value) {
                        return set_number<int64_t>(value, least, most, [target](int64_t v) { *target = v; });
                      }});
}

void OptionTable::add_real(std::string name, std::string help, double least, double most, double* target) {
  options_.push_back({std::move(name), "X", std::move(help), [=](std::string_view value) {
                        return set_number<double>(value, least, most, [target](double v) { *target = v; });
                      }});
}

void OptionTable::add_list(std::string name, std::string help, std::vector<std::string>* target) {
  options_.push_back({std::move(name), "A,B,...", std::move(help), [target](std::string_view value) {
                        target->clear();
                        while (!value.empty()) {
                          const size_t comma = value.find(',');
                          target->emplace_back(value.substr(0, comma));
                          value.remove_prefix(comma == value.npos ? value.size() : comma + 1);
                        }
                        return Status();
                      }});
}

const Option* OptionTable::find(std::string_view name) const {
  const auto it = std::ranges::find(options_, name, &Option::name);
  return it == options_.end() ? nullptr : &*it;
}

Status OptionTable::apply(std::string_view name, std::string_view value, std::string_view prefix) const {
  const auto as_written = [&](std::string_view text) {
    std::string written = std::string(prefix) + std::string(text);
    if (prefix.empty()) std::ranges::replace(written, '-', '_');
    return written;
  };
  const std::string shown = as_written(name);
  if (const Option* option = find(name)) return option->set(value).within(shown);
  std::vector<std::string> names;
  for (const Option& option : options_) names.push_back(option.name);
  std::string message = "unknown setting " + shown;
  if (const auto guess = nearest(name, names)) message += "; did you mean " + as_written(*guess) + "?";
  return invalid_argument(std::move(message));
}

Status OptionTable::parse(const std::vector<std::string>& arguments, std::vector<std::string>* positional,
                          std::set<std::string>* given) const {
  bool flags = true;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string_view argument = arguments[i];
    if (!flags || !argument.starts_with("--")) {
      if (flags && argument.size() > 1 && argument[0] == '-') {
        return invalid_argument("unknown flag " + std::string(argument) + "; flags begin with two dashes");
      }
      positional->emplace_back(argument);
      continue;
    }
    argument.remove_prefix(2);
    if (argument.empty()) {
      flags = false;
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    std::string_view value = equals == argument.npos ? std::string_view() : argument.substr(equals + 1);
    const Option* option = find(name);
    if (option != nullptr && equals == argument.npos) {
      if (option->placeholder.empty()) {
        value = "true";
      } else if (i + 1 < arguments.size()) {
        value = arguments[++i];
      } else {
        return invalid_argument("--" + std::string(name) + " needs a value: " + option->placeholder);
      }
    }
    RETURN_IF_ERROR(apply(name, value, "--"));
    if (given != nullptr) given->emplace(name);
  }
  return {};
}

std::string OptionTable::help() const {
  constexpr size_t kColumn = 34;
  std::string text;
  for (const Option& option : options_) {
    std::string line = "  --" + option.name + (option.placeholder.empty() ? "" : " " + option.placeholder);
    line += line.size() + 1 < kColumn ? std::string(kColumn - line.size(), ' ') : "\n" + std::string(kColumn, ' ');
    text += line + option.help + "\n";
  }
  return text;
}

}  // namespace skein
