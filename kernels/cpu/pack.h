#pragma once

#include "kernels/cpu/packed.h"
#include "kernels/ops.h"

namespace skein {

int64_t linear_bytes(Format format, int64_t rows, int64_t columns);

// Panels [begin, end) of out that the source rows touch; rows beyond the matrix become zero together with
// its last row. Requires: the formats match, or out's is a plain one.
void pack_panels(const PackArgs& args, int64_t begin, int64_t end);

}  // namespace skein
