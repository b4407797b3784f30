#include "comm/keys.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

namespace skein {
namespace {

constexpr size_t kKeyCharacters = 40;
constexpr std::string_view kZ85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
// The pairs of zmq_curve(7), which everyone knows.
constexpr std::string_view kPublished[] = {"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"};

Status check_key(std::string_view key) {
  if (key.size() != kKeyCharacters || key.find_first_not_of(kZ85) != std::string_view::npos) {
    return invalid_argument("\"" + std::string(key) + "\" is no key of 40 characters; `skein keys` makes some");
  }
  for (const std::string_view published : kPublished) {
    if (key == published) return invalid_argument("this key is printed in ZeroMQ's manual; `skein keys` makes one of your own");
  }
  return {};
}

Result<std::string> text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found("cannot read " + path + ": " + std::strerror(errno));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Calls take(line number, words) for each line that has words.
template <typename Take>
Status each_line(std::string_view text, Take take) {
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    const std::vector<std::string> found{std::istream_iterator<std::string>(words), {}};
    if (found.empty()) continue;
    RETURN_IF_ERROR(take(found).within("line " + std::to_string(number)));
  }
  return {};
}

// The key behind `label`; empty if there is none.
Result<std::string> find_key(std::string_view text, std::string_view label) {
  std::string key;
  RETURN_IF_ERROR(each_line(text, [&](const std::vector<std::string>& words) -> Status {
    if (words.size() != 2) return invalid_argument("must be a name and a key");
    RETURN_IF_ERROR(check_key(words[1]));
    if (words[0] == label) key = words[1];
    return {};
  }));
  return key;
}

}  // namespace

std::string public_key_text(const std::string& public_key) { return "public " + public_key + "\n"; }

std::string key_file_text(const KeyPair& pair) {
  return "# Keep this file secret.\n" + public_key_text(pair.public_key) + "secret " + pair.secret_key + "\n";
}

Result<KeyPair> read_key_file(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & 077) != 0) {
    return invalid_argument(path + " can be read by other users: chmod 600 " + path);
  }
  ASSIGN_OR_RETURN(const std::string text, text_of(path));
  KeyPair pair;
  const auto read = [&]() -> Status {
    ASSIGN_OR_RETURN(pair.public_key, find_key(text, "public"));
    ASSIGN_OR_RETURN(pair.secret_key, find_key(text, "secret"));
    if (pair.public_key.empty() || pair.secret_key.empty()) return invalid_argument("needs a public and a secret key");
    return {};
  };
  RETURN_IF_ERROR(read().within(path));
  return pair;
}

Result<std::string> read_public_key_file(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, text_of(path));
  Result<std::string> key = find_key(text, "public");
  if (!key.ok()) return key.status().within(path);
  if (key->empty()) return invalid_argument(path + ": needs a public key");
  const Result<std::string> secret = find_key(text, "secret");
  if (secret.ok() && !secret->empty()) {
    return invalid_argument(path + " has a secret key, and is of whoever has that: give the file with the public key alone, as "
                            "coordinator.pub");
  }
  return key;
}

Result<AllowList> parse_allow_list(std::string_view text) {
  AllowList list;
  std::map<std::string, std::string> keys;  // by name
  RETURN_IF_ERROR(each_line(text, [&](const std::vector<std::string>& words) -> Status {
    if (words.size() != 2) return invalid_argument("must be a node's name and its public key");
    RETURN_IF_ERROR(check_key(words[1]));
    if (!keys.emplace(words[0], words[1]).second) return invalid_argument("the node " + words[0] + " is there twice");
    if (!list.emplace(words[1], words[0]).second) {
      return invalid_argument(words[0] + " and " + list[words[1]] + " have the same key");
    }
    return {};
  }));
  return list;
}

Result<AllowList> read_allow_list(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, text_of(path));
  Result<AllowList> list = parse_allow_list(text);
  if (!list.ok()) return list.status().within(path);
  return list;
}

}  // namespace skein
