#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "comm/wire.h"

// Bytes of a peer: whatever decodes has one encoding, which decodes to the same again.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skein;
  Envelope envelope;
  const auto frame = decode_frame(std::string_view(reinterpret_cast<const char*>(data), size), &envelope);
  if (!frame.ok()) {
    CHECK(!frame.status().message().empty());
    return 0;
  }
  const std::string encoded = encode_frame(frame.value(), envelope);
  const auto again = decode_frame(encoded);
  CHECK(again.ok());
  CHECK(again.value().index() == frame.value().index());
  CHECK(encode_frame(again.value(), envelope) == encoded);
  return 0;
}
