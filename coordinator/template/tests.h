#pragma once

#include <string>
#include <string_view>

#include "coordinator/template/functions.h"

namespace skein::jinja {

// The index of a test (value is <name>), or -1.
int find_test(std::string_view name);
std::string no_test(std::string_view name);
// `test` may be -1: fails with no_test(name) then.
Result<bool> apply_test(Run& run, int test, std::string_view name, const Value& value,
                        const CallArguments& arguments);

}  // namespace skein::jinja
