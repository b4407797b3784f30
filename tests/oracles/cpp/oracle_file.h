#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.h"

// What transformers said: tests/oracles/README.md describes the files.

namespace skein::testing {

struct Prompt {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;
  std::vector<int32_t> greedy;
  std::vector<double> greedy_logprobs;
  std::vector<double> greedy_margins;  // first minus second log-probability
  // The likeliest tokens at some positions, likeliest first.
  std::vector<int32_t> top_positions;
  std::vector<std::vector<int32_t>> top_ids;
  std::vector<std::vector<double>> top_logprobs;
};

inline std::vector<int32_t> int_list(const Json& json) {
  std::vector<int32_t> list;
  for (const Json& item : json.as_array()) list.push_back(static_cast<int32_t>(item.as_int()));
  return list;
}

inline std::vector<double> real_list(const Json& json) {
  std::vector<double> list;
  for (const Json& item : json.as_array()) list.push_back(item.as_double());
  return list;
}

template <typename List>
auto lists(const Json& json, List list) {
  std::vector<decltype(list(json))> all;
  for (const Json& item : json.as_array()) all.push_back(list(item));
  return all;
}

inline std::vector<Prompt> read_prompts(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  const Result<Json> json = parse_json(text.str());
  EXPECT_TRUE(json.ok()) << path;
  std::vector<Prompt> prompts;
  for (const Json& prompt : json->find("prompts")->as_array()) {
    const Json& greedy = *prompt.find("greedy");
    prompts.push_back({.tokens = int_list(*prompt.find("tokens")),
                       .logprobs = real_list(*prompt.find("logprobs")),
                       .greedy = int_list(*greedy.find("tokens")),
                       .greedy_logprobs = real_list(*greedy.find("logprobs")),
                       .greedy_margins = real_list(*greedy.find("margins")),
                       .top_positions = int_list(*prompt.find("top_positions")),
                       .top_ids = lists(*prompt.find("top_ids"), int_list),
                       .top_logprobs = lists(*prompt.find("top_logprobs"), real_list)});
  }
  return prompts;
}

}  // namespace skein::testing
