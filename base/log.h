#pragma once

#include <string_view>

#include "base/json.h"

namespace skein {

enum class LogLevel : unsigned char { kDebug, kInfo, kWarning, kError };

// One line on standard error per call, written with one write(2): JSON when standard error is not a
// terminal or SKEIN_LOG=json, else for people. Thread-safe. Never put a request's text or a key in `fields`.
void log(LogLevel level, std::string_view event, Json::Object fields = {});

inline void log_info(std::string_view event, Json::Object fields = {}) {
  log(LogLevel::kInfo, event, std::move(fields));
}
inline void log_warning(std::string_view event, Json::Object fields = {}) {
  log(LogLevel::kWarning, event, std::move(fields));
}
inline void log_error(std::string_view event, Json::Object fields = {}) {
  log(LogLevel::kError, event, std::move(fields));
}

// Lines below `level` are dropped. Default kInfo. Call before threads start.
void set_log_level(LogLevel level);

}  // namespace skein
