#include "coordinator/text/vocabulary.h"

#include <algorithm>

#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

constexpr int64_t kGapAllowance = 4096;

Status check_entry(const Vocabulary::Entry& entry) {
  if (entry.id < 0 || entry.id >= kTokensMax) {
    return corrupt("token " + quoted(entry.token) + " has the id " + std::to_string(entry.id) +
                   ", outside 0 to " + std::to_string(kTokensMax - 1));
  }
  if (entry.token.empty()) {
    return corrupt("the token with id " + std::to_string(entry.id) + " is empty");
  }
  if (entry.token.size() > kTokenBytesMax) {
    return corrupt("the token with id " + std::to_string(entry.id) + " has " +
                   std::to_string(entry.token.size()) + " bytes, over the limit of " +
                   std::to_string(kTokenBytesMax));
  }
  if (!is_utf8(entry.token)) {
    return corrupt("the token with id " + std::to_string(entry.id) + " is no valid UTF-8");
  }
  return {};
}

}  // namespace

Result<Vocabulary> Vocabulary::build(const std::vector<Entry>& entries) {
  int64_t highest = -1;
  for (const Entry& entry : entries) {
    RETURN_IF_ERROR(check_entry(entry));
    highest = std::max(highest, entry.id);
  }
  const auto count = static_cast<int64_t>(entries.size());
  if (highest >= 2 * count + kGapAllowance) {
    return corrupt("the highest token id is " + std::to_string(highest) + " but there are only " +
                   std::to_string(count) + " tokens");
  }
  Vocabulary vocabulary;
  vocabulary.tokens_.resize(highest + 1);
  vocabulary.ids_.reserve(entries.size());
  for (const Entry& entry : entries) {
    std::string& place = vocabulary.tokens_[entry.id];
    if (!place.empty()) {
      return corrupt("tokens " + quoted(place) + " and " + quoted(entry.token) +
                     " have the same id " + std::to_string(entry.id));
    }
    place = entry.token;
    const auto [other, added] = vocabulary.ids_.emplace(place, static_cast<int32_t>(entry.id));
    if (!added) {
      return corrupt("token " + quoted(entry.token) + " has two ids, " +
                     std::to_string(other->second) + " and " + std::to_string(entry.id));
    }
  }
  return vocabulary;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace skein::text
