#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace skein {

enum class Code : unsigned char {
  kOk,
  kInvalidArgument,    // the caller's input is wrong; repeating it cannot help
  kNotFound,           // a file, tensor, model or peer that should exist does not
  kUnsupported,        // understood, but this build or backend does not do it
  kCorrupt,            // bytes from outside contradict their format
  kResourceExhausted,  // memory, blocks, queue places: more room would help
  kUnavailable,        // a peer or device is not there now; a retry may help
  kDeadlineExceeded,
  kInternal,
};

// The largest thing that can no longer be used: recovery is a switch over it.
enum class Scope : unsigned char { kRequest, kPeer, kReplica, kProcess };

std::string_view to_string(Code code);

// An operating error or success. Immutable. The function that decides what to do about an error
// logs it; everyone else passes it up.
class [[nodiscard]] Status {
 public:
  Status() = default;
  // Requires: code != kOk. `message` is one sentence: what is wrong, where, what to do.
  Status(Code code, std::string message, Scope scope = Scope::kRequest)
      : code_(code), scope_(scope), message_(std::move(message)) {
    CHECK(code != Code::kOk);
  }

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  Scope scope() const { return scope_; }
  const std::string& message() const { return message_; }

  // The same error with `where` and ": " put before its message.
  Status within(std::string_view where) const;

 private:
  Code code_ = Code::kOk;
  Scope scope_ = Scope::kRequest;
  std::string message_;
};

inline Status invalid_argument(std::string message) {
  return {Code::kInvalidArgument, std::move(message)};
}
inline Status not_found(std::string message) { return {Code::kNotFound, std::move(message)}; }
inline Status unsupported(std::string message) { return {Code::kUnsupported, std::move(message)}; }
inline Status corrupt(std::string message) { return {Code::kCorrupt, std::move(message)}; }
inline Status resource_exhausted(std::string message) {
  return {Code::kResourceExhausted, std::move(message)};
}
inline Status unavailable(std::string message) { return {Code::kUnavailable, std::move(message)}; }

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                        // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) { CHECK(!status_.ok()); }  // NOLINT

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  // Requires: ok().
  T& value() & {
    CHECK(ok());
    return *value_;
  }
  const T& value() const& {
    CHECK(ok());
    return *value_;
  }
  T&& value() && {
    CHECK(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace skein

#define SKEIN_CONCAT_INNER(a, b) a##b
#define SKEIN_CONCAT(a, b) SKEIN_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                    \
  do {                                                                 \
    if (::skein::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_INNER(SKEIN_CONCAT(result_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                   \
  if (!result.ok()) return result.status();                     \
  declaration = std::move(result).value()
