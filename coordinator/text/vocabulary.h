#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"

namespace skein::text {

inline constexpr int32_t kTokensMax = 1 << 20;
inline constexpr size_t kTokenBytesMax = 64 << 10;

// Tokens by id and ids by token. Ids may have small gaps. Immutable once filled; movable, since the
// strings' places do not change with it, but not copyable.
class Vocabulary {
 public:
  struct Entry {
    std::string_view token;
    int64_t id = 0;
  };

  // kCorrupt for an id out of range or given twice, a token given twice, or ids spread so thinly
  // that something must be wrong.
  static Result<Vocabulary> build(const std::vector<Entry>& entries);

  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }  // highest id + 1
  // Empty for a gap. Requires: 0 <= id < size().
  const std::string& token(int32_t id) const { return tokens_[id]; }
  std::optional<int32_t> find(std::string_view token) const;

 private:
  Vocabulary() = default;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, int32_t> ids_;  // keys live in tokens_
};

}  // namespace skein::text
