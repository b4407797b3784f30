#include "coordinator/api/fields.h"

#include <charconv>
#include <cmath>
#include <utility>

namespace skein {
namespace {

constexpr double kExactMax = 9007199254740992.0;  // 2^53

std::string short_number(double value) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

// What a message may repeat of a value: its type, and itself where it is a number or boolean.
std::string shown(const Json& value) {
  if (value.is_number() || value.is_bool()) return value.dump();
  const std::string_view type = value.type_name();
  const bool vowel = type == "array" || type == "object" || type == "integer";
  return std::string(vowel ? "an " : "a ").append(type);
}

}  // namespace

std::optional<int64_t> as_integer(const Json& value) {
  if (value.is_int()) return value.as_int();
  if (!value.is_number()) return std::nullopt;
  const double number = value.as_double();
  if (std::abs(number) > kExactMax || number != std::trunc(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

void Fields::fail(std::string_view name, std::string message, std::string code) {
  if (error_) return;
  error_ = HttpError{.status = 400,
                     .message = std::move(message),
                     .param = prefix_ + std::string(name),
                     .code = std::move(code)};
}

void Fields::fail(HttpError error) {
  if (!error_) error_ = std::move(error);
}

void Fields::wrong(std::string_view name, const Json& value, const std::string& wanted) {
  fail(name, "`" + prefix_ + std::string(name) + "` must be " + wanted + ", not " + shown(value) + ".");
}

const Json* Fields::find(std::string_view name) const {
  const Json* value = object_.find(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool Fields::boolean(std::string_view name, bool fallback) {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (value->is_bool()) return value->as_bool();
  wrong(name, *value, "true or false");
  return fallback;
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t min, int64_t max) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = as_integer(*value);
  if (number && *number >= min && *number <= max) return number;
  wrong(name, *value, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
  return std::nullopt;
}

std::optional<double> Fields::number(std::string_view name, NumberRange range) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const double number = value->as_double();
    const bool above = range.min_excluded ? number > range.min : number >= range.min;
    if (above && number <= range.max) return number;
  }
  wrong(name, *value, std::string("a number ") + (range.min_excluded ? "above " : "from ") +
                          short_number(range.min) + (range.min_excluded ? " and up to " : " to ") +
                          short_number(range.max));
  return std::nullopt;
}

std::optional<std::string> Fields::string(std::string_view name, size_t bytes_max) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string() && value->as_string().size() <= bytes_max) return value->as_string();
  if (value->is_string()) {
    fail(name, "`" + prefix_ + std::string(name) + "` is longer than " + std::to_string(bytes_max) +
                   " bytes.");
  } else {
    wrong(name, *value, "a string");
  }
  return std::nullopt;
}

const Json* Fields::array(std::string_view name, size_t size_max) {
  const Json* value = find(name);
  if (value == nullptr) return nullptr;
  if (value->is_array() && value->as_array().size() <= size_max) return value;
  if (value->is_array()) {
    fail(name, "`" + prefix_ + std::string(name) + "` has " +
                   std::to_string(value->as_array().size()) + " elements; the limit is " +
                   std::to_string(size_max) + ".");
  } else {
    wrong(name, *value, "an array");
  }
  return nullptr;
}

const Json* Fields::object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  wrong(name, *value, "an object");
  return nullptr;
}

}  // namespace skein
