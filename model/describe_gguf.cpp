#include <cstring>

#include "model/families.h"
#include "model/gguf.h"
#include "model/quoted.h"

namespace skein {
namespace {

// Reads "<architecture>.<key>" values; remembers the first error.
class MetadataReader {
 public:
  MetadataReader(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + ".") {}

  const Status& status() const { return status_; }
  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  bool has(std::string_view key) const { return file_.find(prefix_ + std::string(key)) != nullptr; }

  int integer(std::string_view key, int min, int max) {
    const auto value = file_.integer(prefix_ + std::string(key));
    if (!value.ok()) {
      fail(value.status());
      return min;
    }
    if (*value < min || *value > max) {
      fail(invalid_argument("the metadata value " + quoted(prefix_ + std::string(key)) + " is " +
                            std::to_string(*value) + "; it must be between " + std::to_string(min) +
                            " and " + std::to_string(max)));
      return min;
    }
    return static_cast<int>(*value);
  }

  int integer(std::string_view key, int min, int max, int fallback) {
    return has(key) ? integer(key, min, max) : fallback;
  }

  double real(std::string_view key) {
    const auto value = file_.real(prefix_ + std::string(key));
    if (!value.ok()) fail(value.status());
    return value.ok() ? *value : 0;
  }

  double real(std::string_view key, double fallback) { return has(key) ? real(key) : fallback; }

  std::string string(std::string_view key, const std::string& fallback) {
    if (!has(key)) return fallback;
    auto value = file_.string(prefix_ + std::string(key));
    if (!value.ok()) fail(value.status());
    return value.ok() ? *value : fallback;
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
  Status status_;
};

Result<const Family*> family_of(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string name, file.string("general.architecture"));
  const Family* family = find_family(Naming::kGguf, name);
  if (family != nullptr) return family;
  return unsupported("the architecture " + quoted(name) + " is not supported; the known ones are " +
                     known_families(Naming::kGguf));
}

int read_vocabulary(const GgufFile& file, MetadataReader& metadata) {
  const GgufValue* tokens = file.find("tokenizer.ggml.tokens");
  const auto* list = tokens == nullptr ? nullptr : std::get_if<std::vector<std::string>>(tokens);
  if (list == nullptr) return metadata.integer("vocab_size", 1, kVocabularyMax);
  if (list->empty() || list->size() > size_t{kVocabularyMax}) {
    metadata.fail(invalid_argument("\"tokenizer.ggml.tokens\" has " + std::to_string(list->size()) +
                                   " tokens; it must have between 1 and " +
                                   std::to_string(kVocabularyMax)));
    return 1;
  }
  return static_cast<int>(list->size());
}

void read_sizes(MetadataReader& metadata, ModelDescription* d) {
  d->hidden = metadata.integer("embedding_length", 1, kHiddenMax);
  d->intermediate = metadata.integer("feed_forward_length", 1, kIntermediateMax);
  d->q_heads = metadata.integer("attention.head_count", 1, kHeadsMax);
  d->kv_heads = metadata.integer("attention.head_count_kv", 1, kHeadsMax, d->q_heads);
  d->context_max = metadata.integer("context_length", 1, kContextMax);
  d->norm_epsilon = static_cast<float>(metadata.real("attention.layer_norm_rms_epsilon"));
  if (metadata.has("attention.key_length")) {
    d->head_dim = metadata.integer("attention.key_length", 2, kHeadDimMax);
  } else if (d->hidden % d->q_heads == 0) {
    d->head_dim = d->hidden / d->q_heads;
  } else {
    metadata.fail(invalid_argument("the embedding length " + std::to_string(d->hidden) +
                                   " is no multiple of the head count " +
                                   std::to_string(d->q_heads) + ", and there is no key length"));
  }
  if (metadata.integer("attention.value_length", 1, kHeadDimMax, d->head_dim) != d->head_dim) {
    metadata.fail(unsupported("heads whose keys and values differ in length are not supported"));
  }
  if (metadata.integer("expert_count", 0, 1 << 20, 0) > 0) {
    metadata.fail(unsupported("mixtures of experts are not supported"));
  }
}

// rope_freqs.weight: one float32 divisor per frequency, how GGUF stores llama3's scaling.
void read_frequency_divisors(const GgufFile& file, MetadataReader& metadata, RopeSpec* rope) {
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (file.tensor(name) != nullptr) {
      return metadata.fail(unsupported("longrope scaling (" + quoted(name) + ") is not supported"));
    }
  }
  const GgufTensor* tensor = file.tensor("rope_freqs.weight");
  if (tensor == nullptr) return;
  if (tensor->format != Format::kF32 || tensor->bytes != int64_t{rope->rotary_dim} / 2 * 4) {
    return metadata.fail(corrupt("the tensor \"rope_freqs.weight\" must hold " +
                                 std::to_string(rope->rotary_dim / 2) + " numbers in F32"));
  }
  rope->frequency_divisors.resize(static_cast<size_t>(rope->rotary_dim / 2));
  std::memcpy(rope->frequency_divisors.data(), tensor->data, static_cast<size_t>(tensor->bytes));
}

// As llama.cpp reads them: scaling is linear unless its type says otherwise, and a factor of 0
// means none.
void read_rope(const GgufFile& file, const Family& family, MetadataReader& metadata,
               ModelDescription* d) {
  RopeSpec& rope = d->rope;
  rope.theta = metadata.real("rope.freq_base", 10000.0);
  rope.rotary_dim = metadata.integer("rope.dimension_count", 1, kHeadDimMax, d->head_dim);
  if (family.gguf_interleaved_qk && rope.rotary_dim != d->head_dim) {
    metadata.fail(unsupported("rotary embeddings over a part of the head are not supported"));
  }
  const std::string type = metadata.string("rope.scaling.type", "linear");
  const double factor =
      metadata.real("rope.scaling.factor", metadata.real("rope.scale_linear", 0.0));
  if (type == "linear") {
    const bool scaled = factor != 0 && factor != 1;
    rope.scaling = scaled ? RopeSpec::Scaling::kLinear : RopeSpec::Scaling::kNone;
    rope.factor = scaled ? factor : 1;
  } else if (type != "none") {
    metadata.fail(unsupported("the rotary scaling type " + quoted(type) +
                              " is not supported; the known ones are none and linear"));
  }
  if (metadata.status().ok()) read_frequency_divisors(file, metadata, &rope);
}

}  // namespace

