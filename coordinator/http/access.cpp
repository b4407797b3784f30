#include "coordinator/http/access.h"

#include <algorithm>
#include <fstream>

namespace skein {
namespace {

constexpr size_t kKeysMax = 10'000;
constexpr size_t kKeyBytesMin = 8;
constexpr size_t kKeyBytesMax = 512;

// Takes the same time wherever the texts differ; only the presented text's length shows.
bool equal_in_constant_time(std::string_view presented, std::string_view key) {
  unsigned difference = presented.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < presented.size(); ++i) {
    difference |= static_cast<unsigned char>(presented[i]) ^
                  static_cast<unsigned char>(key[i % key.size()]);
  }
  return difference == 0;
}

std::string_view bearer_token(const HttpRequest& request) {
  const std::string* value = request.header("authorization");
  if (value == nullptr || value->size() < 7) return {};
  std::string scheme = value->substr(0, 7);
  for (char& c : scheme) c = static_cast<char>(c | 0x20);
  if (scheme != "bearer ") return {};
  std::string_view token = std::string_view(*value).substr(7);
  while (!token.empty() && token.front() == ' ') token.remove_prefix(1);
  return token;
}

bool is_key(std::string_view text) {
  const auto printable = [](unsigned char c) { return c > 0x20 && c < 0x7F; };
  return text.size() >= kKeyBytesMin && text.size() <= kKeyBytesMax &&
         std::all_of(text.begin(), text.end(), printable);
}

}  // namespace

Result<std::vector<std::string>> load_api_keys(const std::string& path) {
  std::ifstream file(path);
  if (!file) return not_found("The API key file " + path + " cannot be read.");
  std::vector<std::string> keys;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    if (!is_key(line)) {
      return invalid_argument("Line " + std::to_string(number) + " of the API key file " + path +
                              " is no key: 8 to 512 printable characters without spaces.");
    }
    if (keys.size() == kKeysMax) {
      return invalid_argument("The API key file " + path + " holds more than " +
                              std::to_string(kKeysMax) + " keys.");
    }
    keys.push_back(line);
  }
  if (keys.empty()) return invalid_argument("The API key file " + path + " holds no key.");
  return keys;
}

std::optional<HttpError> AccessPolicy::refuse(const HttpRequest& request) const {
  if (api_keys.empty()) return std::nullopt;
  if (std::find(open_paths.begin(), open_paths.end(), request.path) != open_paths.end()) {
    return std::nullopt;
  }
  const std::string_view token = bearer_token(request);
  bool known = false;
  for (const std::string& key : api_keys) known |= equal_in_constant_time(token, key);
  if (known) return std::nullopt;
  return HttpError{.status = 401,
                   .message = token.empty()
                                  ? "This server asks for an API key: Authorization: Bearer KEY."
                                  : "The API key is not one of this server's.",
                   .code = "invalid_api_key"};
}

std::optional<std::string> AccessPolicy::allowed_origin(const HttpRequest& request) const {
  const std::string* origin = request.header("origin");
  if (origin == nullptr) return std::nullopt;
  for (const std::string& allowed : allowed_origins) {
    if (allowed == "*") return "*";
    if (allowed == *origin) return *origin;
  }
  return std::nullopt;
}

bool is_preflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && request.header("origin") != nullptr &&
         request.header("access-control-request-method") != nullptr;
}

HttpResponse preflight_response(const AccessPolicy& policy, const HttpRequest& request) {
  HttpResponse response{.status = 204, .content_type = ""};
  if (!policy.allowed_origin(request)) return response;
  response.headers.push_back({"Access-Control-Allow-Methods", "GET, POST, OPTIONS"});
  if (const std::string* names = request.header("access-control-request-headers")) {
    response.headers.push_back({"Access-Control-Allow-Headers", *names});
  }
  response.headers.push_back({"Access-Control-Max-Age", "600"});
  return response;
}

}  // namespace skein
