#pragma once

#include <vector>

#include "base/probe.h"
#include "topology/calibration.h"

namespace skein {

// From what a probe has timed to what the cost model reads.

// Samples of one rank. What they do not tell stays as it is in `before`, an older calibration of the same kind of
// device or none. `cores`: that ran the samples together; GPUs: 1.
DeviceCalibration calibrate_device(const DeviceCalibration& before, const std::vector<ProbeSample>& samples, int cores);

// Samples of a group whose slowest pair is joined by `link`.
LinkCalibration calibrate_link(LinkKind link, int ranks, const std::vector<ProbeSample>& samples);
// Samples of two ranks on different nodes, which are described as joined by `path`.
LinkCalibration calibrate_path(const Path& path, const std::vector<ProbeSample>& samples);

// What a link carries, by what its largest message takes longer than the one before: how long the first byte is under
// way does not count. Requires: !sends.empty().
double carried_bytes_per_s(const Curve& sends);

}  // namespace skein
