#pragma once

#include <string>

#include "coordinator/cli/commands.h"

// The benches behind `skein bench`: as in commands.h, of the arguments behind the bench's name.

namespace skein {

int bench_offline(const Arguments& arguments);
std::string bench_offline_help();

int bench_serve(const Arguments& arguments);
std::string bench_serve_help();

}  // namespace skein
