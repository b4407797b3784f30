#include "coordinator/http/access.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace skein {
namespace {

HttpRequest request(std::string path, std::vector<HttpHeader> headers = {}) {
  return {.method = "GET", .path = std::move(path), .query = {}, .headers = std::move(headers),
          .body = {}, .body_charge = nullptr};
}

TEST(AccessPolicy, DeniesWithoutAKnownKey) {
  const AccessPolicy policy{.api_keys = {"first-key-1", "second-key-2"}, .allowed_origins = {}};
  const auto with = [&](std::string value) {
    return policy.refuse(request("/v1/models", {{"authorization", std::move(value)}}));
  };
  EXPECT_FALSE(with("Bearer first-key-1"));
  EXPECT_FALSE(with("Bearer second-key-2"));
  EXPECT_FALSE(with("bEARER   second-key-2"));
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer first-key-", "Bearer first-key-1x",
                            "Bearer first-key-1first-key-1", "Basic first-key-1", "first-key-1",
                            "Bearer first-key-2", "Bearer First-key-1", "Bearerfirst-key-1"}) {
    const auto error = with(wrong);
    ASSERT_TRUE(error) << wrong;
    EXPECT_EQ(error->status, 401);
    EXPECT_EQ(error->code, "invalid_api_key");
  }
  EXPECT_TRUE(policy.refuse(request("/v1/models")));
  EXPECT_TRUE(policy.refuse(request("/metrics")));
  EXPECT_TRUE(policy.refuse(request("/nothing")));
}

TEST(AccessPolicy, LeavesProbesOpen) {
  AccessPolicy policy{.api_keys = {"first-key-1"}, .allowed_origins = {}};
  for (const char* path : {"/livez", "/readyz", "/health"}) EXPECT_FALSE(policy.refuse(request(path)));
  policy.open_paths.push_back("/metrics");
  EXPECT_FALSE(policy.refuse(request("/metrics")));
  EXPECT_TRUE(policy.refuse(request("/livez/../v1/models")));
  EXPECT_FALSE(AccessPolicy{}.refuse(request("/v1/models")));
}

TEST(AccessPolicy, AllowsListedOrigins) {
  AccessPolicy policy{.api_keys = {}, .allowed_origins = {"https://a.example"}};
  const auto from = [&](std::string origin) {
    return policy.allowed_origin(request("/", {{"origin", std::move(origin)}}));
  };
  EXPECT_EQ(from("https://a.example"), "https://a.example");
  EXPECT_EQ(from("https://a.example.evil"), std::nullopt);
  EXPECT_EQ(from("null"), std::nullopt);
  EXPECT_EQ(policy.allowed_origin(request("/")), std::nullopt);
  policy.allowed_origins = {"*"};
  EXPECT_EQ(from("https://b.example"), "*");
}

TEST(AccessPolicy, AnswersPreflights) {
  const AccessPolicy policy{.api_keys = {"first-key-1"}, .allowed_origins = {"https://a.example"}};
  HttpRequest preflight = request("/v1/models", {{"origin", "https://a.example"},
                                                 {"access-control-request-method", "POST"},
                                                 {"access-control-request-headers", "authorization, x-y"}});
  EXPECT_FALSE(is_preflight(preflight));
  preflight.method = "OPTIONS";
  ASSERT_TRUE(is_preflight(preflight));
  const HttpResponse answer = preflight_response(policy, preflight);
  EXPECT_EQ(answer.status, 204);
  ASSERT_EQ(answer.headers.size(), 3u);
  EXPECT_EQ(answer.headers[1].value, "authorization, x-y");
  preflight.headers[0].value = "https://evil.example";
  EXPECT_TRUE(preflight_response(policy, preflight).headers.empty());
}

class KeyFile : public ::testing::Test {
 protected:
  Result<std::vector<std::string>> load(const std::string& text) {
    std::ofstream(path_) << text;
    return load_api_keys(path_);
  }
  ~KeyFile() override { std::remove(path_.c_str()); }

  const std::string path_ = ::testing::TempDir() + "skein-keys-" +
                            ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(KeyFile, HoldsOneKeyALine) {
  const auto keys = load("# ours\n\nfirst-key-1\r\nsecond-key-2  \n");
  ASSERT_TRUE(keys.ok()) << keys.status().message();
  EXPECT_EQ(*keys, (std::vector<std::string>{"first-key-1", "second-key-2"}));
}

TEST_F(KeyFile, RefusesWhatIsNoKey) {
  for (const char* text : {"", "# nothing\n", "short\n", "two words here\n", "tab\there-it-is\n", "caf\xc3\xa9-key-1\n"}) {
    EXPECT_FALSE(load(text).ok()) << text;
  }
  EXPECT_FALSE(load(std::string(513, 'x')).ok());
  EXPECT_NE(load("first-key-1\nbad key\n").status().message().find("Line 2"), std::string::npos);
  EXPECT_FALSE(load_api_keys("/nonexistent/keys").ok());
}

}  // namespace
}  // namespace skein
