#include "topology/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skein {
namespace {

using ::testing::HasSubstr;

constexpr const char* kText = R"(devices:
  - name: "Some GPU"
    machine: "a \"quoted\" machine"
    commit: "abc"
    date: "2026-11-26"
    read_bytes_per_s: 3e12
    flops: 7e14
    product_tokens: [1, 64]
    product_bytes: [1e6, 1e8]
    product_share:
      - [0.5, 0.9]
      - [0.4, 0.8]
    cached_product_tokens: [1]
    cached_product_bytes: [1e6]
    cached_product_gain: [[2.75]]
    from_memory: {x: [1e7, 1e9], y: [0, 1]}
    decode_attention_share: {x: [1e6, 1e8], y: [0.5, 0.9]}
    group_attention_heads: [1, 4]
    group_attention_keys: [100]
    group_attention_share: [[0.6], [0.2]]
    cached_attention_heads: [1, 4]
    cached_attention_keys: [100]
    cached_attention_gain: [[1.125], [1.375]]
    logits_per_s: 4e9
    wake_us: 90
    cache_decay_bytes_per_s: 5e9
    waiting_gain: {x: [1, 64], y: [1.8, 1.2]}
    products:
      - format: Q4_1
        flops: 2e14
        tokens: [1]
        bytes: [1e6, 1e8]
        share: [[0.25, 0.75]]
        cached_tokens: [1]
        cached_bytes: [1e6]
        cached_gain: [[3.25]]
        waiting_gain: {x: [1], y: [1.5]}
      - format: Q4_1
        inputs: 576
        flops: 2e14
        tokens: [1]
        bytes: [1e6]
        share: [[0.5]]
links:
  - link: NVLink
    ranks: 2
    all_reduce_us: {x: [1000, 3000], y: [4, 8]}
  - link: TCP
    ranks: 2
    described_bytes_per_s: 1.25e9
    described_latency_us: 31
    point_to_point_us: {x: [1000], y: [40]}
    stage_bytes: 7e6
)";

TEST(Calibration, SharesAreInterpolatedInLogarithms) {
  const auto calibration = parse_calibration(kText);
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  const DeviceCalibration& gpu = calibration->devices[0];
  EXPECT_DOUBLE_EQ(share_at(gpu.decode_attention_share, 1e7), 0.7);
  EXPECT_DOUBLE_EQ(share_at(gpu.decode_attention_share, 1), 0.5) << "below the first point";
  EXPECT_DOUBLE_EQ(share_at(gpu.decode_attention_share, 1e12), 0.9) << "beyond the last";
  EXPECT_DOUBLE_EQ(share_at(gpu.products, 1, 1e7), 0.7);
  EXPECT_DOUBLE_EQ(share_at(gpu.products, 8, 1e7), 0.65) << "halfway between 1 and 64 tokens";
  EXPECT_DOUBLE_EQ(share_at(gpu.products, 1e4, 1e9), 0.8);
}

TEST(Calibration, WhatIsGainedAloneAndFromCachesIsReadAndWritten) {
  const auto calibration = parse_calibration(kText);
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  const auto again = parse_calibration(to_yaml(*calibration));
  ASSERT_TRUE(again.ok()) << again.status().message();
  for (const DeviceCalibration* device : {&calibration->devices[0], &again->devices[0]}) {
    EXPECT_EQ(device->wake_us, 90);
    EXPECT_EQ(device->cache_decay_bytes_per_s, 5e9);
    EXPECT_EQ(device->waiting_gain.y, (std::vector<double>{1.8, 1.2}));
    EXPECT_EQ(device->format_products.at(0).waiting_gain.y, std::vector<double>{1.5});
    EXPECT_EQ(device->format_products.at(1).inputs, 576);
    EXPECT_DOUBLE_EQ(share_at(device->cached_products, 1, 1e6), 2.75);
    EXPECT_DOUBLE_EQ(share_at(device->format_products.at(0).cached, 1, 1e6), 3.25);
    EXPECT_DOUBLE_EQ(share_at(device->from_memory, 1e8), 0.5);
    EXPECT_DOUBLE_EQ(share_at(device->cached_attention, 4, 100), 1.375);
  }
  for (const std::string gain : {"1.8", "1.5", "2.75", "3.25", "1.125"}) {
    std::string text = kText;
    text.replace(text.find(gain), gain.size(), "0.9");
    EXPECT_THAT(parse_calibration(text).status().message(), HasSubstr("must be 1 or more")) << gain;
  }
}

TEST(Calibration, TimesGrowInProportionBeyondTheLastPoint) {
  const Curve curve = parse_calibration(kText).value().links[0].all_reduce_us;
  EXPECT_DOUBLE_EQ(time_at(curve, 10), 4);
  EXPECT_DOUBLE_EQ(time_at(curve, 2000), 6);
  EXPECT_DOUBLE_EQ(time_at(curve, 6000), 16);
}

