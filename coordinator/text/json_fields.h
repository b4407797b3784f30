#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace skein::text {

// Reading one part of tokenizer.json, an object with a "type". An error names the part ("decoder")
// and the member.
class JsonFields {
 public:
  // Requires: `object` outlives the reader.
  JsonFields(const Json& object, std::string part) : object_(object), part_(std::move(part)) {}

  const std::string& part() const { return part_; }
  const Json* find(std::string_view key) const { return object_.find(key); }
  // A member that is null counts as absent.
  Result<bool> boolean(std::string_view key, bool otherwise) const;
  Result<int64_t> integer(std::string_view key, int64_t otherwise) const;
  Result<std::string> string(std::string_view key) const;
  Result<std::string> string(std::string_view key, std::string_view otherwise) const;
  Result<const Json::Array*> array(std::string_view key) const;
  Result<const Json*> object(std::string_view key) const;
  // {"String": "..."} or {"Regex": "..."} as a pattern of regex.h; not empty.
  Result<std::string> pattern(std::string_view key) const;

  Status wrong(std::string_view key, std::string_view expected) const;
  // "tokenizer.json: <part>: <what> is not supported"
  Status not_supported(std::string_view what) const;

 private:
  const Json* present(std::string_view key) const;
  const Json& object_;
  std::string part_;
};

}  // namespace skein::text
