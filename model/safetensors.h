#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/mapped_file.h"
#include "model/weight_table.h"

namespace skein {

// The tensors of one safetensors file: the header's sizes and offsets were checked against the file
// and cover its data without gap or overlap. The tensors' data point into `bytes`.
Result<FileTensors> parse_safetensors(std::string_view bytes);

// A model's tensors and the files that they lie in.
struct SafetensorsModel {
  std::vector<MappedFile> files;
  FileTensors tensors;
};

// model.safetensors, or else the shards that model.safetensors.index.json names.
Result<SafetensorsModel> open_safetensors(const std::string& folder);

// The file of each tensor that an index names. kCorrupt if it has a wrong type or names a file
// outside its folder.
Result<std::vector<std::pair<std::string, std::string>>> parse_safetensors_index(
    std::string_view text);

}  // namespace skein
