#pragma once

#include <string_view>

#include "base/status.h"

namespace skein {

// Letters, digits, '-', '_' and '.', as host names have them: a name becomes part of paths, command lines, host lists
// and NODE:DEVICE. kInvalidArgument also for an empty one, "." and "..".
Status check_node_name(std::string_view name);

}  // namespace skein
