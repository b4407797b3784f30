#include "coordinator/control/rsh.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "coordinator/control/agent.h"

namespace skein {
namespace {

constexpr size_t kRequestBytesMax = 64 << 10;
constexpr int kBacklog = 128;
constexpr std::string_view kStarted = "started";

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return invalid_argument("the path " + path + " is too long for a socket: give a shorter --run-folder");
  }
  path.copy(address.sun_path, path.size());
  return address;
}

Status error_of(const std::string& what) { return unavailable(what + ": " + std::strerror(errno)); }

}  // namespace

Result<std::unique_ptr<RshListener>> RshListener::listen(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, address_of(path));
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  std::unique_ptr<RshListener> listener(new RshListener(fd));
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(fd, kBacklog) != 0) {
    return error_of("cannot listen at " + path);
  }
  return listener;
}

RshListener::~RshListener() {
  close(fd_);
  for (const Caller& caller : callers_) close(caller.fd);
}

void RshListener::add_to(std::vector<int>* fds) const {
  fds->push_back(fd_);
  for (const Caller& caller : callers_) fds->push_back(caller.fd);
}

std::optional<RshRequest> RshListener::take() {
  int accepted = -1;
  while ((accepted = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
    callers_.push_back({.fd = accepted, .text = {}});
  }
  for (auto caller = callers_.begin(); caller != callers_.end(); ++caller) {
    char buffer[4096];
    ssize_t bytes = 0;
    while ((bytes = recv(caller->fd, buffer, sizeof buffer, 0)) > 0) {
      caller->text.append(buffer, static_cast<size_t>(bytes));
      if (caller->text.size() > kRequestBytesMax) break;
    }
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    // The whole of it: a line with the host, then the command.
    const size_t line = std::min(caller->text.find('\n'), caller->text.size());
    RshRequest request{.fd = caller->fd,
                       .host = caller->text.substr(0, line),
                       .command = caller->text.substr(std::min(line + 1, caller->text.size()))};
    callers_.erase(caller);
    return request;
  }
  return std::nullopt;
}

void RshListener::answer(int fd, const std::string& error) {
  const std::string_view text = error.empty() ? kStarted : error;
  [[maybe_unused]] const ssize_t sent = send(fd, text.data(), text.size(), MSG_NOSIGNAL);  // mpirun may be gone
  close(fd);
}

Status run_rsh(const std::string& host, const std::string& command) {
  const char* path = std::getenv(kRshVariable);
  if (path == nullptr) {
    return invalid_argument(std::string("mpirun runs this for `skein agent`, which sets ") + kRshVariable);
  }
  ASSIGN_OR_RETURN(const sockaddr_un address, address_of(path));
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const std::string request = host + "\n" + command;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
    Status status = error_of("cannot reach this node's agent");
    close(fd);
    return status;
  }
  shutdown(fd, SHUT_WR);
  std::string answer;
  char buffer[4096];
  ssize_t bytes = 0;
  while ((bytes = recv(fd, buffer, sizeof buffer, 0)) > 0) answer.append(buffer, static_cast<size_t>(bytes));
  close(fd);
  if (answer == kStarted) return {};
  return unavailable("cannot start orted on " + host + ": " + (answer.empty() ? "this node's agent went away" : answer));
}

}  // namespace skein
