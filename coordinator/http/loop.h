#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace boost::asio {
class io_context;
}

namespace skein {

// The coordinator's event loop: sockets, timers, signals and watched descriptors, all called back on the one thread
// inside run(). Everything but post() and stop() belongs to that thread (or comes before run()).
class Loop {
 public:
  using TimerId = uint64_t;

  Loop();  // also has the process ignore SIGPIPE
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void run();   // until stop()
  void stop();  // thread-safe
  void post(std::function<void()> fn);  // thread-safe

  TimerId call_after(int64_t delay_ms, std::function<void()> fn);
  TimerId call_at(std::chrono::steady_clock::time_point time, std::function<void()> fn);
  void cancel(TimerId id);  // a timer that has fired or never was: nothing happens

  // Calls `fn` every time `fd` becomes readable, until unwatch(fd). The descriptor stays the caller's. `fn` should take
  // all there is: the watch may be edge-triggered (as ZMQ_FD is). Requires: `fd` is not watched yet.
  void watch_readable(int fd, std::function<void()> fn);
  void unwatch(int fd);

  // Calls `fn` with the number of any of these signals, every time.
  void on_signal(const std::vector<int>& signals, std::function<void(int)> fn);

  boost::asio::io_context& context();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skein
