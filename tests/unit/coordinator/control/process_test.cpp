#include "coordinator/control/process.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>

namespace skein {
namespace {

long open_descriptors() { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}) - 1; }

TEST(StartProcess, KeepsNoDescriptorWhereItFails) {
  const ChildOptions options{.arguments = {"true"}, .environment = {}, .capture_error = true};
  const long before = open_descriptors();
  const int free = dup(STDIN_FILENO);
  close(free);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit tight{.rlim_cur = static_cast<rlim_t>(free) + 2, .rlim_max = limit.rlim_max};  // one pipe, not two
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  const Result<ChildProcess> child = start_process(options);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(child.status().message(), "cannot make a pipe: Too many open files");
  EXPECT_EQ(open_descriptors(), before);
  const ChildOptions nothing{.arguments = {"/no/such/program"}, .environment = {}, .capture_error = true};
  EXPECT_FALSE(start_process(nothing).ok());
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace skein
