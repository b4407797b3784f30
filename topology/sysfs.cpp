#include "topology/sysfs.h"

#include <string.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>

namespace skein {

bool Sysfs::has(const std::string& path) const {
  std::error_code error;
  return std::filesystem::exists(root_ + "/" + path, error);
}

std::string Sysfs::text(const std::string& path) const {
  std::ifstream file(root_ + "/" + path);
  std::string line;
  std::getline(file, line);  // reading may fail, too: the speed of an interface that is down
  line.erase(line.find_last_not_of(" \t\r") + 1);
  return line;
}

std::optional<int64_t> Sysfs::integer(const std::string& path) const {
  const std::string line = text(path);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (error != std::errc() || end != line.data() + line.size()) return std::nullopt;
  return value;
}

std::vector<std::string> Sysfs::names(const std::string& folder) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(root_ + "/" + folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::ranges::sort(names, [](const std::string& a, const std::string& b) {
    return strverscmp(a.c_str(), b.c_str()) < 0;
  });
  return names;
}

std::string Sysfs::target(const std::string& path) const {
  std::error_code error;
  const std::filesystem::path root = std::filesystem::canonical(root_, error);
  if (error) return {};
  const std::filesystem::path full = std::filesystem::canonical(root / path, error);
  if (error) return {};
  return full.lexically_relative(root).string();
}

}  // namespace skein
