// Times of steps against sums on paper: each term once, so that one that is dropped is missed.

#include "topology/cost.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/topology/cost_fixture.h"

namespace skein {
namespace {

using test::paper_cost;
using test::paper_device;
using test::stage_us;

constexpr double kClose = 1e-6;
constexpr double kProducts = 75.392;  // of a layer, one token
constexpr double kAttention = 16;     // 100 keys, at the share of what was not measured: 0.8
constexpr double kLogits = 33.408;
constexpr StepLoad kDecode{.decodes = 1, .context = 100};

TEST(Cost, BytesOverTheReadRate) {
  EXPECT_NEAR(stage_us(paper_device(), kDecode), 2 * (kProducts + kAttention) + kLogits, kClose);
}

TEST(Cost, FlopsWhereTheyTakeLonger) {
  DeviceCalibration device = paper_device();
  device.read_bytes_per_s = test::kNoLimit;
  device.flops = 1e9;
  // 2 x 36,864 weights of a layer; of the logits 16,384.
  EXPECT_NEAR(stage_us(device, kDecode), 2 * 73.728 + 32.768, kClose);
  const ReplicaCost cores = paper_cost({{.device = &device, .gpu = false, .cores = 2}});
  EXPECT_NEAR(cores.stage_us(0, kDecode, 1), 73.728 + 16.384, kClose);
}

TEST(Cost, SharesOfProductsGoByTokensAndWeights) {
  DeviceCalibration device = paper_device();
  device.products = {.rows = {1}, .columns = {16384, 32768}, .share = {{0.5, 1}}};
  EXPECT_NEAR(stage_us(device, kDecode),
              2 * (16.768 / 0.5 + 8.448 / 0.5 + 33.408 + 16.768 / 0.5 + kAttention) + kLogits, kClose);
}

TEST(Cost, EachWeightByItsFormat) {
  DeviceCalibration device = paper_device();
  ModelFormats formats{.layers = std::vector<LayerFormats>(2)};
  formats.layers[1].down = Format::kQ4_1;  // 64 x 128 in 5,120 bytes
  const double all = stage_us(device, kDecode);
  const std::vector<StageSite> sites = {{.device = &device}};
  EXPECT_NEAR(paper_cost(sites, 1, formats).stage_us(0, kDecode, 1), all - 16.768 + 5.504, kClose);
  device.format_products = {
      {.format = Format::kQ4_1, .flops = test::kNoLimit, .table = {.rows = {1}, .columns = {1}, .share = {{0.5}}}}};
  EXPECT_NEAR(paper_cost(sites, 1, formats).stage_us(0, kDecode, 1), all - 16.768 + 5.504 / 0.5, kClose);
  device.format_products[0].flops = 1e9;  // 16,384 operations
  EXPECT_NEAR(paper_cost(sites, 1, formats).stage_us(0, kDecode, 1), all - 16.768 + 16.384 / 0.5, kClose);
  formats.output = Format::kF32;
  EXPECT_NEAR(paper_cost(sites, 1, formats).stage_us(0, kDecode, 1), all - 16.768 + 16.384 / 0.5 + 32.768, kClose);
}

TEST(Cost, WeightsOfOneInputAreOneProductWhereTheirFormatsAreEqual) {
  const DeviceCalibration device = paper_device();
  ModelFormats formats{.layers = std::vector<LayerFormats>(2)};
  for (LayerFormats& layer : formats.layers) layer.k = Format::kF32;
  // q 8,192 + 256, k 8,192 + 192, v 4,096 + 192, in the place of 16,768.
  EXPECT_NEAR(paper_cost({{.device = &device}}, 1, formats).stage_us(0, kDecode, 1),
              stage_us(device, kDecode) + 2 * (21.120 - 16.768), kClose);
}

struct Term {
  const char* name;
  void (*set)(DeviceCalibration&);
  StepLoad load;
  double more_us;  // than without it
};

class CostTerm : public ::testing::TestWithParam<Term> {};

TEST_P(CostTerm, CountsOnce) {
  DeviceCalibration device = paper_device();
  const double without = stage_us(device, GetParam().load);
  GetParam().set(device);
  EXPECT_NEAR(stage_us(device, GetParam().load) - without, GetParam().more_us, kClose);
}

constexpr StepLoad kThree{.decodes = 3, .context = 100};
constexpr StepLoad kPrompt{.prompt_tokens = 10, .prompt_keys = 5.5, .prompt_rows = 1};

// Between one row and ten in the logarithm.
const ShareTable kRows{.rows = {1, 10}, .columns = {1}, .share = {{0.25}, {0.5}}};
const double kShareOfThree = 0.25 + 0.25 * std::log10(3);

INSTANTIATE_TEST_SUITE_P(
    All, CostTerm,
    ::testing::Values(
        Term{"layer", [](DeviceCalibration& d) { d.layer_us = 3; }, kDecode, 2 * 3.0},
        // Norms of rows behind the first: 2 x 64 x 12 bytes.
        Term{"rows", [](DeviceCalibration& d) { d.row_bytes_share = 0.4; }, kThree, 2 * 2 * 1.536 * (1 / 0.4 - 1 / 0.8)},
        Term{"rope", [](DeviceCalibration& d) { d.ropes = kRows; }, kPrompt, 2 * 10 * 0.512 / 0.5},
        Term{"gate", [](DeviceCalibration& d) { d.gates = kRows; }, kThree, 2 * 3 * 0.768 / kShareOfThree},
        Term{"norms", [](DeviceCalibration& d) { d.norms = kRows; }, kThree,
             2 * 2 * (3 * 0.768 / kShareOfThree - 2 * 0.768 / 0.8)},
        Term{"decode_share", [](DeviceCalibration& d) { d.decode_attention_share = {.x = {1}, .y = {0.4}}; }, kDecode,
             2 * 16.0},
        Term{"decode_launch", [](DeviceCalibration& d) { d.decode_attention_us = 50; }, kDecode, 2 * 34.0},
        // 14,080 operations at 1000 a microsecond; products stay below their reads.
        Term{"prefill", [](DeviceCalibration& d) { d.prefill_attention_us = 30; }, kPrompt, 2 * 30.0},
        Term{"step", [](DeviceCalibration& d) { d.step_us = 7; }, kThree, 7},
        Term{"sample", [](DeviceCalibration& d) { d.sample_us = 2; }, kThree, 2 * 2.0},
        Term{"logits", [](DeviceCalibration& d) { d.logits_per_s = 1e6; }, kThree, 3 * 256.0},
        Term{"launches", [](DeviceCalibration& d) { d.layer_launch_us = 1000; }, kDecode, 0}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Cost, AttentionOfPromptsByItsFlops) {
  DeviceCalibration device = paper_device();
  device.flops = 1e8;
  device.products = {.rows = {1}, .columns = {1}, .share = {{1}}};
  const double without = stage_us(device, {.prompt_tokens = 10, .prompt_keys = 0});
  device.prefill_attention_share = {.x = {1}, .y = {0.5}};
  EXPECT_NEAR(stage_us(device, {.prompt_tokens = 10, .prompt_keys = 5.5}) - without, 2 * 140.80 / 0.5, kClose);
}

// Two query heads to each of two KV heads, in the middle of one and four; 12,800 bytes of 100 keys.
TEST(Cost, OnCoresAttentionGoesByTheQueryHeadsOfAKvHead) {
  DeviceCalibration device = paper_device();
  device.group_attention = {.rows = {1, 4}, .columns = {100, 200}, .share = {{0.8, 0.9}, {0.4, 0.5}}};
  EXPECT_NEAR(stage_us(device, kDecode), 2 * (kProducts + 12.8 / 0.6) + kLogits, kClose);
  const StageSite half{.device = &device, .gpu = false, .cores = 1, .share = 0.5};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1), 2 * (kProducts + 12.8 / 0.6), kClose)
      << "half the cores";
  const ReplicaCost many = paper_cost({{.device = &device, .gpu = false, .cores = 8}});
  EXPECT_NEAR(many.stage_us(0, kDecode, 1), 2 * (kProducts + 6.4 / 0.8 * 8) + kLogits, kClose)
      << "of eight cores four have a head each";
  DeviceCalibration without = device;
  without.group_attention = {.rows = {1, 4}, .columns = {100, 200}, .share = {{1, 1}, {1, 1}}};
  const auto rows_us = [&](const DeviceCalibration& with) {
    return paper_cost({{.device = &with, .gpu = false, .cores = 4}}).stage_us(0, kThree, 1);
  };
  EXPECT_NEAR(rows_us(device) - rows_us(without), 2 * (6.4 / 0.6 - 6.4) * 4 * 2, kClose)
      << "six KV heads, two rounds of four";
  device.decode_attention_us = 5;
  EXPECT_NEAR(stage_us(device, kDecode), 2 * (kProducts + 12.8 / 0.6 + 5) + kLogits, kClose) << "and a launch";
}

TEST(Cost, LaunchesOfAStepThatIsNotRecordedMayTakeLonger) {
  DeviceCalibration device = paper_device();
  device.layer_launch_us = 1000;
  EXPECT_NEAR(stage_us(device, kPrompt), 2 * 1000 + kLogits, kClose);
}

TEST(Cost, APromptThatGoesOnSamplesNothing) {
  StepLoad load = kPrompt;
  const double ends = stage_us(paper_device(), load);
  load.prompt_rows = 0;
  EXPECT_NEAR(ends - stage_us(paper_device(), load), kLogits, kClose);
}

TEST(Cost, EachCoreSamplesARow) {
  DeviceCalibration device = paper_device();
  const std::vector<StageSite> sites = {{.device = &device, .gpu = false, .cores = 2}};
  const double without = paper_cost(sites).stage_us(0, kThree, 1);
  device.logits_per_s = 1e6;
  EXPECT_NEAR(paper_cost(sites).stage_us(0, kThree, 1) - without, 2 * 256, kClose);
}

TEST(Cost, AGroupSharesTheWorkAndAddsItsSums) {
  const DeviceCalibration device = paper_device();
  LinkCalibration link;
  link.all_reduce_us = {.x = {1, 1e9}, .y = {5, 5}};
  link.point_to_point_us = {.x = {1, 1e9}, .y = {3, 3}};
  const ReplicaCost cost = paper_cost({{.device = &device, .group = {.measured = &link}}}, 2);
  // Products 37,952 bytes, keys and values half as many; two sums a layer and one of the embedding; logits 16,768
  // bytes, and a message with the other half of them.
  EXPECT_NEAR(cost.stage_us(0, kDecode, 1), 2 * (37.952 + 8 + 2 * 5) + 5 + 16.768 + 3, kClose);
}

// Six heads of queries in two groups over three ranks: the one in the middle reads keys of both.
TEST(Cost, TheSlowestRankSetsThePaceOfItsGroup) {
  const DeviceCalibration device = paper_device();
  LinkCalibration free;
  free.all_reduce_us = free.point_to_point_us = {.x = {1}, .y = {0}};
  ModelDescription model = test::paper_model();
  model.q_heads = 6;
  model.intermediate = 96;
  model.vocabulary = 240;
  const auto shards = plan_shards(model, 3, 1);
  ASSERT_TRUE(shards.ok());
  ASSERT_EQ((*shards)[1].kv_heads.size(), 2);
  const ReplicaCost cost(model, {.layers = std::vector<LayerFormats>(2)}, *shards,
                         {{.device = &device, .group = {.measured = &free}}});
  EXPECT_NEAR(cost.stage_us(0, kDecode, 1), 2 * (12.608 + 4.288 + 8.448 + 4.288 + kAttention) + 10.528, kClose);
}

TEST(Cost, ExchangesThatNobodyMeasured) {
  const Exchange exchange{.path = {.bytes_per_s = 1e9, .latency_us = 2}, .ranks = 4};
  EXPECT_NEAR(all_reduce_us(exchange, 1000), 2 * 3 * (2 + 4) + 1.5, kClose);
  EXPECT_NEAR(send_us(exchange, 1000), 2 + 4 + 1, kClose);
}

TEST(Cost, TheNearestLinkIsTaken) {
  Calibration calibration;
  calibration.links = {{.link = LinkKind::kNvlink, .device = "other", .source = {}, .ranks = 2},
                       {.link = LinkKind::kNvlink, .device = "this", .source = {}, .ranks = 8},
                       {.link = LinkKind::kNvlink, .device = "this", .source = {}, .ranks = 4},
                       {.link = LinkKind::kPcie, .device = "this", .source = {}, .ranks = 2}};
  const Path nvlink{.link = LinkKind::kNvlink, .bytes_per_s = 450e9};
  EXPECT_EQ(find_link(calibration, nvlink, "this", 2), &calibration.links[2]);
  EXPECT_EQ(find_link(calibration, nvlink, "this", 6), &calibration.links[1]);
  EXPECT_EQ(find_link(calibration, nvlink, "that", 2), &calibration.links[0]);
  EXPECT_EQ(find_link(calibration, {.link = LinkKind::kTcp, .bytes_per_s = 1e9}, "this", 2), nullptr);
}

TEST(Cost, APathBetweenNodesTakesTheEntryThatIsDescribedAsItIs) {
  const auto described = [](double bytes_per_s, double latency_us) {
    return LinkCalibration{.link = LinkKind::kTcp, .device = "this", .described_bytes_per_s = bytes_per_s,
                           .described_latency_us = latency_us};
  };
  Calibration calibration;
  calibration.links = {described(1.25e9, 30), described(1.25e9, 31), described(12.5e9, 30)};
  const auto found = [&](double bytes_per_s, double latency_us) {
    const LinkCalibration* entry = find_link(
        calibration, {.link = LinkKind::kTcp, .bytes_per_s = bytes_per_s, .latency_us = latency_us}, "this", 2);
    return entry == nullptr ? -1 : static_cast<int>(entry - calibration.links.data());
  };
  EXPECT_EQ(found(1.25e9, 30), 0) << "in the rack";
  EXPECT_EQ(found(1.25e9, 31), 1) << "in another one";
  EXPECT_EQ(found(12.5e9, 31), 2) << "by a faster NIC";
  EXPECT_EQ(found(1.2e9, 31), 1) << "about as fast";
  EXPECT_EQ(found(4e9, 30), -1) << "neither";
  calibration.links.push_back(described(0, 0));
  EXPECT_EQ(found(4e9, 30), 3) << "of any path";
  EXPECT_EQ(found(1.25e9, 30), 0) << "of this path before any";
}

// One layer on each stage; the hop carries 64 x (4 + 2) bytes.
class CostOfTwoStages : public ::testing::Test {
 protected:
  ReplicaCost cost() const {
    const StageSite site{.device = &device_, .next = {.path = {.bytes_per_s = 1e9, .latency_us = 1}}};
    return paper_cost({site, site});
  }
  static constexpr double kFirst = kProducts + kAttention;
  static constexpr double kLast = kProducts + kAttention + kLogits;
  static constexpr double kHop = 1 + 4 + 0.384;
  DeviceCalibration device_ = paper_device();
};

TEST_F(CostOfTwoStages, OneLaneTakesTheSum) {
  EXPECT_NEAR(cost().hop_us(0, kDecode), kHop, kClose);
  EXPECT_NEAR(cost().step_us(kDecode, 1), kFirst + kHop + kLast, kClose);
  device_.host_us = 10;
  EXPECT_NEAR(cost().step_us(kDecode, 1), kFirst + kHop + kLast + 10, kClose);
}

TEST_F(CostOfTwoStages, EachHasSleptUntilItsTurn) {
  const double alone_us = paper_cost({{.device = &device_}}).step_us(kDecode, 1);
  device_.wake_us = 7;
  EXPECT_NEAR(cost().step_us(kDecode, 1), kFirst + kHop + kLast + 14, kClose);
  EXPECT_NEAR(cost().step_us(kDecode, 2), 2 * (kLast + 7), kClose);
  EXPECT_EQ(paper_cost({{.device = &device_}}).step_us(kDecode, 1), alone_us);
}

TEST_F(CostOfTwoStages, OfTwoLanesTheSlowestStageSetsThePace) {
  EXPECT_NEAR(cost().stages_us(kDecode, 2)[1], kLast, kClose);
  EXPECT_NEAR(cost().step_us(kDecode, 2), 2 * kLast, kClose);
  device_.host_us = 100;
  EXPECT_NEAR(cost().step_us(kDecode, 2), kFirst + kHop + kLast + 100, kClose);
}

TEST_F(CostOfTwoStages, EachReplaysItsPartOfADecodeStep) {
  device_.layer_launch_us = 1000;
  EXPECT_NEAR(cost().stages_us(kDecode, 2)[0], kFirst, kClose);
  EXPECT_NEAR(cost().stages_us(kPrompt, 2)[0], 1000, kClose);
}

TEST_F(CostOfTwoStages, OneStageHasItsNextStepQueued) {
  device_.host_us = 1000;
  EXPECT_NEAR(paper_cost({{.device = &device_}}).step_us(kDecode, 1), 1000, kClose);
}

// What tells the second stage's layer from the first one's.
struct OtherStage {
  const char* what;
  void (*change)(StageSite* site, ModelFormats* formats);
};

class CostOfUnlikeStages : public ::testing::TestWithParam<OtherStage> {};

TEST_P(CostOfUnlikeStages, TogetherAreThoseOfEachAlone) {
  DeviceCalibration device = paper_device();
  device.waiting_gain = {.x = {1}, .y = {1.5}};
  ModelFormats formats{.layers = std::vector<LayerFormats>(2)};
  const Exchange exchange{.path = {.bytes_per_s = 1e9, .latency_us = 1}};
  StageSite first{.device = &device, .group = exchange, .next = exchange};
  StageSite second = first;
  GetParam().change(&second, &formats);
  if (second.share < 1) first.share = second.share;
  const ReplicaCost cost = paper_cost({first, second}, 3, formats);  // parts of two sizes
  constexpr StepLoad kMixed{.decodes = 2, .context = 10, .prompt_tokens = 100, .prompt_keys = 50};
  for (const StepLoad& load : {kDecode, kMixed}) {
    for (const int lanes : {1, 2}) {
      const std::vector<double> both = cost.stages_us(load, lanes);
      ASSERT_EQ(both.size(), 2u);
      EXPECT_EQ(both[0], cost.stage_us(0, load, lanes));
      EXPECT_EQ(both[1], cost.stage_us(1, load, lanes));
      EXPECT_EQ(cost.step_us(load, lanes), cost.step_us(load, lanes, both));
    }
    EXPECT_EQ(cost.lanes_matter(), cost.stages_us(load, 1) != cost.stages_us(load, 2));
  }
}

const DeviceCalibration& slow_device() {
  static const DeviceCalibration device = [] {
    DeviceCalibration slow = paper_device();
    slow.read_bytes_per_s /= 2;
    slow.flops = 1e9;
    return slow;
  }();
  return device;
}

const DeviceCalibration& forgetful_device() {
  static const DeviceCalibration device = [] {
    DeviceCalibration forgetful = paper_device();
    forgetful.from_memory = {.x = {1e4, 1e7}, .y = {0, 1}};
    forgetful.cached_products = {.rows = {1}, .columns = {1}, .share = {{2}}};
    forgetful.cache_decay_bytes_per_s = 1e10;
    return forgetful;
  }();
  return device;
}

const LinkCalibration& slow_link() {
  static const LinkCalibration link = [] {
    LinkCalibration slow;
    slow.all_reduce_us = {.x = {1, 1e9}, .y = {50, 50}};
    return slow;
  }();
  return link;
}

INSTANTIATE_TEST_SUITE_P(
    Cost, CostOfUnlikeStages,
    ::testing::Values(
        OtherStage{"nothing", [](StageSite*, ModelFormats*) {}},
        OtherStage{"device", [](StageSite* site, ModelFormats*) { site->device = &slow_device(); }},
        OtherStage{"caches",
                   [](StageSite* site, ModelFormats*) {
                     site->gpu = false;
                     site->device = &forgetful_device();
                   }},
        OtherStage{"cores", [](StageSite* site, ModelFormats*) { site->cores = 2; }},
        OtherStage{"share",
                   [](StageSite* site, ModelFormats*) {
                     site->gpu = false;
                     site->share = 0.25;
                   }},
        OtherStage{"measured", [](StageSite* site, ModelFormats*) { site->group.measured = &slow_link(); }},
        OtherStage{"rate", [](StageSite* site, ModelFormats*) { site->group.path.bytes_per_s = 1e8; }},
        OtherStage{"latency", [](StageSite* site, ModelFormats*) { site->group.path.latency_us = 7; }},
        OtherStage{"ranks", [](StageSite* site, ModelFormats*) { site->group.ranks = 3; }},
        OtherStage{"formats", [](StageSite*, ModelFormats* formats) { formats->layers[1].gate = Format::kF32; }}),
    [](const auto& info) { return info.param.what; });

// Weights of 73,728 and 106,496 bytes: while the second works the first has 0.846 of its work.
TEST_F(CostOfTwoStages, ACoreIsFasterWhileTheOtherWaits) {
  const StageSite half{.device = &device_, .gpu = false, .cores = 1, .share = 0.5};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1), 2 * (kProducts + kAttention), kClose);
  device_.waiting_gain = {.x = {1}, .y = {1.6}};
  const ReplicaCost both = paper_cost({half, half});
  EXPECT_NEAR(both.stage_us(0, kDecode, 1), 2 * (kProducts / 1.6 + kAttention), kClose);
  const double gain = std::pow(1.6, (1 - (73'728 + 106'496) / 2.0 / 106'496) / 0.5);
  EXPECT_NEAR(both.stage_us(1, kDecode, 2), 2 * ((kProducts + kLogits) / gain + kAttention), kClose);
  device_.gates = {.rows = {1}, .columns = {1}, .share = {{0.25}}};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1),
              2 * (kProducts / 1.6 + kAttention) + 0.768 / 0.25, kClose) << "a row that one core does has it already";
}

