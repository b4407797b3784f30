#include "coordinator/http/request_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace skein {
namespace {

// What a parser made of a text: the requests it saw, then the status of its error (0: none).
struct Parsed {
  std::vector<HttpRequest> requests;
  std::vector<bool> keep_alive;
  int error = 0;
  bool started = false;
};

Parsed parse_pieces(const HttpLimits& limits, const std::vector<std::string_view>& pieces) {
  Parsed out;
  RequestParser parser(limits);
  for (std::string_view piece : pieces) {
    while (!piece.empty() && !parser.error()) {
      piece.remove_prefix(parser.feed(piece));
      if (!parser.done()) continue;
      out.keep_alive.push_back(parser.keep_alive());
      out.requests.push_back(parser.take());
    }
  }
  out.error = parser.error() ? parser.error()->status : 0;
  out.started = !parser.error() && parser.started();
  return out;
}

void expect_same(const Parsed& a, const Parsed& b, const std::string& text, size_t split) {
  ASSERT_EQ(a.error, b.error) << text << " split at " << split;
  ASSERT_EQ(a.started, b.started) << text << " split at " << split;
  ASSERT_EQ(a.keep_alive, b.keep_alive) << text << " split at " << split;
  ASSERT_EQ(a.requests.size(), b.requests.size()) << text << " split at " << split;
  for (size_t i = 0; i < a.requests.size(); ++i) {
    ASSERT_EQ(a.requests[i].method, b.requests[i].method);
    ASSERT_EQ(a.requests[i].path, b.requests[i].path);
    ASSERT_EQ(a.requests[i].query, b.requests[i].query);
    ASSERT_EQ(a.requests[i].body, b.requests[i].body) << text << " split at " << split;
    ASSERT_EQ(a.requests[i].headers.size(), b.requests[i].headers.size());
  }
}

// The same in one piece, in two at every offset, and byte by byte.
Parsed parse_all_ways(const std::string& text, const HttpLimits& limits = {}) {
  const Parsed whole = parse_pieces(limits, {text});
  const std::string_view view = text;
  for (size_t split = 0; split <= text.size(); ++split) {
    expect_same(whole, parse_pieces(limits, {view.substr(0, split), view.substr(split)}), text, split);
  }
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < text.size(); ++i) bytes.push_back(view.substr(i, 1));
  expect_same(whole, parse_pieces(limits, bytes), text, text.size() + 1);
  return whole;
}

struct Good {
  std::string text;
  std::vector<std::string> bodies;
  bool keep_alive = true;
};

