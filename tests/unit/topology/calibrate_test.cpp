#include "topology/calibrate.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

// A device of 1 TB/s and 100 TFLOP/s that reaches what is said.
const std::vector<ProbeSample> kSamples = {
    // All of the reads, half of them, all of the products.
    {.what = "product", .format = "BF16", .tokens = 1, .size = 1e8, .bytes = 1e8, .flops = 1e8, .us = 100},
    {.what = "product", .format = "BF16", .tokens = 1, .size = 1e7, .bytes = 1e7, .flops = 1e7, .us = 20},
    {.what = "product", .format = "BF16", .tokens = 512, .size = 1e8, .bytes = 1e8, .flops = 1e11, .us = 1000},
    {.what = "product", .format = "BF16", .tokens = 512, .size = 1e7, .bytes = 1e7, .flops = 1e10, .us = 200},
    {.what = "decode_attention", .tokens = 1, .size = 1e6, .bytes = 1e6, .us = 4},
    {.what = "decode_attention", .tokens = 64, .size = 1e9, .bytes = 1e9, .us = 2000},
    {.what = "prefill_attention", .tokens = 128, .flops = 1e8, .us = 10},
    {.what = "prefill_attention", .tokens = 1024, .flops = 1e10, .us = 125},
    {.what = "norm", .tokens = 1, .bytes = 1e4, .us = 2},
    {.what = "norm", .tokens = 256, .bytes = 1e7, .us = 40},
};

TEST(CalibrateDevice, SharesAreOfTheBestThatWasReached) {
  const DeviceCalibration fit = calibrate_device({}, kSamples, 1);
  EXPECT_DOUBLE_EQ(fit.read_bytes_per_s, 1e12);
  EXPECT_DOUBLE_EQ(fit.flops, 1e14);
  EXPECT_EQ(fit.products.rows, (std::vector<double>{1, 512}));
  EXPECT_EQ(fit.products.columns, (std::vector<double>{1e7, 1e8}));
  EXPECT_DOUBLE_EQ(share_at(fit.products, 1, 1e8), 1);
  EXPECT_DOUBLE_EQ(share_at(fit.products, 1, 1e7), 0.5);
  EXPECT_DOUBLE_EQ(share_at(fit.products, 512, 1e7), 0.5);
  EXPECT_DOUBLE_EQ(share_at(fit.decode_attention_share, 1e9), 0.5);
  EXPECT_DOUBLE_EQ(fit.decode_attention_us, 4);
  EXPECT_DOUBLE_EQ(share_at(fit.prefill_attention_share, 1024), 0.8);
  EXPECT_DOUBLE_EQ(fit.prefill_attention_us, 10);
  EXPECT_DOUBLE_EQ(fit.layer_us, 4);
  EXPECT_DOUBLE_EQ(fit.row_bytes_share, 0.25);
}

TEST(CalibrateDevice, CoresShareTheReadsAndAddTheirProducts) {
  const DeviceCalibration fit = calibrate_device({}, kSamples, 4);
  EXPECT_DOUBLE_EQ(fit.read_bytes_per_s, 1e12);
  EXPECT_DOUBLE_EQ(fit.flops, 2.5e13);
  EXPECT_DOUBLE_EQ(share_at(fit.products, 512, 1e8), 1);
}

// Four-bit weights: a quarter of the bytes, twice the products.
TEST(CalibrateDevice, EachFormatHasCeilingAndSharesOfItsOwn) {
  std::vector<ProbeSample> samples = kSamples;
  samples.push_back(
      {.what = "product", .format = "Q4_1", .tokens = 1, .size = 4e7, .bytes = 4e7, .flops = 1.3e8, .us = 80});
  samples.push_back(
      {.what = "product", .format = "Q4_1", .tokens = 512, .size = 4e7, .bytes = 4e7, .flops = 6.4e10, .us = 320});
  const DeviceCalibration fit = calibrate_device({}, samples, 2);
  EXPECT_DOUBLE_EQ(fit.flops, 5e13) << "of bfloat16, whatever others reach";
  EXPECT_DOUBLE_EQ(share_at(fit.products, 512, 1e7), 0.5);
  ASSERT_EQ(fit.format_products.size(), 1u);
  const FormatProducts& quantised = fit.format_products[0];
  EXPECT_EQ(quantised.format, Format::kQ4_1);
  EXPECT_DOUBLE_EQ(quantised.flops, 1e14);
  EXPECT_DOUBLE_EQ(share_at(quantised.table, 1, 4e7), 0.5);
  EXPECT_DOUBLE_EQ(share_at(quantised.table, 512, 4e7), 1);
}

