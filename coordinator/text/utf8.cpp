#include "coordinator/text/utf8.h"

#include <algorithm>
#include <cstring>

namespace skein::text {
namespace {

// Bytes of a character that starts with `lead`, and the range its second byte must be in.
struct Lead {
  uint8_t length = 0;  // 0: no character starts so
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Lead classify(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {0};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

// The length of the longest prefix of ASCII, in steps of eight.
size_t ascii_prefix(std::string_view bytes) {
  size_t at = 0;
  for (uint64_t block; at + sizeof block <= bytes.size(); at += sizeof block) {
    std::memcpy(&block, bytes.data() + at, sizeof block);
    if (block & 0x8080808080808080u) break;
  }
  return at;
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const Lead lead = classify(byte(0));
  if (lead.length == 0) return {Utf8Step::Kind::kInvalid, 1};
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (i >= bytes.size()) return {Utf8Step::Kind::kIncomplete, i};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte(i) < min || byte(i) > max) return {Utf8Step::Kind::kInvalid, i};
  }
  return {Utf8Step::Kind::kValid, lead.length};
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    bytes.remove_prefix(ascii_prefix(bytes));
    if (bytes.empty()) break;
    const Utf8Step step = utf8_step(bytes);
    if (step.kind != Utf8Step::Kind::kValid) return false;
    bytes.remove_prefix(step.length);
  }
  return true;
}

char32_t next_code_point(std::string_view text, size_t* at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[*at + i]); };
  const size_t length = character_length(text[*at]);
  constexpr unsigned char kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  char32_t code_point = byte(0) & kLeadBits[length];
  for (size_t i = 1; i < length; ++i) code_point = code_point << 6 | (byte(i) & 0x3F);
  *at += length;
  return code_point;
}

void append_code_point(char32_t c, std::string* out) {
  const auto put = [&](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

void repair_utf8(std::string* bytes, bool at_end, std::string* out) {
  std::string_view rest = *bytes;
  while (!rest.empty()) {
    const size_t ascii = ascii_prefix(rest);
    out->append(rest.substr(0, ascii));
    rest.remove_prefix(ascii);
    if (rest.empty()) break;
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Step::Kind::kIncomplete && !at_end) break;
    out->append(step.kind == Utf8Step::Kind::kValid ? rest.substr(0, step.length)
                                                    : kReplacementCharacter);
    rest.remove_prefix(step.length);
  }
  bytes->erase(0, bytes->size() - rest.size());
}

}  // namespace skein::text
