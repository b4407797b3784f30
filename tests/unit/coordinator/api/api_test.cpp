#include "coordinator/api/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/coordinator/api/fakes.h"

namespace skein {
namespace {

using testing::ApiUnderTest;
using testing::fake_model;

TEST(Api, AnswersPlainRoutes) {
  ApiUnderTest under;
  EXPECT_EQ(under.call("GET", "/livez")->response.status, 200);
  EXPECT_EQ(under.call("GET", "/metrics")->response.body, "# fake\n");
  EXPECT_FALSE(under.call("GET", "/version")->json().find("version")->as_string().empty());
  EXPECT_EQ(under.call("GET", "/v1/skein/nodes")->response.body, R"({"nodes":[]})");
  const Json list = under.call("GET", "/v1/models")->json();
  EXPECT_EQ(list.find("object")->as_string(), "list");
  EXPECT_EQ(list.find("data")->as_array().at(0).dump(),
            R"({"id":"org/fake","object":"model","created":1700000000,"owned_by":"skein","root":"/models/fake",)"
            R"("parent":null,"max_model_len":512,"permission":[]})");
}

TEST(Api, FindsTheModelByName) {
  ApiUnderTest under;
  EXPECT_EQ(under.call("GET", "/v1/models/org/fake")->json().find("id")->as_string(), "org/fake");
  EXPECT_EQ(under.call("GET", "/v1/models/org%2Ffake")->json().find("id")->as_string(), "org/fake");
  for (const char* path : {"/v1/models/other", "/v1/models/", "/v1/models/org%2", "/v1/models/%zz"}) {
    const auto writer = under.call("GET", path);
    EXPECT_EQ(writer->response.status, 404) << path;
    EXPECT_EQ(writer->json().find("error")->find("code")->as_string(), "model_not_found") << path;
  }
}

TEST(Api, RefusesUnknownPathsAndMethods) {
  ApiUnderTest under;
  for (const char* path : {"/", "", "/v1", "/v1/completions/", "/V1/completions", "/v1/embeddings", "*"}) {
    const auto writer = under.call("POST", path);
    EXPECT_EQ(writer->response.status, 404) << path;
    EXPECT_EQ(writer->json().find("error")->find("type")->as_string(), "invalid_request_error");
  }
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
    for (const char* method : {"GET", "PUT", "DELETE", "OPTIONS", "post"}) {
      const auto writer = under.call(method, path);
      EXPECT_EQ(writer->response.status, 405) << method << path;
      EXPECT_EQ(writer->response.headers.at(0).value, "POST");
    }
  }
  for (const char* path : {"/v1/models", "/v1/models/a", "/health", "/livez", "/readyz", "/metrics", "/version",
                           "/v1/skein/nodes"}) {
    EXPECT_EQ(under.call("POST", path)->response.status, 405) << path;
  }
}

TEST(Api, ReportsHealth) {
  ApiUnderTest under;
  for (const char* path : {"/health", "/readyz"}) {
    under.engine.health_now = {.ready = true, .draining = false, .replicas_ready = 1, .replicas = 2};
    EXPECT_EQ(under.call("GET", path)->response.status, 200);
    under.engine.health_now.ready = false;
    EXPECT_EQ(under.call("GET", path)->response.status, 503);
    under.engine.health_now = {.ready = true, .draining = true, .replicas_ready = 1, .replicas = 2};
    EXPECT_EQ(under.call("GET", path)->response.status, 503);
  }
  EXPECT_EQ(under.call("GET", "/livez")->response.status, 200);
}

TEST(Api, TakesNothingNewWhileDraining) {
  ApiUnderTest under;
  under.engine.health_now.draining = true;
  EXPECT_EQ(under.post("/v1/completions", R"({"prompt":"a"})")->response.status, 503);
  EXPECT_TRUE(under.engine.submitted.empty());
}

TEST(Api, WantsJsonAnnounced) {
  ApiUnderTest under;
  const std::string body = R"({"prompt":"a"})";
  for (const char* type : {"text/plain", "application/x-www-form-urlencoded", "", "application/jsonx", "application"}) {
    for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
      EXPECT_EQ(under.call("POST", path, body, {{"content-type", type}})->response.status, 415) << type;
    }
  }
  EXPECT_EQ(under.call("POST", "/v1/completions", body, {})->response.status, 415);
  for (const char* type : {"application/json", "Application/JSON; charset=utf-8", "application/json ; a=b"}) {
    EXPECT_EQ(under.call("POST", "/tokenize", body, {{"content-type", type}})->response.status, 200) << type;
  }
}

