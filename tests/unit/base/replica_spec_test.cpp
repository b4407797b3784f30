#include "base/replica_spec.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

ReplicaSpec full_spec() {
  ReplicaSpec spec;
  spec.replica = 3;
  spec.launch = 12345678901;
  spec.coordinator = "ipc:///tmp/x";
  spec.model = "/models/a b";
  spec.context_max = 2048;
  spec.kv_blocks = 77;
  spec.cache_key = "00";
  spec.deterministic = true;
  spec.spin = false;
  spec.first_core = -1;
  return spec;
}

TEST(ReplicaSpec, SurvivesJson) {
  const Json json = to_json(full_spec());
  const auto back = parse_replica_spec(json);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(to_json(*back), json);
  EXPECT_EQ(back->launch, 12345678901u);
  EXPECT_EQ(back->model, "/models/a b");
  EXPECT_TRUE(back->deterministic);
  EXPECT_FALSE(back->spin);
}

TEST(ReplicaSpec, NamesWhatIsWrong) {
  const auto error = [](auto change) {
    Json json = to_json(full_spec());
    change(json);
    const auto spec = parse_replica_spec(json);
    return spec.ok() ? std::string() : spec.status().message();
  };
  EXPECT_NE(error([](Json& json) { json.set("slots", 0); }).find("slots"), std::string::npos);
  EXPECT_NE(error([](Json& json) { json.set("slots", 1.5); }).find("slots"), std::string::npos);
  EXPECT_NE(error([](Json& json) { json.set("model", 7); }).find("model"), std::string::npos);
  EXPECT_NE(error([](Json& json) { json.set("colour", "red"); }).find("does not know"), std::string::npos);
  EXPECT_NE(error([](Json& json) { json.as_object().erase(json.as_object().begin()); }).find("missing"),
            std::string::npos);
  EXPECT_FALSE(parse_replica_spec(Json("x")).ok());
}

}  // namespace
}  // namespace skein
