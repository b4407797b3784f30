#include "base/yaml.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

TEST(Yaml, KeepsOrderAndLines) {
  const auto yaml = parse_yaml("a: 1\nb:\n  - x\n  - {c: d}\ne:\n");
  ASSERT_TRUE(yaml.ok()) << yaml.status().message();
  ASSERT_EQ(yaml->map.size(), 3u);
  EXPECT_EQ(yaml->map[0].key, "a");
  EXPECT_EQ(yaml->map[0].value.scalar, "1");
  EXPECT_EQ(yaml->map[1].line, 2);
  ASSERT_EQ(yaml->map[1].value.list.size(), 2u);
  EXPECT_EQ(yaml->map[1].value.list[1].map[0].key, "c");
  EXPECT_EQ(yaml->map[1].value.list[1].line, 4);
  EXPECT_EQ(yaml->map[2].value.kind, Yaml::Kind::kNull);
  EXPECT_EQ(parse_yaml("")->kind, Yaml::Kind::kNull);
}

TEST(Yaml, RefusesWhatIsAmbiguousOrHostile) {
  EXPECT_NE(parse_yaml("a: 1\nb: 2\na: 3\n").status().message().find("line 3"), std::string::npos);
  for (const char* bad : {"a: &x 1", "a: &x [1]\nb: *x", "a: [1", "{a: b", "? [x]\n: y", "a: b: c", "--- 1\n--- 2", "\t- a"}) {
    EXPECT_FALSE(parse_yaml(bad).ok()) << bad;
  }
  EXPECT_FALSE(parse_yaml(std::string(100, '[')).ok());
  EXPECT_FALSE(parse_yaml(std::string(2 << 20, 'a')).ok());
}

}  // namespace
}  // namespace skein
