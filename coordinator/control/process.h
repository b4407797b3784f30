#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace skein {

// A child process in a process group of its own, which gets a signal from the kernel when this process ends, however it
// ends.
struct ChildProcess {
  pid_t pid = -1;
  int error_fd = -1;  // the read end of its standard error, non-blocking; the caller closes it. -1: inherited
};

struct ChildOptions {
  std::vector<std::string> arguments;  // arguments[0] is a path, or a name looked up in PATH
  std::map<std::string, std::string> environment;  // added to this process's
  bool capture_error = false;
  int death_signal = 9;  // what the child gets when this process ends; SIGKILL
};

// The child's standard input is /dev/null; no other descriptor of this process is inherited.
Result<ChildProcess> start_process(const ChildOptions& options);

// What a child writes, by lines. Never waits; the caller closes `fd`.
struct LineReader {
  int fd = -1;  // non-blocking; -1: what was written has been taken, and it is closed
  size_t line_bytes_max = 64 << 10;  // longer ones are cut in two
  std::string text = {};  // of an unfinished line

  // The next line, if it came whole, or the end came.
  std::optional<std::string> next();
};

// The children of a process, ended ones that nobody has waited for included; those whose program has that name, if one
// is given.
std::vector<pid_t> children(pid_t parent, std::string_view program = {});

// The folder that holds the running program.
std::string program_folder();

// A fresh folder of mode 0700 under $XDG_RUNTIME_DIR or the temporary folder. The caller removes it.
Result<std::string> make_private_folder();

// Writes a new file of mode 0600, all of it or none.
Status write_private_file(const std::string& path, const std::string& text);

}  // namespace skein
