#include "base/replace_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

namespace fs = std::filesystem;

class ReplaceFile : public testing::Test {
 protected:
  static std::string text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }
  static mode_t mode(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 0777;
  }

  const test::TemporaryFolder folder_;
  const std::string path_ = folder_.file("file");
};

TEST_F(ReplaceFile, HasTheNewTextWhereTheOldOneWas) {
  const std::string large(3 << 20, 'x');
  for (const std::string& wanted : {std::string("first\n"), large, std::string("a\0b", 3), std::string()}) {
    ASSERT_TRUE(replace_file(path_, wanted).ok());
    EXPECT_EQ(text(path_), wanted);
    EXPECT_EQ(files(), 1u);
  }
}

TEST_F(ReplaceFile, LeavesTheOldFileToWhoReadsIt) {
  ASSERT_TRUE(replace_file(path_, "old").ok());
  std::ifstream reader(path_);
  ASSERT_TRUE(replace_file(path_, "new, and longer").ok());
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(reader), {}), "old");
}

TEST_F(ReplaceFile, MayBeReadByWhoMayReadANewFile) {
  const mode_t before = umask(022);
  EXPECT_TRUE(replace_file(path_, "").ok());
  EXPECT_EQ(mode(path_), 0644u);
  umask(077);
  EXPECT_TRUE(replace_file(path_, "").ok());
  EXPECT_EQ(mode(path_), 0600u);
  umask(before);
}

TEST_F(ReplaceFile, SaysWhyItCannotBe) {
  const std::string nowhere = folder_.file("nowhere/file");
  EXPECT_EQ(replace_file(nowhere, "x").message(), "cannot write " + nowhere + ": No such file or directory");
  fs::create_directories(folder_.file("taken/by a folder"));
  EXPECT_EQ(replace_file(folder_.file("taken"), "x").message(), "cannot write " + folder_.file("taken") + ": Is a directory");
  EXPECT_EQ(files(), 1u) << "nothing is left beside it";
}

TEST_F(ReplaceFile, KeepsTheOldTextWhereTheNewOneDoesNotFit) {
  ASSERT_TRUE(replace_file(path_, "old").ok());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit less{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
  const Status status = replace_file(path_, std::string(10'000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(status.message(), "cannot write " + path_ + ": File too large");
  EXPECT_EQ(text(path_), "old");
  EXPECT_EQ(files(), 1u);
}

}  // namespace
}  // namespace skein
