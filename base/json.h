#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace skein {

// A JSON value. Objects keep the order of their keys. Integers that fit int64 stay exact; every
// other number is a double. A plain value type: copy, compare, share between threads when const.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;  // null
  Json(std::nullptr_t) {}                                              // NOLINT
  Json(bool value) : value_(value) {}                                  // NOLINT
  Json(int value) : value_(int64_t{value}) {}                          // NOLINT
  Json(int64_t value) : value_(value) {}                               // NOLINT
  Json(uint64_t value);                                                // NOLINT
  Json(double value) : value_(value) {}                                // NOLINT
  Json(const char* value) : value_(std::string(value)) {}              // NOLINT
  Json(std::string_view value) : value_(std::string(value)) {}         // NOLINT
  Json(std::string value) : value_(std::move(value)) {}                // NOLINT
  Json(Array value) : value_(std::move(value)) {}                      // NOLINT
  Json(Object value) : value_(std::move(value)) {}                     // NOLINT

  static Json array() { return Json(Array{}); }
  static Json object() { return Json(Object{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_number() const { return is_int() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  std::string_view type_name() const;  // "null", "boolean", "integer", "number", "string", ...

  // Requires: the value is of that type.
  bool as_bool() const { return std::get<bool>(value_); }
  int64_t as_int() const { return std::get<int64_t>(value_); }
  double as_double() const;  // of any number
  const std::string& as_string() const { return std::get<std::string>(value_); }
  const Array& as_array() const { return std::get<Array>(value_); }
  Array& as_array() { return std::get<Array>(value_); }
  const Object& as_object() const { return std::get<Object>(value_); }
  Object& as_object() { return std::get<Object>(value_); }

  // The member of that name, or nullptr if there is none or this is no object. Linear search.
  const Json* find(std::string_view key) const;
  // Adds or replaces a member. Requires: is_object().
  Json& set(std::string_view key, Json value);
  // Requires: is_array().
  void push_back(Json value) { as_array().push_back(std::move(value)); }

  // Compact text, UTF-8 kept; invalid UTF-8 becomes U+FFFD; NaN and infinities become null.
  std::string dump() const;

  bool operator==(const Json& other) const = default;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

struct JsonLimits {
  size_t bytes_max = size_t{64} << 20;
  int depth_max = 64;
  size_t values_max = size_t{8} << 20;  // values and keys in all
};

// Parses RFC 8259 JSON. kInvalidArgument with line and column for anything else: bad syntax, invalid UTF-8,
// duplicate keys in one object, trailing bytes, a limit exceeded. On failure `failed_member`, if given, gets the name
// of the top-level object's member whose value was being read, or nothing.
Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {},
                        std::string* failed_member = nullptr);

// `text` as a JSON string with its quotes; invalid UTF-8 becomes U+FFFD.
void append_json_string(std::string_view text, std::string* out);

}  // namespace skein
