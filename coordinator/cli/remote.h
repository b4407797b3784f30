#pragma once

#include <string>

#include "base/status.h"
#include "coordinator/http/client.h"

namespace skein {

// The server at `url`, with the first key of `api_key_file` unless that is empty.
Result<HttpTarget> remote_target(const std::string& url, const std::string& api_key_file);

// Asks the server which model it serves: the first, where there are several.
Result<std::string> first_model(const HttpTarget& target);

}  // namespace skein
