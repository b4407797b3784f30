#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "coordinator/http/message.h"

namespace skein {

struct NumberRange {
  double min;
  double max;
  bool min_excluded = false;
};

// Typed reading of a request's JSON object. The first wrong field is remembered and named in `param`; later reads go
// on and yield nothing. A null member counts as absent.
class Fields {
 public:
  // `prefix` goes before names in messages: "stream_options." for a nested object. Requires: object.is_object().
  explicit Fields(const Json& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  const std::optional<HttpError>& error() const { return error_; }
  void fail(std::string_view name, std::string message, std::string code = {});
  void fail(HttpError error);  // of a nested reader

  const Json* find(std::string_view name) const;
  bool boolean(std::string_view name, bool fallback);
  std::optional<int64_t> integer(std::string_view name, int64_t min, int64_t max);
  std::optional<double> number(std::string_view name, NumberRange range);
  std::optional<std::string> string(std::string_view name, size_t bytes_max);
  const Json* array(std::string_view name, size_t size_max);
  const Json* object(std::string_view name);

 private:
  void wrong(std::string_view name, const Json& value, const std::string& wanted);

  const Json& object_;
  const std::string prefix_;
  std::optional<HttpError> error_;
};

// `value` as an integer if it is one, also when it is written as 5.0.
std::optional<int64_t> as_integer(const Json& value);

}  // namespace skein
