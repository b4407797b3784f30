// `skein plan`: what would run where, without starting anything.

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string_view>

#include "base/log.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/placement.h"
#include "coordinator/cli/plan_text.h"
#include "coordinator/cli/serve_plan.h"
#include "topology/plan_file.h"

namespace skein {
namespace {

constexpr std::string_view kFlagsOfCheck[] = {"check", "cluster", "config", "model"};

struct PlanConfig {
  ServeConfig serve;
  std::string format = "text";
  std::string previous;  // plan file
  std::string check;     // plan file
  int num_prompts = 0;
  bool even_layers = false;
};

OptionTable options(PlanConfig* config) {
  OptionTable table;
  add_serve_options(&table, &config->serve);
  add_placement_options(&table, &config->serve.placement);
  table.add_choice("format", "of what is printed", {"text", "json", "svg"}, &config->format);
  table.add_integer("num-prompts", "also predict that many prompts at once, as `skein bench offline` sends them", 0, 4096,
                    &config->num_prompts);
  table.add_switch("even-layers", "deal layers out to stages evenly, as `skein serve` and `skein bench` do, not by speed",
                   &config->even_layers);
  table.add_text("previous", "F", "plan in JSON that runs now: keep of it what can stay", &config->previous);
  table.add_text("check", "F", "only say whether the cluster is still the one that this plan was made for; MODEL may be left out, "
                 "and other flags than --cluster and --config make no sense",
                 &config->check);
  return table;
}

Result<PlacementPlan> plan_again(const PlanConfig& config, const Placement& placement) {
  ASSIGN_OR_RETURN(const PlanFile previous, read_plan_file(config.previous));
  if (!std::ranges::equal(placement.request.models, previous.models, {}, &ModelDemand::name, &ModelDemand::name)) {
    return invalid_argument(config.previous + " is a plan for other models; name the same ones in the same order");
  }
  return replan(placement.request, previous.cluster, previous.plan);
}

// Needs no model; of those that are named the plan must have replicas. Of the rest nothing would be heeded.
Status check_plan(const PlanConfig& config) {
  for (const std::string& flag : config.serve.flags) {
    if (std::ranges::find(kFlagsOfCheck, flag) != std::end(kFlagsOfCheck)) continue;
    return invalid_argument("--check only compares a plan with the cluster, which --" + flag + " does not change: leave one of "
                            "them out");
  }
  ASSIGN_OR_RETURN(const Cluster cluster, read_cluster(config.serve.placement.cluster));
  ASSIGN_OR_RETURN(const PlanFile file, read_plan_file(config.check));
  std::vector<std::string> models;
  for (const AskedModel& asked : config.serve.placement.models) models.push_back(asked.model);
  if (!config.serve.model.empty()) models.push_back(config.serve.model);
  for (const std::string& model : models) RETURN_IF_ERROR(check_places(file, config.check, short_name(model)));
  RETURN_IF_ERROR(check_unchanged(file, cluster).within(config.check));
  std::printf("%s holds for the cluster as it is\n", config.check.c_str());
  return {};
}

Status plan_cluster(const PlanConfig& config) {
  if (!config.check.empty()) return check_plan(config);
  RETURN_IF_ERROR(check_model(config.serve));
  Placement placement;
  RETURN_IF_ERROR(describe_placement(config.serve, &placement));
  placement.request.burst_prompts = config.num_prompts;
  placement.request.even_layers = config.even_layers;
  ASSIGN_OR_RETURN(placement.plan, config.previous.empty() ? plan_placement(placement.request)
                                                           : plan_again(config, placement));
  RETURN_IF_ERROR(check_backends(config.serve, placement));
  if (config.format == "text") std::printf("%s", plan_text(placement).c_str());
  if (config.format == "json") std::printf("%s\n", plan_json(placement).dump().c_str());
  if (config.format == "svg") {
    std::printf("%s", plan_svg(placement).c_str());
    for (const std::string& note : all_notes(placement)) log_warning("plan: " + note);
  }
  return {};
}

Status plan_machine(const PlanConfig& config) {
  if (config.serve.gathered()) {
    return invalid_argument("which machines? `skein serve` asks the agents that come; here name a file that describes them "
                            "with --cluster, as `skein topology --format yaml` writes it");
  }
  // Nothing would heed them.
  for (const char* flag : {"format", "previous", "check", "num-prompts", "even-layers", "nodes", "calibration", "objective",
                           "request-rate", "input-len", "output-len", "ttft-ms", "itl-ms"}) {
    if (!config.serve.flags.contains(flag)) continue;
    return invalid_argument("--" + std::string(flag) + " needs a described cluster; name its file with --cluster, or plan on this "
                            "machine with `--cluster here`");
  }
  RETURN_IF_ERROR(check_model(config.serve));
  ASSIGN_OR_RETURN(const ServePlan plan, make_serve_plan(config.serve));
  std::printf("%s", describe(plan).c_str());
  return {};
}

}  // namespace

int plan_command(const Arguments& arguments) {
  PlanConfig config;
  const OptionTable table = options(&config);
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein plan MODEL [flags]\n"
                "Without --cluster: what `skein serve` with these flags starts on this machine; nothing is chosen or predicted.\n"
                "With `--cluster here`: what runs best on it, how fast, and why.\n%s", table.help().c_str());
    return 0;
  }
  const Status parsed = parse_serve_config(arguments, table, &config.serve);
  if (!parsed.ok()) return report(parsed);
  const Status status = config.serve.placement.cluster.empty() ? plan_machine(config) : plan_cluster(config);
  return status.ok() ? 0 : report(status);
}

}  // namespace skein
