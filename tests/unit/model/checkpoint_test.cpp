#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "base/half.h"
#include "model/dequantize.h"
#include "model/gguf.h"
#include "model/shard.h"
#include "tests/unit/model/file_pieces.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

using namespace test;
using enum WeightRole;

constexpr const char* kConfig =
    R"({"architectures":["LlamaForCausalLM"],"vocab_size":5,"hidden_size":4,
    "intermediate_size":6,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,
    "tie_word_embeddings":false,"max_position_embeddings":16})";

struct Entry {
  std::string dtype = "F32";
  std::vector<int64_t> shape;
  float first = 0;  // element i is first + i
};

using Entries = std::map<std::string, Entry>;

// The tensors of kConfig; the first element of each tells it apart.
Entries tensors(const std::string& prefix = "model.") {
  Entries all = {{prefix + "embed_tokens.weight", {"F32", {5, 4}, 1000}},
                 {prefix + "norm.weight", {"F32", {4}, 2000}},
                 {"lm_head.weight", {"F32", {5, 4}, 3000}}};
  for (int layer = 0; layer < 2; ++layer) {
    const std::string base = prefix + "layers." + std::to_string(layer) + ".";
    const float at = 10000.0f * static_cast<float>(layer + 1);
    all[base + "input_layernorm.weight"] = {"F32", {4}, at + 100};
    all[base + "self_attn.q_proj.weight"] = {"F32", {4, 4}, at + 200};
    all[base + "self_attn.k_proj.weight"] = {"F32", {2, 4}, at + 300};
    all[base + "self_attn.v_proj.weight"] = {"F32", {2, 4}, at + 400};
    all[base + "self_attn.o_proj.weight"] = {"F32", {4, 4}, at + 500};
    all[base + "post_attention_layernorm.weight"] = {"F32", {4}, at + 600};
    all[base + "mlp.gate_proj.weight"] = {"F32", {6, 4}, at + 700};
    all[base + "mlp.up_proj.weight"] = {"F32", {6, 4}, at + 800};
    all[base + "mlp.down_proj.weight"] = {"F32", {4, 6}, at + 900};
  }
  return all;
}

std::string data_of(const Entry& entry) {
  int64_t count = 1;
  for (const int64_t size : entry.shape) count *= size;
  std::string data;
  for (int64_t i = 0; i < count; ++i) {
    const float value = entry.first + static_cast<float>(i);
    data += entry.dtype == "F32"    ? le(value)
            : entry.dtype == "F64"  ? le(static_cast<double>(value))
            : entry.dtype == "BF16" ? le(f32_to_bf16(value))
                                    : le(f32_to_f16(value));
  }
  return data;
}

std::string file_of(const Entries& entries) {
  SafetensorsBuilder builder;
  for (const auto& [name, entry] : entries)
    builder.add(name, entry.dtype, entry.shape, data_of(entry));
  return builder.build();
}

// A folder with a config.json and a model.safetensors.
void write_model(const TemporaryFolder& folder, const Entries& entries,
                 const std::string& config = kConfig) {
  folder.write("config.json", config);
  folder.write("model.safetensors", file_of(entries));
}

float first_of(const Checkpoint& checkpoint, WeightRole role, int layer, int64_t row = 0) {
  const HostWeight weight = checkpoint.weight(role, layer);
  std::vector<float> values(static_cast<size_t>(weight.columns));
  dequantize_row(weight.format, weight.row(row), weight.columns, values.data());
  return values[0];
}

std::string refusal(const std::string& path, LoadFormat load_format = LoadFormat::kAuto) {
  const auto checkpoint = Checkpoint::open(path, load_format);
  return checkpoint.ok() ? "" : checkpoint.status().message();
}

std::string with_config(const std::string& find, const std::string& replace) {
  std::string config = kConfig;
  return config.replace(config.find(find), find.size(), replace);
}

