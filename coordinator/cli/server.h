#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/cli/serve_plan.h"

namespace skein {

class Loop;

// The coordinator of one model: replicas, API, HTTP. Loop thread only.
class Server {
 public:
  struct Events {
    std::function<void(const std::string& url)> ready;   // once, when every replica serves
    std::function<void(const std::string& line)> note;   // what an operator should know
    std::function<void(const Status& status)> ended;     // once, when nothing is left; ok after a clean shut_down()
  };

  // Listens and launches the replicas. If they cannot come up, everything is ended and `ended` says why. `loop` and
  // `plan` must outlive the server.
  static Result<std::unique_ptr<Server>> start(Loop& loop, const ServePlan& plan, Events events);
  ~Server();

  // Not ready any more; running requests finish for up to drain_seconds; then everything ends.
  // Called a second time: ends everything now.
  void shut_down();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
