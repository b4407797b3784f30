#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace skein::text {

// Unicode properties and normal forms. Only unicode.cpp knows the library behind them.
// Every text that goes in must be valid UTF-8. Equal to Hugging Face tokenizers' normalizers.

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

Result<std::string> normalize(std::string_view text, NormalForm form);

// Each character by itself: no rule looks at its neighbours (capital sigma is never final).
std::string lowercase(std::string_view text);

// Without combining marks (general category M).
std::string without_marks(std::string_view text);

bool is_white_space(char32_t code_point);
// \w of Unicode's regular expressions: letters, marks, decimal digits, connectors, joiners.
bool is_word_character(char32_t code_point);

}  // namespace skein::text
