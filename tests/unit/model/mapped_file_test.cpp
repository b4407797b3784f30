#include "model/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

using test::TemporaryFolder;

TEST(MappedFile, ShowsTheBytesAndMoves) {
  const TemporaryFolder folder;
  const std::string path = folder.write("f", "hello");
  auto opened = MappedFile::open(path);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  MappedFile file = std::move(*opened);
  EXPECT_EQ(file.bytes(), "hello");
  EXPECT_TRUE(opened->bytes().empty());
  MappedFile other;
  other = std::move(file);
  EXPECT_EQ(other.bytes(), "hello");
  EXPECT_TRUE(other.contains(other.bytes().data() + 4));
  EXPECT_FALSE(other.contains(other.bytes().data() + 5));
  EXPECT_FALSE(file.contains(other.bytes().data()));
}

TEST(MappedFile, OpensEmptyFiles) {
  const TemporaryFolder folder;
  const auto file = MappedFile::open(folder.write("f", ""));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE(file->bytes().empty());
  EXPECT_FALSE(file->contains(nullptr));
}

TEST(MappedFile, ReadsDroppedPagesAgain) {
  const TemporaryFolder folder;
  std::string bytes(5 * 65536 + 17, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 4096);
  const auto file = MappedFile::open(folder.write("f", bytes));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->bytes(), bytes);
  file->drop_pages(file->bytes().data() + 100, bytes.size() - 100);
  file->drop_pages(file->bytes().data() + 100, 10);
  EXPECT_EQ(file->bytes(), bytes);
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  const auto missing = MappedFile::open(folder.file("none"));
  EXPECT_EQ(missing.status().code(), Code::kNotFound);
  EXPECT_NE(missing.status().message().find(folder.file("none")), std::string::npos);
  EXPECT_FALSE(MappedFile::open(folder.path()).ok());
  ASSERT_EQ(mkfifo(folder.file("fifo").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::open(folder.file("fifo")).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(read_file(folder.file("fifo"), 10).status().code(), Code::kInvalidArgument);
}

TEST(MappedFileDeathTest, DropsOnlyWhatItHolds) {
  const TemporaryFolder folder;
  const auto file = MappedFile::open(folder.write("f", "hello"));
  ASSERT_TRUE(file.ok());
  EXPECT_DEATH(file->drop_pages(file->bytes().data(), 6), "against");
}

TEST(ReadFile, HoldsItsLimit) {
  const TemporaryFolder folder;
  const std::string path = folder.write("f", "hello");
  EXPECT_EQ(*read_file(path, 5), "hello");
  EXPECT_NE(read_file(path, 4).status().message().find("over the limit of 4"), std::string::npos);
}

}  // namespace
}  // namespace skein
