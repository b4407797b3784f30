#include <gtest/gtest.h>
#include <sys/stat.h>

#include "comm/messages.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

class KeysTest : public ::testing::Test {
 protected:
  std::string write(const std::string& text, mode_t mode = 0600) {
    std::string path = folder_.write("key", text);
    chmod(path.c_str(), mode);
    return path;
  }
  test::TemporaryFolder folder_;
};

TEST_F(KeysTest, SurviveTheirFile) {
  const KeyPair pair = make_key_pair();
  const auto back = read_key_file(write(key_file_text(pair)));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->public_key, pair.public_key);
  EXPECT_EQ(back->secret_key, pair.secret_key);
  EXPECT_EQ(*read_public_key_file(write(public_key_text(pair.public_key))), pair.public_key);
}

TEST_F(KeysTest, RefusesWhatIsNoSecret) {
  const std::string good = key_file_text(make_key_pair());
  EXPECT_NE(read_key_file(write(good, 0644)).status().message().find("chmod 600"), std::string::npos);
  EXPECT_FALSE(read_key_file(write("public x\n")).ok());
  EXPECT_FALSE(read_key_file(write("")).ok());
  EXPECT_FALSE(read_key_file(folder_.file("absent")).ok());
  const auto published = read_public_key_file(write("public rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7\n"));
  EXPECT_NE(published.status().message().find("manual"), std::string::npos);
  const auto whole = read_public_key_file(write(good));
  EXPECT_NE(whole.status().message().find("has a secret key"), std::string::npos) << "another's pair in place of a public key";
}

TEST_F(KeysTest, AnAllowListNamesItsLines) {
  const std::string one = make_key_pair().public_key;
  const std::string other = make_key_pair().public_key;
  const auto list = parse_allow_list("# nodes\na " + one + "\n\nb " + other + "\n");
  ASSERT_TRUE(list.ok()) << list.status().message();
  EXPECT_EQ(list->at(other), "b");
  const auto error = [](const std::string& text) { return parse_allow_list(text).status().message(); };
  EXPECT_NE(error("a " + one + "\na " + other).find("line 2: the node a is there twice"), std::string::npos);
  EXPECT_NE(error("a " + one + "\nb " + one).find("the same key"), std::string::npos);
  EXPECT_NE(error("a short").find("line 1"), std::string::npos);
  EXPECT_NE(error("a").find("line 1"), std::string::npos);
}

}  // namespace
}  // namespace skein
