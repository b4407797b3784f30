#include "model/description.h"

#include <gtest/gtest.h>

#include "model/families.h"
#include "model/gguf.h"
#include "tests/unit/model/file_pieces.h"

namespace skein {
namespace {

Result<ModelDescription> describe(const std::string& text) {
  auto json = parse_json(text);
  EXPECT_TRUE(json.ok()) << json.status().message();
  return describe_hugging_face(*json);
}

// A config of 4 layers, 8 heads and hidden size 64, with more members (which win over the same ones
// here).
std::string config(const std::string& architecture, const std::string& more = "{}") {
  Json json = *parse_json(R"({"architectures":[")" + architecture + R"("],"vocab_size":1000,
      "hidden_size":64,"intermediate_size":160,"num_hidden_layers":4,"num_attention_heads":8,
      "num_key_value_heads":2,"max_position_embeddings":4096,"rms_norm_eps":1e-5,"hidden_act":"silu"})");
  const Json additions = *parse_json(more);
  for (const auto& [key, value] : additions.as_object()) json.set(key, value);
  return json.dump();
}

ModelDescription described(const std::string& architecture, const std::string& more = "{}") {
  auto result = describe(config(architecture, more));
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : ModelDescription{};
}

std::string refusal(const std::string& architecture, const std::string& more) {
  const auto result = describe(config(architecture, more));
  return result.ok() ? "" : result.status().message();
}

std::vector<int> windows(const ModelDescription& d) {
  std::vector<int> result;
  for (const LayerSpec& layer : d.layers) {
    result.push_back(d.kv_groups.at(static_cast<size_t>(layer.kv_group)).sliding_window);
  }
  return result;
}

TEST(DescribeHuggingFace, Llama) {
  const ModelDescription d =
      described("LlamaForCausalLM", R"({"rope_theta":500000,"tie_word_embeddings":true})");
  EXPECT_EQ(d.architecture, "LlamaForCausalLM");
  EXPECT_EQ(d.vocabulary, 1000);
  EXPECT_EQ(d.hidden, 64);
  EXPECT_EQ(d.intermediate, 160);
  EXPECT_EQ(d.q_heads, 8);
  EXPECT_EQ(d.kv_heads, 2);
  EXPECT_EQ(d.head_dim, 8);
  EXPECT_EQ(d.context_max, 4096);
  EXPECT_FLOAT_EQ(d.norm_epsilon, 1e-5f);
  EXPECT_TRUE(d.tied_embeddings);
  EXPECT_EQ(d.rope.theta, 500000);
  EXPECT_EQ(d.rope.rotary_dim, 8);
  EXPECT_EQ(d.rope.scaling, RopeSpec::Scaling::kNone);
  ASSERT_EQ(d.kv_groups.size(), 1u);
  EXPECT_EQ(d.kv_groups[0].kv_heads, 2);
  EXPECT_EQ(d.kv_groups[0].head_dim, 8);
  EXPECT_EQ(windows(d), (std::vector<int>{0, 0, 0, 0}));
  EXPECT_FALSE(d.layers[0].qkv_bias || d.layers[0].o_bias || d.layers[0].mlp_bias ||
               d.layers[0].qk_norm);
  // embedding + final norm + layers of (q, k, v, o, gate, up, down, two norms)
  EXPECT_EQ(d.parameters(), 64000 + 64 + 4 * (64 * 64 * 2 + 64 * 16 * 2 + 3 * 64 * 160 + 128));
}

TEST(DescribeHuggingFace, DefaultsOfOlderConfigs) {
  const ModelDescription d = described("LlamaForCausalLM", R"({"num_key_value_heads":null,
      "max_position_embeddings":null,"rms_norm_eps":null,"head_dim":null,"rope_scaling":null})");
  EXPECT_EQ(d.kv_heads, 8);
  EXPECT_EQ(d.context_max, 2048);
  EXPECT_FLOAT_EQ(d.norm_epsilon, 1e-6f);
  EXPECT_EQ(d.rope.theta, 10000);
  EXPECT_FALSE(d.tied_embeddings);
}

