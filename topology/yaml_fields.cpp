#include "topology/yaml_fields.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/nearest.h"
#include "base/parse_number.h"

namespace skein {
namespace {

std::string in_quotes(std::string_view text) { return "\"" + std::string(text) + "\""; }

std::string plain(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

}  // namespace

Result<std::string> fill_counters(std::string_view text, int index) {
  std::string filled;
  while (true) {
    const size_t open = text.find('<');
    const size_t close = text.find('>', open);
    if (open == text.npos || close == text.npos) return filled + std::string(text);
    const std::string_view counter = text.substr(open + 1, close - open - 1);
    const size_t slash = counter.find('/');
    const std::string_view start = counter.substr(0, slash);
    const auto first = parse_number<int>(start);
    const auto every = slash == counter.npos ? 1 : parse_number<int>(counter.substr(slash + 1));
    if (!first || !every || *first < 0 || *every < 1 || *first > 1'000'000) {
      return invalid_argument("the counter <" + std::string(counter) + "> is none: write <0>, <001> or <0/8>");
    }
    std::string number = std::to_string(*first + index / *every);
    if (number.size() < start.size()) number.insert(0, start.size() - number.size(), '0');
    filled += std::string(text.substr(0, open)) + number;
    text.remove_prefix(close + 1);
  }
}

YamlFields::YamlFields(const Yaml& yaml, std::string what, int index)
    : yaml_(yaml), what_(std::move(what)), index_(index) {
  if (yaml.kind != Yaml::Kind::kMap) refuse(yaml.line, what_ + " must be a map of settings");
}

void YamlFields::refuse(int line, const std::string& what) {
  if (status_.ok()) status_ = invalid_argument("line " + std::to_string(line) + ": " + what);
}

const Yaml::Member* YamlFields::find(std::string_view key) {
  if (std::ranges::find(asked_, key) == asked_.end()) asked_.emplace_back(key);
  const auto member = std::ranges::find(yaml_.map, key, &Yaml::Member::key);
  if (member == yaml_.map.end()) return nullptr;
  line_ = member->line;
  return &*member;
}

const std::string* YamlFields::scalar(std::string_view key) {
  const Yaml::Member* member = find(key);
  if (member == nullptr) return nullptr;
  if (member->value.kind != Yaml::Kind::kScalar) {
    refuse(member->line, std::string(key) + " of " + what_ + " must be a single value");
    return nullptr;
  }
  Result<std::string> filled = fill_counters(member->value.scalar, index_);
  if (!filled.ok()) {
    refuse(member->line, std::string(key) + ": " + filled.status().message());
    return nullptr;
  }
  filled_ = *std::move(filled);
  return &filled_;
}

void YamlFields::text(std::string_view key, std::string* target) {
  if (const std::string* value = scalar(key)) *target = *value;
}

void YamlFields::choice(std::string_view key, const std::vector<std::string>& choices, int* target) {
  const std::string* value = scalar(key);
  if (value == nullptr) return;
  const auto found = std::ranges::find(choices, *value);
  if (found != choices.end()) {
    *target = static_cast<int>(found - choices.begin());
    return;
  }
  std::string all;
  for (const std::string& choice : choices) all += (all.empty() ? "" : ", ") + choice;
  refuse(line_, std::string(key) + " of " + what_ + " is one of " + all + ", not " + in_quotes(*value));
}

void YamlFields::flag(std::string_view key, bool* target) {
  int value = *target;
  choice(key, {"false", "true"}, &value);
  *target = value != 0;
}

bool YamlFields::parse_integer(const Yaml& value, std::string_view key, int least, int most, int* target) {
  if (value.kind == Yaml::Kind::kScalar) {
    const Result<std::string> filled = fill_counters(value.scalar, index_);
    const auto number = filled.ok() ? parse_number<int>(*filled) : std::nullopt;
    if (number && *number >= least && *number <= most) {
      *target = *number;
      return true;
    }
  }
  refuse(value.line, std::string(key) + " of " + what_ + " must be a whole number from " + std::to_string(least) +
                         " to " + std::to_string(most));
  return false;
}

void YamlFields::integer(std::string_view key, int least, int most, int* target) {
  if (const Yaml::Member* member = find(key)) parse_integer(member->value, key, least, most, target);
}

void YamlFields::integers(std::string_view key, int least, int most, std::vector<int>* target) {
  const Yaml* items = list(key);
  if (items == nullptr) return;
  target->clear();
  for (const Yaml& item : items->list) {
    int value = 0;
    if (!parse_integer(item, key, least, most, &value)) return;
    target->push_back(value);
  }
}

void YamlFields::real(std::string_view key, double least, double most, double unit, double* target) {
  const std::string* value = scalar(key);
  if (value == nullptr) return;
  const auto number = parse_number<double>(*value);
  if (number && std::isfinite(*number) && *number >= least && *number <= most) {
    *target = *number * unit;
  } else {
    refuse(line_, std::string(key) + " of " + what_ + " must be a number from " + plain(least) + " to " + plain(most) +
                      ", not " + in_quotes(*value));
  }
}

void YamlFields::bytes(std::string_view key, double least_gib, double most_gib, int64_t* target) {
  double value = -1;
  real(key, least_gib, most_gib, 1024.0 * 1024 * 1024, &value);
  if (value >= 0) *target = std::llround(value);
}

const Yaml* YamlFields::of_kind(std::string_view key, Yaml::Kind kind, const char* name) {
  const Yaml::Member* member = find(key);
  if (member == nullptr) return nullptr;
  if (member->value.kind == kind) return &member->value;
  refuse(member->line, std::string(key) + " of " + what_ + " must be a " + name);
  return nullptr;
}

const Yaml* YamlFields::list(std::string_view key) { return of_kind(key, Yaml::Kind::kList, "list"); }
const Yaml* YamlFields::map(std::string_view key) { return of_kind(key, Yaml::Kind::kMap, "map"); }

Status YamlFields::finish() {
  for (const Yaml::Member& member : yaml_.map) {
    if (std::ranges::find(asked_, member.key) != asked_.end()) continue;
    const auto guess = nearest(member.key, asked_);
    refuse(member.line, what_ + " has no setting " + in_quotes(member.key) +
                            (guess ? "; did you mean " + *guess + "?" : ""));
  }
  return status_;
}

}  // namespace skein
