#include <cmath>
#include <limits>
#include <optional>

#include "model/families.h"
#include "model/quoted.h"

namespace skein {
namespace {

// Typed reads from one JSON object; remembers the first error, so that a description reads top to
// bottom. A member that is null counts as missing.
class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string_view where) : object_(object), where_(where) {}

  const Status& status() const { return status_; }
  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  const Json* find(std::string_view key) const {
    const Json* value = object_.find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  // An integer in [min, max]; `fallback` where it is missing, or an error if there is no fallback.
  int integer(std::string_view key, int min, int max, std::optional<int> fallback = std::nullopt) {
    const Json* value = find(key);
    if (value == nullptr) return missing(key, fallback);
    // Some writers give counts as 4096.0.
    const double number = value->is_number() ? value->as_double() : std::nan("");
    if (std::isnan(number) || number != std::floor(number))
      return wrong(key, *value, "an integer", min);
    if (number < min || number > max) {
      fail(invalid_argument(name(key) + " is " + value->dump() + "; it must be between " +
                            std::to_string(min) + " and " + std::to_string(max)));
      return min;
    }
    return static_cast<int>(number);
  }

  double real(std::string_view key, std::optional<double> fallback = std::nullopt) {
    const Json* value = find(key);
    if (value == nullptr) return missing(key, fallback);
    return value->is_number() ? value->as_double() : wrong(key, *value, "a number", 0.0);
  }

  bool boolean(std::string_view key, bool fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    return value->is_bool() ? value->as_bool() : wrong(key, *value, "a boolean", fallback);
  }

  std::string string(std::string_view key, const std::string& fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    return value->is_string() ? value->as_string() : wrong(key, *value, "a string", fallback);
  }

 private:
  std::string name(std::string_view key) const {
    return where_.empty() ? quoted(key) : quoted(key) + " of " + quoted(where_);
  }

  template <typename T>
  T missing(std::string_view key, std::optional<T> fallback) {
    if (!fallback) fail(invalid_argument(name(key) + " is missing"));
    return fallback.value_or(T{});
  }

  template <typename T>
  T wrong(std::string_view key, const Json& value, const char* wanted, T result) {
    const std::string type(value.type_name());
    fail(invalid_argument(name(key) + " must be " + wanted + ", not " + type));
    return result;
  }

  const Json& object_;
  std::string_view where_;
  Status status_;
};

Result<const Family*> family_of(const Json& config) {
  const Json* names = config.find("architectures");
  if (names == nullptr || !names->is_array() || names->as_array().empty() ||
      !names->as_array()[0].is_string()) {
    return invalid_argument("\"architectures\" must be a list that names the model's architecture");
  }
  const std::string& name = names->as_array()[0].as_string();
  const Family* family = find_family(Naming::kHuggingFace, name);
  if (family != nullptr) return family;
  return unsupported("the architecture " + quoted(name) + " is not supported; the known ones are " +
                     known_families(Naming::kHuggingFace));
}

// "default", "linear" or "llama3" with its parameters. Old files say rope_scaling, transformers 5
// rope_parameters.
void read_rope(ConfigReader& config, ModelDescription* d) {
  RopeSpec& rope = d->rope;
  rope.rotary_dim = d->head_dim;
  rope.theta = config.real("rope_theta", 10000.0);
  if (config.real("partial_rotary_factor", 1.0) != 1.0) {
    config.fail(unsupported("\"partial_rotary_factor\" other than 1 is not supported"));
  }
  std::string_view where = "rope_scaling";
  const Json* parameters = config.find(where);
  if (parameters == nullptr) parameters = config.find(where = "rope_parameters");
  if (parameters == nullptr) return;
  if (!parameters->is_object()) {
    return config.fail(invalid_argument(quoted(where) + " must be an object"));
  }
  ConfigReader reader(*parameters, where);
  rope.theta = reader.real("rope_theta", rope.theta);
  if (reader.real("partial_rotary_factor", 1.0) != 1.0) {
    reader.fail(unsupported("\"partial_rotary_factor\" other than 1 is not supported"));
  }
  const std::string type = reader.string("rope_type", reader.string("type", "default"));
  if (type == "linear") {
    rope.scaling = RopeSpec::Scaling::kLinear;
    rope.factor = reader.real("factor");
  } else if (type == "llama3") {
    rope.scaling = RopeSpec::Scaling::kLlama3;
    rope.factor = reader.real("factor");
    rope.low_freq_factor = reader.real("low_freq_factor");
    rope.high_freq_factor = reader.real("high_freq_factor");
    rope.original_context =
        reader.integer("original_max_position_embeddings", 1, kContextMax, d->context_max);
  } else if (type != "default") {
    reader.fail(unsupported("the rotary embedding type " + quoted(type) +
                            " is not supported; the known ones are default, linear and llama3"));
  }
  if (!reader.status().ok()) config.fail(reader.status());
}

// One window per layer, from layer_types.
std::vector<int> read_layer_types(ConfigReader& config, const Json& types, int layers, int window) {
  if (!types.is_array() || types.as_array().size() != static_cast<size_t>(layers)) {
    config.fail(invalid_argument("\"layer_types\" must be a list with one entry per layer"));
    return {};
  }
  std::vector<int> windows;
  for (const Json& type : types.as_array()) {
    const bool sliding = type == Json("sliding_attention");
    if (!sliding && type != Json("full_attention")) {
      config.fail(unsupported("the layer type " + type.dump().substr(0, 80) +
                              " is not supported; the known ones are full_attention and "
                              "sliding_attention"));
    }
    if (sliding && window == 0) {
      config.fail(invalid_argument(
          "\"layer_types\" has sliding_attention, but there is no sliding window in use"));
    }
    windows.push_back(sliding ? window : 0);
  }
  return windows;
}

// The attention window of every layer, 0 for full attention.
std::vector<int> read_windows(ConfigReader& config, const Family& family, const Json& json,
                              int layers) {
  std::vector<int> windows(static_cast<size_t>(layers), 0);
  if (family.window == WindowRule::kNever) return windows;
  const Json* written = json.find("sliding_window");
  const bool is_null = written != nullptr && written->is_null();
  int window =
      is_null ? 0 : config.integer("sliding_window", 1, kContextMax, family.window_default);
  if (family.window == WindowRule::kEveryLayer) {
    windows.assign(windows.size(), window);
    return windows;
  }
  if (!config.boolean("use_sliding_window", false)) window = 0;
  if (const Json* types = config.find("layer_types"); types != nullptr) {
    return read_layer_types(config, *types, layers, window);
  }
  const int first = config.integer("max_window_layers", 0, kLayersMax, 28);
  for (int layer = first; layer < layers; ++layer) windows[static_cast<size_t>(layer)] = window;
  return windows;
}

void read_sizes(ConfigReader& config, const Family& family, ModelDescription* d) {
  d->vocabulary = config.integer("vocab_size", 1, kVocabularyMax);
  d->hidden = config.integer("hidden_size", 1, kHiddenMax);
  d->intermediate = config.integer("intermediate_size", 1, kIntermediateMax);
  d->q_heads = config.integer("num_attention_heads", 1, kHeadsMax);
  d->kv_heads = config.integer("num_key_value_heads", 1, kHeadsMax, d->q_heads);
  d->context_max =
      config.integer("max_position_embeddings", 1, kContextMax, family.context_default);
  d->norm_epsilon = static_cast<float>(config.real("rms_norm_eps", 1e-6));
  std::optional<int> head_dim;
  if (family.head_dim_default > 0) {
    head_dim = family.head_dim_default;
  } else if (d->q_heads > 0 && d->hidden % d->q_heads == 0) {
    head_dim = d->hidden / d->q_heads;
  }
  d->head_dim = config.integer("head_dim", 2, kHeadDimMax, head_dim);
}

}  // namespace