// A table for each number of inputs.
TEST(CalibrateDevice, ProductsOfCoresGoByTheirInputs) {
  const std::vector<ProbeSample> samples = {
      {.what = "read", .bytes = 1e8, .us = 1000},
      {.what = "product", .format = "Q4_1", .tokens = 1, .inputs = 576, .size = 2e6, .bytes = 2e6, .flops = 1, .us = 40},
      {.what = "product", .format = "Q4_1", .tokens = 1, .inputs = 2304, .size = 2e6, .bytes = 2e6, .flops = 1, .us = 25},
      {.what = "product", .format = "Q4_1", .tokens = 64, .inputs = 576, .size = 2e6, .bytes = 2e6, .flops = 1e6, .us = 20},
      {.what = "cached_product", .format = "Q4_1", .tokens = 1, .inputs = 576, .size = 2e6, .us = 20},
  };
  const DeviceCalibration fit = calibrate_device({}, samples, 2);
  ASSERT_EQ(fit.format_products.size(), 2u);
  const FormatProducts& few = fit.format_products[0];
  const FormatProducts& many = fit.format_products[1];
  EXPECT_EQ(few.inputs, 576);
  EXPECT_EQ(many.inputs, 2304);
  EXPECT_DOUBLE_EQ(share_at(few.table, 1, 2e6), 0.5);
  EXPECT_DOUBLE_EQ(share_at(many.table, 1, 2e6), 0.8);
  EXPECT_DOUBLE_EQ(share_at(few.cached, 1, 2e6), 2);
  EXPECT_TRUE(many.cached.rows.empty());
}

