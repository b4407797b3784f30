#include "coordinator/text/byte_symbols.h"

#include <array>

#include "coordinator/text/utf8.h"

namespace skein::text {
namespace {

constexpr char32_t kFirstSubstitute = 0x100;
constexpr size_t kSymbols = kFirstSubstitute + 68;  // 68 bytes have no printable character

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Tables {
  std::array<uint16_t, 256> symbol{};
  std::array<int16_t, kSymbols> byte{};

  constexpr Tables() {
    for (auto& value : byte) value = -1;
    uint16_t substitute = kFirstSubstitute;
    for (int i = 0; i < 256; ++i) {
      symbol[i] = stands_for_itself(i) ? static_cast<uint16_t>(i) : substitute++;
      byte[symbol[i]] = static_cast<int16_t>(i);
    }
  }
};

constexpr Tables kTables;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

char32_t symbol_of_byte(uint8_t byte) { return kTables.symbol[byte]; }

std::optional<uint8_t> byte_of_symbol(char32_t symbol) {
  if (symbol >= kSymbols || kTables.byte[symbol] < 0) return std::nullopt;
  return static_cast<uint8_t>(kTables.byte[symbol]);
}

void append_byte_symbols(std::string_view bytes, std::string* out) {
  for (const char c : bytes) append_code_point(symbol_of_byte(static_cast<uint8_t>(c)), out);
}

void append_spelt_bytes(std::string_view token, std::string* out) {
  const size_t before = out->size();
  for (size_t at = 0; at < token.size();) {
    const auto byte = byte_of_symbol(next_code_point(token, &at));
    if (!byte) {
      out->resize(before);
      out->append(token);
      return;
    }
    out->push_back(static_cast<char>(*byte));
  }
}

std::optional<uint8_t> byte_of_fallback_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const int high = hex_digit(token[3]);
  const int low = hex_digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high << 4 | low);
}

std::string fallback_token(uint8_t byte) {
  constexpr char kHex[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
}

}  // namespace skein::text
