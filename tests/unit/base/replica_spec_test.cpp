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
  spec.tensor_parallel_size = 2;
  spec.stage_layers = {17};
  spec.places = {{.node = "node-a", .device = 0}, {.node = "node-b", .device = 3}};
  spec.network = "10.0.0.0/24";
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
  EXPECT_EQ(back->stage_layers, std::vector<int>{17});
  ASSERT_EQ(back->places.size(), 2u);
  EXPECT_EQ(back->places[1].node, "node-b");
  EXPECT_EQ(back->places[1].device, 3);
}

TEST(ReplicaSpec, CountsTheRanksOfEachNode) {
  ReplicaSpec spec;
  spec.tensor_parallel_size = 3;
  spec.places = {{"b", 0}, {"b", 1}, {"a", 0}};
  const std::vector<NodeShare> shares = node_shares(spec);
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[0].node, "b");
  EXPECT_EQ(shares[0].ranks, 2);
  EXPECT_EQ(shares[1].node, "a");
  EXPECT_EQ(shares[1].ranks, 1);
}

TEST(ReplicaSpec, RefusesPlacesThatCannotBe) {
  const auto error = [](std::vector<RankPlace> places) {
    ReplicaSpec spec;
    spec.tensor_parallel_size = 3;
    spec.places = std::move(places);
    return check_shape(spec).message();
  };
  EXPECT_EQ(error({}), "");
  EXPECT_EQ(error({{"a", 0}, {"a", 1}, {"b", 0}}), "");
  EXPECT_NE(error({{"a", 0}, {"b", 0}}).find("names 2 ranks"), std::string::npos);
  EXPECT_NE(error({{"a", 0}, {"a", 0}, {"b", 0}}).find("two ranks on device 0 of a"), std::string::npos);
  EXPECT_NE(error({{"a", 0}, {"b", 0}, {"a", 1}}).find("beside each other"), std::string::npos);
  EXPECT_NE(error({{"a", 0}, {"", 0}, {"b", 1}}).find("without a node"), std::string::npos);
}

TEST(ReplicaSpec, AProbeIsBetweenTwoStages) {
  ReplicaSpec spec;
  spec.probe = true;
  spec.pipeline_parallel_size = 2;
  spec.places = {{"a", 0}, {"b", 0}};
  spec.context_max = 1;
  const auto back = parse_replica_spec(to_json(spec));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_TRUE(back->probe);
  spec.tensor_parallel_size = 2;
  spec.pipeline_parallel_size = 1;
  EXPECT_NE(check_shape(spec).message().find("two stages of one rank"), std::string::npos);
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
  EXPECT_NE(error([](Json& json) { json.set("places", "a"); }).find("places"),
            std::string::npos);
  EXPECT_NE(error([](Json& json) { json.set("tensor_parallel_size", 4); }).find("places"), std::string::npos);
  EXPECT_NE(error([](Json& json) { json.set("pipeline_parallel_size", 2); }).find("1 stages where the pipeline has 2"),
            std::string::npos);
  EXPECT_NE(error([](Json& json) { json.set("stage_layers", 17); }).find("must be an array"), std::string::npos);
  EXPECT_FALSE(parse_replica_spec(Json("x")).ok());
}

}  // namespace
}  // namespace skein
