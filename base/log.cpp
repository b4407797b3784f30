#include "base/log.h"

#include <unistd.h>

#include <cstdlib>
#include <ctime>

namespace skein {
namespace {

LogLevel g_level = LogLevel::kInfo;  // set once before threads start

constexpr std::string_view kNames[] = {"debug", "info", "warning", "error"};

std::string timestamp() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char text[40];
  const size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  snprintf(text + length, sizeof text - length, ".%03ldZ", now.tv_nsec / 1'000'000);
  return text;
}

bool wants_json() {
  const char* format = std::getenv("SKEIN_LOG");
  if (format != nullptr) return std::string_view(format) == "json";
  return isatty(STDERR_FILENO) == 0;
}

std::string text_line(LogLevel level, std::string_view event, const Json::Object& fields) {
  std::string line = level >= LogLevel::kWarning
                         ? std::string(kNames[static_cast<int>(level)]) + ": "
                         : std::string();
  line += event;
  for (const auto& [key, value] : fields) {
    line += "  " + key + "=" + (value.is_string() ? value.as_string() : value.dump());
  }
  return line;
}

}  // namespace

void set_log_level(LogLevel level) { g_level = level; }

void log(LogLevel level, std::string_view event, Json::Object fields) {
  if (level < g_level) return;
  static const bool json = wants_json();
  std::string line;
  if (json) {
    fields.insert(fields.begin(), {{"time", timestamp()},
                                   {"level", kNames[static_cast<int>(level)]},
                                   {"event", event}});
    line = Json(std::move(fields)).dump();
  } else {
    line = text_line(level, event, fields);
  }
  line += '\n';
  // A log line that cannot be written has nowhere else to go.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace skein
