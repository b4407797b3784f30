#include <cstdio>
#include <string_view>

#include "base/nearest.h"
#include "base/status.h"
#include "base/time_slice.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/options.h"

namespace skein {
namespace {

struct Command {
  const char* name;
  const char* usage;
  const char* help;
  int (*run)(const Arguments&);
};

constexpr Command kCommands[] = {
    {"serve", "serve MODEL [flags]", "serve a model over an OpenAI-compatible HTTP API", serve_command},
    {"plan", "plan MODEL [flags of serve]", "show what serve would run, and whether it fits", plan_command},
    {"topology", "topology [--config FILE | --url URL]", "show this machine, a cluster file or a coordinator's nodes", topology_command},
    {"chat", "chat MODEL | chat --url URL", "talk to a model or to a server", chat_command},
    {"bench", "bench offline MODEL | serve --url URL", "measure the engine without HTTP, or any server", bench_command},
    {"agent", "agent --coordinator E --key-file F", "start and fence this node's MPI jobs", agent_command},
    {"keys", "keys --out D NAME...", "make the keys of a coordinator and its nodes", keys_command},
    {"look", "look NAME INTERFACE", "what an agent asks the GPU driver with; not for people", look_command},
    {"rsh", "rsh HOST COMMAND...", "what mpirun reaches other nodes with; not for people", rsh_command},
};

void print_usage(FILE* out) {
  std::fprintf(out, "usage: skein COMMAND ...\n\n");
  for (const Command& command : kCommands) std::fprintf(out, "  %-38s %s\n", command.usage, command.help);
  std::fprintf(out, "\n`skein COMMAND --help` lists a command's flags. Version %s\n", SKEIN_BUILD);
}

}  // namespace

int report(const Status& status) {
  std::fprintf(stderr, "skein: %s\n", status.message().c_str());
  return status.code() == Code::kInvalidArgument ? 2 : 1;
}

}  // namespace skein

int main(int argc, char** argv) {
  using namespace skein;
  set_time_slice(TimeSlice::kShort);
  const std::string_view name = argc > 1 ? argv[1] : "";
  if (name == "--help" || name == "-h" || name == "help") {
    print_usage(stdout);
    return 0;
  }
  if (name == "--version") {
    std::printf("skein %s\n", SKEIN_BUILD);
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(Arguments(argv + 2, argv + argc));
    names.emplace_back(command.name);
  }
  if (!name.empty()) {
    const auto guess = nearest(name, names);
    std::fprintf(stderr, "skein: there is no command \"%s\"%s\n\n", argv[1],
                 guess ? ("; did you mean " + *guess + "?").c_str() : "");
  }
  print_usage(stderr);
  return 2;
}
