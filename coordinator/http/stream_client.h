#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "coordinator/http/client.h"

namespace skein {

class Loop;

// How a streamed answer ended.
struct StreamEnd {
  enum class Kind : uint8_t {
    kDone,       // "[DONE]" was read
    kConnect,    // no connection
    kCut,        // the connection broke, or the answer ended, before "[DONE]"
    kStatus,     // answered with another status than 200
    kMalformed,  // no HTTP, no event stream, or refused by `on_event`
    kTimeout,
  };

  Kind kind = Kind::kDone;
  int status = 0;                          // of HTTP; 0: none was read
  std::optional<int64_t> retry_after_s;    // the header, where it is a number
  std::string message;                     // a sentence; empty: kDone
};

struct StreamReader {
  // The data of each event but "[DONE]". An error ends the stream as kMalformed.
  std::function<Status(std::string_view data)> on_event;
  // Once, always after the last event, never from within post().
  std::function<void(const StreamEnd& end)> on_end;
};

// Posts JSON and reads event streams, thousands at once on the loop's thread. One connection a request: a refused or
// broken one is the request's own. Holds at most kEventBytesMax of a stream. Single-owner: the loop.
class StreamClient {
 public:
  // Requires: `loop` outlives this object.
  StreamClient(Loop& loop, HttpTarget target, int64_t timeout_ms);
  ~StreamClient();  // cuts every stream; no reader is called any more
  StreamClient(const StreamClient&) = delete;
  StreamClient& operator=(const StreamClient&) = delete;

  // Looks the host up; blocks. Requires: before the first post().
  Status resolve();

  void post(const std::string& path, const std::string& body, StreamReader reader);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace skein
