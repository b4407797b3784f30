#include "coordinator/control/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

extern char** environ;

namespace skein {
namespace {

Status system_error(const std::string& what) {
  return Status(Code::kUnavailable, what + ": " + std::strerror(errno), Scope::kProcess);
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (!added.contains(std::string(text.substr(0, text.find('='))))) merged.emplace_back(text);
  }
  for (const auto& [key, value] : added) merged.push_back(key + "=" + value);
  return merged;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

struct Exec {
  char* const* arguments;
  char* const* environment;
  int error_fd;   // becomes standard output and error; -1: inherited
  int status_fd;  // carries errno to the parent if exec fails
  pid_t parent;
  int death_signal;
};

// Between fork and exec: async-signal-safe calls only.
[[noreturn]] void become(const Exec& exec) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, exec.death_signal);
  if (getppid() != exec.parent) _exit(127);  // the parent went before the kernel knew
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal_number = 1; signal_number < 32; ++signal_number) signal(signal_number, SIG_DFL);
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null_fd, STDIN_FILENO);
  if (exec.error_fd >= 0) {
    dup2(exec.error_fd, STDERR_FILENO);
    dup2(exec.error_fd, STDOUT_FILENO);
  }
  environ = const_cast<char**>(exec.environment);
  execvp(exec.arguments[0], exec.arguments);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(exec.status_fd, &error, sizeof error);
  _exit(127);
}

}  // namespace

Result<ChildProcess> start_process(const ChildOptions& options) {
  std::vector<std::string> arguments = options.arguments;
  std::vector<std::string> environment = merged_environment(options.environment);
  const std::vector<char*> argument_pointers = pointers(arguments);
  const std::vector<char*> environment_pointers = pointers(environment);
  int status_pipe[2] = {-1, -1};
  int error_pipe[2] = {-1, -1};
  const auto failed_to = [&](const std::string& what) {
    Status status = system_error("cannot " + what);
    for (const int fd : {status_pipe[0], status_pipe[1], error_pipe[0], error_pipe[1]}) {
      if (fd >= 0) close(fd);
    }
    return status;
  };
  if (pipe2(status_pipe, O_CLOEXEC) != 0) return failed_to("make a pipe");
  if (options.capture_error && pipe2(error_pipe, O_CLOEXEC) != 0) return failed_to("make a pipe");
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return failed_to("start a process");
  if (pid == 0) {
    become({.arguments = argument_pointers.data(),
            .environment = environment_pointers.data(),
            .error_fd = error_pipe[1],
            .status_fd = status_pipe[1],
            .parent = parent,
            .death_signal = options.death_signal});
  }
  close(status_pipe[1]);
  if (error_pipe[1] >= 0) close(error_pipe[1]);
  int error = 0;
  const ssize_t failed = read(status_pipe[0], &error, sizeof error);
  close(status_pipe[0]);
  if (failed > 0) {
    if (error_pipe[0] >= 0) close(error_pipe[0]);
    errno = error;
    return system_error("cannot run " + options.arguments[0]);
  }
  if (error_pipe[0] >= 0) fcntl(error_pipe[0], F_SETFL, O_NONBLOCK);
  return ChildProcess{.pid = pid, .error_fd = error_pipe[0]};
}

std::optional<std::string> LineReader::next() {
  for (;;) {
    const size_t end = std::min(text.find('\n'), line_bytes_max);
    if (end < text.size()) {
      std::string line = text.substr(0, end);
      text.erase(0, text[end] == '\n' ? end + 1 : end);
      return line;
    }
    char buffer[4096];
    const ssize_t bytes = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
    if (bytes < 0) return std::nullopt;
    text.append(buffer, static_cast<size_t>(bytes));
    if (bytes > 0) continue;
    close(fd);
    fd = -1;
    if (text.empty()) return std::nullopt;
    return std::exchange(text, {});
  }
}

std::vector<pid_t> children(pid_t parent, std::string_view program) {
  constexpr size_t kNameMax = 15;  // the kernel keeps so much of it
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) continue;
    // PID (NAME) STATE PARENT ...; the name may hold anything.
    std::ifstream file(entry.path() / "stat");
    std::string text;
    std::getline(file, text, '\0');
    const size_t name_begin = text.find('(') + 1;
    const size_t name_end = text.rfind(')');
    if (name_end == std::string::npos || name_end + 4 >= text.size() || name_begin > name_end) continue;
    pid_t its_parent = 0;
    std::from_chars(text.data() + name_end + 4, text.data() + text.size(), its_parent);
    const std::string_view its_name = std::string_view(text).substr(name_begin, name_end - name_begin);
    if (its_parent == parent && (program.empty() || its_name == program.substr(0, kNameMax))) found.push_back(pid);
  }
  return found;
}

std::string program_folder() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  const std::string_view full(path, static_cast<size_t>(std::max<ssize_t>(length, 0)));
  return std::string(full.substr(0, full.rfind('/')));
}

Result<std::string> make_private_folder() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  const char* temporary = getenv("TMPDIR");
  std::string folder = runtime != nullptr && access(runtime, W_OK) == 0 ? runtime
                       : temporary != nullptr                           ? temporary
                                                                        : "/tmp";
  folder += "/skein-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return system_error("cannot make a private folder " + folder);
  return folder;
}

Status write_private_file(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0) return system_error("cannot write " + path);
  size_t written = 0;
  ssize_t bytes = 1;
  while (written < text.size() && bytes > 0) {
    bytes = write(fd, text.data() + written, text.size() - written);
    written += static_cast<size_t>(std::max<ssize_t>(bytes, 0));
  }
  Status status;
  if (written < text.size()) status = system_error("cannot write " + path);
  if (close(fd) != 0 && status.ok()) status = system_error("cannot write " + path);
  if (!status.ok()) unlink(path.c_str());
  return status;
}

}  // namespace skein
