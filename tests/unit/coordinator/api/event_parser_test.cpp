#include "coordinator/http/event_parser.h"

#include <gtest/gtest.h>

#include <vector>

namespace skein {
namespace {

struct Events {
  Status feed(std::string_view bytes) {
    return parser.feed(bytes, [this](std::string_view data) {
      if (data == "refuse") return corrupt("refused");
      seen.emplace_back(data);
      return Status();
    });
  }

  EventParser parser;
  std::vector<std::string> seen;
};

TEST(EventParser, ReadsTheSameHoweverTheBytesArrive) {
  const std::string stream =
      ": ping\n\ndata: one\n\r\nevent: x\r\nid: 7\r\ndata:two\r\ndata: more\r\n\r\nretry: 3\ndata\n\ndata: [DONE]\n\n"
      "data: after\n\n";
  for (size_t first = 0; first <= stream.size(); ++first) {
    Events events;
    ASSERT_TRUE(events.feed(stream.substr(0, first)).ok());
    for (size_t i = first; i < stream.size(); ++i) ASSERT_TRUE(events.feed(stream.substr(i, 1)).ok());
    EXPECT_EQ(events.seen, (std::vector<std::string>{"one", "two\nmore", ""})) << first;
    EXPECT_TRUE(events.parser.done());
  }
}

TEST(EventParser, HandsOverNoEventBeforeItsEnd) {
  Events events;
  ASSERT_TRUE(events.feed("data: one\n").ok());
  EXPECT_TRUE(events.seen.empty());
  ASSERT_TRUE(events.feed("\n").ok());
  EXPECT_EQ(events.seen.size(), 1u);
  EXPECT_FALSE(events.parser.done());
}

TEST(EventParser, RefusesWhatIsNoEventStream) {
  Events html;
  EXPECT_EQ(html.feed("<html>\n").code(), Code::kCorrupt);
  Events json;
  EXPECT_NE(json.feed("{\"choices\": []}\n\n").message().find("{\"choices\""), std::string::npos);
}

TEST(EventParser, EndsWithTheFirstErrorOfItsReader) {
  Events events;
  EXPECT_EQ(events.feed("data: one\n\ndata: refuse\n\ndata: two\n\n").message(), "refused");
  EXPECT_EQ(events.seen.size(), 1u);
}

TEST(EventParser, BoundsAnEvent) {
  const std::string part(EventParser::kEventBytesMax / 2 + 1, 'x');
  Events line;
  ASSERT_TRUE(line.feed("data: " + part).ok());
  EXPECT_EQ(line.feed(part).code(), Code::kCorrupt);
  Events lines;
  ASSERT_TRUE(lines.feed("data: " + part + "\n").ok());
  EXPECT_EQ(lines.feed("data: " + part + "\n").code(), Code::kCorrupt);
}

}  // namespace
}  // namespace skein
