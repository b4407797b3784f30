#include "coordinator/text/decoder.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

constexpr int kDepthMax = 8;
constexpr int64_t kStripMax = 1024;

// Reads the steps in order. Order matters: steps on tokens, one reading of bytes, steps on what
// that made, one fusing of all, and then only the start of the text can be stripped.
class DecoderReader {
 public:
  Status read(const Json& json, int depth) {
    const JsonFields fields(json, "decoder");
    ASSIGN_OR_RETURN(const std::string type, fields.string("type"));
    if (depth > kDepthMax) return fields.not_supported("such deep nesting");
    if (type == "Sequence") {
      ASSIGN_OR_RETURN(const Json::Array* const parts, fields.array("decoders"));
      for (const Json& part : *parts) RETURN_IF_ERROR(read(part, depth + 1));
      return {};
    }
    if (type == "Fuse") {
      fused_ = true;
      return {};
    }
    if (type == "ByteLevel") return bytes(fields, Decoder::Bytes::kSymbols);
    if (type == "ByteFallback") return bytes(fields, Decoder::Bytes::kFallback);
    if (type == "Strip") return strip(fields);
    if (type == "Replace") return replace(fields);
    if (type == "Metaspace") return metaspace(fields);
    return fields.not_supported("the type " + quoted(type));
  }

  Decoder::Options take() { return std::move(options_); }

 private:
  Status bytes(const JsonFields& fields, Decoder::Bytes kind) {
    if (fused_ || options_.bytes != Decoder::Bytes::kNone) {
      return fields.not_supported("reading bytes behind Fuse or a second time");
    }
    options_.bytes = kind;
    // ByteLevel makes one text of all tokens.
    if (kind == Decoder::Bytes::kSymbols) fused_ = true;
    return {};
  }

  Status step(const JsonFields& fields, Decoder::Step step) {
    if (fused_) return fields.not_supported("this step behind Fuse or ByteLevel");
    auto& steps = options_.bytes == Decoder::Bytes::kNone ? options_.before : options_.behind;
    steps.push_back(std::move(step));
    return {};
  }

  Status strip(const JsonFields& fields) {
    ASSIGN_OR_RETURN(const std::string character, fields.string("content"));
    ASSIGN_OR_RETURN(const int64_t left, fields.integer("start", 0));
    ASSIGN_OR_RETURN(const int64_t right, fields.integer("stop", 0));
    if (character.empty() || character_length(character[0]) != character.size()) {
      return fields.wrong("content", "one character");
    }
    if (left < 0 || left > kStripMax) return fields.wrong("start", "0 to 1024");
    if (right < 0 || right > kStripMax) return fields.wrong("stop", "0 to 1024");
    const Decoder::Strip strip{character, static_cast<size_t>(left), static_cast<size_t>(right)};
    if (!fused_) return step(fields, strip);
    if (right > 0 || !options_.text_start.character.empty()) {
      return fields.not_supported("stripping a text's end, or its start twice,");
    }
    options_.text_start = strip;
    return {};
  }

  Status replace(const JsonFields& fields) {
    ASSIGN_OR_RETURN(const Json* const pattern, fields.object("pattern"));
    const Json* from = pattern->find("String");
    if (from == nullptr || !from->is_string() || from->as_string().empty()) {
      return fields.not_supported("replacing a pattern that is no fixed text");
    }
    ASSIGN_OR_RETURN(std::string to, fields.string("content"));
    return step(fields, Decoder::Replace{from->as_string(), std::move(to)});
  }

  Status metaspace(const JsonFields& fields) {
    ASSIGN_OR_RETURN(std::string mark, fields.string("replacement"));
    if (mark.empty() || character_length(mark[0]) != mark.size()) {
      return fields.wrong("replacement", "one character");
    }
    ASSIGN_OR_RETURN(const std::string scheme, fields.string("prepend_scheme", "always"));
    ASSIGN_OR_RETURN(const bool prefix, fields.boolean("add_prefix_space", true));
    return step(fields, Decoder::Metaspace{std::move(mark), prefix && scheme != "never"});
  }

  Decoder::Options options_;
  bool fused_ = false;
};

}  // namespace

Result<Decoder> Decoder::parse(const Json* json) {
  if (json == nullptr || json->is_null()) return Decoder(Options{.separator = " "});
  DecoderReader reader;
  RETURN_IF_ERROR(reader.read(*json, 0));
  return Decoder(reader.take());
}

}  // namespace skein::text
