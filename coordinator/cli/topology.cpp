#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/json.h"
#include "base/yaml.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/measure.h"
#include "coordinator/cli/measure_nodes.h"
#include "coordinator/cli/options.h"
#include "coordinator/cli/remote.h"
#include "coordinator/cli/serve_config.h"
#include "model/mapped_file.h"
#include "topology/cluster_file.h"
#include "topology/cluster_svg.h"
#include "topology/cluster_text.h"
#include "topology/contradictions.h"
#include "topology/discovery.h"
#include "topology/memory.h"
#include "topology/node_types.h"

namespace skein {
namespace {

constexpr size_t kConfigBytesMax = 1 << 20;

struct TopologyOptions {
  std::string config;
  std::string node;
  std::string url;
  std::string api_key_file;
  std::string format = "text";
  bool strict = false;
  bool measure = false;
  std::string output = "calibration.yaml";
  ServeConfig agents;  // with measure: of a coordinator whose agents' nodes are meant
};

OptionTable options_table(TopologyOptions* options) {
  OptionTable table;
  table.add_text("config", "FILE", "a cluster file, as in configs/clusters; default: this machine. With --measure also the "
                 "settings of `skein serve` with listen", &options->config);
  table.add_text("node", "NAME", "which node of the file this machine is; default: the one of its host name",
                 &options->node);
  table.add_text("url", "URL", "the HTTP address of a coordinator: what the agents of its nodes reported", &options->url);
  table.add_text("api-key-file", "F", "with --url: file whose first line is an API key", &options->api_key_file);
  table.add_choice("format", "yaml: a cluster file", {"text", "json", "svg", "yaml"}, &options->format);
  table.add_switch("strict", "with --config: exit status 1 where this machine contradicts the file; else that is only noted, with "
                   "status 0", &options->strict);
  table.add_switch("measure", "time this machine's devices and links; with listen, the network between the nodes of the "
                   "agents that come, and it alone. Nothing else should run there", &options->measure);
  table.add_text("output", "FILE", "where --measure writes to; default: calibration.yaml", &options->output);
  add_listen_options(&table, &options->agents);
  table.add_text("cluster", "F", "with listen: file that describes the nodes; default: they do it themselves",
                 &options->agents.placement.cluster);
  table.add_list("nodes", "with listen: whose agents are awaited; default: all of the allow-list",
                 &options->agents.placement.nodes);
  return table;
}

// What is shown, and what is wrong with it.
struct View {
  Cluster cluster;
  Cluster machine;            // this one, as found
  std::vector<std::string> findings;
  size_t contradictions = 0;  // of the findings, those of the machine against the file
  Json nodes;                 // of a coordinator: NodeTable::to_json()
};

void add_findings(const std::string& where, const std::vector<std::string>& found, std::vector<std::string>* findings) {
  for (const std::string& finding : found) findings->push_back(where + ": " + finding);
}

// Once for all nodes that it is true of.
void add_doubts(const Cluster& cluster, std::vector<std::string>* findings) {
  std::map<std::string, std::vector<int>> nodes;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    for (const std::string& doubt : doubts(cluster, static_cast<int>(i))) nodes[doubt].push_back(static_cast<int>(i));
  }
  for (const auto& [doubt, where] : nodes) findings->push_back(names_of(cluster, where) + ": " + doubt);
}

View view_of_machine() {
  Discovery discovery = discover();
  View view{.cluster = discovery.cluster,
            .machine = std::move(discovery.cluster),
            .findings = std::move(discovery.notes),
            .contradictions = 0,
            .nodes = {}};
  for (std::string& finding : doubts(view.cluster, 0)) view.findings.push_back(std::move(finding));
  return view;
}

// The described cluster; where it names this machine, compared with what is here.
Result<View> view_of_file(const TopologyOptions& options) {
  ASSIGN_OR_RETURN(Cluster described, read_cluster_file(options.config));
  Discovery discovery = discover(described.kinds);
  View view;
  view.cluster = std::move(described);
  view.machine = std::move(discovery.cluster);
  add_doubts(view.cluster, &view.findings);
  const std::string here = options.node.empty() ? view.machine.name : options.node;
  const int node = find_node(view.cluster, here);
  if (node < 0) {
    if (options.node.empty() && !options.strict) return view;
    return invalid_argument(options.config + " has no node \"" + here + "\" to compare this machine with: name another with --node");
  }
  add_findings(here + ", as found", discovery.notes, &view.findings);
  add_findings(here + ", as found", doubts(view.machine, 0), &view.findings);
  const std::vector<std::string> contradictions = differences(view.cluster, node, view.machine);
  view.contradictions = contradictions.size();
  add_findings(options.config, contradictions, &view.findings);
  return view;
}

std::string text_of(const Json& object, const char* key) {
  const Json* value = object.find(key);
  return value != nullptr && value->is_string() ? value->as_string() : "";
}

int64_t number_of(const Json& object, const char* key) {
  const Json* value = object.find(key);
  return value != nullptr && value->is_int() ? value->as_int() : 0;
}

const Json::Array& list_of(const Json& object, const char* key) {
  static const Json::Array none;
  const Json* value = object.find(key);
  return value != nullptr && value->is_array() ? value->as_array() : none;
}

// What agents reported to the coordinator at that URL.
Result<View> view_of_server(const TopologyOptions& options) {
  ASSIGN_OR_RETURN(const HttpTarget target, remote_target(options.url, options.api_key_file));
  ASSIGN_OR_RETURN(const HttpReply reply, http_get(target, "/v1/skein/nodes"));
  if (reply.status != 200) {
    return unavailable(options.url + " answers: " + http_error_message(reply.status, reply.body));
  }
  ASSIGN_OR_RETURN(const Json json, parse_json(reply.body));
  View view;
  for (const Json& finding : list_of(json, "findings")) {
    if (finding.is_string()) view.findings.push_back(finding.as_string());
  }
  for (const Json& refused : list_of(json, "refused")) {
    view.findings.push_back(text_of(refused, "name") + " was refused: " + text_of(refused, "reason"));
  }
  const Json* cluster = json.find("cluster");
  if (cluster == nullptr) {
    std::string why;
    for (const std::string& finding : view.findings) why += "; " + finding;
    return unavailable(options.url + " knows the hardware of no node" + why);
  }
  Result<Cluster> joined = parse_cluster(cluster->dump());
  if (!joined.ok()) return joined.status().within(options.url);
  view.cluster = std::move(*joined);
  view.nodes = list_of(json, "nodes");
  return view;
}

// "node-a at 10.0.0.1: 12.3 GiB of 16.0 GiB free, ranks on 2 of 8 devices"
void print_node(const Json& node) {
  std::printf("%s at %s:", text_of(node, "name").c_str(), text_of(node, "address").c_str());
  const int64_t memory = number_of(node, "memory_bytes");
  const int64_t free = number_of(node, "memory_free_bytes");
  if (memory == 0) std::printf(" not described,");
  else if (free == 0) std::printf(" %s of memory,", readable_bytes(memory).c_str());
  else std::printf(" %s of %s free,", readable_bytes(free).c_str(), readable_bytes(memory).c_str());
  std::printf(" ranks on %zu of %lld devices\n", list_of(node, "devices_held").size(),
              static_cast<long long>(number_of(node, "devices")));
}

void print(const View& view, const std::string& format) {
  if (format == "json") {
    Json json = Json::object();
    json.set("cluster", to_json(view.cluster));
    json.set("findings", Json::Array(view.findings.begin(), view.findings.end()));
    if (view.nodes.is_array()) json.set("nodes", view.nodes);
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  const std::string text = format == "svg"    ? to_svg(view.cluster)
                           : format == "yaml" ? to_yaml(view.cluster)
                                              : describe(view.cluster);
  std::fputs(text.c_str(), stdout);
  if (format == "text" && view.nodes.is_array()) {
    std::printf("\n");
    for (const Json& node : view.nodes.as_array()) print_node(node);
  }
  FILE* const out = format == "text" ? stdout : stderr;  // the others are files
  if (!view.findings.empty()) std::fprintf(out, "\n");
  for (const std::string& finding : view.findings) std::fprintf(out, "note: %s\n", finding.c_str());
}

// Before minutes are measured. Leaves what is there as it is.
Status check_output(const std::string& path) {
  std::error_code ignored;
  const bool there = std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
  const bool opened = std::ofstream(path, std::ios::app).is_open();
  if (opened && !there) std::filesystem::remove(path, ignored);
  if (opened) return {};
  return unavailable("cannot write " + path + "; name another file with --output");
}

Status write_calibration(const std::string& path, const Calibration& calibration) {
  std::ofstream file(path);
  file << to_yaml(calibration);
  file.close();
  if (!file) return unavailable("cannot write " + path + "; name another file with --output");
  std::fprintf(stderr, "what was measured is in %s: give it to `skein plan --calibration %s`\n", path.c_str(),
               path.c_str());
  return {};
}

// Whether a file has the settings of a coordinator, and not a cluster.
Result<bool> has_listen(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kConfigBytesMax));
  const Result<Yaml> yaml = parse_yaml(text);
  if (!yaml.ok()) return yaml.status().within(path);
  return std::ranges::find(yaml->map, "listen", &Yaml::Member::key) != yaml->map.end();
}