TEST_F(CostOfTwoStages, ACoreGainsByTheTokensOfAProductAndNeverMoreThanAllCoresReach) {
  device_.waiting_gain = {.x = {1, 8}, .y = {1.6, 1.2}};
  const StageSite half{.device = &device_, .gpu = false, .cores = 1, .share = 0.5};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1), 2 * (kProducts / 1.6 + kAttention), kClose);
  device_.waiting_gain = {.x = {1}, .y = {1.6}};
  const StageSite eight{.device = &device_, .gpu = false, .cores = 8, .share = 0.5};
  EXPECT_NEAR(paper_cost({eight, eight}).stage_us(0, kDecode, 1), 2 * (kProducts / 1.6 + kAttention), kClose)
      << "half of any number of cores";
  device_.waiting_gain = {.x = {1}, .y = {8}};
  EXPECT_NEAR(paper_cost({eight, eight}).stage_us(0, kDecode, 1), kProducts + 2 * kAttention, kClose);
}

TEST_F(CostOfTwoStages, ACoreGainsNoMoreWhileMoreThanHalfOfThemWait) {
  device_.waiting_gain = {.x = {1}, .y = {1.6}};
  const StageSite quarter{.device = &device_, .gpu = false, .cores = 2, .share = 0.25};
  EXPECT_NEAR(paper_cost({quarter, quarter}).stage_us(0, kDecode, 1), 4 * (kProducts / 1.6 + kAttention), kClose);
}

