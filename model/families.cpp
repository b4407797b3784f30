#include "model/families.h"


#include "base/check.h"

namespace skein {
namespace {

using enum WeightRole;

constexpr TensorNames kLlamaNames[] = {
    {kTokenEmbedding, "embed_tokens.weight", "token_embd.weight"},
    {kFinalNorm, "norm.weight", "output_norm.weight"},
    {kOutput, "lm_head.weight", "output.weight"},
    {kAttentionNorm, "layers.#.input_layernorm.weight", "blk.#.attn_norm.weight"},
    {kQ, "layers.#.self_attn.q_proj.weight", "blk.#.attn_q.weight"},
    {kK, "layers.#.self_attn.k_proj.weight", "blk.#.attn_k.weight"},
    {kV, "layers.#.self_attn.v_proj.weight", "blk.#.attn_v.weight"},
    {kQBias, "layers.#.self_attn.q_proj.bias", "blk.#.attn_q.bias"},
    {kKBias, "layers.#.self_attn.k_proj.bias", "blk.#.attn_k.bias"},
    {kVBias, "layers.#.self_attn.v_proj.bias", "blk.#.attn_v.bias"},
    {kQNorm, "layers.#.self_attn.q_norm.weight", "blk.#.attn_q_norm.weight"},
    {kKNorm, "layers.#.self_attn.k_norm.weight", "blk.#.attn_k_norm.weight"},
    {kO, "layers.#.self_attn.o_proj.weight", "blk.#.attn_output.weight"},
    {kOBias, "layers.#.self_attn.o_proj.bias", "blk.#.attn_output.bias"},
    {kMlpNorm, "layers.#.post_attention_layernorm.weight", "blk.#.ffn_norm.weight"},
    {kGate, "layers.#.mlp.gate_proj.weight", "blk.#.ffn_gate.weight"},
    {kUp, "layers.#.mlp.up_proj.weight", "blk.#.ffn_up.weight"},
    {kDown, "layers.#.mlp.down_proj.weight", "blk.#.ffn_down.weight"},
    {kGateBias, "layers.#.mlp.gate_proj.bias", "blk.#.ffn_gate.bias"},
    {kUpBias, "layers.#.mlp.up_proj.bias", "blk.#.ffn_up.bias"},
    {kDownBias, "layers.#.mlp.down_proj.bias", "blk.#.ffn_down.bias"},
};

constexpr Family kFamilies[] = {
    {.hugging_face = "LlamaForCausalLM",
     .gguf = "llama",
     .names = kLlamaNames,
     .attention_bias_key = true,
     .mlp_bias_key = true,
     .context_default = 2048,
     .gguf_interleaved_qk = true},
    {.hugging_face = "MistralForCausalLM",
     .gguf = "",
     .names = kLlamaNames,
     .window = WindowRule::kEveryLayer,
     .window_default = 4096,
     .context_default = 131072},
    {.hugging_face = "Qwen2ForCausalLM",
     .gguf = "qwen2",
     .names = kLlamaNames,
     .qkv_bias = true,
     .window = WindowRule::kByLayer,
     .window_default = 4096,
     .context_default = 32768},
    {.hugging_face = "Qwen3ForCausalLM",
     .gguf = "qwen3",
     .names = kLlamaNames,
     .attention_bias_key = true,
     .qk_norm = true,
     .window = WindowRule::kByLayer,
     .window_default = 4096,
     .head_dim_default = 128,
     .context_default = 32768},
};

std::string_view architecture(const Family& family, Naming naming) {
  return naming == Naming::kGguf ? family.gguf : family.hugging_face;
}

}  // namespace

const Family* find_family(Naming naming, std::string_view name) {
  if (name.empty()) return nullptr;
  for (const Family& family : kFamilies) {
    if (architecture(family, naming) == name) return &family;
  }
  return nullptr;
}

std::string known_families(Naming naming) {
  std::string names;
  for (const Family& family : kFamilies) {
    const std::string_view name = architecture(family, naming);
    if (!names.empty() && !name.empty()) names += ", ";
    names += name;
  }
  return names;
}

std::string tensor_name(const Family& family, Naming naming, WeightRole role, int layer) {
  for (const TensorNames& names : family.names) {
    if (names.role != role) continue;
    std::string name(naming == Naming::kGguf ? names.gguf : names.hugging_face);
    const size_t mark = name.find('#');
    return mark == name.npos ? name : name.replace(mark, 1, std::to_string(layer));
  }
  CHECK(false);
  return {};
}

std::span<const WeightRole> all_roles() {
  static constexpr WeightRole kRoles[] = {
      kTokenEmbedding, kFinalNorm, kOutput, kAttentionNorm, kQ,        kK,      kV,
      kQBias,          kKBias,     kVBias,  kQNorm,         kKNorm,    kO,      kOBias,
      kMlpNorm,        kGate,      kUp,     kDown,          kGateBias, kUpBias, kDownBias};
  return kRoles;
}

}  // namespace skein
