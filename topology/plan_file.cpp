#include "topology/plan_file.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "base/parse_number.h"
#include "model/mapped_file.h"
#include "topology/node_types.h"

namespace skein {
namespace {

constexpr int kVersion = 2;
constexpr size_t kFileBytesMax = size_t{64} << 20;
constexpr int64_t kNumberMax = 1 << 24;

// Four digits: what a prediction is worth.
Json rounded(double value) {
  if (!std::isfinite(value)) return Json(0.0);
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return Json(*parse_number<double>(text));
}

Json operation_json(const Operation& operation) {
  Json json = Json::object();
  json.set("concurrency", rounded(operation.concurrency));
  json.set("requests_per_s", rounded(operation.request_rate));
  json.set("ttft_ms", rounded(operation.ttft_ms));
  json.set("itl_ms", rounded(operation.itl_ms));
  json.set("output_tokens_per_s", rounded(operation.output_rate));
  return json;
}

Json outcome_json(const ModelOutcome& outcome) {
  Json json = Json::object();
  json.set("requests_per_s", rounded(outcome.request_rate));
  json.set("requests_per_s_max", rounded(outcome.request_rate_max));
  json.set("ttft_ms", rounded(outcome.ttft_ms));
  json.set("itl_ms", rounded(outcome.itl_ms));
  json.set("output_tokens_per_s", rounded(outcome.output_rate));
  json.set("devices", outcome.devices);
  return json;
}

Json model_json(const ModelDemand& demand, const ModelPlan& plan) {
  Json json = Json::object();
  json.set("name", demand.name);
  json.set("input_len", demand.load.input_tokens);
  json.set("output_len", demand.load.output_tokens);
  json.set("request_rate", demand.load.request_rate);
  json.set("ttft_ms", demand.level.ttft_ms);
  json.set("itl_ms", demand.level.itl_ms);
  json.set("predicted", outcome_json(plan.outcome));
  Json alternatives = Json::array();
  for (const Alternative& other : plan.alternatives) {
    Json item = Json::object();
    item.set("shape", other.what);
    item.set("replicas", other.replicas);
    item.set("predicted", outcome_json(other.outcome));
    item.set("change", rounded(other.change));
    alternatives.push_back(std::move(item));
  }
  json.set("alternatives", std::move(alternatives));
  Json constraints = Json::array();
  for (const ConstraintCost& cost : plan.constraints) {
    Json item = Json::object();
    item.set("constraint", cost.constraint);
    item.set("gain_without", rounded(cost.gain));
    item.set("without", cost.without);
    constraints.push_back(std::move(item));
  }
  json.set("constraints", std::move(constraints));
  return json;
}

Json place_json(const Cluster& cluster, const DeviceId& id) {
  Json json = Json::object();
  json.set("node", cluster.nodes[static_cast<size_t>(id.node)].name);
  json.set("device", id.device);
  return json;
}

Json replica_json(const Cluster& cluster, const PlacedReplica& replica) {
  Json json = Json::object();
  json.set("model", replica.model);
  json.set("tensor_parallel_size", replica.tensor_parallel_size);
  json.set("pipeline_parallel_size", replica.pipeline_parallel_size);
  json.set("kv_blocks", replica.kv_blocks);
  json.set("best", operation_json(replica.best));
  json.set("lone", operation_json(replica.lone));
  if (replica.burst.prefill_s > 0) {
    Json burst = Json::object();
    burst.set("prefill_s", rounded(replica.burst.prefill_s));
    burst.set("decode_step_ms", rounded(replica.burst.decode_step_ms));
    json.set("prompts_at_once", std::move(burst));
  }
  Json stages = Json::array();
  for (const PlannedStage& stage : replica.stages) {
    Json item = Json::object();
    item.set("layers", stage.layers);
    item.set("weights_bytes", stage.memory.weights);
    item.set("activations_bytes", stage.memory.activations);
    item.set("runtime_bytes", stage.memory.runtime);
    item.set("kv_bytes_per_token", stage.memory.kv_per_token);
    if (stage.to_next != LinkKind::kSelf) item.set("to_next", name(stage.to_next));
    stages.push_back(std::move(item));
  }
  json.set("stages", std::move(stages));
  Json ranks = Json::array();
  for (const DeviceId& id : replica.devices) ranks.push_back(place_json(cluster, id));
  json.set("ranks", std::move(ranks));
  return json;
}

Json cluster_json(const Cluster& cluster) {
  Json nodes = Json::array();
  for (const Node& node : cluster.nodes) {
    Json item = Json::object();
    item.set("name", node.name);
    Json devices = Json::array();
    for (const Device& device : node.devices) devices.push_back(kind_of(cluster, device).name);
    item.set("devices", std::move(devices));
    Json hardware = Json::object();
    for (const auto& [what, text] : hardware_of(cluster, node)) hardware.set(what, text);
    item.set("hardware", std::move(hardware));
    nodes.push_back(std::move(item));
  }
  Json json = Json::object();
  json.set("name", cluster.name);
  json.set("nodes", std::move(nodes));
  return json;
}

Status lacks(const std::string& what) { return invalid_argument("the plan lacks " + what + ": write it with skein plan --format json"); }

Status wrong(const std::string& what) { return invalid_argument("the plan " + what + ": correct it, or plan again"); }

std::string named(const char* what, const char* key) { return std::string(what) + " \"" + key + "\""; }

Result<int> integer(const Json& json, const char* key, int64_t least) {
  const Json* value = json.find(key);
  if (value == nullptr) return lacks(named("a number", key));
  if (!value->is_int() || value->as_int() < least || value->as_int() > kNumberMax) {
    return wrong(named("has", key) + " that is no whole number from " + std::to_string(least) + " to " +
                 std::to_string(kNumberMax));
  }
  return static_cast<int>(value->as_int());
}

Result<const Json::Array*> array(const Json& json, const char* key) {
  const Json* value = json.find(key);
  if (value == nullptr) return lacks(named("a list", key));
  if (!value->is_array()) return wrong(named("has", key) + " that is no list");
  return &value->as_array();
}

Result<double> real(const Json& json, const char* key) {
  const Json* value = json.find(key);
  if (value == nullptr) return lacks(named("a number", key));
  if (!value->is_number() || !(value->as_double() >= 0)) return wrong(named("has", key) + " that is no number from 0 on");
  return value->as_double();
}

Result<std::string> text(const Json& json, const char* key) {
  const Json* value = json.find(key);
  if (value == nullptr) return lacks(named("a text", key));
  if (!value->is_string()) return wrong(named("has", key) + " that is no text");
  return value->as_string();
}

// Figures are not read back, and may be missing from a plan that was written by hand.
Status check_bytes(const Json& stage) {
  for (const char* key : {"weights_bytes", "activations_bytes", "runtime_bytes", "kv_bytes_per_token"}) {
    const Json* value = stage.find(key);
    if (value != nullptr && !(value->is_int() && value->as_int() >= 0)) {
      return wrong(named("has", key) + " that is no whole number from 0 on");
    }
  }
  return {};
}

Status check_figures(const Json& replica) {
  for (const char* key : {"best", "lone", "prompts_at_once"}) {
    const Json* figures = replica.find(key);
    if (figures == nullptr) continue;
    if (!figures->is_object()) return wrong(named("has", key) + " that is no map of figures");
    for (const auto& [name, value] : figures->as_object()) {
      if (!value.is_number()) return wrong(named("has", key) + " where " + name + " is no number");
    }
  }
  return {};
}

Result<std::map<std::string, std::string>> parse_hardware(const Json& node) {
  const Json* all = node.find("hardware");
  if (all == nullptr || !all->is_object()) return lacks("the hardware of a node");
  std::map<std::string, std::string> hardware;
  for (const auto& [what, value] : all->as_object()) {
    if (!value.is_string()) return wrong(named("has", what.c_str()) + " that is no text");
    hardware[what] = value.as_string();
  }
  return hardware;
}

Status parse_nodes(const Json& json, PlanFile* file) {
  Cluster& cluster = file->cluster;
  ASSIGN_OR_RETURN(cluster.name, text(json, "name"));
  ASSIGN_OR_RETURN(const Json::Array* nodes, array(json, "nodes"));
  for (const Json& item : *nodes) {
    Node& node = cluster.nodes.emplace_back();
    ASSIGN_OR_RETURN(node.name, text(item, "name"));
    ASSIGN_OR_RETURN(file->hardware.emplace_back(), parse_hardware(item));
    ASSIGN_OR_RETURN(const Json::Array* devices, array(item, "devices"));
    for (const Json& kind : *devices) {
      if (!kind.is_string()) return lacks("the name of a device");
      auto at = std::ranges::find(cluster.kinds, kind.as_string(), &DeviceKind::name);
      if (at == cluster.kinds.end()) {
        cluster.kinds.emplace_back().name = kind.as_string();
        at = cluster.kinds.end() - 1;
      }
      node.devices.emplace_back().kind = static_cast<int>(at - cluster.kinds.begin());
    }
  }
  return {};
}

Result<ModelDemand> parse_model(const Json& json) {
  ModelDemand demand;
  ASSIGN_OR_RETURN(demand.name, text(json, "name"));
  ASSIGN_OR_RETURN(demand.load.input_tokens, integer(json, "input_len", 1));
  ASSIGN_OR_RETURN(demand.load.output_tokens, integer(json, "output_len", 1));
  ASSIGN_OR_RETURN(demand.load.request_rate, real(json, "request_rate"));
  ASSIGN_OR_RETURN(demand.level.ttft_ms, real(json, "ttft_ms"));
  ASSIGN_OR_RETURN(demand.level.itl_ms, real(json, "itl_ms"));
  return demand;
}

Result<PlacedReplica> parse_replica(const Json& json, const std::map<std::string, int>& nodes, const PlanFile& file) {
  PlacedReplica replica;
  ASSIGN_OR_RETURN(replica.model, integer(json, "model", 0));
  ASSIGN_OR_RETURN(replica.tensor_parallel_size, integer(json, "tensor_parallel_size", 1));
  ASSIGN_OR_RETURN(replica.pipeline_parallel_size, integer(json, "pipeline_parallel_size", 1));
  ASSIGN_OR_RETURN(replica.kv_blocks, integer(json, "kv_blocks", 1));
  if (static_cast<size_t>(replica.model) >= file.models.size()) {
    return wrong("has a replica of model " + std::to_string(replica.model) + ", and " + std::to_string(file.models.size()) +
                 " under \"models\", counted from 0");
  }
  RETURN_IF_ERROR(check_figures(json));
  ASSIGN_OR_RETURN(const Json::Array* stages, array(json, "stages"));
  for (const Json& stage : *stages) {
    ASSIGN_OR_RETURN(const int layers, integer(stage, "layers", 1));
    RETURN_IF_ERROR(check_bytes(stage));
    replica.stages.push_back({.layers = layers, .memory = {}});
  }
  ASSIGN_OR_RETURN(const Json::Array* ranks, array(json, "ranks"));
  for (const Json& rank : *ranks) {
    ASSIGN_OR_RETURN(const std::string node, text(rank, "node"));
    ASSIGN_OR_RETURN(const int device, integer(rank, "device", 0));
    const auto at = nodes.find(node);
    const size_t devices = at == nodes.end() ? 0 : file.cluster.nodes[static_cast<size_t>(at->second)].devices.size();
    if (static_cast<size_t>(device) >= devices) {
      return wrong("puts a rank on device " + std::to_string(device) + " of node \"" + node +
                   "\", which its cluster does not have");
    }
    replica.devices.push_back({.node = at->second, .device = device});
  }
  const int64_t ranks_wanted = int64_t{replica.tensor_parallel_size} * replica.pipeline_parallel_size;
  if (static_cast<int64_t>(replica.devices.size()) != ranks_wanted ||
      static_cast<int>(replica.stages.size()) != replica.pipeline_parallel_size) {
    return wrong("has a replica of TP " + std::to_string(replica.tensor_parallel_size) + " x PP " +
                 std::to_string(replica.pipeline_parallel_size) + " with " + std::to_string(replica.devices.size()) +
                 " under \"ranks\" and " + std::to_string(replica.stages.size()) + " under \"stages\"");
  }
  return replica;
}

std::string devices_text(const Cluster& cluster, const Node& node) {
  std::map<std::string, int> counts;
  for (const Device& device : node.devices) ++counts[kind_of(cluster, device).name];
  std::string text;
  for (const auto& [kind, count] : counts) text += (text.empty() ? "" : ", ") + std::to_string(count) + " x " + kind;
  return text.empty() ? "no devices" : text;
}

// "NVLink was GPUs 0 1 and is none"; empty: there is none.
std::string difference(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now) {
  const auto text_in = [](const std::map<std::string, std::string>& all, const std::string& what) {
    const auto at = all.find(what);
    return at == all.end() ? std::string("none") : at->second;
  };
  std::map<std::string, std::string> either = then;
  either.insert(now.begin(), now.end());
  for (const auto& [what, text] : either) {
    const std::string before = text_in(then, what);
    const std::string after = text_in(now, what);
    if (before != after) return what + " was " + before + " and is " + after;
  }
  return {};
}

}  // namespace

Json to_json(const PlanRequest& request, const PlacementPlan& plan) {
  const Cluster& cluster = *request.cluster;
  Json json = Json::object();
  json.set("version", kVersion);
  json.set("cluster", cluster_json(cluster));
  Json models = Json::array();
  for (size_t i = 0; i < plan.models.size(); ++i) models.push_back(model_json(request.models[i], plan.models[i]));
  json.set("models", std::move(models));
  Json replicas = Json::array();
  for (const PlacedReplica& replica : plan.replicas) replicas.push_back(replica_json(cluster, replica));
  json.set("replicas", std::move(replicas));
  Json left_over = Json::array();
  for (const DeviceId& id : plan.left_over) left_over.push_back(place_json(cluster, id));
  json.set("left_over", std::move(left_over));
  json.set("moved", plan.moved);
  Json notes = Json::array();
  for (const std::string& note : plan.notes) notes.push_back(note);
  json.set("notes", std::move(notes));
  return json;
}

Result<PlanFile> parse_plan(std::string_view json_text) {
  ASSIGN_OR_RETURN(const Json json, parse_json(json_text));
  ASSIGN_OR_RETURN(const int version, integer(json, "version", 1));
  if (version != kVersion) {
    return invalid_argument("the plan is of version " + std::to_string(version) + " and this program reads version " +
                            std::to_string(kVersion) + ": plan again");
  }
  const Json* cluster = json.find("cluster");
  if (cluster == nullptr || !cluster->is_object()) return lacks("its cluster");
  PlanFile file;
  RETURN_IF_ERROR(parse_nodes(*cluster, &file));
  std::map<std::string, int> nodes;
  for (size_t i = 0; i < file.cluster.nodes.size(); ++i) nodes[file.cluster.nodes[i].name] = static_cast<int>(i);
  ASSIGN_OR_RETURN(const Json::Array* models, array(json, "models"));
  for (const Json& model : *models) {
    ASSIGN_OR_RETURN(ModelDemand demand, parse_model(model));
    if (std::ranges::find(file.models, demand.name, &ModelDemand::name) != file.models.end()) {
      return wrong("has two models called \"" + demand.name + "\", which nobody can tell apart");
    }
    file.models.push_back(std::move(demand));
  }
  ASSIGN_OR_RETURN(const Json::Array* replicas, array(json, "replicas"));
  if (replicas->empty()) return wrong("has no replica");
  std::set<DeviceId> taken;
  for (const Json& item : *replicas) {
    ASSIGN_OR_RETURN(PlacedReplica replica, parse_replica(item, nodes, file));
    for (const DeviceId& id : replica.devices) {
      if (taken.insert(id).second) continue;
      return wrong("puts two ranks on device " + std::to_string(id.device) + " of node \"" +
                   file.cluster.nodes[static_cast<size_t>(id.node)].name + "\"");
    }
    file.plan.replicas.push_back(std::move(replica));
  }
  return file;
}

Result<PlanFile> read_plan_file(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string json, read_file(path, kFileBytesMax));
  Result<PlanFile> file = parse_plan(json);
  if (!file.ok()) return file.status().within(path);
  return file;
}

Status check_unchanged(const PlanFile& file, const Cluster& cluster) {
  const std::string remedy = "; plan again, with --previous to keep what can stay";
  std::map<std::string, const Node*> now;
  for (const Node& node : cluster.nodes) now[node.name] = &node;
  for (size_t i = 0; i < file.cluster.nodes.size(); ++i) {
    const Node& then = file.cluster.nodes[i];
    const auto at = now.find(then.name);
    if (at == now.end()) {
      return invalid_argument("the plan was made for a cluster with a node \"" + then.name + "\", which is not there now" + remedy);
    }
    const std::string before = devices_text(file.cluster, then);
    const std::string after = devices_text(cluster, *at->second);
    if (before != after) {
      return invalid_argument("the plan was made when node \"" + then.name + "\" had " + before + ", and it has " + after +
                              " now" + remedy);
    }
    if (const std::string other = difference(file.hardware[i], hardware_of(cluster, *at->second)); !other.empty()) {
      return invalid_argument("the plan was made for another node \"" + then.name + "\": " + other + remedy);
    }
    now.erase(at);
  }
  if (now.empty()) return {};
  return invalid_argument("the plan was made before node \"" + now.begin()->first + "\" was there" + remedy);
}

}  // namespace skein
