#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "coordinator/http/message.h"

namespace skein {

// One key a line; empty lines and lines that begin with # are skipped. A key is 8 to 512 printable ASCII characters
// without spaces. At most 10,000 keys.
Result<std::vector<std::string>> load_api_keys(const std::string& path);

// Who may ask for what. Immutable after start.
struct AccessPolicy {
  std::vector<std::string> api_keys;  // none: no key is asked for
  // Answered without a key, for probes.
  std::vector<std::string> open_paths = {"/livez", "/readyz", "/health"};
  std::vector<std::string> allowed_origins;  // for browsers; "*": every origin

  // The 401 for a request that needs a key and shows none of ours. Compares in constant time.
  std::optional<HttpError> refuse(const HttpRequest& request) const;
  // The value for Access-Control-Allow-Origin, or nothing.
  std::optional<std::string> allowed_origin(const HttpRequest& request) const;
};

bool is_preflight(const HttpRequest& request);
// Answers a preflight: the origin's rights where it is allowed, none otherwise.
HttpResponse preflight_response(const AccessPolicy& policy, const HttpRequest& request);

}  // namespace skein