// One core does a row as fast as all of them, and three after each other.
TEST_F(CostOfTwoStages, RowsThatOneCoreWorksOnTakeNoLongerForARankOfOne) {
  const StageSite half{.device = &device_, .gpu = false, .cores = 1, .share = 0.5};
  const double without = paper_cost({half, half}).stage_us(0, kDecode, 1);
  device_.gates = {.rows = {1, 100}, .columns = {1}, .share = {{0.25}, {0.25}}};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1) - without, 0.768 / 0.25, kClose);
  device_.gates = {.rows = {1, 2}, .columns = {1}, .share = {{0.25}, {0.5}}};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1) - without, 0.768 / 0.25, kClose) << "two cores, two rows";
}

// Stages of 73,728 and 106,496 bytes, and 12,800 of keys and values each, share a node's caches: 205,824.
TEST_F(CostOfTwoStages, WeightsThatCachesHoldAreReadFaster) {
  device_.from_memory = {.x = {205'824, 1e6}, .y = {0.25, 1}};
  device_.cached_products = {.rows = {1}, .columns = {1}, .share = {{3}}};
  const StageSite half{.device = &device_, .gpu = false, .cores = 1, .share = 0.5};
  const double expected = 2 * (kProducts * (0.25 + 0.75 / 3) + kAttention);
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1), expected, kClose);
  EXPECT_NEAR(paper_cost({half, half}).stage_us(1, kDecode, 1) - expected, 2 * kLogits * (0.25 + 0.75 / 3), kClose)
      << "of the same caches";
  device_.format_products = {{.format = Format::kBF16, .flops = test::kNoLimit, .cached = device_.cached_products}};
  device_.cached_products = {};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1), expected, kClose) << "a format of its own";
  // The second stage has the logits' weights, too, and its layer comes from memory.
  device_.from_memory = {.x = {86'528, 86'529}, .y = {0, 1}};
  const StageSite node{.device = &device_, .gpu = false, .cores = 1};
  const ReplicaCost two = paper_cost({node, node});
  EXPECT_DOUBLE_EQ(two.stages_us(kDecode, 1)[1], two.stage_us(1, kDecode, 1));
  EXPECT_GT(two.stages_us(kDecode, 1)[1] - kLogits, two.stages_us(kDecode, 1)[0]);
}