TEST(DescribeHuggingFace, BiasesOfLlama) {
  const ModelDescription d =
      described("LlamaForCausalLM", R"({"attention_bias":true,"mlp_bias":true})");
  EXPECT_TRUE(d.layers[3].qkv_bias && d.layers[3].o_bias && d.layers[3].mlp_bias);
}

TEST(DescribeHuggingFace, Mistral) {
  EXPECT_EQ(windows(described("MistralForCausalLM", R"({"sliding_window":null})")),
            (std::vector<int>{0, 0, 0, 0}));
  EXPECT_EQ(windows(described("MistralForCausalLM", R"({"sliding_window":64})")),
            (std::vector<int>{64, 64, 64, 64}));
  EXPECT_EQ(windows(described("MistralForCausalLM"))[0], 4096);
  const ModelDescription d = described("MistralForCausalLM", R"({"head_dim":128})");
  EXPECT_EQ(d.head_dim, 128);
  EXPECT_EQ(d.kv_groups.size(), 1u);
}

TEST(DescribeHuggingFace, Qwen2) {
  const ModelDescription d =
      described("Qwen2ForCausalLM",
                R"({"use_sliding_window":false,"sliding_window":32,"max_window_layers":2})");
  EXPECT_TRUE(d.layers[0].qkv_bias);
  EXPECT_FALSE(d.layers[0].o_bias || d.layers[0].qk_norm);
  EXPECT_EQ(windows(d), (std::vector<int>{0, 0, 0, 0}));
}

TEST(DescribeHuggingFace, Qwen2WindowsOnSomeLayers) {
  const ModelDescription by_count =
      described("Qwen2ForCausalLM",
                R"({"use_sliding_window":true,"sliding_window":32,"max_window_layers":3})");
  EXPECT_EQ(windows(by_count), (std::vector<int>{0, 0, 0, 32}));
  EXPECT_EQ(by_count.kv_groups.size(), 2u);
  const ModelDescription by_type = described("Qwen2ForCausalLM", R"({"use_sliding_window":true,
      "sliding_window":32,"layer_types":["sliding_attention","full_attention","sliding_attention","full_attention"]})");
  EXPECT_EQ(windows(by_type), (std::vector<int>{32, 0, 32, 0}));
  EXPECT_NE(
      refusal(
          "Qwen2ForCausalLM",
          R"({"layer_types":["sliding_attention","full_attention","full_attention","full_attention"]})")
          .find("no sliding window in use"),
      std::string::npos);
  EXPECT_NE(refusal("Qwen2ForCausalLM", R"({"layer_types":["full_attention"]})")
                .find("one entry per layer"),
            std::string::npos);
  EXPECT_NE(
      refusal("Qwen2ForCausalLM", R"({"layer_types":["a",1,"linear_attention","full_attention"]})")
          .find("the layer type \"a\" is not supported"),
      std::string::npos);
}

TEST(DescribeHuggingFace, Qwen3) {
  const ModelDescription d = described("Qwen3ForCausalLM");
  EXPECT_EQ(d.head_dim, 128);
  EXPECT_TRUE(d.layers[0].qk_norm);
  EXPECT_FALSE(d.layers[0].qkv_bias);
  EXPECT_TRUE(described("Qwen3ForCausalLM", R"({"attention_bias":true})").layers[0].o_bias);
}

