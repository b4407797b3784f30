#include "base/status.h"

namespace skein {

std::string_view to_string(Code code) {
  switch (code) {
    case Code::kOk: return "ok";
    case Code::kInvalidArgument: return "invalid argument";
    case Code::kNotFound: return "not found";
    case Code::kUnsupported: return "unsupported";
    case Code::kCorrupt: return "corrupt";
    case Code::kResourceExhausted: return "resource exhausted";
    case Code::kUnavailable: return "unavailable";
    case Code::kDeadlineExceeded: return "deadline exceeded";
    case Code::kInternal: return "internal";
  }
  return "unknown";
}

Status Status::within(std::string_view where) const {
  if (ok()) return *this;
  return Status(code_, std::string(where) + ": " + message_, scope_);
}

}  // namespace skein
