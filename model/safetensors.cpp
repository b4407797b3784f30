#include "model/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/json.h"
#include "model/quoted.h"

namespace skein {
namespace {

constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr size_t kTensorsMax = 100'000;
constexpr size_t kDimsMax = 8;
constexpr size_t kFilesMax = 4096;
constexpr size_t kIndexBytesMax = size_t{64} << 20;
// A tensor's entry takes two offsets, up to eight dimensions and ten names and containers.
constexpr JsonLimits kHeaderJson = {
    .bytes_max = kHeaderBytesMax, .depth_max = 4, .values_max = kTensorsMax * 24};

struct DataType {
  std::string_view name;
  int bits;
  std::optional<Format> format;  // none: known, but not read by this build
};

const DataType* find_data_type(std::string_view name) {
  constexpr auto kNone = std::nullopt;
  static constexpr DataType kTypes[] = {
      {"F32", 32, Format::kF32}, {"F16", 16, Format::kF16}, {"BF16", 16, Format::kBF16},
      {"F64", 64, kNone},        {"I64", 64, kNone},        {"U64", 64, kNone},
      {"C64", 64, kNone},        {"I32", 32, kNone},        {"U32", 32, kNone},
      {"I16", 16, kNone},        {"U16", 16, kNone},        {"I8", 8, kNone},
      {"U8", 8, kNone},          {"BOOL", 8, kNone},        {"F8_E4M3", 8, kNone},
      {"F8_E5M2", 8, kNone},     {"F8_E8M0", 8, kNone},     {"F8_E4M3FNUZ", 8, kNone},
      {"F8_E5M2FNUZ", 8, kNone}, {"F6_E2M3", 6, kNone},     {"F6_E3M2", 6, kNone},
      {"F4", 4, kNone},
  };
  for (const DataType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

struct Placed {
  const std::string* name;
  uint64_t begin;
  uint64_t end;
};

bool is_count(const Json* value) {
  return value != nullptr && value->is_int() && value->as_int() >= 0;
}

Status parse_shape(const Json* shape, std::vector<int64_t>* out, int64_t* elements) {
  if (shape == nullptr || !shape->is_array()) return corrupt("\"shape\" is no array");
  if (shape->as_array().size() > kDimsMax) {
    return corrupt(std::to_string(shape->as_array().size()) + " dimensions");
  }
  *elements = 1;
  for (const Json& size : shape->as_array()) {
    const auto product = is_count(&size) ? checked_mul(*elements, size.as_int()) : std::nullopt;
    if (!product) return corrupt("the dimension " + size.dump().substr(0, 80) + " is out of range");
    *elements = *product;
    out->push_back(size.as_int());
  }
  return {};
}

Status parse_offsets(const Json* offsets, Placed* out) {
  if (offsets == nullptr || !offsets->is_array() || offsets->as_array().size() != 2 ||
      !is_count(&offsets->as_array()[0]) || !is_count(&offsets->as_array()[1])) {
    return corrupt("\"data_offsets\" is no pair of offsets");
  }
  out->begin = static_cast<uint64_t>(offsets->as_array()[0].as_int());
  out->end = static_cast<uint64_t>(offsets->as_array()[1].as_int());
  return {};
}

// Checks one entry of the header against the data section.
Status parse_tensor(const Json& entry, std::string_view data, FileTensor* tensor, Placed* placed) {
  const Json* dtype = entry.find("dtype");
  if (dtype == nullptr || !dtype->is_string()) return corrupt("\"dtype\" is no string");
  const DataType* type = find_data_type(dtype->as_string());
  if (type == nullptr) return corrupt("unknown dtype " + quoted(dtype->as_string()));
  int64_t elements;
  RETURN_IF_ERROR(parse_shape(entry.find("shape"), &tensor->shape, &elements));
  RETURN_IF_ERROR(parse_offsets(entry.find("data_offsets"), placed));
  const auto bits = checked_mul<int64_t>(elements, type->bits);
  if (!bits || *bits % 8 != 0) return corrupt("its size is out of range");
  if (placed->begin > placed->end || placed->end > data.size()) {
    return corrupt("the offsets [" + std::to_string(placed->begin) + ", " +
                   std::to_string(placed->end) + ") are outside the file's " +
                   std::to_string(data.size()) + " bytes of data");
  }
  if (placed->end - placed->begin != static_cast<uint64_t>(*bits / 8)) {
    return corrupt("its offsets span " + std::to_string(placed->end - placed->begin) +
                   " bytes, its shape and dtype need " + std::to_string(*bits / 8));
  }
  tensor->format = type->format;
  tensor->type = type->name;
  tensor->data = reinterpret_cast<const std::byte*>(data.data()) + placed->begin;
  tensor->bytes = *bits / 8;
  return {};
}

Status check_coverage(std::vector<Placed> placed, uint64_t size) {
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const Placed& tensor : placed) {
    if (tensor.begin != at) {
      return corrupt("the tensor " + quoted(*tensor.name) + " begins at " +
                     std::to_string(tensor.begin) + " of the data where " + std::to_string(at) +
                     " was expected: a hole or an overlap");
    }
    at = tensor.end;
  }
  if (at != size) {
    return corrupt("the tensors cover " + std::to_string(at) + " of the file's " +
                   std::to_string(size) + " bytes of data");
  }
  return {};
}

Status check_metadata(const Json& metadata) {
  if (!metadata.is_object()) return corrupt("\"__metadata__\" is no object");
  for (const auto& [key, value] : metadata.as_object()) {
    if (!value.is_string()) return corrupt("\"__metadata__\" holds something else than strings");
  }
  return {};
}

// The header's JSON; `data` becomes what follows it.
Result<Json> parse_header(std::string_view bytes, std::string_view* data) {
  uint64_t length;
  if (bytes.size() < sizeof length) return corrupt("the file is shorter than a header's length");
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kHeaderBytesMax) {
    return corrupt("a header of " + std::to_string(length) + " bytes is over the limit of " +
                   std::to_string(kHeaderBytesMax));
  }
  if (length > bytes.size() - sizeof length) {
    return corrupt("the header of " + std::to_string(length) +
                   " bytes runs past the end of the file");
  }
  const std::string_view text = bytes.substr(sizeof length, length);
  if (!text.starts_with('{')) return corrupt("the header does not begin with '{'");
  *data = bytes.substr(sizeof length + length);
  auto header = parse_json(text, kHeaderJson);
  if (!header.ok()) return corrupt("the header is malformed: " + header.status().message());
  return header;
}

bool exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

Result<FileTensors> map_and_parse(const std::string& path, SafetensorsModel* model) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  auto tensors = parse_safetensors(file.bytes());
  if (!tensors.ok()) return tensors.status().within(path);
  model->files.push_back(std::move(file));
  return tensors;
}

bool is_plain_file_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.find('/') == name.npos &&
         name.find("..") == name.npos && name.find('\0') == name.npos;
}

}  // namespace

