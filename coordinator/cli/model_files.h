#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/engine.h"
#include "model/checkpoint.h"

namespace skein {

// A model as the user names it, found on this machine.
struct ModelFiles {
  std::string path;  // folder or GGUF file
  std::unique_ptr<Checkpoint> checkpoint;
};

// `name`: a folder, a GGUF file, or ORGANISATION/NAME in the local Hugging Face hub cache (HF_HUB_CACHE, HF_HOME,
// XDG_CACHE_HOME or ~/.cache/huggingface; those that are empty count as unset). kNotFound has the command that
// downloads it.
Result<ModelFiles> find_model(const std::string& name, LoadFormat load_format);

// What the API needs: tokenizer, chat template, sampling defaults, end-of-sequence ids. `template_file` replaces the
// model's own template where it is not empty; `context_max` as planned.
Result<ServedModel> describe_served_model(const ModelFiles& files, const std::string& served_name,
                                          const std::string& template_file, int context_max);

}  // namespace skein
