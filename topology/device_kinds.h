#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "topology/cluster.h"

namespace skein {

// GPUs whose figures are known, from their data sheets: dense products, decimal rates, memory as the driver counts it.
const std::vector<DeviceKind>& known_gpus();

// nullptr: not among them.
const DeviceKind* find_known_gpu(std::string_view name);

// Times ten: 90 for an H100; 0: not among them.
int compute_capability(std::string_view name);

// One sentence that names what was probably meant, and how to describe a GPU that is not known.
std::string unknown_gpu(std::string_view name);

// Cores of a processor that nobody has measured: a careful guess.
DeviceKind guessed_cores(std::string processor);
// Whether its figures are such a guess, also when it was read back from a file.
bool is_guess(const DeviceKind& kind);

}  // namespace skein
