#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "base/json.h"
#include "coordinator/cli/bench_report.h"
#include "coordinator/cli/bench_request.h"

// What the load generator sends, how it reads answers, and what it says of itself.

namespace skein {
namespace {

Json body_of(const RequestShape& shape, uint64_t index) {
  const Result<Json> body = parse_json(make_request(shape, index).body);
  EXPECT_TRUE(body.ok());
  return body.ok() ? *body : Json::object();
}

TEST(BenchRequest, HasExactlyTheLengthsAndIdsThatWereDrawn) {
  const RequestShape shape{.model = "m", .input_len = {3, 9}, .output_len = {5, 6}, .token_ids = {40, 49}};
  std::set<size_t> lengths;
  for (uint64_t index = 0; index < 200; ++index) {
    const Json body = body_of(shape, index);
    EXPECT_EQ(body.find("max_tokens")->as_int(), make_request(shape, index).output_len);
    const Json::Array& ids = body.find("prompt")->as_array();
    lengths.insert(ids.size());
    for (const Json& id : ids) {
      ASSERT_GE(id.as_int(), 40);
      ASSERT_LE(id.as_int(), 49);
    }
  }
  EXPECT_EQ(lengths, (std::set<size_t>{3, 4, 5, 6, 7, 8, 9}));
}

TEST(BenchRequest, FollowsFromSeedAndIndex) {
  RequestShape shape{.model = "m"};
  const std::string body = make_request(shape, 7).body;
  EXPECT_EQ(make_request(shape, 7).body, body);
  EXPECT_NE(make_request(shape, 8).body, body);
  shape.seed = 1;
  EXPECT_NE(make_request(shape, 7).body, body);
}

TEST(BenchRequest, AsksForWhatCountsTokens) {
  RequestShape shape{.model = "m"};
  EXPECT_EQ(*body_of(shape, 0).find("return_token_ids"), Json(true));
  EXPECT_EQ(*body_of(shape, 0).find("ignore_eos"), Json(true));
  shape.count_by = "usage";
  EXPECT_EQ(*body_of(shape, 0).find("stream_options")->find("continuous_usage_stats"), Json(true));
  shape.count_by = "events";
  shape.ignore_eos = false;
  for (const char* extension : {"return_token_ids", "ignore_eos"}) {
    EXPECT_EQ(body_of(shape, 0).find(extension), nullptr);
  }
}

TEST(BenchRequest, ChatsInWords) {
  const RequestShape shape{.endpoint = "/v1/chat/completions", .model = "m", .input_len = {12, 12}};
  const std::string text = body_of(shape, 0).find("messages")->as_array()[0].find("content")->as_string();
  EXPECT_EQ(std::count(text.begin(), text.end(), ' '), 11);
}

AnswerEvent event_of(std::string_view text) {
  const Result<AnswerEvent> event = read_event(text);
  EXPECT_TRUE(event.ok()) << text;
  return event.ok() ? *event : AnswerEvent{};
}

TEST(AnswerEvent, IsReadFromBothEndpoints) {
  const AnswerEvent completion = event_of(R"({"choices":[{"text":"a","token_ids":[1,2]}],"usage":null})");
  EXPECT_EQ(completion.token_ids, 2);
  EXPECT_TRUE(completion.has_text);
  EXPECT_FALSE(completion.completion_tokens.has_value());
  EXPECT_FALSE(event_of(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})").has_text);
  EXPECT_TRUE(event_of(R"({"choices":[{"delta":{"reasoning_content":"b"}}]})").has_text);
  const AnswerEvent usage = event_of(R"({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}})");
  EXPECT_FALSE(usage.has_choice);
  EXPECT_EQ(usage.prompt_tokens, 3);
  EXPECT_EQ(usage.completion_tokens, 5);
  EXPECT_EQ(event_of(R"({"error":{"message":"no more"}})").error, "no more");
}

TEST(AnswerEvent, OfAnotherShapeIsRefused) {
  for (const char* bad : {"", "{", "[1]", "7", "{}", R"({"choices":7})"}) {
    EXPECT_EQ(read_event(bad).status().code(), Code::kCorrupt) << bad;
  }
  EXPECT_FALSE(event_of(R"({"choices":[],"usage":{"completion_tokens":-3}})").completion_tokens.has_value());
}

TEST(AnswerProgress, SharesTheTimeOfAnEventAmongItsTokens) {
  AnswerProgress progress;
  Durations gaps;
  progress.on_event({.token_ids = 0, .has_choice = true, .has_text = true}, 0.1, &gaps);
  EXPECT_FALSE(progress.has_tokens());
  progress.on_event({.token_ids = 1, .has_choice = true}, 0.5, &gaps);
  progress.on_event({.token_ids = 3, .has_choice = true}, 0.8, &gaps);
  progress.on_event({.completion_tokens = 4, .prompt_tokens = 9}, 0.9, &gaps);
  EXPECT_EQ(gaps.count(), 3);
  EXPECT_NEAR(gaps.mean_ms(), 100, 1e-6);
  EXPECT_EQ(progress.output_tokens(), 4);
  EXPECT_EQ(progress.prompt_tokens(), 9);
  const RequestTimes times = progress.times(1);
  EXPECT_EQ(times.ttft_s, 0.5);
  EXPECT_EQ(times.e2e_s, 1);
  EXPECT_NEAR(*times.tpot_s, 0.1, 1e-9);
}

TEST(AnswerProgress, CountsByUsageOrByEventsWhereThereAreNoIds) {
  Durations gaps;
  AnswerProgress usage;
  usage.on_event({.completion_tokens = 2, .has_choice = true}, 1, &gaps);
  usage.on_event({.completion_tokens = 2, .has_choice = true}, 2, &gaps);
  usage.on_event({.completion_tokens = 4, .has_choice = true}, 3, &gaps);
  EXPECT_EQ(gaps.count(), 2);
  EXPECT_EQ(usage.output_tokens(), 4);
  AnswerProgress events;
  events.on_event({.has_choice = true, .has_text = true}, 1, &gaps);
  EXPECT_EQ(events.output_tokens(), 1);
  EXPECT_FALSE(events.times(1).tpot_s.has_value());
}

TEST(ScheduleVerdict, NamesWhatKeptTheScheduleFromBeingMet) {
  LoadConfig config{.request_rate = 10};
  LoadResult kept;
  kept.lag.add(0.001, 1000);
  kept.held.add(0, 1000);
  EXPECT_EQ(schedule_verdict(config, kept), "");

  LoadResult late = kept;
  late.lag.add(0.5, 20);
  EXPECT_NE(schedule_verdict(config, late).find("the generator was late"), std::string::npos);
  LoadResult held = kept;
  held.held.add(0.5, 2000);
  EXPECT_NE(schedule_verdict(config, held).find("--max-concurrency"), std::string::npos);
  LoadResult busy = kept;
  busy.cpu_share = 0.97;
  EXPECT_NE(schedule_verdict(config, busy).find("the generator was the bottleneck"), std::string::npos);

  config.request_rate = std::numeric_limits<double>::infinity();
  EXPECT_EQ(schedule_verdict(config, late), "");
  EXPECT_EQ(schedule_verdict(config, held), "");
}

TEST(LoadJson, HasNullWhereNothingWasMeasured) {
  const LoadConfig config{.request_rate = 10};
  const Json json = load_json("http://a:1", config, LoadResult());
  EXPECT_TRUE(json.find("ttft_ms")->is_null());
  EXPECT_TRUE(json.find("goodput")->is_null());
  EXPECT_EQ(json.find("requests_per_second")->as_double(), 0);
  EXPECT_FALSE(load_text("http://a:1", config, LoadResult()).empty());
}

}  // namespace
}  // namespace skein
