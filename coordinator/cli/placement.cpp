#include "coordinator/cli/placement.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <map>

#include "base/cuda_limits.h"
#include "base/parse_number.h"
#include "base/replace_file.h"
#include "topology/cluster_file.h"
#include "topology/contradictions.h"
#include "topology/discovery.h"

namespace skein {
namespace {

Objective objective_of(const PlacementConfig& placement, const std::vector<AskedModel>& asked) {
  if (placement.objective == "goodput") return Objective::kGoodput;
  if (placement.objective == "fewest-devices") return Objective::kFewestDevices;
  if (placement.objective == "latency") return Objective::kLatency;
  const bool rated = std::ranges::all_of(asked, [](const AskedModel& model) { return model.request_rate > 0; });
  return rated ? Objective::kFewestDevices : Objective::kGoodput;
}

MemoryRequest memory_request(const ServeConfig& config, bool gpu) {
  const int64_t step_tokens_max = config.max_num_batched_tokens.value_or(default_step_tokens(gpu));
  MemoryRequest request{.gpu = gpu,
                        .dtype = config.dtype,
                        .kv_cache_dtype = config.kv_cache_dtype,
                        .block_tokens = static_cast<int>(config.block_size.value_or(gpu ? 64 : 16)),
                        .slots = static_cast<int>(config.max_num_seqs.value_or(gpu ? 256 : 64)),
                        .step_tokens_max = static_cast<int>(step_tokens_max)};
  request.kv_bytes_per_rank = config.kv_cache_memory_bytes;
  if (config.max_model_len) request.context_max = static_cast<int>(*config.max_model_len);
  return request;
}

std::string number_text(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", number);
  return text;
}

// A plan needs the shape alone: a folder without weights will do.
Result<ModelFiles> find_shape(const std::string& model, const std::string& load_format) {
  Result<ModelFiles> whole = find_model(model, load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto);
  if (whole.ok()) return whole;
  Result<ModelFiles> shape = find_model(model, LoadFormat::kDummy);
  return shape.ok() ? std::move(shape) : std::move(whole);
}

// A plan's replicas must have all layers of the model.
Status check_layers(const PlanFile& file, const std::string& path, const ModelDemand& demand) {
  const int wanted = static_cast<int>(demand.checkpoint->description().layers.size());
  for (const PlacedReplica& replica : file.plan.replicas) {
    int layers = 0;
    for (const PlannedStage& stage : replica.stages) layers += stage.layers;
    if (layers == wanted) continue;
    return invalid_argument(path + " has a replica of " + demand.name + " with " + std::to_string(layers) +
                            " layers where the model has " + std::to_string(wanted) + ": correct its stages, or plan again");
  }
  return {};
}

// Plans tell models apart by the names of their folders.
Status check_names(const std::vector<AskedModel>& asked) {
  std::map<std::string, std::string> models;
  for (const AskedModel& model : asked) {
    const auto [other, fresh] = models.emplace(short_name(model.model), model.model);
    if (fresh) continue;
    if (other->second == model.model) {
      return invalid_argument(model.model + " is named twice under models: name it once, with all of its load");
    }
    return invalid_argument(other->second + " and " + model.model + " would both be called \"" + other->first +
                            "\" in the plan: rename the folder of one, or name a link to it");
  }
  return {};
}

// What a plan file has of the one model.
Result<PlanFile> read_plan_of(const std::string& path, const ModelDemand& demand) {
  const std::string& model = demand.name;
  ASSIGN_OR_RETURN(PlanFile file, read_plan_file(path));
  RETURN_IF_ERROR(check_places(file, path, model));
  std::erase_if(file.plan.replicas, [&](const PlacedReplica& replica) {
    return file.models[static_cast<size_t>(replica.model)].name != model;
  });
  for (PlacedReplica& replica : file.plan.replicas) replica.model = 0;
  RETURN_IF_ERROR(check_layers(file, path, demand));
  return file;
}

std::vector<NodePart> parts_of(const PlacementConfig& placement, const Cluster& cluster) {
  std::set<std::string> names;
  for (const Node& node : cluster.nodes) names.insert(node.name);
  std::vector<NodePart> parts;
  for (const std::string& text : placement.nodes) parts.push_back(parse_node_part(text, names));
  return parts;
}

// Refuses flags on the command line that say something else than the file, which is started as it is.
Status check_flags(const ServeConfig& config, const std::string& model, const PlanFile& file) {
  const PlacementConfig& placement = config.placement;
  const auto differs = [&](const char* flag, const std::string& here, const std::string& there) {
    return invalid_argument("--" + std::string(flag) + " is " + here + ", and the plan in " + placement.plan + " has " + there +
                            ": leave the flag out, or " +
                            (placement.replan ? "remove the file, and it is planned anew" : "plan again with it"));
  };
  const auto check = [&](const char* flag, double here, double there) {
    if (!config.flags.contains(flag) || here == there) return Status();
    return differs(flag, number_text(here), number_text(there));
  };
  const AskedModel& asked = placement.asked;
  const ModelDemand& planned = *std::ranges::find(file.models, model, &ModelDemand::name);
  RETURN_IF_ERROR(check("request-rate", asked.request_rate, planned.load.request_rate));
  RETURN_IF_ERROR(check("input-len", asked.input_len, planned.load.input_tokens));
  RETURN_IF_ERROR(check("output-len", asked.output_len, planned.load.output_tokens));
  RETURN_IF_ERROR(check("ttft-ms", asked.ttft_ms, planned.level.ttft_ms));
  RETURN_IF_ERROR(check("itl-ms", asked.itl_ms, planned.level.itl_ms));
  for (const PlacedReplica& replica : file.plan.replicas) {
    RETURN_IF_ERROR(check("tensor-parallel-size", config.tensor_parallel_size, replica.tensor_parallel_size));
    RETURN_IF_ERROR(check("pipeline-parallel-size", config.pipeline_parallel_size, replica.pipeline_parallel_size));
    for (const DeviceId& id : replica.devices) {
      const std::string& node = file.cluster.nodes[static_cast<size_t>(id.node)].name;
      if (!config.flags.contains("nodes") || may_use(parts_of(placement, file.cluster), node, id.device)) continue;
      return differs("nodes", joined(placement.nodes), "a rank on device " + std::to_string(id.device) + " of " + node);
    }
  }
  return {};
}

// The file's plan with the cluster's numbers for its nodes. Requires: check_unchanged(file, cluster).
PlacementPlan renumbered(PlanFile file, const Cluster& cluster) {
  for (PlacedReplica& replica : file.plan.replicas) {
    for (DeviceId& id : replica.devices) {
      id.node = find_node(cluster, file.cluster.nodes[static_cast<size_t>(id.node)].name);
    }
  }
  return std::move(file.plan);
}

Status write_plan(const std::string& path, const Placement& placement) {
  const Status written = replace_file(path, plan_json(placement).dump() + "\n");
  if (written.ok()) return {};
  return unavailable(written.message() + "; name another file with --plan, whose folder is there and may be written to");
}

// A note for each file of --calibration with nothing that was measured on the cluster's kinds of devices.
Result<std::vector<std::string>> idle_calibrations(const ServeConfig& config, const Cluster& cluster) {
  const auto has = [&](const std::string& device) {
    return std::ranges::find(cluster.kinds, device, &DeviceKind::name) != cluster.kinds.end();
  };
  std::vector<std::string> notes;
  for (const std::string& path : config.placement.calibration) {
    ASSIGN_OR_RETURN(const Calibration one, read_calibrations({}, {path}));
    const bool used = std::ranges::any_of(one.devices, has, &DeviceCalibration::name) ||
                      std::ranges::any_of(one.links, [&](const LinkCalibration& link) {
                        return link.device.empty() || has(link.device);
                      });
    if (!used) notes.push_back("nothing in " + path + " was measured on a device of this cluster: is it the right calibration?");
  }
  return notes;
}

bool is_one_of(const std::string& value, std::initializer_list<const char*> choices) {
  return std::ranges::find(choices, value) != choices.end();
}

}  // namespace

std::string short_name(const std::string& model) {
  const std::filesystem::path path(model);
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

Status check_places(const PlanFile& file, const std::string& path, const std::string& model) {
  for (const PlacedReplica& replica : file.plan.replicas) {
    if (file.models[static_cast<size_t>(replica.model)].name == model) return {};
  }
  std::vector<std::string> others;
  for (const ModelDemand& other : file.models) others.push_back(other.name);
  return invalid_argument(path + " places " + joined(others) + ", but no replica of " + model + ": plan again, with this model");
}

NodePart parse_node_part(const std::string& text, const std::set<std::string>& nodes) {
  if (nodes.contains(text)) return {.node = text};
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return {.node = text};
  const std::string_view range = std::string_view(text).substr(colon + 1);
  const size_t dash = range.find('-');
  const std::optional<int> first = parse_number<int>(range.substr(0, dash));
  const std::optional<int> last = dash == range.npos ? first : parse_number<int>(range.substr(dash + 1));
  if (!first || !last) return {.node = text};
  return {.node = text.substr(0, colon), .first = *first, .last = *last};
}

Result<Cluster> read_cluster(const std::string& name, std::vector<std::string>* notes) {
  if (name != kClusterHere) return read_cluster_file(name);
  Discovery here = discover();
  RETURN_IF_ERROR(validate(here.cluster).within("this machine as it is found"));
  if (notes != nullptr) *notes = std::move(here.notes);
  return std::move(here.cluster);
}

Status make_placement(const ServeConfig& config, Placement* placement) {
  RETURN_IF_ERROR(describe_placement(config, placement));
  const PlanRequest& request = placement->request;
  const std::string& path = config.placement.plan;
  const bool replanning = config.placement.replan;
  std::error_code ignored;
  if (path.empty() || (replanning && !std::filesystem::exists(path, ignored))) {
    ASSIGN_OR_RETURN(placement->plan, plan_placement(request));
  } else {
    ASSIGN_OR_RETURN(PlanFile file, read_plan_of(path, request.models[0]));
    const Status unchanged = check_unchanged(file, placement->cluster);
    if (unchanged.ok()) {
      RETURN_IF_ERROR(check_flags(config, request.models[0].name, file));
      placement->plan = renumbered(std::move(file), placement->cluster);
      return check_backends(config, *placement);
    }
    if (!replanning) return unchanged.within(path);
    if (file.models.size() > 1) {
      return invalid_argument(path + " places several models: plan them again with `skein plan --previous`");
    }
    ASSIGN_OR_RETURN(placement->plan, replan(request, file.cluster, file.plan));
  }
  RETURN_IF_ERROR(check_backends(config, *placement));
  return replanning ? write_plan(path, *placement) : Status();
}

UsedDevices used_devices(const Placement& placement) {
  UsedDevices used;
  for (const PlacedReplica& replica : placement.plan.replicas) {
    for (const DeviceId& id : replica.devices) (kind_of(placement.cluster, id).gpu ? used.gpus : used.cores) = true;
  }
  return used;
}

Status check_backends(const ServeConfig& config, const Placement& placement) {
  const UsedDevices used = used_devices(placement);
  const std::string device = used.gpus ? "cuda" : "cpu";
  if (config.device != "auto" && config.device != device) {
    return invalid_argument("the plan is for device " + device + ", not " + config.device +
                            ": name other nodes with --nodes, or leave device out");
  }
  if (!used.gpus) return {};
  for (const ModelDemand& model : placement.request.models) {
    const Status runs = check_gpu_model(model.checkpoint->description()).within(model.name);
    if (!runs.ok()) return unsupported(runs.message() + ": name nodes of cores with --nodes");
  }
  return check_gpu_formats(config);
}

Status check_gpu_model(const ModelDescription& model) {
  if (!cuda_takes_head_dim(model.head_dim)) {
    return unsupported("attention heads of size " + std::to_string(model.head_dim) +
                       " do not run on GPUs, whose kernels take multiples of 8 up to 256");
  }
  if (model.hidden > kCudaHiddenMax) {
    return unsupported("a hidden size of " + std::to_string(model.hidden) +
                       " does not run on GPUs, whose kernels take up to " + std::to_string(kCudaHiddenMax));
  }
  return {};
}

Status check_gpu_formats(const ServeConfig& config) {
  if (!is_one_of(config.dtype, {"auto", "bfloat16"})) {
    return unsupported("the CUDA backend computes in bfloat16: use --dtype auto or bfloat16, not " + config.dtype);
  }
  if (!is_one_of(config.kv_cache_dtype, {"auto", "bfloat16"})) {
    return unsupported("the CUDA backend keeps the KV cache in bfloat16: use --kv-cache-dtype auto or bfloat16, not " +
                       config.kv_cache_dtype);
  }
  return {};
}

std::vector<std::string> all_notes(const Placement& placement) {
  std::vector<std::string> notes = placement.plan.notes;
  std::ranges::copy(placement.notes, std::back_inserter(notes));
  return notes;
}

Json plan_json(const Placement& placement) {
  PlacementPlan plan = placement.plan;
  plan.notes = all_notes(placement);
  return to_json(placement.request, plan);
}

ReplicaShape shape_of(const Placement& placement, const PlacedReplica& replica) {
  ReplicaShape shape{.tensor_parallel_size = replica.tensor_parallel_size,
                     .pipeline_parallel_size = replica.pipeline_parallel_size};
  for (const PlannedStage& stage : replica.stages) shape.stage_layers.push_back(stage.layers);
  for (const DeviceId& id : replica.devices) {
    shape.places.push_back({.node = placement.cluster.nodes[static_cast<size_t>(id.node)].name, .device = id.device});
  }
  return shape;
}

Status describe_placement(const ServeConfig& config, Placement* placement) {
  if (placement->cluster.nodes.empty()) {
    ASSIGN_OR_RETURN(placement->cluster, read_cluster(config.placement.cluster, &placement->notes));
  }
  ASSIGN_OR_RETURN(placement->calibration, read_calibrations(shipped_calibration(), config.placement.calibration));
  ASSIGN_OR_RETURN(std::vector<std::string> idle, idle_calibrations(config, placement->cluster));
  std::ranges::move(idle, std::back_inserter(placement->notes));
  std::vector<AskedModel> asked = config.placement.models;
  if (asked.empty()) {
    asked.push_back(config.placement.asked);
    asked.back().model = config.model;
  }
  RETURN_IF_ERROR(check_names(asked));
  const bool gpu = std::ranges::any_of(placement->cluster.kinds, &DeviceKind::gpu);
  PlanRequest& request = placement->request;
  request.cluster = &placement->cluster;
  request.calibration = &placement->calibration;
  request.objective = objective_of(config.placement, asked);
  request.memory_share = config.gpu_memory_utilization;
  request.nodes = parts_of(config.placement, placement->cluster);
  // Of the agents' nodes those that did not come have been left out, and named.
  if (config.gathered()) {
    std::erase_if(request.nodes, [&](const NodePart& part) { return find_node(placement->cluster, part.node) < 0; });
  }
  if (request.objective == Objective::kFewestDevices && asked.front().request_rate == 0) {
    return invalid_argument("--objective fewest-devices needs a --request-rate that they are to serve");
  }
  for (const AskedModel& model : asked) {
    ASSIGN_OR_RETURN(ModelFiles files, find_shape(model.model, config.load_format));
    ModelDemand demand{.name = short_name(model.model),
                       .checkpoint = files.checkpoint.get(),
                       .load = {.request_rate = model.request_rate, .input_tokens = model.input_len,
                                .output_tokens = model.output_len},
                       .level = {.ttft_ms = model.ttft_ms, .itl_ms = model.itl_ms},
                       .memory = memory_request(config, gpu),
                       .tensor_parallel_size = model.tensor_parallel_size > 0 ? model.tensor_parallel_size
                                                                              : config.tensor_parallel_size,
                       .pipeline_parallel_size = model.pipeline_parallel_size > 0 ? model.pipeline_parallel_size
                                                                                  : config.pipeline_parallel_size};
    request.models.push_back(std::move(demand));
    placement->models.push_back(std::move(files));
  }
  return {};
}

}  // namespace skein
