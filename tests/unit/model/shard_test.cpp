#include "model/shard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/replica_spec.h"

namespace skein {
namespace {

ModelDescription model(int q_heads, int kv_heads, int layers, int intermediate, int vocabulary) {
  ModelDescription d;
  d.q_heads = q_heads;
  d.kv_heads = kv_heads;
  d.head_dim = 16;
  d.hidden = 64;
  d.intermediate = intermediate;
  d.vocabulary = vocabulary;
  d.layers.resize(static_cast<size_t>(layers));
  return d;
}

std::vector<ModelDescription> models() {
  return {model(9, 3, 30, 1536, 49152),   model(6, 2, 4, 104, 333),      model(4, 1, 4, 70, 320),
          model(5, 5, 4, 72, 330),        model(32, 8, 5, 11008, 32000), model(7, 7, 3, 7, 7),
          model(14, 2, 24, 4864, 151936), model(1, 1, 1, 1, 1)};
}

// The ranges follow one another from 0 to total, none empty, sizes within `spread`.
void expect_partition(const std::vector<IndexRange>& ranges, int total, int spread) {
  int at = 0;
  int smallest = total;
  int largest = 0;
  for (const IndexRange& range : ranges) {
    EXPECT_EQ(range.begin, at);
    EXPECT_GT(range.size(), 0);
    smallest = std::min(smallest, range.size());
    largest = std::max(largest, range.size());
    at = range.end;
  }
  EXPECT_EQ(at, total);
  EXPECT_LE(largest - smallest, spread);
}

void check_heads(const ModelDescription& d, const ShardPlan& plan) {
  const int group = d.q_heads / d.kv_heads;
  std::set<int> read;
  for (int h = 0; h < plan.q_heads.size(); ++h) {
    // What the attention kernel computes from group_offset must be the head's KV head.
    const int local = (h + plan.group_offset) / group;
    EXPECT_EQ(plan.kv_heads.begin + local, (plan.q_heads.begin + h) / group);
    read.insert(plan.kv_heads.begin + local);
  }
  EXPECT_EQ(static_cast<int>(read.size()), plan.kv_heads.size())
      << "holds KV heads that it does not read";
  EXPECT_EQ(*read.begin(), plan.kv_heads.begin);
  EXPECT_EQ(*read.rbegin(), plan.kv_heads.end - 1);
}

void check_plans(const ModelDescription& d, int tp, int pp) {
  const auto plans = plan_shards(d, tp, pp);
  ASSERT_TRUE(plans.ok()) << plans.status().message();
  ASSERT_EQ(plans->size(), static_cast<size_t>(tp * pp));
  std::vector<IndexRange> layers;
  for (int stage = 0; stage < pp; ++stage) {
    std::vector<IndexRange> heads, intermediate, vocabulary;
    for (int rank = 0; rank < tp; ++rank) {
      const ShardPlan& plan = (*plans)[static_cast<size_t>(stage * tp + rank)];
      EXPECT_EQ(plan.tp_rank, rank);
      EXPECT_EQ(plan.pp_rank, stage);
      EXPECT_EQ(plan.tp_size, tp);
      EXPECT_EQ(plan.pp_size, pp);
      EXPECT_EQ(plan.first_stage(), stage == 0);
      EXPECT_EQ(plan.last_stage(), stage == pp - 1);
      check_heads(d, plan);
      heads.push_back(plan.q_heads);
      intermediate.push_back(plan.intermediate);
      vocabulary.push_back(plan.vocabulary);
      if (rank == 0) layers.push_back(plan.layers);
      EXPECT_EQ(plan.layers.begin, layers.back().begin);
      EXPECT_EQ(plan.layers.end, layers.back().end);
    }
    expect_partition(heads, d.q_heads, 1);
    expect_partition(intermediate, d.intermediate, 63);
    expect_partition(vocabulary, d.vocabulary, 31);
  }
  expect_partition(layers, static_cast<int>(d.layers.size()), 1);
  for (const IndexRange& range : layers) EXPECT_LE(layers.back().size(), range.size());
}

TEST(PlanShards, CoversEverythingExactlyOnce) {
  for (const ModelDescription& d : models()) {
    const int layers = static_cast<int>(d.layers.size());
    for (int tp = 1; tp <= d.q_heads; ++tp) {
      for (int pp = 1; pp <= layers; ++pp) check_plans(d, tp, pp);
    }
  }
}

TEST(PlanShards, CutsTheMlpBetweenBlocksWhereItCan) {
  for (const int tp : {1, 2, 3, 4, 9}) {
    const auto plans = plan_shards(model(9, 3, 30, 1536, 49152), tp, 1);
    for (const ShardPlan& plan : *plans) {
      EXPECT_EQ(plan.intermediate.begin % 32, 0);
      EXPECT_EQ(plan.intermediate.end % 32, 0);
      EXPECT_EQ(plan.vocabulary.begin % 16, 0);
    }
  }
  // 70 has three units of 32; four ranks get units of 16.
  const auto plans = plan_shards(model(4, 1, 4, 70, 320), 4, 1);
  std::vector<int> sizes;
  for (const ShardPlan& plan : *plans) sizes.push_back(plan.intermediate.size());
  EXPECT_EQ(sizes, (std::vector<int>{16, 16, 16, 22}));
}

TEST(PlanShards, GivesTheLastStageFewerLayers) {
  const auto plans = plan_shards(model(9, 3, 30, 1536, 49152), 1, 4);
  std::vector<int> sizes;
  for (const ShardPlan& plan : *plans) sizes.push_back(plan.layers.size());
  EXPECT_EQ(sizes, (std::vector<int>{8, 7, 8, 7}));
}

TEST(PlanShards, GivesStagesTheLayersThatTheReplicaNames) {
  ReplicaSpec spec;
  spec.tensor_parallel_size = 2;
  spec.pipeline_parallel_size = 3;
  const ModelDescription d = model(4, 2, 9, 64, 320);
  const auto layers = [&] {
    std::vector<int> sizes;
    const auto plans = plan_shards(d, spec);
    for (size_t rank = 0; plans.ok() && rank < plans->size(); rank += 2) sizes.push_back((*plans)[rank].layers.size());
    return sizes;
  };
  EXPECT_EQ(layers(), (std::vector<int>{3, 3, 3}));
  spec.stage_layers = {1, 6, 2};
  EXPECT_EQ(layers(), (std::vector<int>{1, 6, 2}));
  EXPECT_EQ((*plan_shards(d, spec))[3].layers.begin, 1) << "the second rank of the second stage";
  spec.stage_layers = {1, 6, 3};
  EXPECT_NE(plan_shards(d, spec).status().message().find("10 layers in all and the model has 9"), std::string::npos);
  spec.stage_layers = {1, 0, 8};
  EXPECT_NE(plan_shards(d, spec).status().message().find("stage 1 has no layers"), std::string::npos);
}

TEST(PlanShards, RanksOfOneGroupShareItsKvHead) {
  const auto plans = plan_shards(model(4, 1, 4, 70, 320), 4, 1);
  for (const ShardPlan& plan : *plans) {
    EXPECT_EQ(plan.kv_heads.begin, 0);
    EXPECT_EQ(plan.kv_heads.end, 1);
    EXPECT_EQ(plan.group_offset, plan.tp_rank);
  }
}

TEST(PlanShards, SaysWhichDegreesThereAre) {
  const ModelDescription d = model(9, 3, 30, 1536, 49152);
  for (const int tp : {-1, 0, 10, 1 << 30}) {
    const auto plans = plan_shards(d, tp, 1);
    EXPECT_EQ(plans.status().code(), Code::kInvalidArgument);
    EXPECT_EQ(plans.status().message(),
              "tensor parallel degree " + std::to_string(tp) +
                  " is not possible for this model of 9 attention heads; it can be 1 to 9");
  }
  for (const int pp : {-1, 0, 31}) {
    EXPECT_EQ(plan_shards(d, 1, pp).status().message(),
              "pipeline parallel degree " + std::to_string(pp) +
                  " is not possible for this model of 30 layers; it can be 1 to 30");
  }
  EXPECT_NE(plan_shards(model(8, 8, 2, 3, 100), 4, 1).status().message().find("it can be 1 to 3"),
            std::string::npos);
}

}  // namespace
}  // namespace skein
