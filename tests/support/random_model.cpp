#include "tests/support/random_model.h"

#include <cmath>
#include <fstream>
#include <random>
#include <vector>

#include "base/check.h"
#include "base/half.h"

namespace skein::testing {
namespace {

constexpr float kResidual = 0.06f;  // small, so that the norms' epsilon matters
constexpr float kLogits = 3;        // their standard deviation

// Tensors one after the other, and the header that says where.
class Safetensors {
 public:
  explicit Safetensors(uint32_t seed) : random_(seed) {}

  void add(const std::string& name, int rows, int columns, float mean, float deviation) {
    const size_t begin = data_.size() * sizeof(uint16_t);
    std::normal_distribution<float> normal(mean, deviation);
    for (int64_t i = 0; i < int64_t{std::max(rows, 1)} * columns; ++i) data_.push_back(f32_to_bf16(normal(random_)));
    const std::string shape = (rows > 0 ? std::to_string(rows) + "," : "") + std::to_string(columns);
    header_ += (header_.empty() ? "{\"" : ",\"") + name + R"(":{"dtype":"BF16","shape":[)" + shape +
               R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data_.size() * sizeof(uint16_t)) +
               "]}";
  }
  void matrix(const std::string& name, int rows, int columns, float gain) {
    add(name + ".weight", rows, columns, 0, gain / std::sqrt(static_cast<float>(columns)));
  }
  void norm(const std::string& name, int columns) { add(name + ".weight", 0, columns, 1, 0.25f); }

  void write(const std::string& path) const {
    const std::string header = header_ + "}";
    const uint64_t size = header.size();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), sizeof size);
    out << header;
    out.write(reinterpret_cast<const char*>(data_.data()),
              static_cast<std::streamsize>(data_.size() * sizeof(uint16_t)));
    out.flush();
    CHECK(out.good());
  }

 private:
  std::mt19937 random_;
  std::vector<uint16_t> data_;
  std::string header_;
};

std::string config_of(const RandomModel& model) {
  const auto number = [](const char* key, int value) { return std::string("\"") + key + "\":" + std::to_string(value); };
  std::string text = R"({"architectures":["MistralForCausalLM"],"model_type":"mistral","rms_norm_eps":1e-5,)"
                     R"("rope_theta":10000.0,"tie_word_embeddings":false,"max_position_embeddings":2048,)";
  for (const auto& [key, value] : {std::pair{"hidden_size", model.hidden}, {"num_hidden_layers", model.layers},
                                   {"num_attention_heads", model.q_heads}, {"num_key_value_heads", model.kv_heads},
                                   {"head_dim", model.head_dim}, {"intermediate_size", model.intermediate}}) {
    text += number(key, value) + ",";
  }
  text += model.sliding_window > 0 ? number("sliding_window", model.sliding_window) : R"("sliding_window":null)";
  return text + "," + number("vocab_size", model.vocabulary) + "}";
}

}  // namespace

void write_random_model(const std::string& folder, const RandomModel& model, uint32_t seed) {
  std::ofstream config(folder + "/config.json");
  config << config_of(model) << std::flush;
  CHECK(config.good());
  Safetensors tensors(seed);
  const int q = model.q_heads * model.head_dim;
  const int kv = model.kv_heads * model.head_dim;
  tensors.add("model.embed_tokens.weight", model.vocabulary, model.hidden, 0, kResidual);
  for (int i = 0; i < model.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    tensors.norm(layer + "input_layernorm", model.hidden);
    tensors.matrix(layer + "self_attn.q_proj", q, model.hidden, 1);
    tensors.matrix(layer + "self_attn.k_proj", kv, model.hidden, 1);
    tensors.matrix(layer + "self_attn.v_proj", kv, model.hidden, 1.2f);
    tensors.matrix(layer + "self_attn.o_proj", model.hidden, q, 1.5f * kResidual);
    tensors.norm(layer + "post_attention_layernorm", model.hidden);
    tensors.matrix(layer + "mlp.gate_proj", model.intermediate, model.hidden, 1.2f);
    tensors.matrix(layer + "mlp.up_proj", model.intermediate, model.hidden, 1.2f);
    tensors.matrix(layer + "mlp.down_proj", model.hidden, model.intermediate, 2 * kResidual);
  }
  tensors.norm("model.norm", model.hidden);
  tensors.matrix("lm_head", model.vocabulary, model.hidden, kLogits);
  tensors.write(folder + "/model.safetensors");
}

}  // namespace skein::testing
