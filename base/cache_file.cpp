#include "base/cache_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/replace_file.h"

namespace skein {

namespace fs = std::filesystem;

std::string folder_in(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && fs::path(value).is_absolute() ? value : "";
}

std::string cache_folder() {
  if (const fs::path caches = folder_in("XDG_CACHE_HOME"); !caches.empty()) return caches / "skein";
  // systemd.exec(5): several are joined by colons.
  const std::string own = folder_in("CACHE_DIRECTORY");
  if (!own.empty()) return own.substr(0, own.find(':'));
  if (const fs::path home = folder_in("HOME"); !home.empty()) return home / ".cache/skein";
  return "";
}

Status add_to_cache_file(const std::string& path, const std::string& lines) {
  std::vector<std::string> all;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) all.push_back(line);  // the last one may have been cut off
  std::istringstream added(lines);
  for (std::string line; std::getline(added, line);) {
    std::erase(all, line);
    all.push_back(line);
  }
  std::error_code ignored;  // what matters is told of the file
  fs::create_directories(fs::path(path).parent_path(), ignored);
  std::string text;
  for (const std::string& line : all) text += line + "\n";
  return replace_file(path, text);
}

}  // namespace skein
