#include "coordinator/cli/remote.h"

#include "base/json.h"
#include "model/mapped_file.h"

namespace skein {

Result<HttpTarget> remote_target(const std::string& url, const std::string& api_key_file) {
  ASSIGN_OR_RETURN(HttpTarget target, parse_url(url));
  if (!api_key_file.empty()) {
    ASSIGN_OR_RETURN(const std::string key, read_file(api_key_file, 1 << 20));
    target.api_key = key.substr(0, key.find('\n'));
  }
  return target;
}

Result<std::string> first_model(const HttpTarget& target) {
  ASSIGN_OR_RETURN(const HttpReply reply, http_get(target, "/v1/models"));
  ASSIGN_OR_RETURN(const Json json, parse_json(reply.body));
  const Json* data = json.find("data");
  if (data != nullptr && data->is_array() && !data->as_array().empty()) {
    const Json* id = data->as_array()[0].find("id");
    if (id != nullptr && id->is_string()) return id->as_string();
  }
  return unavailable("the server names no model (status " + std::to_string(reply.status) + "); is an --api-key-file needed?");
}

}  // namespace skein
