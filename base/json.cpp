#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

namespace skein {
namespace {

// Builds a Json from nlohmann's event interface, counting depth and values as it goes.
class Builder {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(int64_t value) { return add(Json(value)); }
  bool number_unsigned(uint64_t value) { return add(Json(value)); }
  bool number_float(double value, const std::string&) {
    if (!std::isfinite(value)) return fail("a number is out of range");
    return add(Json(value));
  }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(std::vector<uint8_t>&) { return fail("binary values are no JSON"); }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_array() { return close(); }
  bool end_object() { return close_object(); }

  bool key(std::string& value) {
    if (!count()) return false;
    frames_.back().key = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) {
    constexpr int kOutOfRange = 406;
    position_ = position;
    return fail(error.id == kOutOfRange ? "a number is out of range" : "syntax error");
  }

  Json take() { return std::move(root_); }
  const std::string& error() const { return error_; }
  std::optional<size_t> position() const { return position_; }
  std::string top_member() const { return frames_.empty() ? std::string() : frames_[0].key; }

 private:
  struct Frame {
    Json container;
    std::string key;
  };

  bool fail(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }

  bool count() {
    return ++values_ <= limits_.values_max ||
           fail("more than " + std::to_string(limits_.values_max) + " values");
  }

  bool add(Json value) {
    if (!count()) return false;
    place(std::move(value));
    return true;
  }

  void place(Json value) {
    if (frames_.empty()) {
      root_ = std::move(value);
    } else if (Frame& top = frames_.back(); top.container.is_array()) {
      top.container.push_back(std::move(value));
    } else {
      top.container.as_object().emplace_back(std::exchange(top.key, {}), std::move(value));
    }
  }

  bool open(Json container) {
    if (!count()) return false;
    if (frames_.size() >= static_cast<size_t>(limits_.depth_max)) {
      return fail("nested deeper than " + std::to_string(limits_.depth_max) + " levels");
    }
    frames_.push_back({std::move(container), {}});
    return true;
  }

  bool close() {
    Json done = std::move(frames_.back().container);
    frames_.pop_back();
    place(std::move(done));
    return true;
  }

  bool close_object() {
    std::unordered_set<std::string_view> seen;
    for (const auto& [key, value] : frames_.back().container.as_object()) {
      if (!seen.insert(key).second) return fail("duplicate key \"" + key.substr(0, 64) + "\"");
    }
    return close();
  }

  const JsonLimits& limits_;
  std::vector<Frame> frames_;
  Json root_;
  size_t values_ = 0;
  std::string error_;
  std::optional<size_t> position_;
};

std::string line_and_column(std::string_view text, size_t position) {
  const std::string_view before = text.substr(0, std::min(position, text.size()));
  const size_t line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column = before.size() - (newline == before.npos ? 0 : newline + 1);
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

// The length of the valid UTF-8 sequence at the start of `text`; 0 if it is invalid.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto tail = [&](size_t i) { return i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF && tail(1) && tail(2)) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) > 0x9F;
    return overlong || surrogate ? 0 : 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4 && tail(1) && tail(2) && tail(3)) {
    const bool overlong = lead == 0xF0 && byte(1) < 0x90;
    const bool beyond = lead == 0xF4 && byte(1) > 0x8F;
    return overlong || beyond ? 0 : 4;
  }
  return 0;
}

void append_number(double value, std::string* out) {
  if (!std::isfinite(value)) {
    *out += "null";
    return;
  }
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  const std::string_view digits(text, end - text);
  *out += digits;
  if (digits.find_first_of(".e") == digits.npos) *out += ".0";
}

void append_value(const Json& value, std::string* out) {
  if (value.is_null()) {
    *out += "null";
  } else if (value.is_bool()) {
    *out += value.as_bool() ? "true" : "false";
  } else if (value.is_int()) {
    *out += std::to_string(value.as_int());
  } else if (value.is_number()) {
    append_number(value.as_double(), out);
  } else if (value.is_string()) {
    append_json_string(value.as_string(), out);
  } else if (value.is_array()) {
    *out += '[';
    for (const Json& item : value.as_array()) {
      if (&item != value.as_array().data()) *out += ',';
      append_value(item, out);
    }
    *out += ']';
  } else {
    *out += '{';
    for (const auto& member : value.as_object()) {
      if (&member != value.as_object().data()) *out += ',';
      append_json_string(member.first, out);
      *out += ':';
      append_value(member.second, out);
    }
    *out += '}';
  }
}

}  // namespace

Json::Json(uint64_t value) {
  if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    value_ = static_cast<int64_t>(value);
  } else {
    value_ = static_cast<double>(value);
  }
}

std::string_view Json::type_name() const {
  constexpr std::string_view kNames[] = {"null",   "boolean", "integer", "number",
                                         "string", "array",   "object"};
  return kNames[value_.index()];
}

double Json::as_double() const {
  return is_int() ? static_cast<double>(as_int()) : std::get<double>(value_);
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : as_object()) {
    if (name == key) return &value;
  }
  return nullptr;
}

Json& Json::set(std::string_view key, Json value) {
  for (auto& [name, existing] : as_object()) {
    if (name == key) return existing = std::move(value);
  }
  return as_object().emplace_back(std::string(key), std::move(value)).second;
}

std::string Json::dump() const {
  std::string out;
  append_value(*this, &out);
  return out;
}

Result<Json> parse_json(std::string_view text, const JsonLimits& limits,
                        std::string* failed_member) {
  if (text.size() > limits.bytes_max) {
    return invalid_argument("JSON of " + std::to_string(text.size()) + " bytes is over the limit of " +
                            std::to_string(limits.bytes_max));
  }
  Builder builder(limits);
  if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.take();
  if (failed_member != nullptr) *failed_member = builder.top_member();
  std::string message = "JSON: " + builder.error();
  if (builder.position()) message += " at " + line_and_column(text, *builder.position());
  return invalid_argument(std::move(message));
}

void append_json_string(std::string_view text, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  *out += '"';
  while (!text.empty()) {
    const unsigned char byte = text[0];
    size_t length = 1;
    if (byte == '"' || byte == '\\') {
      *out += '\\';
      *out += text[0];
    } else if (byte == '\n') {
      *out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      *out += "\\u00";
      *out += kHex[byte >> 4];
      *out += kHex[byte & 15];
    } else if ((length = utf8_length(text)) == 0) {
      length = 1;
      *out += "\xEF\xBF\xBD";
    } else {
      *out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  *out += '"';
}

}  // namespace skein