TEST(DescribeHuggingFace, RopeOfBothGenerations) {
  const std::string scaling =
      R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":256)";
  const ModelDescription old =
      described("LlamaForCausalLM",
                R"({"rope_theta":50000.0,"rope_scaling":{"rope_type":"llama3",)" + scaling + "}}");
  const ModelDescription recent = described(
      "LlamaForCausalLM",
      R"({"rope_parameters":{"rope_theta":50000.0,"rope_type":"llama3",)" + scaling + "}}");
  for (const ModelDescription& d : {old, recent}) {
    EXPECT_EQ(d.rope.scaling, RopeSpec::Scaling::kLlama3);
    EXPECT_EQ(d.rope.theta, 50000);
    EXPECT_EQ(d.rope.factor, 8);
    EXPECT_EQ(d.rope.low_freq_factor, 1);
    EXPECT_EQ(d.rope.high_freq_factor, 4);
    EXPECT_EQ(d.rope.original_context, 256);
  }
  const ModelDescription linear =
      described("LlamaForCausalLM", R"({"rope_scaling":{"type":"linear","factor":2}})");
  EXPECT_EQ(linear.rope.scaling, RopeSpec::Scaling::kLinear);
  EXPECT_EQ(linear.rope.factor, 2);
  const ModelDescription plain = described(
      "LlamaForCausalLM", R"({"rope_parameters":{"rope_type":"default","rope_theta":7}})");
  EXPECT_EQ(plain.rope.scaling, RopeSpec::Scaling::kNone);
  EXPECT_EQ(plain.rope.theta, 7);
}

TEST(DescribeHuggingFace, NamesAnUnknownArchitectureAndTheKnownOnes) {
  const auto result = describe(config("GPT2LMHeadModel"));
  EXPECT_EQ(result.status().code(), Code::kUnsupported);
  EXPECT_EQ(
      result.status().message(),
      "the architecture \"GPT2LMHeadModel\" is not supported; the known ones are LlamaForCausalLM, "
      "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM");
}

TEST(DescribeHuggingFace, RefusesBadFieldsByName) {
  const struct {
    const char* more;
    const char* message;
  } cases[] = {
      {R"({"architectures":[]})", "\"architectures\" must be"},
      {R"({"architectures":"LlamaForCausalLM"})", "\"architectures\" must be"},
      {R"({"vocab_size":null})", "\"vocab_size\" is missing"},
      {R"({"vocab_size":0})", "\"vocab_size\" is 0; it must be between 1 and 4194304"},
      {R"({"vocab_size":5000000})", "\"vocab_size\" is 5000000"},
      {R"({"vocab_size":"7"})", "\"vocab_size\" must be an integer, not string"},
      {R"({"vocab_size":7.5})", "\"vocab_size\" must be an integer"},
      {R"({"hidden_size":-64})", "\"hidden_size\" is -64"},
      {R"({"hidden_size":1e30})", "\"hidden_size\" is 1e+30"},
      {R"({"hidden_size":65})", "\"head_dim\" is missing"},
      {R"({"intermediate_size":18446744073709551616})", "\"intermediate_size\" is"},
      {R"({"num_hidden_layers":4097})", "\"num_hidden_layers\" is 4097"},
      {R"({"num_hidden_layers":true})", "\"num_hidden_layers\" must be an integer"},
      {R"({"num_attention_heads":0})", "\"num_attention_heads\" is 0"},
      {R"({"num_key_value_heads":3})", "8 attention heads are no multiple of 3 KV heads"},
      {R"({"num_key_value_heads":16})", "the number of KV heads is 16; it must be between 1 and 8"},
      {R"({"head_dim":7})", "rotary embeddings over 7 features"},
      {R"({"head_dim":100000})", "\"head_dim\" is 100000"},
      {R"({"max_position_embeddings":0})", "\"max_position_embeddings\" is 0"},
      {R"({"rms_norm_eps":0})", "the norm epsilon"},
      {R"({"rms_norm_eps":2})", "the norm epsilon"},
      {R"({"rms_norm_eps":"x"})", "\"rms_norm_eps\" must be a number"},
      {R"({"hidden_act":"gelu"})", "\"hidden_act\" \"gelu\" is not supported"},
      {R"({"hidden_act":3})", "\"hidden_act\" must be a string"},
      {R"({"tie_word_embeddings":1})", "\"tie_word_embeddings\" must be a boolean"},
      {R"({"attention_bias":"yes"})", "\"attention_bias\" must be a boolean"},
      {R"({"quantization_config":{"quant_method":"gptq"}})", "use a GGUF file"},
      {R"({"rope_theta":0})", "rope_theta"},
      {R"({"rope_theta":"10000"})", "\"rope_theta\" must be a number"},
      {R"({"partial_rotary_factor":0.5})", "partial_rotary_factor"},
      {R"({"rope_scaling":3})", "\"rope_scaling\" must be an object"},
      {R"({"rope_scaling":{"type":"yarn"}})",
       "\"yarn\" is not supported; the known ones are default, linear and llama3"},
      {R"({"rope_scaling":{"rope_type":7}})", "\"rope_type\" of \"rope_scaling\" must be a string"},
      {R"({"rope_scaling":{"type":"linear"}})", "\"factor\" of \"rope_scaling\" is missing"},
      {R"({"rope_scaling":{"type":"linear","factor":0}})", "scaling factor must be a positive"},
      {R"({"rope_parameters":{"rope_type":"llama3","factor":8,"high_freq_factor":4}})",
       "\"low_freq_factor\" of \"rope_parameters\""},
      {R"({"rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4}})",
       "0 < low_freq_factor < high_freq_factor"},
      {R"({"rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":1,
           "high_freq_factor":4,"original_max_position_embeddings":0}})",
       "\"original_max_position_embeddings\" of \"rope_parameters\" is 0"},
  };
  for (const auto& bad : cases) {
    EXPECT_NE(refusal("LlamaForCausalLM", bad.more).find(bad.message), std::string::npos)
        << bad.more << ": " << refusal("LlamaForCausalLM", bad.more);
  }
  EXPECT_NE(
      refusal("MistralForCausalLM", R"({"sliding_window":0})").find("\"sliding_window\" is 0"),
      std::string::npos);
  EXPECT_FALSE(describe("[]").ok());
  EXPECT_FALSE(describe("{}").ok());
}