TEST(Checkpoint, FindsEveryWeightOfAFolder) {
  const TemporaryFolder folder;
  write_model(folder, tensors());
  const auto opened = Checkpoint::open(folder.path(), LoadFormat::kAuto);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ(first_of(checkpoint, kTokenEmbedding, -1, 3), 1012);
  EXPECT_EQ(first_of(checkpoint, kFinalNorm, -1), 2000);
  EXPECT_EQ(first_of(checkpoint, kOutput, -1), 3000);
  const WeightRole roles[] = {kAttentionNorm, kQ, kK, kV, kO, kMlpNorm, kGate, kUp, kDown};
  for (int layer = 0; layer < 2; ++layer) {
    float expected = 10000.0f * static_cast<float>(layer + 1);
    for (const WeightRole role : roles) {
      EXPECT_EQ(first_of(checkpoint, role, layer), expected += 100);
    }
  }
  EXPECT_EQ(first_of(checkpoint, kQ, 1, 2), 20208);
  EXPECT_EQ(checkpoint.main_format(), Format::kF32);
  EXPECT_EQ(checkpoint.gguf(), nullptr);
  EXPECT_EQ(checkpoint.weight(kDown, 0).rows, 4);
  EXPECT_EQ(checkpoint.weight(kDown, 0).columns, 6);
  checkpoint.drop_pages(kQ, 0);
  EXPECT_EQ(first_of(checkpoint, kQ, 0), 10200);
}

TEST(Checkpoint, AcceptsNamesWithoutPrefix) {
  const TemporaryFolder folder;
  write_model(folder, tensors(""));
  EXPECT_EQ(refusal(folder.path()), "");
}

TEST(Checkpoint, ReadsShards) {
  const TemporaryFolder folder;
  Entries first = tensors();
  Entries second;
  std::string map;
  for (const auto& [name, entry] : tensors()) {
    const bool in_second = name.find("layers.1") != name.npos;
    if (in_second) second.insert(first.extract(name));
    map += (map.empty() ? "\"" : ",\"") + name +
           (in_second ? R"(":"b.safetensors")" : R"(":"a.safetensors")");
  }
  folder.write("config.json", kConfig);
  folder.write("a.safetensors", file_of(first));
  folder.write("b.safetensors", file_of(second));
  folder.write("model.safetensors.index.json", R"({"weight_map":{)" + map + "}}");
  const auto checkpoint = Checkpoint::open(folder.path(), LoadFormat::kAuto);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(first_of(**checkpoint, kDown, 0), 10900);
  EXPECT_EQ(first_of(**checkpoint, kDown, 1), 20900);
  (*checkpoint)->drop_pages(kDown, 1);
}

TEST(Checkpoint, TiedModelsHaveNoOutputOfTheirOwn) {
  const TemporaryFolder folder;
  Entries entries = tensors();
  write_model(folder, entries,
              with_config("\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true"));
  EXPECT_EQ(refusal(folder.path()), "");  // A copy of it is harmless.
  entries.erase("lm_head.weight");
  write_model(folder, entries,
              with_config("\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true"));
  const auto checkpoint = Checkpoint::open(folder.path(), LoadFormat::kAuto);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_FALSE(has_weight((*checkpoint)->description(), kOutput, -1));
}

TEST(Checkpoint, NamesMissingTensors) {
  const TemporaryFolder folder;
  Entries entries = tensors();
  entries.erase("lm_head.weight");
  entries.erase("model.layers.1.mlp.down_proj.weight");
  write_model(folder, entries);
  EXPECT_NE(refusal(folder.path())
                .find("tensors are missing: \"layers.1.mlp.down_proj.weight\", \"lm_head.weight\""),
            std::string::npos)
      << refusal(folder.path());
}

