#pragma once

#include "kernels/ops.h"

namespace skein {

// Ops::attention of the CPU: cuts the launch into units and lets the team's threads take them.
void launch_attention(Device& device, const AttentionArgs& args);

}  // namespace skein