// Until the next step others evict 205,824 bytes' worth of the 205,824 that a step reads, 25,600 of keys and values.
TEST(Cost, CachesHoldLessTheLaterWeightsAreReadAgain) {
  constexpr double kReadUs = 205.824;
  DeviceCalibration device = paper_device();
  device.decode_attention_us = 2000;
  const auto step_us = [&] { return paper_cost({{.device = &device, .gpu = false}}).step_us(kDecode, 1); };
  const double from_memory_us = step_us();
  device.from_memory = {.x = {205'824, 2 * 205'824.0}, .y = {0, 1}};
  device.cached_products = {.rows = {1}, .columns = {1}, .share = {{2}}};
  const double cached_us = step_us();
  EXPECT_NEAR(cached_us, from_memory_us - (2 * kProducts + kLogits) / 2, kClose);
  device.cache_decay_bytes_per_s = 205'824 / ((cached_us - kReadUs) / 1e6);
  EXPECT_NEAR(step_us(), from_memory_us, kClose);
  device.cache_decay_bytes_per_s *= std::sqrt(2.0) - 1;
  EXPECT_NEAR(step_us(), (from_memory_us + cached_us) / 2, kClose) << "halfway between in the logarithm of bytes";
}

// Between two numbers of inputs in their logarithm: halfway from 32 to 128 are the 64 of all but down, which has 128.
TEST(Cost, ProductsGoByTheirInputs) {
  DeviceCalibration device = paper_device();
  const double plain = stage_us(device, kDecode);
  const auto of = [](double inputs, double share) {
    return FormatProducts{.format = Format::kBF16, .inputs = inputs, .flops = test::kNoLimit,
                          .table = {.rows = {1}, .columns = {1}, .share = {{share}}}};
  };
  device.format_products = {of(128, 0.5), of(32, 0.25)};
  const double down = 2 * 16.768;
  const double others = 2 * kProducts + kLogits - down;
  EXPECT_NEAR(stage_us(device, kDecode), plain + down * (2 - 1) + others * ((2 + 4) / 2.0 - 1), kClose);
  device.format_products.push_back(of(0, 1));
  EXPECT_NEAR(stage_us(device, kDecode), plain + down * (2 - 1) + others * ((2 + 4) / 2.0 - 1), kClose) << "0: any";
  device.format_products = {of(0, 1), of(128, 0.5)};
  EXPECT_NEAR(stage_us(device, kDecode), plain + (down + others) * (2 - 1), kClose) << "the next that says a number";
}

TEST(Cost, KeysThatCachesHoldAreReadFaster) {
  DeviceCalibration device = paper_device();
  device.group_attention = {.rows = {1}, .columns = {1}, .share = {{0.5}}};
  const double from_memory_us = stage_us(device, kDecode);
  device.from_memory = {.x = {1}, .y = {0.25}};
  EXPECT_NEAR(stage_us(device, kDecode), from_memory_us, kClose);
  device.cached_attention = {.rows = {1}, .columns = {1}, .share = {{2}}};
  EXPECT_NEAR(stage_us(device, kDecode), from_memory_us - 2 * 12.8 / 0.5 * 0.75 / 2, kClose);
}

TEST_F(CostOfTwoStages, APartOfTheCoresReachesWhatAllDoWithMore) {
  device_.products = {.rows = {1}, .columns = {16384, 32768}, .share = {{0.5, 1}}};
  const StageSite half{.device = &device_, .gpu = false, .cores = 1, .share = 0.5};
  EXPECT_NEAR(paper_cost({half, half}).stage_us(0, kDecode, 1),
              2 * (16.768 + 8.448 / 0.5 + 33.408 + 16.768 + kAttention), kClose);
}

}  // namespace
}  // namespace skein