Result<ModelDescription> describe_gguf(const GgufFile& file) {
  ASSIGN_OR_RETURN(const Family* family, family_of(file));
  if (const auto parts = file.integer("split.count"); parts.ok() && *parts > 1) {
    return unsupported("it is one of " + std::to_string(*parts) +
                       " parts of a model; merge them first (llama-gguf-split --merge)");
  }
  MetadataReader metadata(file, family->gguf);
  ModelDescription d;
  d.architecture = family->gguf;
  d.vocabulary = read_vocabulary(file, metadata);
  read_sizes(metadata, &d);
  const int layers = metadata.integer("block_count", 1, kLayersMax);
  RETURN_IF_ERROR(metadata.status());
  read_rope(file, *family, metadata, &d);
  RETURN_IF_ERROR(metadata.status());
  const auto has = [&](WeightRole role, int layer) {
    return file.tensor(tensor_name(*family, Naming::kGguf, role, layer)) != nullptr;
  };
  d.tied_embeddings = !has(WeightRole::kOutput, -1);
  // Which biases there are only the tensors say; a family that has them always must have them.
  const LayerSpec layer = {
      .qkv_bias = family->qkv_bias || has(WeightRole::kQBias, 0),
      .o_bias = has(WeightRole::kOBias, 0),
      .mlp_bias = has(WeightRole::kGateBias, 0),
      .qk_norm = family->qk_norm,
  };
  // Like llama.cpp, without windows: GGUF files of these families attend to everything.
  set_layers(layer, std::vector<int>(static_cast<size_t>(layers), 0), &d);
  RETURN_IF_ERROR(check_description(d));
  return d;
}

}  // namespace skein
