#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace skein {

inline constexpr char kRshVariable[] = "SKEIN_RSH";  // names the socket to mpirun's children

// What one `skein rsh` asks for.
struct RshRequest {
  int fd = -1;  // where it waits for the answer
  std::string host;
  std::string command;
};

// The agent's end of `skein rsh`: a UNIX socket in the job's private folder. Single-owner; nothing here blocks.
class RshListener {
 public:
  static Result<std::unique_ptr<RshListener>> listen(const std::string& path);
  ~RshListener();

  // Descriptors that are readable when take() has something to do.
  void add_to(std::vector<int>* fds) const;
  // A request that has arrived whole, if any; its answer is due.
  std::optional<RshRequest> take();
  // Empty: orted runs. Closes the request's connection.
  static void answer(int fd, const std::string& error);

 private:
  struct Caller {
    int fd = -1;
    std::string text;
  };
  explicit RshListener(int fd) : fd_(fd) {}
  const int fd_;
  std::vector<Caller> callers_;
};

}  // namespace skein
