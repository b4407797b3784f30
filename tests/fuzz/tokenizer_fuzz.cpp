#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "coordinator/text/tokenizer.h"

namespace skein {
namespace {

constexpr std::string_view kText =
    "a <s>ab\t'S \r\n 12,345 é e\u0301 \u4F60\u597D \U0001F600<|end|>\u2581\u2581 "
    "aaaaaaaaaaaaaaaaab ";

void check(bool condition) {
  if (!condition) __builtin_trap();
}

// Whatever was encoded decodes to the same text at once and in pieces.
void encode_and_decode(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text, true);
  if (!ids.ok()) return;
  for (const int32_t id : *ids) check(id >= 0 && id < tokenizer.size());
  for (const bool skip : {true, false}) {
    IncrementalDecoder decoder(tokenizer, skip);
    std::string pieces;
    for (const int32_t id : *ids) pieces += decoder.push(id);
    check(pieces + decoder.finish() == tokenizer.decode(*ids, skip));
  }
  if (!ids->empty()) tokenizer.token_bytes(ids->front());
}

}  // namespace
}  // namespace skein

// Any bytes are a tokenizer.json that loads and encodes, or are refused.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto json =
      skein::parse_json(bytes, {.bytes_max = 64 << 10, .depth_max = 32, .values_max = 4096});
  if (!json.ok()) return 0;
  const auto tokenizer = skein::Tokenizer::from_json(*json, *json);
  if (!tokenizer.ok()) return 0;
  skein::encode_and_decode(**tokenizer, skein::kText);
  skein::encode_and_decode(**tokenizer, bytes.substr(0, 256));
  return 0;
}