TEST(Calibration, SurvivesItsText) {
  const auto calibration = parse_calibration(kText);
  ASSERT_TRUE(calibration.ok());
  const std::string text = to_yaml(*calibration);
  const auto again = parse_calibration(text);
  ASSERT_TRUE(again.ok()) << again.status().message() << "\n" << text;
  EXPECT_EQ(to_yaml(*again), text);
  EXPECT_EQ(again->devices[0].source.machine, "a \"quoted\" machine");
  EXPECT_EQ(again->devices[0].products.share, calibration->devices[0].products.share);
  ASSERT_EQ(again->devices[0].format_products.size(), 2u);
  const FormatProducts& quantised = again->devices[0].format_products[0];
  EXPECT_EQ(quantised.format, Format::kQ4_1);
  EXPECT_EQ(quantised.flops, 2e14);
  EXPECT_DOUBLE_EQ(share_at(quantised.table, 7, 1e7), 0.5);
  EXPECT_DOUBLE_EQ(share_at(again->devices[0].group_attention, 2, 100), 0.4);
  EXPECT_EQ(again->devices[0].logits_per_s, 4e9);
  EXPECT_EQ(again->links[0].all_reduce_us.y, calibration->links[0].all_reduce_us.y);
  EXPECT_EQ(again->links[0].described_bytes_per_s, 0);
  EXPECT_EQ(again->links[1].described_bytes_per_s, 1.25e9);
  EXPECT_EQ(again->links[1].described_latency_us, 31);
  EXPECT_EQ(again->links[1].stage_bytes, 7e6);
}

TEST(Calibration, MeasuredEntriesTakeThePlaceOfTheSameOnes) {
  Calibration shipped = *parse_calibration(kText);
  Calibration measured;
  measured.devices.push_back({.name = "Some GPU", .source = {}, .read_bytes_per_s = 4e12, .flops = 8e14});
  measured.links.push_back({.link = LinkKind::kNvlink, .device = "", .source = {}, .ranks = 4});
  shipped.replace_with(measured);
  ASSERT_EQ(shipped.devices.size(), 1u);
  EXPECT_EQ(shipped.find_device("Some GPU")->read_bytes_per_s, 4e12);
  EXPECT_EQ(shipped.links.size(), 3u) << "another number of ranks is another entry";
  measured.links = {shipped.links[1]};
  measured.links[0].point_to_point_us.y = {50};
  shipped.replace_with(measured);
  ASSERT_EQ(shipped.links.size(), 3u);
  EXPECT_EQ(shipped.links[2].point_to_point_us.y, std::vector<double>{50});
  measured.links[0].described_latency_us = 30;
  shipped.replace_with(measured);
  EXPECT_EQ(shipped.links.size(), 4u) << "another path is another entry";
}

struct Bad {
  const char* text;
  const char* message;
};

class BadCalibration : public ::testing::TestWithParam<Bad> {};

TEST_P(BadCalibration, IsRefusedWithItsLine) {
  const auto refused = parse_calibration(GetParam().text);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.status().message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadCalibration,
    ::testing::Values(
        Bad{"devices:\n  - name: A\n    colour: 3\n", "line 3: a device has no key \"colour\""},
        Bad{"devices:\n  - name: A\n    flops: 1\n", "line 2: \"A\" needs read_bytes_per_s"},
        Bad{"devices:\n  - name: A\n    flops: -1\n", "line 3: flops must be a number that is not negative"},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, product_tokens: [1, 2]}\n", "line 2: the shares of \"A\" need a row"},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, group_attention_heads: [1]}\n",
            "line 2: the shares of \"A\"'s attention need a row for each number of heads"},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, decode_attention_share: {x: [1], y: [3]}}\n",
            "shares above 0"},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, from_memory: {x: [1], y: [1.5]}}\n",
            "line 2: what \"A\" reads from memory must be shares, at most 1"},
        Bad{"devices:\n  - name: A\n    products:\n"
            "      - {format: Q4_1, inputs: 9, flops: 1, tokens: [1], bytes: [1], share: [[1]]}\n"
            "      - {format: Q4_1, inputs: 9, flops: 1, tokens: [1], bytes: [1], share: [[1]]}\n",
            "line 5: products of Q4_1 with as many inputs are there twice"},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, cached_product_tokens: [1]}\n",
            "line 2: the gains of \"A\"'s weights in caches need a row for each number of tokens"},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, products: [{format: Q5_K, flops: 1}]}\n",
            "line 2: there is no format of weights \"Q5_K\""},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, products: [{format: I32, flops: 1}]}\n",
            "there is no format of weights \"I32\""},
        Bad{"devices:\n  - {name: A, flops: 1, read_bytes_per_s: 1, products: [{format: F16, flops: 1}]}\n",
            "line 2: products of a format need format, flops above 0, tokens, bytes and share"},
        Bad{"devices:\n  - name: A\n    products:\n      - {format: F16, flops: 1, tokens: [1, 2], bytes: [1], share: [[1]]}\n",
            "line 4: the shares of F16 need a row"},
        Bad{"devices:\n  - name: A\n    products:\n"
            "      - {format: F16, flops: 1, tokens: [1], bytes: [1], share: [[1]]}\n"
            "      - {format: F16, flops: 1, tokens: [1], bytes: [1], share: [[1]]}\n",
            "line 5: products of F16 are there twice"},
        Bad{"devices:\n  - name: A\n    products:\n      - {format: F16, colour: 1}\n",
            "line 4: products of a format have no key \"colour\""},
        Bad{"links:\n  - link: string\n", "line 2: there is no link \"string\""},
        Bad{"links:\n  - link: NVLink\n    all_reduce_us: {x: [2, 1], y: [1, 1]}\n", "line 3: all_reduce_us.x must ascend"},
        Bad{"links:\n  - link: NVLink\n    all_reduce_us: {x: [1, 2], y: [1]}\n", "line 3: all_reduce_us needs x and y"},
        Bad{"links:\n  - link: NVLink\n    ranks: 1\n", "line 3: ranks must be 2 or more"},
        Bad{"cables: []\n", "line 1: a calibration has no key \"cables\""}));

}  // namespace
}  // namespace skein