TEST(RequestParser, TakesWellFormedRequestsHoweverTheyAreSplit) {
  const std::string post = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n";
  const std::vector<Good> table = {
      {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", {""}},
      {"GET / HTTP/1.1\r\nHost:\r\n\r\n", {""}},
      {"GET /a?b=c&d HTTP/1.1\r\nhOsT:  a  \r\nX-Empty:\r\n\r\n", {""}},
      {"GET http://example.org/a HTTP/1.1\r\nHost: a\r\n\r\n", {""}},
      {"GET http://example.org HTTP/1.1\r\nHost: a\r\n\r\n", {""}},
      {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {""}},
      {"GET / HTTP/1.0\r\n\r\n", {""}, false},
      {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", {""}},
      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE, close\r\n\r\n", {""}, false},
      {"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", {""}},
      {post + "Content-Length: 5\r\n\r\nhello", {"hello"}},
      {post + "Content-Length: 0\r\n\r\n", {""}},
      {post + "Content-Length: 0005\r\n\r\nhello", {"hello"}},
      {post + "Content-Length: 4\r\n\r\n\r\n\r\n", {"\r\n\r\n"}},
      {post + "Content-Encoding: identity\r\nContent-Length: 1\r\n\r\nx", {"x"}},
      {post + "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", {"x"}},
      {post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", {"hello"}},
      {post + "Transfer-Encoding: Chunked\r\n\r\nA;a=b;c=\"d\"\r\n0123456789\r\n0\r\n\r\n", {"0123456789"}},
      {post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n001\r\nc\r\n0\r\nX: y\r\n\r\n", {"abc"}},
      {post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {""}},
      {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n", {"\r\n"}},
      {post + "Content-Length: 2\r\n\r\nab" + post + "Content-Length: 1\r\n\r\nc", {"ab", "c"}},
      {post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", {"a", ""}},
      {"GET / HTTP/1.1\r\nHost: a\r\nX: \x80\xff caf\xc3\xa9\r\n\r\n", {""}},
  };
  for (const Good& row : table) {
    const Parsed parsed = parse_all_ways(row.text);
    EXPECT_EQ(parsed.error, 0) << row.text;
    ASSERT_EQ(parsed.requests.size(), row.bodies.size()) << row.text;
    for (size_t i = 0; i < row.bodies.size(); ++i) {
      EXPECT_EQ(parsed.requests[i].body, row.bodies[i]) << row.text;
    }
    EXPECT_EQ(parsed.keep_alive[0], row.keep_alive) << row.text;
    EXPECT_FALSE(parsed.started) << row.text;
  }
}

TEST(RequestParser, RefusesWhatTwoParsersMightReadDifferently) {
  const std::string get = "GET / HTTP/1.1\r\nHost: a\r\n";
  const std::string chunked = get + "Transfer-Encoding: chunked\r\n\r\n";
  const std::vector<std::pair<std::string, int>> table = {
      {"GET / HTTP/1.1\nHost: a\n\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400},
      {std::string("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 29), 400},
      {"GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n: a\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nH\xc3\xb6st: a\r\n\r\n", 400},
      {"GET\r\n\r\n", 400},
      {"GET /\r\n\r\n", 400},
      {"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
      {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", 505},
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {std::string(40, 'M') + " / HTTP/1.1\r\n", 400},
      {get + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400},
      {get + "Content-Length: 1, 1\r\n\r\nx", 400},
      {get + "Content-Length: +1\r\n\r\nx", 400},
      {get + "Content-Length: -1\r\n\r\nx", 400},
      {get + "Content-Length: 0x1\r\n\r\nx", 400},
      {get + "Content-Length: 1 1\r\n\r\nx", 400},
      {get + "Content-Length:\r\n\r\n", 400},
      {get + "Content-Length: 99999999999999999999999\r\n\r\n", 413},
      {get + "Content-Length: 18446744073709551616\r\n\r\n", 413},
      {get + "Content-Length: 8388609\r\n\r\n", 413},
      {get + "Content-Length: 999999999999999999\r\n\r\n", 413},
      {get + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {get + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
      {get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {get + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
      {get + "Transfer-Encoding: identity\r\n\r\n", 400},
      {get + "Transfer-Encoding: xchunked\r\n\r\n", 400},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {get + "Content-Encoding: gzip\r\n\r\n", 415},
      {get + "Expect: a pony\r\n\r\n", 417},
      {chunked + "\r\n", 400},
      {chunked + "g\r\n", 400},
      {chunked + "-1\r\n", 400},
      {chunked + " 1\r\na\r\n", 400},
      {chunked + "0x1\r\na\r\n", 400},
      {chunked + "1\na\n", 400},
      {chunked + "1\r\na0\r\n\r\n", 400},
      {chunked + "1;\x01\r\na\r\n", 400},
      {chunked + "ffffffffffffffff\r\n", 413},
      {chunked + "10000000000000001\r\n", 413},
      {chunked + std::string(100, 'f') + "\r\n", 413},
      {chunked + "800001\r\n", 413},
      {chunked + "1;" + std::string(2000, 'x') + "\r\na\r\n", 400},
      {chunked + "0\r\nTrailer: a\n\r\n", 400},
  };
  for (const auto& [text, status] : table) EXPECT_EQ(parse_all_ways(text).error, status) << text;
}

TEST(RequestParser, WaitsForWhatIsMissing) {
  const std::string text = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
  for (size_t length = 1; length < text.size(); ++length) {
    const Parsed parsed = parse_pieces({}, {std::string_view(text).substr(0, length)});
    EXPECT_EQ(parsed.error, 0) << length;
    EXPECT_TRUE(parsed.requests.empty()) << length;
    EXPECT_TRUE(parsed.started) << length;
  }
}

TEST(RequestParser, BoundsHeadsAndHeaders) {
  HttpLimits limits;
  limits.head_bytes_max = 200;
  limits.headers_max = 5;
  const std::string get = "GET / HTTP/1.1\r\nHost: a\r\n";
  EXPECT_EQ(parse_all_ways(get + "A: " + std::string(165, 'x') + "\r\n\r\n", limits).error, 0);
  EXPECT_EQ(parse_all_ways(get + "A: " + std::string(170, 'x') + "\r\n\r\n", limits).error, 431);
  EXPECT_EQ(parse_all_ways(get + std::string(300, 'x'), limits).error, 431);
  EXPECT_EQ(parse_all_ways("GET /" + std::string(300, 'x'), limits).error, 431);
  std::string blank;
  for (int i = 0; i < 101; ++i) blank += "\r\n";
  EXPECT_EQ(parse_all_ways(blank, limits).error, 431);
  EXPECT_EQ(parse_all_ways(get + "A: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", limits).error, 0);
  EXPECT_EQ(parse_all_ways(get + "A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", limits).error, 431);
  const std::string trailers = get + "Transfer-Encoding: chunked\r\n\r\n0\r\n";
  EXPECT_EQ(parse_all_ways(trailers + "T: " + std::string(200, 'x') + "\r\n\r\n", limits).error, 431);
}

TEST(RequestParser, BoundsBodies) {
  HttpLimits limits;
  limits.body_bytes_max = 8;
  const std::string post = "POST / HTTP/1.1\r\nHost: a\r\n";
  EXPECT_EQ(parse_all_ways(post + "Content-Length: 8\r\n\r\n12345678", limits).error, 0);
  EXPECT_EQ(parse_all_ways(post + "Content-Length: 9\r\n\r\n123456789", limits).error, 413);
  const std::string chunked = post + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n";
  EXPECT_EQ(parse_all_ways(chunked + "4\r\nabcd\r\n0\r\n\r\n", limits).error, 0);
  EXPECT_EQ(parse_all_ways(chunked + "5\r\nabcde\r\n0\r\n\r\n", limits).error, 413);
}

TEST(RequestParser, StopsAtTheEndOfTheHead) {
  const HttpLimits limits;
  RequestParser parser(limits);
  const std::string head = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
  EXPECT_EQ(parser.feed(head + "abc"), head.size());
  EXPECT_TRUE(parser.head_done());
  EXPECT_FALSE(parser.done());
  EXPECT_EQ(parser.content_length(), 3u);
  EXPECT_EQ(parser.feed("abcGET"), 3u);
  EXPECT_TRUE(parser.done());
}

}  // namespace
}  // namespace skein