TEST(Checkpoint, NamesTensorsThatTheModelWouldNotUse) {
  const TemporaryFolder folder;
  Entries entries = tensors();
  entries["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {1}, 1};
  write_model(folder, entries);
  EXPECT_EQ(refusal(folder.path()), "");
  entries["model.layers.0.self_attn.q_proj.bias"] = {"F32", {4}, 1};
  write_model(folder, entries);
  EXPECT_NE(refusal(folder.path())
                .find("LlamaForCausalLM has no use for: \"model.layers.0.self_attn.q_proj.bias\""),
            std::string::npos)
      << refusal(folder.path());
}

TEST(Checkpoint, SaysExpectedAndFoundShape) {
  const TemporaryFolder folder;
  for (const auto& shape : {std::vector<int64_t>{4, 5}, {16}, {4, 4, 1}, {4}}) {
    Entries entries = tensors();
    entries["model.layers.0.self_attn.q_proj.weight"].shape = shape;
    write_model(folder, entries);
    EXPECT_NE(
        refusal(folder.path()).find("\"model.layers.0.self_attn.q_proj.weight\" has the shape ["),
        std::string::npos);
    EXPECT_NE(refusal(folder.path()).find("calls for [4, 4]"), std::string::npos)
        << refusal(folder.path());
  }
  Entries entries = tensors();
  entries["model.norm.weight"].shape = {1, 4};
  write_model(folder, entries);
  EXPECT_NE(refusal(folder.path())
                .find("has the shape [1, 4] where the model's description calls for [4]"),
            std::string::npos)
      << refusal(folder.path());
  entries = tensors();
  entries["model.embed_tokens.weight"].shape = {6, 4};
  write_model(folder, entries);
  EXPECT_NE(refusal(folder.path()).find("vocabulary or hidden size"), std::string::npos);
}

TEST(Checkpoint, NamesUnreadableFormats) {
  const TemporaryFolder folder;
  Entries entries = tensors();
  entries["model.layers.0.mlp.up_proj.weight"].dtype = "F64";
  write_model(folder, entries);
  EXPECT_NE(refusal(folder.path()).find("\"model.layers.0.mlp.up_proj.weight\" is stored as F64"),
            std::string::npos)
      << refusal(folder.path());
}

TEST(Checkpoint, SaysWhatIsWrongWithAFolder) {
  const TemporaryFolder folder;
  EXPECT_NE(refusal(folder.path()).find("has no config.json: it is no Hugging Face model folder"),
            std::string::npos);
  folder.write("q.gguf", "GGUF");
  EXPECT_NE(refusal(folder.path()).find("pass " + folder.file("q.gguf")), std::string::npos);
  folder.write("config.json", kConfig);
  EXPECT_NE(refusal(folder.path()).find("has neither model.safetensors nor"), std::string::npos);
  folder.write("pytorch_model.bin", "pickle");
  EXPECT_NE(refusal(folder.path()).find("its weights in pytorch_model.bin, a pickle"),
            std::string::npos);
  folder.write("config.json", "{");
  EXPECT_EQ(refusal(folder.path()).find(folder.file("config.json") + ": JSON"), 0u);
  folder.write("config.json", R"({"architectures":["BertModel"]})");
  EXPECT_NE(refusal(folder.path()).find("\"BertModel\""), std::string::npos);
}

TEST(Checkpoint, SaysWhatIsWrongWithAPath) {
  const TemporaryFolder folder;
  EXPECT_NE(refusal(folder.file("none")).find("does not exist"), std::string::npos);
  folder.write("model.safetensors", "x");
  EXPECT_NE(refusal(folder.file("model.safetensors")).find("neither a folder nor a .gguf file"),
            std::string::npos);
  folder.write("m.gguf", "x");
  EXPECT_NE(refusal(folder.file("m.gguf")).find("does not begin with \"GGUF\""), std::string::npos);
  EXPECT_NE(refusal(folder.file("m.gguf"), LoadFormat::kDummy).find("dummy weights need a folder"),
            std::string::npos);
}

TEST(Checkpoint, FingerprintsTellModelsApart) {
  const TemporaryFolder folder;
  const auto fingerprint = [&](const Entries& entries, const std::string& config) {
    write_model(folder, entries, config);
    const auto checkpoint = Checkpoint::open(folder.path(), LoadFormat::kAuto);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return (*checkpoint)->fingerprint();
  };
  const uint64_t original = fingerprint(tensors(), kConfig);
  EXPECT_EQ(fingerprint(tensors(), kConfig), original);
  Entries tuned = tensors();
  tuned["model.layers.1.self_attn.q_proj.weight"].first += 1;
  EXPECT_NE(fingerprint(tuned, kConfig), original);
  Entries half = tensors();
  half["model.layers.1.self_attn.q_proj.weight"].dtype = "F16";
  EXPECT_NE(fingerprint(half, kConfig), original);
  EXPECT_NE(
      fingerprint(tensors(), with_config("\"vocab_size\"", "\"rope_theta\":9,\"vocab_size\"")),
      original);
}

TEST(DummyCheckpoint, MakesTheSameWeightsEveryTime) {
  const TemporaryFolder folder;
  folder.write("config.json", with_config("\"vocab_size\":5,\"hidden_size\":4",
                                          "\"vocab_size\":999,\"hidden_size\":64"));
  const auto first = Checkpoint::open(folder.path(), LoadFormat::kDummy);
  const auto second = Checkpoint::open(folder.path(), LoadFormat::kDummy);
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_EQ((*first)->fingerprint(), (*second)->fingerprint());
  EXPECT_EQ((*first)->main_format(), Format::kBF16);
  const HostWeight a = (*first)->weight(kTokenEmbedding, -1);
  const HostWeight b = (*second)->weight(kTokenEmbedding, -1);
  double sum = 0;
  double squares = 0;
  for (int64_t row = 0; row < a.rows; ++row) {
    ASSERT_EQ(std::memcmp(a.row(row), b.row(row), 128), 0);
    std::vector<float> values(64);
    dequantize_row(a.format, a.row(row), 64, values.data());
    for (const float value : values) {
      sum += value;
      squares += value * value;
    }
  }
  const double count = 999 * 64;
  EXPECT_NEAR(sum / count, 0, 1e-3);
  EXPECT_NEAR(std::sqrt(squares / count), 0.02, 1e-3);
  EXPECT_NE(std::memcmp(a.row(0), a.row(1), 128), 0);
  EXPECT_NE(std::memcmp((*first)->weight(kQ, 0).row(0), (*first)->weight(kQ, 1).row(0), 128), 0);
  EXPECT_NE(std::memcmp((*first)->weight(kQ, 0).row(0), (*first)->weight(kK, 0).row(0), 128), 0);
  EXPECT_NEAR(first_of(**first, kAttentionNorm, 1), 1, 0.1);
  (*first)->drop_pages(kQ, 0);
}

// --- GGUF ---

// Architecture llama, hidden 64, two heads of 32 (one KV head); row r of every F32 matrix is filled
// with r.
GgufBuilder gguf_model(bool with_biases, uint32_t down_type = 0) {
  GgufBuilder file;
  file.add_string("general.architecture", "llama");
  file.add_u32("llama.block_count", 1);
  file.add_u32("llama.context_length", 128);
  file.add_u32("llama.embedding_length", 64);
  file.add_u32("llama.feed_forward_length", 256);
  file.add_u32("llama.attention.head_count", 2);
  file.add_u32("llama.attention.head_count_kv", 1);
  file.add_f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  file.add_u32("llama.vocab_size", 3);
  const auto add = [&](const std::string& name, int64_t columns, int64_t rows) {
    std::string data;
    for (int64_t i = 0; i < rows * columns; ++i)
      data += le(static_cast<float>(rows == 1 ? i : i / columns));
    file.add_tensor(name,
                    rows == 1 ? std::vector<int64_t>{columns} : std::vector<int64_t>{columns, rows},
                    0, data);
  };
  add("token_embd.weight", 64, 3);
  add("output_norm.weight", 64, 1);
  add("blk.0.attn_norm.weight", 64, 1);
  add("blk.0.attn_q.weight", 64, 64);
  add("blk.0.attn_k.weight", 64, 32);
  add("blk.0.attn_v.weight", 64, 32);
  add("blk.0.attn_output.weight", 64, 64);
  add("blk.0.ffn_norm.weight", 64, 1);
  add("blk.0.ffn_gate.weight", 64, 256);
  add("blk.0.ffn_up.weight", 64, 256);
  if (with_biases) {
    add("blk.0.attn_q.bias", 64, 1);
    add("blk.0.attn_k.bias", 32, 1);
    add("blk.0.attn_v.bias", 32, 1);
  }
  if (down_type == 0) {
    add("blk.0.ffn_down.weight", 256, 64);
  } else if (down_type == 14) {  // Q6_K
    file.add_tensor("blk.0.ffn_down.weight", {256, 64}, 14, std::string(64 * 210, '\0'));
  } else {  // Q8_0
    file.add_tensor("blk.0.ffn_down.weight", {256, 64}, 8, std::string(64 * 8 * 34, '\0'));
  }
  return file;
}

TEST(GgufCheckpoint, UndoesTheRowOrderOfQAndK) {
  const TemporaryFolder folder;
  const auto checkpoint =
      Checkpoint::open(folder.write("m.gguf", gguf_model(true).build()), LoadFormat::kAuto);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  for (int head = 0; head < 2; ++head) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 16; ++i) {
        const int logical = head * 32 + half * 16 + i;
        const auto in_file = static_cast<float>(head * 32 + 2 * i + half);
        EXPECT_EQ(first_of(**checkpoint, kQ, 0, logical), in_file);
        if (head == 0) {
          EXPECT_EQ(first_of(**checkpoint, kK, 0, logical), in_file);
        }
        float bias;
        std::memcpy(&bias, (*checkpoint)->weight(kQBias, 0).row(0) + 4 * logical, sizeof bias);
        EXPECT_EQ(bias, in_file);
      }
    }
  }
  EXPECT_EQ(first_of(**checkpoint, kV, 0, 5), 5);
  EXPECT_EQ(first_of(**checkpoint, kO, 0, 5), 5);
  float v_bias;
  std::memcpy(&v_bias, (*checkpoint)->weight(kVBias, 0).row(0) + 4 * 5, sizeof v_bias);
  EXPECT_EQ(v_bias, 5);
  EXPECT_TRUE((*checkpoint)->description().tied_embeddings);
  EXPECT_NE((*checkpoint)->gguf(), nullptr);
  (*checkpoint)->drop_pages(kQ, 0);
  (*checkpoint)->drop_pages(kQBias, 0);
  EXPECT_EQ(first_of(**checkpoint, kQ, 0, 1), 2);
}

