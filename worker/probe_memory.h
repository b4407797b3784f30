#pragma once

#include <cstdint>

namespace skein {

// Of the last caches of the cores that this process may use, together; 0 where the system does not tell.
int64_t last_cache_bytes();

// Bytes a second that so many threads together read out of `bytes`, in streams as products have them. Host memory.
double host_read_rate(int threads, int64_t bytes);

}  // namespace skein
