#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace skein {

// Files below the kernel's /sys, or below a recorded copy of it. What is not there is an ordinary answer: kernels and
// containers differ. Immutable.
class Sysfs {
 public:
  explicit Sysfs(std::string root) : root_(std::move(root)) {}

  bool has(const std::string& path) const;
  std::string text(const std::string& path) const;                  // its first line; empty: none
  std::optional<int64_t> integer(const std::string& path) const;    // nullopt: none, or not a number alone
  std::vector<std::string> names(const std::string& folder) const;  // in the folder, numbers in them by value
  std::string target(const std::string& path) const;                // below the root, links followed; empty: none

 private:
  const std::string root_;
};

}  // namespace skein