// Whether it is the nodes of agents that are to be measured.
Result<bool> measures_nodes(const TopologyOptions& options) {
  if (!options.measure) return false;
  if (!options.agents.listen.empty()) return true;
  return options.config.empty() ? Result<bool>(false) : has_listen(options.config);
}

// What makes no sense together.
Status check(const TopologyOptions& options, bool between_nodes) {
  if (!options.url.empty() && (!options.config.empty() || options.measure)) {
    return invalid_argument("--url shows a coordinator's nodes: give it without --config and --measure");
  }
  if (between_nodes && (!options.node.empty() || options.format != "text")) {
    return invalid_argument("between nodes it is only measured: leave --node and --format out");
  }
  if (!options.measure && options.agents.flags.contains("output")) {
    return invalid_argument("--output is where --measure writes to: give --measure, too, or send what is shown to a file with >");
  }
  if (!options.node.empty() && options.config.empty()) {
    return invalid_argument("--node says which node of a file this machine is: it needs --config");
  }
  if (options.strict && (options.config.empty() || between_nodes)) {
    return invalid_argument("--strict compares this machine with a cluster file: it needs --config with one");
  }
  for (const char* flag : {"listen", "nodes-timeout", "key-file", "allow-list", "ports", "cluster", "nodes"}) {
    if (between_nodes || !options.agents.flags.contains(flag)) continue;
    return invalid_argument("--" + std::string(flag) + " is of a coordinator whose nodes are to be measured: give --measure "
                            "and --listen, too");
  }
  return {};
}

