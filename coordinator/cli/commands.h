#pragma once

#include <string>
#include <vector>

// The commands of `skein`. Each takes the arguments behind its name, prints what it has to say, and returns the exit
// status: 0, 1 for an operating error, 2 for arguments that make no sense.

namespace skein {

using Arguments = std::vector<std::string>;

int serve_command(const Arguments& arguments);
int plan_command(const Arguments& arguments);
int chat_command(const Arguments& arguments);
int bench_command(const Arguments& arguments);
int topology_command(const Arguments& arguments);
int agent_command(const Arguments& arguments);
int keys_command(const Arguments& arguments);
int look_command(const Arguments& arguments);
int rsh_command(const Arguments& arguments);

// Prints "skein: <sentence>" to standard error and returns the exit status for it.
int report(const class Status& status);

}  // namespace skein
