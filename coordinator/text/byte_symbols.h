#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace skein::text {

// GPT-2's printable character for each byte: itself where it is printable Latin-1 (no space),
// U+0100 and up for the others.
char32_t symbol_of_byte(uint8_t byte);
std::optional<uint8_t> byte_of_symbol(char32_t symbol);

// Every byte of `bytes` as its symbol, in UTF-8.
void append_byte_symbols(std::string_view bytes, std::string* out);

// The bytes that `token` spells, or `token` itself if one of its characters is no symbol.
// Requires: valid UTF-8.
void append_spelt_bytes(std::string_view token, std::string* out);

// The byte that a token such as "<0x0A>" stands for.
std::optional<uint8_t> byte_of_fallback_token(std::string_view token);
std::string fallback_token(uint8_t byte);

}  // namespace skein::text