TEST(CalibrateDevice, WhatCoresDoBesideProducts) {
  std::vector<ProbeSample> samples = kSamples;
  samples.push_back({.what = "read", .bytes = 2e8, .us = 200});
  samples.push_back({.what = "turns", .tokens = 1, .size = 2e7, .bytes = 1e7, .us = 10});
  samples.push_back({.what = "turns", .tokens = 1, .size = 1e8, .bytes = 1e7, .us = 15});
  samples.push_back({.what = "turns", .tokens = 1, .size = 2e8, .bytes = 1e7, .us = 30});
  samples.push_back({.what = "aged", .tokens = 1, .size = 2e7, .bytes = 1e7, .age_us = 50, .us = 13.4});
  samples.push_back({.what = "aged", .tokens = 1, .size = 2e7, .bytes = 1e7, .age_us = 100, .us = 15});
  samples.push_back({.what = "aged", .tokens = 1, .size = 2e7, .bytes = 1e7, .age_us = 1000, .us = 40});
  samples.push_back({.what = "cached_product", .format = "BF16", .tokens = 1, .size = 1e7, .bytes = 1e7, .us = 8});
  samples.push_back({.what = "half_alone", .format = "BF16", .tokens = 1, .size = 5e6, .bytes = 5e6, .us = 10});
  samples.push_back({.what = "half_beside", .format = "BF16", .tokens = 1, .size = 5e6, .bytes = 5e6, .us = 16});
  samples.push_back({.what = "half_alone", .format = "BF16", .tokens = 1, .size = 1e6, .bytes = 1e6, .us = 5});
  samples.push_back({.what = "half_beside", .format = "BF16", .tokens = 1, .size = 1e6, .bytes = 1e6, .us = 4});
  samples.push_back({.what = "decode_attention", .tokens = 8, .size = 100, .group = 1, .bytes = 3e8, .us = 200});
  samples.push_back({.what = "decode_attention", .tokens = 8, .size = 100, .group = 4, .bytes = 1e8, .us = 500});
  samples.push_back({.what = "cached_attention", .tokens = 8, .size = 100, .group = 4, .bytes = 1e8, .us = 400});
  samples.push_back({.what = "cached_attention", .tokens = 8, .size = 100, .group = 1, .bytes = 3e8, .us = 250});
  samples.push_back({.what = "decode_launch", .us = 3});
  const auto work_on_rows = [&](const char* what, double tokens, double row_bytes, double us) {
    samples.push_back({.what = what, .tokens = tokens, .size = row_bytes, .bytes = tokens * row_bytes, .us = us});
  };
  work_on_rows("gate", 1, 1e4, 0.1);
  work_on_rows("gate", 100, 1e4, 2);
  work_on_rows("rope", 100, 1e4, 5);
  work_on_rows("norm", 1, 1e3, 0.01);
  work_on_rows("norm", 1, 1e4, 0.04);
  samples.push_back({.what = "sample", .tokens = 8, .size = 1000, .us = 2});
  samples.push_back({.what = "woken", .us = 90});
  const DeviceCalibration fit = calibrate_device({}, samples, 4);
  EXPECT_EQ(fit.wake_us, 90);
  EXPECT_GT(fit.sample_us, 0) << "other threads take their part of the cores";
  EXPECT_EQ(fit.waiting_gain.x, (std::vector<double>{1}));
  EXPECT_DOUBLE_EQ(fit.waiting_gain.y.at(0), 1.2) << "16 us became 10 while the others waited, and 4 became 5";
  EXPECT_DOUBLE_EQ(fit.read_bytes_per_s, 1e12) << "caches are faster";
  EXPECT_EQ(fit.from_memory.y, (std::vector<double>{0, 0.25, 1}));
  EXPECT_NEAR(fit.cache_decay_bytes_per_s, 8e11, 8e10) << "after 100 us as if 100 MB took turns instead of 20";
  EXPECT_DOUBLE_EQ(share_at(fit.cached_products, 1, 1e7), 2.5) << "20 us became 8";
  EXPECT_DOUBLE_EQ(share_at(fit.group_attention, 1, 100), 1.5) << "of keys in caches";
  EXPECT_DOUBLE_EQ(share_at(fit.group_attention, 4, 100), 0.2);
  EXPECT_DOUBLE_EQ(share_at(fit.cached_attention, 4, 100), 1.25);
  EXPECT_DOUBLE_EQ(share_at(fit.cached_attention, 1, 100), 1) << "never slower";
  EXPECT_TRUE(calibrate_device({}, kSamples, 1).group_attention.rows.empty());
  EXPECT_EQ(calibrate_device({}, kSamples, 1).sample_us, 0);
  DeviceCalibration before;
  before.cache_decay_bytes_per_s = 1;
  std::erase_if(samples, [](const ProbeSample& sample) { return sample.what == "aged"; });
  EXPECT_EQ(calibrate_device(before, samples, 4).cache_decay_bytes_per_s, 0) << "of other caches";
  EXPECT_DOUBLE_EQ(fit.decode_attention_us, 3);
  EXPECT_DOUBLE_EQ(share_at(fit.gates, 1, 1e4), 0.1);
  EXPECT_DOUBLE_EQ(share_at(fit.gates, 100, 1e4), 0.5);
  EXPECT_DOUBLE_EQ(share_at(fit.ropes, 100, 1e4), 0.2);
  EXPECT_DOUBLE_EQ(share_at(fit.norms, 1, 1e3), 0.1);
  EXPECT_DOUBLE_EQ(share_at(fit.norms, 1, 1e4), 0.25);
  EXPECT_DOUBLE_EQ(fit.layer_us, 0) << "norms of all widths and rows are in the table";
  EXPECT_DOUBLE_EQ(fit.logits_per_s, 1e9) << "of one core";
}

