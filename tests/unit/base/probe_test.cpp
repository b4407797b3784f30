#include "base/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skein {
namespace {

TEST(ProbeSpec, SaysTheSameAfterARoundTrip) {
  const ProbeSpec spec{.device = "cuda", .first_device = 3, .threads = 7, .spin = false, .output = "/tmp/x"};
  const Result<ProbeSpec> read = parse_probe_spec(to_json(spec));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(to_json(*read), to_json(spec));
  EXPECT_EQ(read->first_device, 3);
  EXPECT_FALSE(read->spin);
}

TEST(ProbeSpec, NamesWhatIsMissingOrOutOfRange) {
  Json json = to_json(ProbeSpec{});
  json.set("threads", 0);
  EXPECT_THAT(parse_probe_spec(json).status().message(), testing::HasSubstr("\"threads\""));
  EXPECT_THAT(parse_probe_spec(Json::object()).status().message(), testing::HasSubstr("\"device\""));
}

TEST(ProbeSamples, SayTheSameAfterARoundTrip) {
  const std::vector<ProbeSample> samples = {
      {.what = "product", .format = "Q4_1", .tokens = 1, .inputs = 7, .size = 2, .group = 6, .bytes = 3, .flops = 4,
       .age_us = 8, .us = 5}};
  const auto read = parse_probe_samples(to_json(samples));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(to_json(*read), to_json(samples));
  EXPECT_EQ(read->at(0).inputs, 7);
  EXPECT_EQ(read->at(0).age_us, 8);
}

TEST(ProbeSamples, RefuseWhatIsNoTime) {
  Json list = to_json(std::vector<ProbeSample>{{.what = "read", .us = 5}});
  list.as_array()[0].set("us", -1);
  EXPECT_THAT(parse_probe_samples(list).status().message(), testing::HasSubstr("\"us\""));
  list.as_array()[0].set("us", 1e300);
  EXPECT_THAT(parse_probe_samples(list).status().message(), testing::HasSubstr("\"us\""));
  EXPECT_FALSE(parse_probe_samples(Json::object()).ok());
  const std::vector<ProbeSample> too_many(kProbeSamplesMax + 1, {.what = "read", .us = 5});
  EXPECT_THAT(parse_probe_samples(to_json(too_many)).status().message(), testing::HasSubstr("at most 4096"));
}

}  // namespace
}  // namespace skein
