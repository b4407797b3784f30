#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace skein::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What stands at the start of a byte sequence.
struct Utf8Step {
  enum class Kind : uint8_t {
    kValid,       // `length` bytes are one character
    kInvalid,     // `length` bytes begin none: one U+FFFD stands for them
    kIncomplete,  // the bytes end, after `length`, within what may yet be a character
  };
  Kind kind = Kind::kInvalid;
  uint8_t length = 0;
};

// Requires: !bytes.empty().
Utf8Step utf8_step(std::string_view bytes);

bool is_utf8(std::string_view bytes);

// The character at `*at`, which moves past it. Requires: valid UTF-8, `*at` before its end.
char32_t next_code_point(std::string_view text, size_t* at);

// The bytes of the character that starts with `lead` in valid UTF-8.
inline size_t character_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Requires: a Unicode scalar value.
void append_code_point(char32_t code_point, std::string* out);

// Moves the settled part of `*bytes` to `*out`, U+FFFD for each maximal part that is no character
// (as Unicode recommends and Rust's from_utf8_lossy does). A character that is incomplete at the
// end stays in `*bytes` (at most 3 bytes), or becomes U+FFFD too if `at_end`.
void repair_utf8(std::string* bytes, bool at_end, std::string* out);

}  // namespace skein::text
