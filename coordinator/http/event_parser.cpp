#include "coordinator/http/event_parser.h"

namespace skein {
namespace {

constexpr std::string_view kFields[] = {"data", "event", "id", "retry"};

bool is_field(std::string_view name) {
  for (const std::string_view field : kFields) {
    if (name == field) return true;
  }
  return false;
}

Status too_long() {
  return corrupt("an event of the server's stream is longer than " +
                 std::to_string(EventParser::kEventBytesMax >> 20) + " MiB");
}

}  // namespace

Status EventParser::feed(std::string_view bytes, const OnData& on_data) {
  size_t end;
  while (!done_ && (end = bytes.find('\n')) != bytes.npos) {
    std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(end + 1);
    if (!line_.empty()) {
      line_ += line;
      line = line_;
    }
    const Status taken = take_line(line, on_data);
    line_.clear();
    RETURN_IF_ERROR(taken);
  }
  if (done_) return {};
  if (line_.size() + bytes.size() > kEventBytesMax) return too_long();
  line_ += bytes;
  return {};
}

Status EventParser::take_line(std::string_view line, const OnData& on_data) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.empty()) {
    if (!has_data_) return {};
    has_data_ = false;
    done_ = data_ == "[DONE]";
    const Status status = done_ ? Status() : on_data(data_);
    data_.clear();
    return status;
  }
  const size_t colon = line.find(':');
  if (colon == 0) return {};
  const std::string_view name = line.substr(0, colon);
  // The specification passes over unknown fields; from a server of this protocol they mean that it is none.
  if (!is_field(name)) return corrupt("the server's stream has a line that is no event: " + std::string(line.substr(0, 60)));
  if (name != "data") return {};
  std::string_view value = colon == line.npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (data_.size() + value.size() > kEventBytesMax) return too_long();
  if (has_data_) data_ += '\n';
  data_ += value;
  has_data_ = true;
  return {};
}

}  // namespace skein
