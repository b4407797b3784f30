#include "base/replace_file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "base/check.h"

namespace skein {
namespace {

// Beside `path`, so that it can be renamed to it, and nobody else's: also of no process on another machine.
std::string name_beside(const std::string& path) {
  uint64_t random = 0;
  CHECK_EQ(getrandom(&random, sizeof random, 0), static_cast<ssize_t>(sizeof random));
  char suffix[24];
  std::snprintf(suffix, sizeof suffix, ".%016" PRIx64, random);
  return path + suffix;
}

// Closes `fd`. False: errno says why not.
bool write_and_close(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int why = errno;
      close(fd);
      errno = why;
      return false;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return close(fd) == 0;
}

}  // namespace

Status replace_file(const std::string& path, std::string_view text) {
  const std::string fresh = name_beside(path);
  const int fd = open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);  // unlike mkstemp(3), by the umask
  if (fd >= 0 && write_and_close(fd, text) && rename(fresh.c_str(), path.c_str()) == 0) return {};
  const std::string why = std::strerror(errno);
  if (fd >= 0) unlink(fresh.c_str());
  return unavailable("cannot write " + path + ": " + why);
}

}  // namespace skein