// --- GGUF ---

test::GgufBuilder gguf_metadata(const std::string& arch) {
  test::GgufBuilder file;
  file.add_string("general.architecture", arch);
  file.add_u32(arch + ".block_count", 2);
  file.add_u32(arch + ".context_length", 512);
  file.add_u32(arch + ".embedding_length", 64);
  file.add_u32(arch + ".feed_forward_length", 96);
  file.add_u32(arch + ".attention.head_count", 4);
  file.add_u32(arch + ".attention.head_count_kv", 2);
  file.add_f32(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  return file;
}

Result<ModelDescription> describe_file(const test::GgufBuilder& builder) {
  const std::string bytes = builder.build();
  const auto file = GgufFile::parse(bytes);
  EXPECT_TRUE(file.ok()) << file.status().message();
  return describe_gguf(**file);
}

std::string refusal(const test::GgufBuilder& builder) {
  const auto result = describe_file(builder);
  return result.ok() ? "" : result.status().message();
}

const std::string kOneFloat = test::le(1.0f);

TEST(DescribeGguf, Llama) {
  auto file = gguf_metadata("llama");
  file.add_u32("llama.vocab_size", 300);
  file.add_f32("llama.rope.freq_base", 100000);
  file.add_u32("llama.rope.dimension_count", 16);
  const auto d = describe_file(file);
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->architecture, "llama");
  EXPECT_EQ(d->vocabulary, 300);
  EXPECT_EQ(d->hidden, 64);
  EXPECT_EQ(d->intermediate, 96);
  EXPECT_EQ(d->layers.size(), 2u);
  EXPECT_EQ(d->q_heads, 4);
  EXPECT_EQ(d->kv_heads, 2);
  EXPECT_EQ(d->head_dim, 16);
  EXPECT_EQ(d->context_max, 512);
  EXPECT_EQ(d->rope.theta, 100000);
  EXPECT_EQ(d->rope.rotary_dim, 16);
  EXPECT_EQ(d->rope.scaling, RopeSpec::Scaling::kNone);
  EXPECT_TRUE(d->tied_embeddings);
  EXPECT_FALSE(d->layers[0].qkv_bias || d->layers[0].qk_norm);
}

