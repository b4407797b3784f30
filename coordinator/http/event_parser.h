#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace skein {

// Splits a text/event-stream into the data of its events, however its bytes arrive. Lines end with LF or CRLF; comments
// and other fields than `data` are passed over, as the specification says. Single-owner.
class EventParser {
 public:
  static constexpr size_t kEventBytesMax = size_t{16} << 20;

  using OnData = std::function<Status(std::string_view data)>;

  // Calls `on_data` for every event that `bytes` completes; its first error ends the parsing and is returned. Nothing
  // is handed over after "[DONE]". kCorrupt: a line that is no field, or an event over kEventBytesMax.
  Status feed(std::string_view bytes, const OnData& on_data);

  bool done() const { return done_; }  // "[DONE]" was read

 private:
  Status take_line(std::string_view line, const OnData& on_data);

  std::string line_;  // of which the end has not arrived
  std::string data_;  // of the event being read
  bool has_data_ = false;
  bool done_ = false;
};

}  // namespace skein