Result<ModelDescription> describe_hugging_face(const Json& json) {
  if (!json.is_object()) return invalid_argument("it is no JSON object");
  ASSIGN_OR_RETURN(const Family* family, family_of(json));
  ConfigReader config(json, "");
  if (config.find("quantization_config") != nullptr) {
    return unsupported("\"quantization_config\": quantised Hugging Face checkpoints are not "
                       "supported; use a GGUF file or the unquantised checkpoint");
  }
  ModelDescription d;
  d.architecture = family->hugging_face;
  read_sizes(config, *family, &d);
  const int layers = config.integer("num_hidden_layers", 1, kLayersMax);
  d.tied_embeddings = config.boolean("tie_word_embeddings", false);
  if (const std::string act = config.string("hidden_act", "silu"); act != "silu") {
    config.fail(
        unsupported("\"hidden_act\" " + quoted(act) + " is not supported; it must be silu"));
  }
  const bool attention_bias =
      family->attention_bias_key && config.boolean("attention_bias", false);
  const LayerSpec layer = {
      .qkv_bias = family->qkv_bias || attention_bias,
      .o_bias = attention_bias,
      .mlp_bias = family->mlp_bias_key && config.boolean("mlp_bias", false),
      .qk_norm = family->qk_norm,
  };
  read_rope(config, &d);
  const std::vector<int> windows = read_windows(config, *family, json, layers);
  RETURN_IF_ERROR(config.status());
  set_layers(layer, windows, &d);
  RETURN_IF_ERROR(check_description(d));
  return d;
}

}  // namespace skein
