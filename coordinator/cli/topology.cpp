#include <algorithm>
#include <cstdio>

#include "base/json.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/options.h"
#include "topology/cluster_file.h"
#include "topology/cluster_svg.h"
#include "topology/cluster_text.h"
#include "topology/contradictions.h"
#include "topology/discovery.h"

namespace skein {
namespace {

struct TopologyOptions {
  std::string config;
  std::string node;
  std::string format = "text";
};

// What is shown, and what is wrong with it.
struct View {
  Cluster cluster;
  std::vector<std::string> findings;
};

void add_findings(const std::string& where, const std::vector<std::string>& found, std::vector<std::string>* findings) {
  for (const std::string& finding : found) findings->push_back(where + ": " + finding);
}

View view_of_machine() {
  Discovery discovery = discover();
  View view{.cluster = std::move(discovery.cluster), .findings = std::move(discovery.notes)};
  for (std::string& finding : doubts(view.cluster, 0)) view.findings.push_back(std::move(finding));
  return view;
}

// The described cluster; where it names this machine, compared with what is here.
Result<View> view_of_file(const TopologyOptions& options) {
  ASSIGN_OR_RETURN(Cluster described, read_cluster_file(options.config));
  View view{.cluster = std::move(described), .findings = {}};
  for (size_t i = 0; i < view.cluster.nodes.size(); ++i) {
    add_findings(view.cluster.nodes[i].name, doubts(view.cluster, static_cast<int>(i)), &view.findings);
  }
  Discovery discovery = discover(view.cluster.kinds);
  const std::string here = options.node.empty() ? discovery.cluster.name : options.node;
  const int node = find_node(view.cluster, here);
  if (node < 0) {
    if (options.node.empty()) return view;
    return invalid_argument(options.config + " has no node \"" + here + "\" to compare this machine with");
  }
  add_findings(here + ", as found", discovery.notes, &view.findings);
  add_findings(here + ", as found", doubts(discovery.cluster, 0), &view.findings);
  add_findings(options.config, differences(view.cluster, node, discovery.cluster), &view.findings);
  return view;
}

void print(const View& view, const std::string& format) {
  if (format == "json") {
    Json json = Json::object();
    json.set("cluster", to_json(view.cluster));
    json.set("findings", Json::Array(view.findings.begin(), view.findings.end()));
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  const std::string text = format == "svg"    ? to_svg(view.cluster)
                           : format == "yaml" ? to_yaml(view.cluster)
                                              : describe(view.cluster);
  std::fputs(text.c_str(), stdout);
  FILE* const out = format == "text" ? stdout : stderr;  // the others are files
  if (!view.findings.empty()) std::fprintf(out, "\n");
  for (const std::string& finding : view.findings) std::fprintf(out, "note: %s\n", finding.c_str());
}

}  // namespace

int topology_command(const Arguments& arguments) {
  TopologyOptions options;
  OptionTable table;
  table.add_text("config", "FILE", "a cluster file, as in configs/clusters; default: this machine", &options.config);
  table.add_text("node", "NAME", "which node of the file this machine is; default: the one of its host name",
                 &options.node);
  table.add_choice("format", "yaml: a cluster file", {"text", "json", "svg", "yaml"}, &options.format);
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein topology [flags]\n%s", table.help().c_str());
    return 0;
  }
  std::vector<std::string> positional;
  const Status parsed = table.parse(arguments, &positional);
  if (!parsed.ok()) return report(parsed);
  if (!positional.empty()) return report(invalid_argument("what is \"" + positional[0] + "\"? Files go behind --config"));
  if (!options.node.empty() && options.config.empty()) {
    return report(invalid_argument("--node says which node of a file this machine is: it needs --config"));
  }
  const Result<View> view = options.config.empty() ? Result<View>(view_of_machine()) : view_of_file(options);
  if (!view.ok()) return report(view.status());
  print(*view, options.format);
  return 0;
}

}  // namespace skein
