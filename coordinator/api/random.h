#pragma once

#include <cstdint>
#include <string>

namespace skein {

uint64_t random_u64();      // from the system; any thread
std::string random_hex32();

}  // namespace skein