TEST(DescribeGguf, TensorsDecideOutputAndBiases) {
  auto file = gguf_metadata("llama");
  file.add_strings("tokenizer.ggml.tokens", {"a", "b", "c"});
  file.add_tensor("output.weight", {1}, 0, kOneFloat);
  file.add_tensor("blk.0.attn_q.bias", {1}, 0, kOneFloat);
  const auto d = describe_file(file);
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->vocabulary, 3);
  EXPECT_FALSE(d->tied_embeddings);
  EXPECT_TRUE(d->layers[1].qkv_bias);
  EXPECT_FALSE(d->layers[1].o_bias || d->layers[1].mlp_bias);
}

TEST(DescribeGguf, Qwen) {
  auto qwen2 = gguf_metadata("qwen2");
  qwen2.add_u32("qwen2.vocab_size", 300);
  EXPECT_TRUE(describe_file(qwen2)->layers[0].qkv_bias);
  auto qwen3 = gguf_metadata("qwen3");
  qwen3.add_u32("qwen3.vocab_size", 300);
  qwen3.add_u32("qwen3.attention.key_length", 32);
  qwen3.add_u32("qwen3.attention.value_length", 32);
  EXPECT_TRUE(describe_file(qwen3)->layers[0].qk_norm);
  EXPECT_EQ(describe_file(qwen3)->head_dim, 32);
}

TEST(DescribeGguf, RopeScalingAndFrequencyDivisors) {
  auto linear = gguf_metadata("llama");
  linear.add_u32("llama.vocab_size", 300);
  auto yarn = linear;
  auto divided = linear;
  linear.add_string("llama.rope.scaling.type", "linear");
  linear.add_f32("llama.rope.scaling.factor", 4);
  EXPECT_EQ(describe_file(linear)->rope.scaling, RopeSpec::Scaling::kLinear);
  EXPECT_EQ(describe_file(linear)->rope.factor, 4);
  yarn.add_string("llama.rope.scaling.type", "yarn");
  EXPECT_NE(refusal(yarn).find("\"yarn\" is not supported"), std::string::npos);
  std::string factors;
  for (int i = 0; i < 8; ++i) factors += test::le(1.0f + static_cast<float>(i));
  auto wrong = divided;
  divided.add_tensor("rope_freqs.weight", {8}, 0, factors);
  EXPECT_EQ(describe_file(divided)->rope.frequency_divisors,
            (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
  wrong.add_tensor("rope_freqs.weight", {7}, 0, factors.substr(0, 28));
  EXPECT_NE(refusal(wrong).find("must hold 8 numbers in F32"), std::string::npos);
}

TEST(DescribeGguf, RefusesBadMetadataByName) {
  using test::GgufBuilder;
  EXPECT_NE(refusal(GgufBuilder()).find("no \"general.architecture\""), std::string::npos);
  GgufBuilder other;
  other.add_string("general.architecture", "gemma");
  EXPECT_EQ(refusal(other),
            "the architecture \"gemma\" is not supported; the known ones are llama, qwen2, qwen3");
  EXPECT_NE(refusal(gguf_metadata("llama")).find("no \"llama.vocab_size\""), std::string::npos);
  const auto with = [](const std::string& key, uint32_t value) {
    auto file = gguf_metadata("llama");
    file.add_u32("llama.vocab_size", 300);
    file.add_u32(key, value);
    return refusal(file);
  };
  EXPECT_NE(with("llama.expert_count", 8).find("mixtures of experts"), std::string::npos);
  EXPECT_NE(with("split.count", 3).find("one of 3 parts"), std::string::npos);
  EXPECT_NE(with("llama.rope.dimension_count", 8).find("a part of the head"), std::string::npos);
  EXPECT_NE(with("llama.attention.value_length", 8).find("differ in length"), std::string::npos);
  EXPECT_NE(with("llama.attention.key_length", 1).find("must be between 2"), std::string::npos);
  EXPECT_NE(with("llama.rope.freq_base", 10000)
                .find("\"llama.rope.freq_base\" is an integer, not a number"),
            std::string::npos);
}

}  // namespace
}  // namespace skein
