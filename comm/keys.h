#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/status.h"

// CURVE keys as files: what `skein keys` writes. A key is 40 characters of Z85.

namespace skein {

struct KeyPair {
  std::string public_key;
  std::string secret_key;
};

// The text of a key file, and of one with the public half alone.
std::string key_file_text(const KeyPair& pair);
std::string public_key_text(const std::string& public_key);

// A pair; refused where others may read the file.
Result<KeyPair> read_key_file(const std::string& path);
Result<std::string> read_public_key_file(const std::string& path);

// Public key -> name, of a file with a line "NAME PUBLIC-KEY" for each that may connect; # begins a comment.
using AllowList = std::map<std::string, std::string>;
Result<AllowList> parse_allow_list(std::string_view text);
Result<AllowList> read_allow_list(const std::string& path);

}  // namespace skein
