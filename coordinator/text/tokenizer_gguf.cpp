#include "coordinator/text/gguf_vocabulary.h"
#include "model/gguf.h"

namespace skein {
namespace {

Status wrong_type(const char* key) {
  return corrupt(std::string("GGUF: ") + key + " has the wrong type");
}

// A missing key leaves `*value` as it is.
template <typename T>
Status read(const GgufFile& file, const char* key, T* value) {
  const GgufValue* found = file.find(key);
  if (found == nullptr) return {};
  if (const T* held = std::get_if<T>(found)) {
    *value = *held;
    return {};
  }
  return wrong_type(key);
}

Status read_flag(const GgufFile& file, const char* key, std::optional<bool>* value) {
  if (file.find(key) == nullptr) return {};
  bool flag = false;
  RETURN_IF_ERROR(read(file, key, &flag));
  *value = flag;
  return {};
}

Status read_id(const GgufFile& file, const char* key, std::optional<int64_t>* value) {
  if (file.find(key) == nullptr) return {};
  ASSIGN_OR_RETURN(*value, file.integer(key));
  return {};
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_gguf(const GgufFile& file) {
  text::GgufVocabulary gguf;
  ASSIGN_OR_RETURN(gguf.model, file.string("tokenizer.ggml.model"));
  RETURN_IF_ERROR(read(file, "tokenizer.ggml.pre", &gguf.pre));
  RETURN_IF_ERROR(read(file, "tokenizer.ggml.tokens", &gguf.tokens));
  RETURN_IF_ERROR(read(file, "tokenizer.ggml.token_type", &gguf.types));
  RETURN_IF_ERROR(read(file, "tokenizer.ggml.merges", &gguf.merges));
  RETURN_IF_ERROR(read(file, "tokenizer.ggml.scores", &gguf.scores));
  RETURN_IF_ERROR(read_flag(file, "tokenizer.ggml.add_bos_token", &gguf.add_bos));
  RETURN_IF_ERROR(read_flag(file, "tokenizer.ggml.add_eos_token", &gguf.add_eos));
  RETURN_IF_ERROR(read_flag(file, "tokenizer.ggml.add_space_prefix", &gguf.add_space_prefix));
  RETURN_IF_ERROR(read_id(file, "tokenizer.ggml.bos_token_id", &gguf.bos));
  RETURN_IF_ERROR(read_id(file, "tokenizer.ggml.eos_token_id", &gguf.eos));
  RETURN_IF_ERROR(read_id(file, "tokenizer.ggml.unknown_token_id", &gguf.unknown));
  return text::tokenizer_from(std::move(gguf));
}

}  // namespace skein
