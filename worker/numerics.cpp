#include "worker/numerics.h"

#include <string>

namespace skein {
namespace {

uint64_t mix(uint64_t hash, std::string_view bytes) {  // FNV-1a
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

}  // namespace

uint64_t numerics_id(const ReplicaSpec& spec, uint64_t weights_fingerprint, std::string_view arithmetic) {
  const std::string own = std::to_string(spec.launch) + "." + std::to_string(spec.replica);
  uint64_t hash = 0xCBF29CE484222325u;
  for (const std::string& part :
       {std::to_string(weights_fingerprint), spec.dtype, spec.kv_cache_dtype,
        std::to_string(spec.tensor_parallel_size), std::to_string(spec.pipeline_parallel_size),
        std::string(SKEIN_BUILD), std::string(arithmetic), arithmetic.empty() ? own : std::string()}) {
    hash = mix(mix(hash, part), "/");
  }
  return hash;
}

}  // namespace skein
