#include "coordinator/cli/options.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

struct Settings {
  std::string dtype = "auto";
  int port = 1;
  bool quick = false;
  double share = 0.5;
  std::vector<std::string> origins;
  std::optional<int64_t> length;
};

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    table_.add_choice("dtype", "", {"auto", "float32", "bfloat16"}, &settings_.dtype);
    table_.add_integer("port", "", 0, 65535, &settings_.port);
    table_.add_switch("quick", "", &settings_.quick);
    table_.add_real("share", "", 0, 1, &settings_.share);
    table_.add_list("allowed-origins", "", &settings_.origins);
    table_.add_integer("max-model-len", "", 1, 1000, &settings_.length);
  }

  Status parse(const std::vector<std::string>& arguments) {
    positional_.clear();
    return table_.parse(arguments, &positional_);
  }

  Settings settings_;
  OptionTable table_;
  std::vector<std::string> positional_;
};

TEST_F(OptionsTest, ReadsBothFormsAndPositionals) {
  ASSERT_TRUE(parse({"model", "--port", "80", "--dtype=float32", "--quick", "--allowed-origins", "a,b", "--", "--x"}).ok());
  EXPECT_EQ(settings_.port, 80);
  EXPECT_EQ(settings_.dtype, "float32");
  EXPECT_TRUE(settings_.quick);
  EXPECT_EQ(settings_.origins, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(positional_, (std::vector<std::string>{"model", "--x"}));
  EXPECT_FALSE(settings_.length.has_value());
}

TEST_F(OptionsTest, NamesTheNearest) {
  EXPECT_NE(parse({"--max-modellen", "3"}).message().find("--max-model-len"), std::string::npos);
  EXPECT_NE(parse({"--dtype", "flot32"}).message().find("did you mean float32"), std::string::npos);
  EXPECT_EQ(parse({"--utterly-different", "3"}).message().find("did you mean"), std::string::npos);
}

TEST_F(OptionsTest, RefusesValuesOutOfRangeOrShape) {
  for (const char* bad : {"--port=65536", "--port=-1", "--port=8o", "--port=", "--port= 8", "--port=99999999999999999999",
                          "--share=1.01", "--share=nan", "--share=inf", "--quick=yes", "--max-model-len=0", "-p", "--port"}) {
    EXPECT_FALSE(parse({bad}).ok()) << bad;
  }
  EXPECT_EQ(settings_.port, 1);
}

}  // namespace
}  // namespace skein