TEST(GgufCheckpoint, RefusesUnreadableFormatsOnlyWhereTheyAreUsed) {
  const TemporaryFolder folder;
  EXPECT_NE(refusal(folder.write("m.gguf", gguf_model(false, 14).build()))
                .find("\"blk.0.ffn_down.weight\" is stored as Q6_K, which is not supported; use "
                      "F32, F16, BF16, Q8_0, "
                      "Q4_0 or Q4_1"),
            std::string::npos);
}

TEST(GgufCheckpoint, NamesMissingTensors) {
  const TemporaryFolder folder;
  GgufBuilder file = gguf_model(false);
  file.add_tensor("blk.0.attn_q.bias", {64}, 0, std::string(256, '\0'));
  EXPECT_NE(refusal(folder.write("m.gguf", file.build()))
                .find("tensors are missing: \"blk.0.attn_k.bias\", \"blk.0.attn_v.bias\""),
            std::string::npos);
}

TEST(ShardFormats, RefusesCutsInsideABlock) {
  const TemporaryFolder folder;
  GgufBuilder file = gguf_model(false, 8);
  const auto checkpoint = Checkpoint::open(folder.write("m.gguf", file.build()), LoadFormat::kAuto);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  auto plans = *plan_shards((*checkpoint)->description(), 2, 1);
  EXPECT_TRUE(check_shard_formats(**checkpoint, plans).ok());
  plans[0].intermediate.end = plans[1].intermediate.begin = 120;
  EXPECT_EQ(
      check_shard_formats(**checkpoint, plans).message(),
      "tensor parallel degree 2 would cut this model's quantised weights inside a block of 32; "
      "the degrees that work are 1, 2");
}

