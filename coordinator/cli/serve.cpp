#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/serve_plan.h"
#include "coordinator/cli/server.h"
#include "coordinator/control/gather.h"
#include "coordinator/http/loop.h"

namespace skein {
namespace {

bool wants_help(const Arguments& arguments) {
  return std::ranges::find(arguments, "--help") != arguments.end();
}

int print_help() {
  ServeConfig config;
  std::printf("usage: skein serve MODEL [flags]\n%s", serve_options(&config).help().c_str());
  return 0;
}

// What the user reads goes to standard output, a line at a time, also through a pipe.
void say(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

Status serve(const ServePlan& plan) {
  Loop loop;
  Status outcome;
  Result<std::unique_ptr<Server>> server = Server::start(
      loop, plan,
      {.ready = [](const std::string& url) { say("skein: ready on " + url + "\n"); },
       .note = [](const std::string& line) { say("note      " + line + "\n"); },
       .ended =
           [&](const Status& status) {
             outcome = status;
             loop.stop();
           }});
  if (!server.ok()) return server.status();
  loop.on_signal({SIGTERM, SIGINT}, [&](int) {
    say("skein: shutting down\n");
    (*server)->shut_down();
  });
  loop.run();
  server->reset();
  return outcome;
}

// The agents' nodes, as they describe them: those of the configuration's places, else those that --nodes names or
// all of the allow-list.
Result<Cluster> gather(const ServeConfig& config) {
  ASSIGN_OR_RETURN(const ListenConfig listen, listen_config(config));
  std::set<std::string> allowed;
  for (const auto& [key, name] : listen.keys.allowed) allowed.insert(name);
  std::set<std::string> names;
  if (config.gathered()) {
    for (const std::string& part : config.placement.nodes) names.insert(parse_node_part(part, allowed).node);
  } else {
    for (const ReplicaShape& shape : config.shapes()) {
      for (const RankPlace& place : shape.places) names.insert(place.node);
    }
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
                   gather_nodes(listen, names, config.nodes_timeout, waiting,
                                config.gathered() ? "describe the machines with --cluster" : kSayDevice));
  for (const std::string& note : gathered.notes) say("note      " + note + "\n");
  return std::move(gathered.cluster);
}

Status run(const ServeConfig& config) {
  std::optional<Cluster> nodes;
  if (needs_nodes(config)) {
    ASSIGN_OR_RETURN(nodes, gather(config));
  }
  ASSIGN_OR_RETURN(const ServePlan plan, make_serve_plan(config, nodes ? &*nodes : nullptr));
  say(describe(plan));
  return serve(plan);
}

}  // namespace

int serve_command(const Arguments& arguments) {
  if (wants_help(arguments)) return print_help();
  const Result<ServeConfig> config = parse_serve_config(arguments);
  if (!config.ok()) return report(config.status());
  const Status status = run(*config);
  return status.ok() ? 0 : report(status);
}

}  // namespace skein
