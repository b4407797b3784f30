#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "coordinator/cli/agents.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/serve_plan.h"
#include "coordinator/cli/server.h"
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

Status run(const ServeConfig& config) {
  std::optional<Cluster> nodes;
  if (needs_nodes(config)) {
    const std::string otherwise = config.gathered() ? "describe the machines with --cluster" : kSayDevice;
    ASSIGN_OR_RETURN(GatheredNodes gathered, gather_agents(config, otherwise));
    nodes = std::move(gathered.cluster);
  }
  ASSIGN_OR_RETURN(const ServePlan plan, make_serve_plan(config, nodes ? &*nodes : nullptr));
  say(describe(plan));
  log_notes(plan);
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
