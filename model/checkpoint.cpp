#include "model/checkpoint.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "model/families.h"
#include "model/fingerprint.h"
#include "model/gguf.h"
#include "model/quoted.h"
#include "model/safetensors.h"
#include "model/weight_table.h"

namespace skein {
namespace {

namespace fs = std::filesystem;

constexpr size_t kConfigBytesMax = size_t{8} << 20;

// What open() found: the weights, and the files that they lie in (none for dummy weights).
struct Contents {
  ModelDescription description;
  WeightTable weights;
  std::vector<MappedFile> files;
  std::unique_ptr<GgufFile> gguf;
};

void add_description(const ModelDescription& d, Fingerprint* fingerprint) {
  fingerprint->add(d.architecture);
  for (const int number : {d.vocabulary, d.hidden, d.intermediate, d.q_heads, d.kv_heads,
                           d.head_dim, int{d.tied_embeddings}, d.rope.rotary_dim,
                           static_cast<int>(d.rope.scaling), d.rope.original_context}) {
    fingerprint->add(int64_t{number});
  }
  for (const double number : {double{d.norm_epsilon}, d.rope.theta, d.rope.factor,
                              d.rope.low_freq_factor, d.rope.high_freq_factor}) {
    fingerprint->add(number);
  }
  for (const float divisor : d.rope.frequency_divisors) fingerprint->add(double{divisor});
  for (const LayerSpec& layer : d.layers) {
    fingerprint->add(int64_t{d.kv_groups[static_cast<size_t>(layer.kv_group)].sliding_window});
  }
}

class OpenCheckpoint final : public Checkpoint {
 public:
  explicit OpenCheckpoint(Contents contents)
      : weights_(std::move(contents.weights)),
        files_(std::move(contents.files)),
        gguf_(std::move(contents.gguf)) {
    description_ = std::move(contents.description);
    main_format_ = weights_.main_format();
    Fingerprint fingerprint;
    add_description(description_, &fingerprint);
    weights_.add_to(&fingerprint);
    for (const MappedFile& file : files_) {
      fingerprint.add(static_cast<int64_t>(file.bytes().size()));
    }
    if (gguf_ != nullptr) fingerprint.add(static_cast<int64_t>(gguf_->file_bytes()));
    fingerprint_ = fingerprint.value();
  }

  HostWeight weight(WeightRole role, int layer) const override { return weights_.at(role, layer); }

  const GgufFile* gguf() const override { return gguf_.get(); }

  void drop_pages(WeightRole role, int layer) const override {
    const HostWeight& weight = weights_.at(role, layer);
    const auto bytes = static_cast<size_t>(weight.rows * row_bytes(weight.format, weight.columns));
    if (gguf_ != nullptr && gguf_->contains(weight.data)) gguf_->drop_pages(weight.data, bytes);
    for (const MappedFile& file : files_) {
      if (file.contains(weight.data)) file.drop_pages(weight.data, bytes);
    }
  }

 private:
  WeightTable weights_;
  std::vector<MappedFile> files_;
  std::unique_ptr<GgufFile> gguf_;
};

FileTensors tensors_of(const GgufFile& file) {
  FileTensors tensors;
  for (const std::string& name : file.tensor_names()) {
    const GgufTensor& tensor = *file.tensor(name);
    tensors[name] = {tensor.format, tensor.type, {tensor.dims.rbegin(), tensor.dims.rend()},
                     tensor.data, tensor.bytes};
  }
  return tensors;
}

Result<Contents> open_gguf(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::open(path));
  auto description = describe_gguf(*file);
  if (!description.ok()) return description.status().within(path);
  const Family& family = *find_family(Naming::kGguf, description->architecture);
  auto weights = WeightTable::resolve(*description, family, Naming::kGguf, tensors_of(*file));
  if (!weights.ok()) return weights.status().within(path);
  return Contents{std::move(*description), std::move(*weights), {}, std::move(file)};
}

bool exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The name of a file in `folder` that ends so, or nothing.
std::string find_file(const std::string& folder, std::string_view ending) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (name.ends_with(ending)) return name;
  }
  return {};
}

Status no_config(const std::string& folder) {
  if (const std::string gguf = find_file(folder, ".gguf"); !gguf.empty()) {
    return not_found(folder + " has no config.json; to use its GGUF file, pass " + folder + "/" +
                     gguf);
  }
  return not_found(folder + " has no config.json: it is no Hugging Face model folder");
}

Status no_weights(const std::string& folder) {
  for (const char* ending : {".bin", ".pth", ".pt"}) {
    const std::string pickle = find_file(folder, ending);
    if (pickle.empty()) continue;
    return unsupported(folder + " has its weights in " + pickle +
                       ", a pickle that can run code when it is read; convert them to safetensors");
  }
  return not_found(folder + " has neither model.safetensors nor model.safetensors.index.json");
}

Result<ModelDescription> describe_folder(const std::string& folder) {
  const std::string path = folder + "/config.json";
  if (!exists(path)) return no_config(folder);
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kConfigBytesMax));
  auto config = parse_json(text);
  if (!config.ok()) return config.status().within(path);
  auto description = describe_hugging_face(*config);
  if (!description.ok()) return description.status().within(path);
  return description;
}

Result<Contents> open_folder(const std::string& folder, LoadFormat load_format) {
  ASSIGN_OR_RETURN(ModelDescription description, describe_folder(folder));
  if (load_format == LoadFormat::kDummy) {
    WeightTable weights = WeightTable::dummy(description);
    return Contents{std::move(description), std::move(weights), {}, nullptr};
  }
  if (!exists(folder + "/model.safetensors") && !exists(folder + "/model.safetensors.index.json")) {
    return no_weights(folder);
  }
  ASSIGN_OR_RETURN(SafetensorsModel model, open_safetensors(folder));
  const Family& family = *find_family(Naming::kHuggingFace, description.architecture);
  auto weights =
      WeightTable::resolve(description, family, Naming::kHuggingFace, model.tensors);
  if (!weights.ok()) return weights.status().within(folder);
  return Contents{std::move(description), std::move(*weights), std::move(model.files), nullptr};
}

Result<Contents> open_contents(const std::string& path, LoadFormat load_format) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    return not_found(path + " does not exist; pass a Hugging Face model folder or a GGUF file");
  }
  if (fs::is_directory(status)) return open_folder(path, load_format);
  if (!path.ends_with(".gguf")) {
    return unsupported(path + " is neither a folder nor a .gguf file; pass a Hugging Face model "
                              "folder (not a file in it) or a GGUF file");
  }
  if (load_format == LoadFormat::kDummy) {
    return unsupported("dummy weights need a folder with config.json, not " + path);
  }
  return open_gguf(path);
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::string& path,
                                                     LoadFormat load_format) {
  ASSIGN_OR_RETURN(Contents contents, open_contents(path, load_format));
  return std::unique_ptr<Checkpoint>(std::make_unique<OpenCheckpoint>(std::move(contents)));
}

}  // namespace skein
