#include "base/replica_spec.h"

#include <limits>
#include <set>

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
  visit("coordinator_key", spec.coordinator_key, 0, 0);
  visit("key_file", spec.key_file, 0, 0);
  visit("step_seconds", spec.step_seconds, 0.1, 86400);
  visit("lease_seconds", spec.lease_seconds, 0.1, 86400);
  visit("probe", spec.probe, 0, 0);
  visit("model", spec.model, 0, 0);
  visit("load_format", spec.load_format, 0, 0);
  visit("device", spec.device, 0, 0);
  visit("first_device", spec.first_device, 0, 1023);
  visit("places", spec.places, 0, 0);
  visit("network", spec.network, 0, 0);
  visit("ports", spec.ports, 0, 0);
  visit("rank_memory_bytes", spec.rank_memory_bytes, 0, kExactMax);
  visit("dtype", spec.dtype, 0, 0);
  visit("kv_cache_dtype", spec.kv_cache_dtype, 0, 0);
  visit("tensor_parallel_size", spec.tensor_parallel_size, 1, 65536);
  visit("pipeline_parallel_size", spec.pipeline_parallel_size, 1, 65536);
  visit("stage_layers", spec.stage_layers, 1, 65536);
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
  visit("threads", spec.threads, 1, 4096);
  visit("spin", spec.spin, 0, 0);
  visit("first_core", spec.first_core, -1, kIntMax);
}

template <typename Number>
Json field_to_json(const std::vector<Number>& numbers) {
  Json json = Json::array();
  for (const Number number : numbers) json.as_array().emplace_back(number);
  return json;
}

Json field_to_json(const std::vector<RankPlace>& places) {
  Json json = Json::array();
  for (const RankPlace& place : places) {
    Json entry = Json::object();
    entry.set("node", place.node);
    entry.set("device", place.device);
    json.push_back(std::move(entry));
  }
  return json;
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

template <typename Number>
Status read_field(const Json& json, std::vector<Number>& out, double least, double most) {
  if (!json.is_array()) return invalid_argument("must be an array");
  for (const Json& entry : json.as_array()) RETURN_IF_ERROR(read_field(entry, out.emplace_back(), least, most));
  return {};
}

Status read_field(const Json& json, std::vector<RankPlace>& out, double, double) {
  if (!json.is_array()) return invalid_argument("must be an array");
  for (const Json& entry : json.as_array()) {
    RankPlace place;
    const Json* node = entry.find("node");
    const Json* device = entry.find("device");
    if (node == nullptr || device == nullptr || entry.as_object().size() != 2) {
      return invalid_argument("must hold objects with \"node\" and \"device\"");
    }
    RETURN_IF_ERROR(read_field(*node, place.node, 0, 0).within("node"));
    RETURN_IF_ERROR(read_field(*device, place.device, 0, 1023).within("device"));
    out.push_back(std::move(place));
  }
  return {};
}

}  // namespace

std::vector<NodeShare> node_shares(const ReplicaSpec& spec) {
  std::vector<NodeShare> shares;
  for (const RankPlace& place : spec.places) {
    if (shares.empty() || shares.back().node != place.node) shares.push_back({.node = place.node, .ranks = 0});
    ++shares.back().ranks;
  }
  return shares;
}

Status check_shape(const ReplicaSpec& spec) {
  if (spec.probe && (spec.tensor_parallel_size != 1 || spec.pipeline_parallel_size != 2)) {
    return invalid_argument("a probe needs two stages of one rank, not tensor parallel " +
                            std::to_string(spec.tensor_parallel_size) + " x pipeline parallel " +
                            std::to_string(spec.pipeline_parallel_size));
  }
  if (!spec.stage_layers.empty() && static_cast<int>(spec.stage_layers.size()) != spec.pipeline_parallel_size) {
    return invalid_argument("stage_layers has " + std::to_string(spec.stage_layers.size()) +
                            " stages where the pipeline has " + std::to_string(spec.pipeline_parallel_size));
  }
  if (!spec.rank_memory_bytes.empty() && static_cast<int>(spec.rank_memory_bytes.size()) != spec.ranks()) {
    return invalid_argument("rank_memory_bytes has " + std::to_string(spec.rank_memory_bytes.size()) + " ranks of " +
                            std::to_string(spec.ranks()));
  }
  if (spec.places.empty()) return {};
  if (static_cast<int>(spec.places.size()) != spec.ranks()) {
    return invalid_argument("places names " + std::to_string(spec.places.size()) + " ranks where tensor parallel " +
                            std::to_string(spec.tensor_parallel_size) + " x pipeline parallel " +
                            std::to_string(spec.pipeline_parallel_size) + " has " + std::to_string(spec.ranks()));
  }
  std::set<std::pair<std::string, int>> taken;
  for (const RankPlace& place : spec.places) {
    if (place.node.empty()) return invalid_argument("places has a rank without a node");
    if (!taken.emplace(place.node, place.device).second) {
      return invalid_argument("places puts two ranks on device " + std::to_string(place.device) + " of " + place.node);
    }
  }
  std::set<std::string> nodes;
  for (const NodeShare& share : node_shares(spec)) {
    if (!nodes.insert(share.node).second) {
      return invalid_argument("places must have the ranks of " + share.node + " beside each other");
    }
  }
  return {};
}

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
  RETURN_IF_ERROR(check_shape(spec).within("replica spec"));
  if (known != json.as_object().size()) {
    return invalid_argument("the replica spec has keys that this build does not know");
  }
  return spec;
}

}  // namespace skein