TEST(CalibrateDevice, KeepsWhatAnOlderOneKnewAndTheProbeDoesNotTell) {
  DeviceCalibration before;
  before.read_bytes_per_s = 7;
  before.layer_us = 5;
  before.step_us = 9;
  before.products = {.rows = {1}, .columns = {1}, .share = {{0.1}}};
  before.format_products = {{.format = Format::kQ8_0, .flops = 3, .table = before.products}};
  const DeviceCalibration fit = calibrate_device(before, kSamples, 1);
  EXPECT_DOUBLE_EQ(fit.step_us, 9);
  EXPECT_DOUBLE_EQ(fit.layer_us, 5);
  EXPECT_DOUBLE_EQ(fit.read_bytes_per_s, 1e12);
  EXPECT_EQ(fit.products.share.size(), 2u);
  ASSERT_EQ(fit.format_products.size(), 1u);
  EXPECT_DOUBLE_EQ(fit.format_products[0].flops, 3);
  EXPECT_DOUBLE_EQ(calibrate_device(before, {}, 1).read_bytes_per_s, 7);
}

TEST(CalibratePath, SaysWhichPathItIsOf) {
  const Path path{.link = LinkKind::kRoce, .bytes_per_s = 12.5e9, .latency_us = 8};
  const LinkCalibration fit = calibrate_path(path, {{.what = "point_to_point", .size = 1024, .us = 20}});
  EXPECT_EQ(fit.link, LinkKind::kRoce);
  EXPECT_EQ(fit.ranks, 2);
  EXPECT_EQ(fit.described_bytes_per_s, 12.5e9);
  EXPECT_EQ(fit.described_latency_us, 8);
  EXPECT_EQ(fit.point_to_point_us.y, std::vector<double>{20});
}

TEST(CarriedBytes, LeaveOutHowLongAMessageIsUnderWay) {
  EXPECT_DOUBLE_EQ(carried_bytes_per_s({.x = {1e3, 1e6, 4e6}, .y = {10'001, 11'000, 14'000}}), 1e9);
  EXPECT_DOUBLE_EQ(carried_bytes_per_s({.x = {1e3, 1e6}, .y = {5'000, 5'000}}), 2e8) << "no slower";
  EXPECT_DOUBLE_EQ(carried_bytes_per_s({.x = {1e3}, .y = {10}}), 1e8);
}

TEST(CalibrateDevice, MakesAFileThatCanBeRead) {
  Calibration calibration;
  std::vector<ProbeSample> samples = kSamples;
  samples.push_back(
      {.what = "product", .format = "Q8_0", .tokens = 4, .size = 4e7, .bytes = 4e7, .flops = 1e8, .us = 80});
  calibration.devices.push_back(calibrate_device({}, samples, 1));
  calibration.devices[0].name = "NVIDIA H200";
  calibration.links.push_back(calibrate_link(LinkKind::kNvlink, 2,
                                             {{.what = "all_reduce", .size = 4096, .us = 8},
                                              {.what = "all_reduce", .size = 1024, .us = 7},
                                              {.what = "point_to_point", .size = 1024, .us = 5},
                                              {.what = "library_bytes", .bytes = 3e8}}));
  const Result<Calibration> read = parse_calibration(to_yaml(calibration));
  ASSERT_TRUE(read.ok()) << read.status().message();
  ASSERT_EQ(read->devices[0].format_products.size(), 1u);
  EXPECT_EQ(read->devices[0].format_products[0].format, Format::kQ8_0);
  EXPECT_EQ(read->links[0].all_reduce_us.x, (std::vector<double>{1024, 4096}));
  EXPECT_EQ(read->links[0].all_reduce_us.y, (std::vector<double>{7, 8}));
  EXPECT_EQ(read->links[0].point_to_point_us.y, std::vector<double>{5});
  EXPECT_DOUBLE_EQ(read->links[0].library_bytes, 3e8);
}

}  // namespace
}  // namespace skein
