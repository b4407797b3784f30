#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace skein::text {

// Rewrites an Oniguruma pattern (Ruby syntax, as tokenizer.json has it) as a PCRE2 pattern with the
// same matches under UTF, UCP and MULTILINE. What the two read differently is rewritten (\s, \d,
// \w, \b, scripts, \h is no space) or refused: kUnsupported names the construct.
Result<std::string> pcre2_pattern(std::string_view oniguruma);

// `text` as a pattern that matches just it.
std::string escaped_pattern(std::string_view text);

}  // namespace skein::text
