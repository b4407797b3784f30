#include "tests/unit/topology/planner_fixture.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/check.h"

namespace skein::test {

std::unique_ptr<Checkpoint> dummy_model(int layers, int heads, int kv_heads) {
  char folder[] = "/tmp/skein_planner_XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  std::ofstream(std::string(folder) + "/config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16384, "hidden_size": 2048,
             "intermediate_size": 7168, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
             "head_dim": 128, "num_hidden_layers": )"
      << layers << ", \"num_attention_heads\": " << heads << ", \"num_key_value_heads\": " << kv_heads << "}";
  auto opened = Checkpoint::open(folder, LoadFormat::kDummy);
  std::filesystem::remove_all(folder);
  CHECK(opened.ok());
  return std::move(*opened);
}

DeviceKind gpu_kind(const std::string& name, int64_t model_bytes, double read_bytes_per_s) {
  DeviceKind kind;
  kind.name = name;
  kind.memory_bytes = static_cast<int64_t>(static_cast<double>(model_bytes + kGpuReserve + kGpuLateReserve) / 0.9);
  kind.read_bytes_per_s = read_bytes_per_s;
  kind.bf16_flops = 200 * read_bytes_per_s;
  kind.nvlink_bytes_per_s = 4e11;
  kind.pcie_bytes_per_s = 5e10;
  return kind;
}

Node gpu_node(const std::string& name, int devices, int kind, bool nvlink) {
  Node node;
  node.name = name;
  node.cores = 64;
  node.memory_bytes = int64_t{1} << 40;
  Nic nic;
  nic.name = "mlx5_0";
  nic.network = NetworkKind::kInfiniBand;
  nic.bytes_per_s = 5e10;
  nic.numa = 0;
  nic.rail = 0;
  for (int i = 0; i < devices; ++i) {
    Device& device = node.devices.emplace_back();
    device.kind = kind;
    device.numa = 0;
    device.nvlink_domain = nvlink ? 0 : -1;
    nic.devices.push_back(i);
  }
  node.nics.push_back(nic);
  return node;
}

void give_each_gpu_a_nic(Node* node) {
  const Nic nic = node->nics[0];
  node->nics.assign(node->devices.size(), nic);
  for (size_t i = 0; i < node->nics.size(); ++i) {
    node->nics[i].rail = static_cast<int>(i);
    node->nics[i].devices = {static_cast<int>(i)};
  }
}

}  // namespace skein::test