TEST(Api, RefusesBodiesThatAreNoObject) {
  ApiUnderTest under;
  for (const char* body : {"", " ", "{", "[]", "5", "\"a\"", "null", "{}x", "{\"a\":1,}", "\xff", "{'a':1}", "{\"a\":\"\xc3\"}"}) {
    for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
      const auto writer = under.post(path, body);
      EXPECT_EQ(writer->response.status, 400) << path << body;
      EXPECT_FALSE(writer->json().find("error")->find("message")->as_string().empty());
    }
  }
  EXPECT_EQ(under.post("/v1/completions", std::string(100'000, '['))->response.status, 400);
}

TEST(Api, BoundsTheJson) {
  ApiLimits limits;
  limits.json_bytes_max = 1000;
  limits.json_values_max = 100;
  ApiUnderTest under(fake_model(), limits);
  EXPECT_EQ(under.post("/tokenize", R"({"prompt":")" + std::string(1000, 'x') + "\"}")->response.status, 400);
  std::string ids = "1";
  for (int i = 0; i < 100; ++i) ids += ",1";
  EXPECT_EQ(under.post("/detokenize", "{\"tokens\":[" + ids + "]}")->response.status, 400);
}

TEST(Api, NamesTheModelItDoesNotServe) {
  ApiUnderTest under;
  const auto writer = under.post("/v1/completions", R"({"model":"other","prompt":"a"})");
  EXPECT_EQ(writer->response.status, 404);
  EXPECT_EQ(writer->json().find("error")->dump(),
            R"({"message":"The model `other` does not exist.","type":"invalid_request_error","param":"model",)"
            R"("code":"model_not_found"})");
}

TEST(Api, TakesARequestIdFromTheClient) {
  ApiUnderTest under;
  const auto id_for = [&](std::string given) {
    const auto writer = under.call("POST", "/v1/completions", R"({"prompt":"a"})",
                                   {{"content-type", "application/json"}, {"x-request-id", std::move(given)}});
    under.engine.send_text("b", FinishReason::kLength);
    return writer->json().find("id")->as_string();
  };
  EXPECT_EQ(id_for("trace-1.a_B"), "cmpl-trace-1.a_B");
  for (const char* odd : {"", "a b", "a\"b", "a\nb", "\xff"}) EXPECT_EQ(id_for(odd).size(), 5u + 32u) << odd;
  EXPECT_EQ(id_for(std::string(129, 'a')).size(), 5u + 32u);
}

TEST(Api, Tokenizes) {
  ApiUnderTest under;
  EXPECT_EQ(under.post("/tokenize", R"({"prompt":"ab"})")->response.body,
            R"({"count":3,"max_model_len":512,"tokens":[256,97,98],"token_strs":null})");
  EXPECT_EQ(under.post("/tokenize", R"({"prompt":"ab","add_special_tokens":false,"return_token_strs":true})")->response.body,
            R"({"count":2,"max_model_len":512,"tokens":[97,98],"token_strs":["a","b"]})");
  EXPECT_EQ(under.post("/tokenize", R"({"messages":[{"role":"u","content":"a"}],"add_generation_prompt":false})")
                ->json().find("count")->as_int(), 5);
  EXPECT_EQ(under.post("/tokenize", R"({"prompt":""})")->json().find("count")->as_int(), 1);
  for (const char* body : {"{}", R"({"prompt":5})", R"({"prompt":["a"]})", R"({"messages":5})", R"({"prompt":"a","model":"x"})",
                           R"({"prompt":"a","add_special_tokens":1})"}) {
    EXPECT_GE(under.post("/tokenize", body)->response.status, 400) << body;
  }
}

TEST(Api, Detokenizes) {
  ApiUnderTest under;
  EXPECT_EQ(under.post("/detokenize", R"({"tokens":[256,97,258]})")->response.body, R"({"prompt":"<s>ahello"})");
  EXPECT_EQ(under.post("/detokenize", R"({"tokens":[]})")->response.body, R"({"prompt":""})");
  for (const char* body : {"{}", R"({"tokens":5})", R"({"tokens":[-1]})", R"({"tokens":[261]})", R"({"tokens":["a"]})",
                           R"({"tokens":[1e300]})"}) {
    const auto writer = under.post("/detokenize", body);
    EXPECT_EQ(writer->response.status, 400) << body;
    EXPECT_EQ(writer->json().find("error")->find("param")->as_string(), "tokens") << body;
  }
}

TEST(Api, RefusesWhenTooManyRequestsWaitForText) {
  ApiUnderTest under;
  std::vector<std::shared_ptr<testing::FakeWriter>> writers;
  // The pool's thread may take jobs meanwhile, but their ends wait for run_one().
  std::mutex gate;
  gate.lock();
  ASSERT_TRUE(under.pool.submit([&] { std::lock_guard wait(gate); }, [] {}));
  int refused = 0;
  for (int i = 0; i < 12; ++i) {
    const auto writer = std::make_shared<testing::FakeWriter>();
    under.api.handle({.method = "POST", .path = "/tokenize", .query = {}, .headers = {{"content-type", "application/json"}},
                      .body = R"({"prompt":"a"})", .body_charge = nullptr},
                     writer);
    if (writer->ended) {
      EXPECT_EQ(writer->response.status, 503);
      ++refused;
    }
    writers.push_back(writer);
  }
  gate.unlock();
  EXPECT_GE(refused, 4);
  for (int i = 0; i < 13 - refused; ++i) under.calls.run_one();
  for (const auto& writer : writers) EXPECT_TRUE(writer->ended);
}

}  // namespace
}  // namespace skein