Status measure_between(const Arguments& arguments, TopologyOptions options) {
  if (!options.config.empty()) {
    RETURN_IF_ERROR(read_serve_file(options.config, &options.agents));
    std::vector<std::string> positional;
    RETURN_IF_ERROR(options_table(&options).parse(arguments, &positional));  // flags win over the file
  }
  RETURN_IF_ERROR(check_nodes(options.agents));
  RETURN_IF_ERROR(check_output(options.output));
  ASSIGN_OR_RETURN(const Measurement measured, measure_nodes(options.agents));
  RETURN_IF_ERROR(write_calibration(options.output, measured.calibration));
  for (const std::string& finding : measured.findings) std::printf("note: %s\n", finding.c_str());
  return {};
}

}  // namespace

int topology_command(const Arguments& arguments) {
  TopologyOptions options;
  const OptionTable table = options_table(&options);
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein topology [flags]\n%s", table.help().c_str());
    return 0;
  }
  std::vector<std::string> positional;
  const Status parsed = table.parse(arguments, &positional, &options.agents.flags);
  if (!parsed.ok()) return report(parsed);
  if (!positional.empty()) return report(invalid_argument("what is \"" + positional[0] + "\"? Files go behind --config"));
  const Result<bool> between_nodes = measures_nodes(options);
  if (!between_nodes.ok()) return report(between_nodes.status());
  const Status sensible = check(options, *between_nodes);
  if (!sensible.ok()) return report(sensible);
  if (*between_nodes) {
    const Status measured = measure_between(arguments, options);
    return measured.ok() ? 0 : report(measured);
  }
  Result<View> view = !options.url.empty()      ? view_of_server(options)
                      : options.config.empty() ? Result<View>(view_of_machine())
                                               : view_of_file(options);
  if (!view.ok()) return report(view.status());
  if (options.measure) {
    const Status writable = check_output(options.output);
    if (!writable.ok()) return report(writable);
    const Result<Measurement> measured = measure(view->machine);
    if (!measured.ok()) return report(measured.status());
    const Status written = write_calibration(options.output, measured->calibration);
    if (!written.ok()) return report(written);
    view->findings.insert(view->findings.end(), measured->findings.begin(), measured->findings.end());
  }
  print(*view, options.format);
  if (!options.strict || view->contradictions == 0) return 0;
  return report(unavailable("this machine is not as " + options.config + " says, as " + std::to_string(view->contradictions) +
                            (view->contradictions == 1 ? " note says" : " notes say") + ": correct the file, or the machine"));
}

}  // namespace skein
