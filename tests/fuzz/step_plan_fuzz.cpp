#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "worker/step_plan.h"

namespace {

// Every value has one encoding: what decodes encodes to the very bytes.
template <typename Value>
void check_round_trip(const skein::Result<Value>& decoded, std::string_view bytes) {
  if (!decoded.ok()) {
    CHECK(!decoded.status().message().empty());
    return;
  }
  std::string encoded;
  encode(decoded.value(), &encoded);
  CHECK(encoded == bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  check_round_trip(skein::decode_step_plan(bytes), bytes);
  check_round_trip(skein::decode_step_result(bytes), bytes);
  return 0;
}
