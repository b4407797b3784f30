// skein_tokenize FILE [CONFIG]: FILE is a tokenizer.json or a .gguf, CONFIG a
// tokenizer_config.json. For each line of standard input, a JSON string, prints {"ids": [...],
// "bare": [...], "text": "...", "all": "..."}: the ids with and without special tokens added, and
// the first decoded without and with special tokens. A line may also be an array of ids: then only
// "text" and "all" are printed. Decoding in pieces must give the same text, or the program fails.

#include <fstream>
#include <iostream>
#include <sstream>

#include "coordinator/text/tokenizer.h"
#include "model/gguf.h"

namespace skein {
namespace {

Result<Json> read_json(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return not_found("cannot read " + path);
  std::ostringstream text;
  text << in.rdbuf();
  return parse_json(text.str());
}

Result<std::unique_ptr<Tokenizer>> load(const std::string& path, const std::string& config_path) {
  if (path.ends_with(".gguf")) {
    ASSIGN_OR_RETURN(const auto file, GgufFile::open(path));
    return Tokenizer::from_gguf(*file);
  }
  ASSIGN_OR_RETURN(const Json tokenizer, read_json(path));
  ASSIGN_OR_RETURN(const Json config,
                   config_path.empty() ? Result<Json>(Json::object()) : read_json(config_path));
  return Tokenizer::from_json(tokenizer, config);
}

std::string to_json(const std::vector<int32_t>& ids) {
  std::string out = "[";
  for (const int32_t id : ids) {
    if (out.size() > 1) out += ',';
    out += std::to_string(id);
  }
  return out + "]";
}

std::string in_pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  IncrementalDecoder decoder(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

Status append_texts(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, std::string* out) {
  for (const bool skip : {true, false}) {
    const std::string decoded = tokenizer.decode(ids, skip);
    if (in_pieces(tokenizer, ids, skip) != decoded) {
      return Status(Code::kInternal, "decoding in pieces differs for " + to_json(ids));
    }
    *out += skip ? "\"text\":" : ",\"all\":";
    append_json_string(decoded, out);
  }
  return {};
}

Result<std::string> answer(const Tokenizer& tokenizer, const std::string& line) {
  ASSIGN_OR_RETURN(const Json given, parse_json(line));
  std::vector<int32_t> ids;
  std::string out = "{";
  if (given.is_array()) {
    for (const Json& id : given.as_array()) ids.push_back(static_cast<int32_t>(id.as_int()));
  } else {
    ASSIGN_OR_RETURN(ids, tokenizer.encode(given.as_string(), true));
    ASSIGN_OR_RETURN(const std::vector<int32_t> bare, tokenizer.encode(given.as_string(), false));
    out += "\"ids\":" + to_json(ids) + ",\"bare\":" + to_json(bare) + ",";
  }
  RETURN_IF_ERROR(append_texts(tokenizer, ids, &out));
  return out + "}";
}

Status run(const std::string& path, const std::string& config) {
  ASSIGN_OR_RETURN(const auto tokenizer, load(path, config));
  for (std::string line; std::getline(std::cin, line);) {
    ASSIGN_OR_RETURN(const std::string result, answer(*tokenizer, line));
    std::cout << result << '\n';
  }
  return {};
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::cerr << "usage: skein_tokenize FILE [CONFIG]\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  const skein::Status status = skein::run(argv[1], argc > 2 ? argv[2] : "");
  if (!status.ok()) std::cerr << status.message() << '\n';
  return status.ok() ? 0 : 1;
}
