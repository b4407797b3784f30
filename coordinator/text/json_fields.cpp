#include "coordinator/text/json_fields.h"

#include "coordinator/text/regex_syntax.h"
#include "model/quoted.h"

namespace skein::text {

const Json* JsonFields::present(std::string_view key) const {
  const Json* value = object_.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Status JsonFields::wrong(std::string_view key, std::string_view expected) const {
  return corrupt("tokenizer.json: " + part_ + ": " + quoted(key) + " must be " +
                 std::string(expected));
}

Status JsonFields::not_supported(std::string_view what) const {
  return unsupported("tokenizer.json: " + part_ + ": " + std::string(what) + " is not supported");
}

Result<bool> JsonFields::boolean(std::string_view key, bool otherwise) const {
  const Json* value = present(key);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) return wrong(key, "true or false");
  return value->as_bool();
}

Result<int64_t> JsonFields::integer(std::string_view key, int64_t otherwise) const {
  const Json* value = present(key);
  if (value == nullptr) return otherwise;
  if (!value->is_int()) return wrong(key, "an integer");
  return value->as_int();
}

Result<std::string> JsonFields::string(std::string_view key) const {
  const Json* value = present(key);
  if (value == nullptr || !value->is_string()) return wrong(key, "a string");
  return value->as_string();
}

Result<std::string> JsonFields::string(std::string_view key, std::string_view otherwise) const {
  if (present(key) == nullptr) return std::string(otherwise);
  return string(key);
}

Result<const Json::Array*> JsonFields::array(std::string_view key) const {
  const Json* value = present(key);
  if (value == nullptr || !value->is_array()) return wrong(key, "an array");
  return &value->as_array();
}

Result<const Json*> JsonFields::object(std::string_view key) const {
  const Json* value = present(key);
  if (value == nullptr || !value->is_object()) return wrong(key, "an object");
  return value;
}

Result<std::string> JsonFields::pattern(std::string_view key) const {
  ASSIGN_OR_RETURN(const Json* const value, object(key));
  const Json* text = value->find("String");
  const Json* regex = value->find("Regex");
  const Json* given = text != nullptr ? text : regex;
  if (given == nullptr || !given->is_string()) return wrong(key, "a String or a Regex");
  if (given->as_string().empty()) return not_supported("an empty pattern");
  return text != nullptr ? escaped_pattern(text->as_string()) : regex->as_string();
}

}  // namespace skein::text
