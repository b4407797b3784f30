#include <signal.h>

#include <algorithm>
#include <cstdio>

#include "coordinator/cli/commands.h"
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

}  // namespace

int serve_command(const Arguments& arguments) {
  if (wants_help(arguments)) return print_help();
  const Result<ServeConfig> config = parse_serve_config(arguments);
  if (!config.ok()) return report(config.status());
  const Result<ServePlan> plan = make_serve_plan(*config);
  if (!plan.ok()) return report(plan.status());
  say(describe(*plan));
  const Status status = serve(*plan);
  return status.ok() ? 0 : report(status);
}

}  // namespace skein