// --- The oracles' checkpoints, as other tools wrote them ---

TEST(OracleCheckpoints, AllOpen) {
  for (const char* name : {"llama_mha", "llama_gqa", "llama_mqa", "llama3_rope", "llama_biases",
                           "mistral_window", "qwen2_bias", "qwen3_qknorm"}) {
    EXPECT_EQ(refusal(std::string("tests/oracles/fixtures/") + name), "") << name;
  }
  for (const char* name :
       {"gguf_llama_f32", "gguf_llama_f16", "gguf_llama_bf16", "gguf_llama_q8_0", "gguf_llama_q4_0",
        "gguf_llama_q4_1", "gguf_llama3_rope", "gguf_qwen2", "gguf_qwen3"}) {
    EXPECT_EQ(refusal(std::string("tests/oracles/fixtures/") + name + "/model.gguf"), "") << name;
  }
}

TEST(OracleCheckpoints, HeadsOfSixteenCannotBeCutSingly) {
  const auto checkpoint =
      Checkpoint::open("tests/oracles/fixtures/gguf_qwen2/model.gguf", LoadFormat::kAuto);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ((*checkpoint)->main_format(), Format::kQ8_0);
  const auto plans = plan_shards((*checkpoint)->description(), 3, 1);
  EXPECT_NE(
      check_shard_formats(**checkpoint, *plans).message().find("the degrees that work are 1, 2"),
      std::string::npos);
}

}  // namespace
}  // namespace skein
