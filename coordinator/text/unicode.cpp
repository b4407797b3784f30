#include "coordinator/text/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "coordinator/text/utf8.h"

namespace skein::text {
namespace {

// Hugging Face tokenizers normalise by the tables of Unicode 9: later characters, and marks that
// were none then, stay as they are.
constexpr uint8_t kTablesMajor = 9;

const icu::UnicodeSet& known_characters() {
  static const icu::UnicodeSet known = [] {
    UErrorCode error = U_ZERO_ERROR;
    icu::UnicodeSet set(icu::UnicodeString("[:age=9.0:]"), error);
    CHECK(U_SUCCESS(error));
    set.freeze();
    return set;
  }();
  return known;
}

const icu::Normalizer2* instance(NormalForm form, UErrorCode* error) {
  switch (form) {
    case NormalForm::kNfc: return icu::Normalizer2::getNFCInstance(*error);
    case NormalForm::kNfd: return icu::Normalizer2::getNFDInstance(*error);
    case NormalForm::kNfkc: return icu::Normalizer2::getNFKCInstance(*error);
    case NormalForm::kNfkd: return icu::Normalizer2::getNFKDInstance(*error);
  }
  return nullptr;
}

bool is_mark(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  if (c == 0x1CF2 || c == 0x1CF3) return true;  // marks until Unicode 12
  if ((U_GET_GC_MASK(c) & U_GC_M_MASK) == 0) return false;
  UVersionInfo age;
  u_charAge(c, age);
  return age[0] <= kTablesMajor;
}

}  // namespace

Result<std::string> normalize(std::string_view text, NormalForm form) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  if (std::ranges::all_of(text, is_ascii)) return std::string(text);
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* all = instance(form, &error);
  std::string out;
  if (U_SUCCESS(error)) {
    const icu::FilteredNormalizer2 normalizer(*all, known_characters());
    out.reserve(text.size());
    icu::StringByteSink<std::string> sink(&out);
    normalizer.normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())),
                             sink, nullptr, error);
  }
  if (U_FAILURE(error)) {
    return Status(Code::kInternal,
                  std::string("Unicode normalisation failed: ") + u_errorName(error));
  }
  return out;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, &at);
    // The only character whose lower case is two characters: i and a combining dot above.
    if (c == 0x130) {
      out += "i\xCC\x87";
    } else {
      append_code_point(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), &out);
    }
  }
  return out;
}

std::string without_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!is_mark(next_code_point(text, &at))) out += text.substr(begin, at - begin);
  }
  return out;
}

bool is_white_space(char32_t code_point) {
  return u_isUWhiteSpace(static_cast<UChar32>(code_point));
}

bool is_word_character(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  constexpr uint32_t kCategories = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || (U_GET_GC_MASK(c) & kCategories) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

}  // namespace skein::text
