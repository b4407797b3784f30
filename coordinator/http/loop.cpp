#include "coordinator/http/loop.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <unordered_map>

#include "base/check.h"

namespace skein {

namespace asio = boost::asio;

namespace {

struct Watch {
  Watch(asio::io_context& context, int fd, std::function<void()> on_readable)
      : descriptor(context, fd), fn(std::move(on_readable)) {}
  ~Watch() { descriptor.release(); }

  asio::posix::stream_descriptor descriptor;
  std::function<void()> fn;
};

void wait_readable(const std::shared_ptr<Watch>& watch) {
  watch->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                               [weak = std::weak_ptr<Watch>(watch)](boost::system::error_code error) {
                                 const std::shared_ptr<Watch> alive = weak.lock();
                                 if (error || !alive) return;
                                 alive->fn();
                                 // unwatch() may have released the descriptor meanwhile.
                                 if (alive->descriptor.is_open()) wait_readable(alive);
                               });
}

void wait_signal(asio::signal_set& set, const std::shared_ptr<std::function<void(int)>>& fn) {
  set.async_wait([&set, fn](boost::system::error_code error, int number) {
    if (error) return;
    (*fn)(number);
    wait_signal(set, fn);
  });
}

}  // namespace

struct Loop::State {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  std::unordered_map<TimerId, asio::steady_timer> timers;
  TimerId next_timer = 1;
  std::unordered_map<int, std::shared_ptr<Watch>> watches;
  std::vector<std::unique_ptr<asio::signal_set>> signals;
};

Loop::Loop() : state_(std::make_unique<State>()) { std::signal(SIGPIPE, SIG_IGN); }

Loop::~Loop() = default;

void Loop::run() { state_->context.run(); }

void Loop::stop() { state_->context.stop(); }

void Loop::post(std::function<void()> fn) { asio::post(state_->context, std::move(fn)); }

Loop::TimerId Loop::call_after(int64_t delay_ms, std::function<void()> fn) {
  return call_at(std::chrono::steady_clock::now() + std::chrono::milliseconds(delay_ms), std::move(fn));
}

Loop::TimerId Loop::call_at(std::chrono::steady_clock::time_point time, std::function<void()> fn) {
  const TimerId id = state_->next_timer++;
  const auto [timer, added] = state_->timers.try_emplace(id, state_->context);
  CHECK(added);
  timer->second.expires_at(time);
  timer->second.async_wait(
      [state = state_.get(), id, fn = std::move(fn)](boost::system::error_code error) {
        // A timer cancelled after it expired is gone from the map although its error is clear.
        if (error || state->timers.erase(id) == 0) return;
        fn();
      });
  return id;
}

void Loop::cancel(TimerId id) { state_->timers.erase(id); }

void Loop::watch_readable(int fd, std::function<void()> fn) {
  const auto watch = std::make_shared<Watch>(state_->context, fd, std::move(fn));
  CHECK(state_->watches.emplace(fd, watch).second);
  wait_readable(watch);
}

void Loop::unwatch(int fd) {
  const auto found = state_->watches.find(fd);
  if (found == state_->watches.end()) return;
  const std::shared_ptr<Watch> watch = found->second;
  state_->watches.erase(found);
  // release() cancels the wait and leaves the descriptor open. A running callback keeps `watch` alive.
  watch->descriptor.release();
}

void Loop::on_signal(const std::vector<int>& signals, std::function<void(int)> fn) {
  auto set = std::make_unique<asio::signal_set>(state_->context);
  for (const int number : signals) set->add(number);
  wait_signal(*set, std::make_shared<std::function<void(int)>>(std::move(fn)));
  state_->signals.push_back(std::move(set));
}

boost::asio::io_context& Loop::context() { return state_->context; }

}  // namespace skein
