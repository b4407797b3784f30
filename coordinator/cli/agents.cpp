#include "coordinator/cli/agents.h"

#include <cstdio>
#include <set>

#include "coordinator/cli/placement.h"

namespace skein {

Result<ListenConfig> listen_config(const ServeConfig& config) {
  ListenConfig listen{.endpoint = config.listen, .keys = {}, .orphan_seconds = config.orphan_timeout};
  ASSIGN_OR_RETURN(listen.keys.own, read_key_file(config.key_file));
  ASSIGN_OR_RETURN(listen.keys.allowed, read_allow_list(config.allow_list));
  return listen;
}

Result<GatheredNodes> gather_agents(const ServeConfig& config, const std::string& otherwise) {
  ASSIGN_OR_RETURN(const ListenConfig listen, listen_config(config));
  std::set<std::string> allowed;
  for (const auto& [key, name] : listen.keys.allowed) allowed.insert(name);
  std::set<std::string> names;
  for (const ReplicaShape& shape : config.replicas) {
    for (const RankPlace& place : shape.places) names.insert(place.node);
  }
  if (config.replicas.empty()) {
    for (const std::string& part : config.placement.nodes) names.insert(parse_node_part(part, allowed).node);
  }
  for (const std::string& name : names) {
    if (allowed.contains(name)) continue;
    return invalid_argument(config.allow_list + " has no key of the node \"" + name + "\": add it there, or correct the name");
  }
  if (names.empty()) names = std::move(allowed);
  const auto waiting = [](const std::vector<std::string>& missing) {
    std::string text;
    for (const std::string& name : missing) text += " " + name;
    say("waiting   for the agents of" + text + "\n");
  };
  ASSIGN_OR_RETURN(GatheredNodes gathered,
                   gather_nodes(listen, names, config.nodes_timeout, waiting, otherwise));
  for (const std::string& note : gathered.notes) say("note      " + note + "\n");
  return gathered;
}

void say(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace skein
