#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace skein {

// Puts `text` in the place of the file, which need not be there, at once: who reads meanwhile has the old file or the
// new one, also where several write. Permissions are a new file's. kUnavailable: nothing has changed or is left behind.
Status replace_file(const std::string& path, std::string_view text);

}  // namespace skein