Result<FileTensors> parse_safetensors(std::string_view bytes) {
  std::string_view data;
  ASSIGN_OR_RETURN(const Json header, parse_header(bytes, &data));
  if (header.as_object().size() > kTensorsMax) {
    return corrupt("more than " + std::to_string(kTensorsMax) + " tensors");
  }
  FileTensors tensors;
  std::vector<Placed> placed;
  for (const auto& [name, entry] : header.as_object()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(check_metadata(entry));
      continue;
    }
    placed.push_back({&name, 0, 0});
    const Status parsed = parse_tensor(entry, data, &tensors[name], &placed.back());
    if (!parsed.ok()) return parsed.within("tensor " + quoted(name));
  }
  RETURN_IF_ERROR(check_coverage(std::move(placed), data.size()));
  return tensors;
}

Result<std::vector<std::pair<std::string, std::string>>> parse_safetensors_index(
    std::string_view text) {
  auto index = parse_json(text, {.bytes_max = kIndexBytesMax, .depth_max = 16,
                                 .values_max = kTensorsMax * 4});
  if (!index.ok()) return corrupt(index.status().message());
  const Json* map = index->find("weight_map");
  if (map == nullptr || !map->is_object()) return corrupt("\"weight_map\" is no object");
  if (map->as_object().size() > kTensorsMax) {
    return corrupt("more than " + std::to_string(kTensorsMax) + " tensors");
  }
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [name, file] : map->as_object()) {
    if (!file.is_string() || !is_plain_file_name(file.as_string())) {
      return corrupt("the file of " + quoted(name) +
                     " is not the name of a .safetensors file in the same folder");
    }
    entries.emplace_back(name, file.as_string());
  }
  return entries;
}

Result<SafetensorsModel> open_safetensors(const std::string& folder) {
  SafetensorsModel model;
  const std::string single = folder + "/model.safetensors";
  const std::string index_path = folder + "/model.safetensors.index.json";
  if (exists(single) || !exists(index_path)) {
    ASSIGN_OR_RETURN(model.tensors, map_and_parse(single, &model));
    return model;
  }
  ASSIGN_OR_RETURN(const std::string text, read_file(index_path, kIndexBytesMax));
  auto entries = parse_safetensors_index(text);
  if (!entries.ok()) return entries.status().within(index_path);
  std::unordered_map<std::string, FileTensors> shards;
  for (auto& [name, file] : *entries) {
    if (!shards.contains(file)) {
      if (shards.size() == kFilesMax) {
        return corrupt(index_path + ": more than " + std::to_string(kFilesMax) + " files");
      }
      ASSIGN_OR_RETURN(shards[file], map_and_parse(folder + "/" + file, &model));
    }
    FileTensors& shard = shards[file];
    const auto found = shard.find(name);
    if (found == shard.end()) {
      return corrupt(index_path + ": " + quoted(name) + " is not in " + quoted(file));
    }
    model.tensors.emplace(std::move(name), std::move(found->second));
  }
  return model;
}

}  // namespace skein
