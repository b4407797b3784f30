#include "base/cache_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace skein {
namespace {

std::string folder_with(const char* caches, const char* directory, const char* home) {
  const auto set = [](const char* name, const char* value) {
    if (value == nullptr) unsetenv(name);
    else setenv(name, value, 1);
  };
  set("XDG_CACHE_HOME", caches);
  set("CACHE_DIRECTORY", directory);
  set("HOME", home);
  return cache_folder();
}

TEST(CacheFolder, IsTheUsersOrTheServices) {
  EXPECT_EQ(folder_with("/caches", "/var/cache/skein", "/home/a"), "/caches/skein");
  EXPECT_EQ(folder_with("", "/var/cache/skein", "/home/a"), "/var/cache/skein") << "empty counts as unset";
  EXPECT_EQ(folder_with("relative", "/var/cache/skein:/var/cache/b", "/home/a"), "/var/cache/skein");
  EXPECT_EQ(folder_with(nullptr, "", "/home/a"), "/home/a/.cache/skein");
  EXPECT_EQ(folder_with(nullptr, nullptr, nullptr), "");
  EXPECT_EQ(folder_with("", "", ""), "");
}

class CacheFile : public testing::Test {
 protected:
  ~CacheFile() override { std::filesystem::remove_all(folder_); }
  std::string text() const {
    std::ifstream in(path_);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  const std::filesystem::path folder_ = testing::TempDir() + "skein_cache_" + std::to_string(getpid());
  const std::string path_ = folder_ / "made/when/written/file.txt";
};

TEST_F(CacheFile, GetsEachLineOnce) {
  ASSERT_TRUE(add_to_cache_file(path_, "a\tb\nc\n").ok());
  ASSERT_TRUE(add_to_cache_file(path_, "c\nd\n").ok());
  EXPECT_EQ(text(), "a\tb\nc\nd\n");
  ASSERT_TRUE(add_to_cache_file(path_, "a\tb\n").ok());
  EXPECT_EQ(text(), "c\nd\na\tb\n") << "what is said last counts";
}

TEST_F(CacheFile, KeepsALineThatWasCutOffApart) {
  ASSERT_TRUE(add_to_cache_file(path_, "one\n").ok());
  std::ofstream(path_, std::ios::app) << "tw";
  ASSERT_TRUE(add_to_cache_file(path_, "two\n").ok());
  EXPECT_EQ(text(), "one\ntw\ntwo\n");
}

TEST_F(CacheFile, ThatCannotBeWrittenIsNamedAndLeavesNothing) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "file") << "a file";
  const std::string below = folder_ / "file/products.txt";
  EXPECT_NE(add_to_cache_file(below, "a\n").message().find(below), std::string::npos);
  std::filesystem::create_directories(folder_ / "taken/by/a/folder");
  EXPECT_FALSE(add_to_cache_file(folder_ / "taken", "a\n").ok());
  const auto left = std::filesystem::directory_iterator(folder_);
  EXPECT_EQ(std::distance(begin(left), end(left)), 2);
}

}  // namespace
}  // namespace skein
