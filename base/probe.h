#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace skein {

inline constexpr size_t kProbeBytesMax = 1 << 20;  // of samples as JSON
inline constexpr size_t kProbeSamplesMax = 4096;

// Of so many cores: what the probe times as half of them, and the cost model takes for it.
inline int half_of(int cores) { return std::max(cores / 2, 1); }

// What `skein-worker --probe FILE` is told, a JSON file on the node that all ranks share. One rank measures its device,
// several what goes between them.
struct ProbeSpec {
  std::string device = "cpu";  // cpu, cuda
  int first_device = 0;        // rank r is on GPU first_device + r
  int threads = 1;             // of each rank
  bool spin = true;            // there is a core for each thread of each rank
  std::string output = {};     // file that rank 0 writes its samples to
};

// One thing that was timed. Fields without a meaning for it are 0.
struct ProbeSample {
  std::string what;   // read, product, half_alone (by half of the cores), half_beside (while the others do the same),
                      // cached_product, turns, aged (weights that caches held), decode_attention, cached_attention,
                      // decode_launch, prefill_attention, norm, gate, rope, sample, woken (what launches of cores take
                      // longer after sleep); all_reduce, library_all_reduce, point_to_point, library_bytes
  std::string format = {};  // products: of the weight (FormatInfo::name)
  double tokens = 0;  // prefill_attention: keys that the last one sees; sample: rows
  double inputs = 0;  // products of cores: of the weight
  double size = 0;    // bytes: of the weight, of the keys and values, of one rank's part, of a token that cores norm,
                      // gate or rotate; turns: of all weights that take turns; sample: logits of a row;
                      // decode_attention with a group, cached_attention: keys of a row
  double group = 0;   // decode_attention and cached_attention of cores: query heads that share keys
  double bytes = 0;   // moved through memory
  double flops = 0;
  double age_us = 0;  // aged: for which nobody has read the weights
  double us = 0;
};

Json to_json(const ProbeSpec& spec);
Result<ProbeSpec> parse_probe_spec(const Json& json);
Json to_json(const std::vector<ProbeSample>& samples);
// kInvalidArgument: no such list, or figures that are negative or beyond any machine.
Result<std::vector<ProbeSample>> parse_probe_samples(const Json& json);

}  // namespace skein
