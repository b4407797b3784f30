#include "base/replica_spec.h"

#include <limits>

namespace skein {
namespace {

// Calls visit(key, member, least, most) for every field; numbers must lie in [least, most].
template <typename Spec, typename Visit>
void each_field(Spec& spec, Visit visit) {
  constexpr double kIntMax = std::numeric_limits<int>::max();
  constexpr double kExactMax = 9007199254740992.0;
  visit("replica", spec.replica, 0, kIntMax);
  visit("launch", spec.launch, 0, kExactMax);
  visit("coordinator", spec.coordinator, 0, 0);
  visit("lease_seconds", spec.lease_seconds, 0.1, 86400);
  visit("model", spec.model, 0, 0);
  visit("load_format", spec.load_format, 0, 0);
  visit("device", spec.device, 0, 0);
  visit("first_device", spec.first_device, 0, 1023);
  visit("dtype", spec.dtype, 0, 0);
  visit("kv_cache_dtype", spec.kv_cache_dtype, 0, 0);
  visit("tensor_parallel_size", spec.tensor_parallel_size, 1, 65536);
  visit("pipeline_parallel_size", spec.pipeline_parallel_size, 1, 65536);
  visit("context_max", spec.context_max, 1, kIntMax);
  visit("slots", spec.slots, 1, 65536);
  visit("step_tokens_max", spec.step_tokens_max, 1, 1 << 20);
  visit("waiting_max", spec.waiting_max, 1, 1 << 20);
  visit("block_tokens", spec.block_tokens, 1, 1024);
  visit("kv_blocks", spec.kv_blocks, 0, kIntMax);
  visit("memory_share", spec.memory_share, 0.01, 1);
  visit("memory_reserve", spec.memory_reserve, 0, kExactMax);
  visit("deterministic", spec.deterministic, 0, 0);
  visit("prefix_caching", spec.prefix_caching, 0, 0);
  visit("cache_key", spec.cache_key, 0, 0);
  visit("timings_path", spec.timings_path, 0, 0);
  visit("threads", spec.threads, 1, 4096);
  visit("spin", spec.spin, 0, 0);
  visit("first_core", spec.first_core, -1, kIntMax);
}

template <typename T>
Json field_to_json(const T& value) {
  if constexpr (std::is_same_v<T, uint32_t>) return Json(int64_t{value});
  else return Json(value);
}

Status read_field(const Json& json, std::string& out, double, double) {
  if (!json.is_string()) return invalid_argument("must be a string");
  out = json.as_string();
  return {};
}

Status read_field(const Json& json, bool& out, double, double) {
  if (!json.is_bool()) return invalid_argument("must be true or false");
  out = json.as_bool();
  return {};
}

template <typename Number>
Status read_field(const Json& json, Number& out, double least, double most) {
  const bool whole = !std::is_integral_v<Number> || json.is_int();
  if (!json.is_number() || !whole || json.as_double() < least || json.as_double() > most) {
    return invalid_argument("must be a number from " + Json(least).dump() + " to " + Json(most).dump());
  }
  out = static_cast<Number>(json.as_double());
  return {};
}

}  // namespace

Json to_json(const ReplicaSpec& spec) {
  Json json = Json::object();
  each_field(spec, [&](const char* key, const auto& value, double, double) {
    json.set(key, field_to_json(value));
  });
  return json;
}

Result<ReplicaSpec> parse_replica_spec(const Json& json) {
  if (!json.is_object()) return invalid_argument("a replica spec must be a JSON object");
  ReplicaSpec spec;
  Status status;
  size_t known = 0;
  each_field(spec, [&](const char* key, auto& value, double least, double most) {
    const Json* field = json.find(key);
    if (!status.ok()) return;
    if (field == nullptr) {
      status = invalid_argument(std::string("replica spec: \"") + key + "\" is missing");
      return;
    }
    ++known;
    status = read_field(*field, value, least, most).within(std::string("replica spec: \"") + key + "\"");
  });
  if (!status.ok()) return status;
  if (known != json.as_object().size()) {
    return invalid_argument("the replica spec has keys that this build does not know");
  }
  return spec;
}

}  // namespace skein
