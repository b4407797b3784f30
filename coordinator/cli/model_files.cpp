#include "coordinator/cli/model_files.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>

#include "base/cache_file.h"
#include "model/gguf.h"
#include "model/mapped_file.h"

namespace skein {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTokenizerBytesMax = size_t{64} << 20;
constexpr size_t kSmallFileBytesMax = size_t{1} << 20;

bool file_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Empty: not set, or set to nothing. A relative path counts, as for the hub's own client.
fs::path hub_folder_in(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

fs::path hub_cache() {
  if (fs::path cache = hub_folder_in("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const fs::path home = hub_folder_in("HF_HOME"); !home.empty()) return home / "hub";
  if (const fs::path caches = folder_in("XDG_CACHE_HOME"); !caches.empty()) return caches / "huggingface/hub";
  const fs::path home = folder_in("HOME");
  return (home.empty() ? "/" : home) / ".cache/huggingface/hub";
}

bool looks_like_hub_name(const std::string& name) {
  return std::ranges::count(name, '/') == 1 && name.front() != '/' && name.front() != '.' && name.back() != '/' &&
         name.find("..") == name.npos;
}

// The newest snapshot that holds a model; empty: none does.
fs::path newest_snapshot(const fs::path& snapshots) {
  fs::path newest;
  fs::file_time_type newest_time = fs::file_time_type::min();
  std::error_code ignored;
  for (fs::directory_iterator it(snapshots, ignored), end; it != end; it.increment(ignored)) {
    const fs::file_time_type time = fs::last_write_time(it->path(), ignored);
    if (time <= newest_time || !file_exists(it->path() / "config.json")) continue;
    newest = it->path();
    newest_time = time;
  }
  return newest;
}

// The snapshot that refs/main names, or the newest one: a download of one revision writes no refs/main.
Result<std::string> find_in_hub(const std::string& name) {
  std::string folder = "models--" + name;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path base = hub_cache() / folder;
  const Result<std::string> revision = read_file(base / "refs/main", 256);
  if (revision.ok()) {
    const std::string commit = revision->substr(0, revision->find_last_not_of(" \n") + 1);
    const fs::path snapshot = base / "snapshots" / commit;
    if (commit.find('/') == commit.npos && file_exists(snapshot / "config.json")) return snapshot.string();
  }
  if (const fs::path snapshot = newest_snapshot(base / "snapshots"); !snapshot.empty()) return snapshot.string();
  return not_found("the model " + name + " is neither a path nor in the hub cache at " + hub_cache().string() +
                   "; download it with: hf download " + name);
}

Result<Json> read_json(const fs::path& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, bytes_max));
  Result<Json> json = parse_json(text, {.bytes_max = bytes_max});
  if (!json.ok()) return json.status().within(path.string());
  return json;
}

// A JSON file that may be absent: null then.
Result<Json> read_optional_json(const fs::path& path) {
  if (!file_exists(path)) return Json();
  return read_json(path, kSmallFileBytesMax);
}

std::vector<int32_t> token_ids(const Json* value) {
  std::vector<int32_t> ids;
  const auto add = [&](const Json& id) {
    if (id.is_int() && id.as_int() >= 0 && id.as_int() <= INT32_MAX) ids.push_back(static_cast<int32_t>(id.as_int()));
  };
  if (value == nullptr) return ids;
  if (value->is_array()) std::ranges::for_each(value->as_array(), add);
  else add(*value);
  return ids;
}

// Text of a token given as "<s>" or {"content": "<s>"}.
std::string token_text(const Json& config, std::string_view key) {
  const Json* token = config.find(key);
  if (token != nullptr && token->is_object()) token = token->find("content");
  return token != nullptr && token->is_string() ? token->as_string() : std::string();
}

SamplingDefaults read_defaults(const Json& generation) {
  SamplingDefaults defaults;
  const auto number = [&](std::string_view key) -> std::optional<double> {
    const Json* value = generation.find(key);
    return value != nullptr && value->is_number() ? std::optional(value->as_double()) : std::nullopt;
  };
  defaults.temperature = number("temperature");
  defaults.top_p = number("top_p");
  defaults.min_p = number("min_p");
  defaults.repetition_penalty = number("repetition_penalty");
  if (const auto top_k = number("top_k")) defaults.top_k = static_cast<int>(*top_k);
  if (const auto tokens = number("max_new_tokens")) defaults.max_tokens = static_cast<int>(*tokens);
  return defaults;
}

// A template is text, or a list of {name, template} of which "default" is ours.
std::string template_text(const Json* value) {
  if (value == nullptr) return {};
  if (value->is_string()) return value->as_string();
  if (!value->is_array()) return {};
  for (const Json& entry : value->as_array()) {
    const Json* name = entry.find("name");
    const Json* source = entry.find("template");
    if (name != nullptr && source != nullptr && name->is_string() && name->as_string() == "default" &&
        source->is_string()) {
      return source->as_string();
    }
  }
  return {};
}

Status add_folder_text(const fs::path& folder, ServedModel* model, std::string* chat_template) {
  ASSIGN_OR_RETURN(const Json config, read_json(folder / "config.json", kSmallFileBytesMax));
  ASSIGN_OR_RETURN(const Json generation, read_optional_json(folder / "generation_config.json"));
  ASSIGN_OR_RETURN(const Json tokenizer_config, read_optional_json(folder / "tokenizer_config.json"));
  model->defaults = read_defaults(generation);
  model->eos_tokens = token_ids(generation.find("eos_token_id"));
  if (model->eos_tokens.empty()) model->eos_tokens = token_ids(config.find("eos_token_id"));
  if (file_exists(folder / "tokenizer.json")) {
    ASSIGN_OR_RETURN(const Json tokenizer, read_json(folder / "tokenizer.json", kTokenizerBytesMax));
    Result<std::unique_ptr<Tokenizer>> made = Tokenizer::from_json(tokenizer, tokenizer_config);
    if (!made.ok()) return made.status().within((folder / "tokenizer.json").string());
    model->tokenizer = std::move(*made);
  }
  model->bos_token = token_text(tokenizer_config, "bos_token");
  model->eos_token = token_text(tokenizer_config, "eos_token");
  *chat_template = template_text(tokenizer_config.find("chat_template"));
  if (file_exists(folder / "chat_template.jinja")) {
    ASSIGN_OR_RETURN(*chat_template, read_file(folder / "chat_template.jinja", kSmallFileBytesMax));
  }
  return {};
}

Status add_gguf_text(const GgufFile& file, ServedModel* model, std::string* chat_template) {
  if (file.find("tokenizer.ggml.model") != nullptr) {
    ASSIGN_OR_RETURN(model->tokenizer, Tokenizer::from_gguf(file));
  }
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const Result<int64_t> id = file.find(key) == nullptr ? Result<int64_t>(int64_t{-1}) : file.integer(key);
    if (!id.ok()) return id.status();
    if (*id >= 0 && *id <= INT32_MAX) model->eos_tokens.push_back(static_cast<int32_t>(*id));
  }
  if (model->tokenizer != nullptr) {
    const auto text = [&](std::optional<int32_t> id) {
      return id && *id < model->tokenizer->size() ? model->tokenizer->token_bytes(*id) : std::string();
    };
    model->bos_token = text(model->tokenizer->bos());
    model->eos_token = text(model->tokenizer->eos());
  }
  if (file.find("tokenizer.chat_template") != nullptr) {
    ASSIGN_OR_RETURN(*chat_template, file.string("tokenizer.chat_template"));
  }
  return {};
}

}  // namespace

Result<ModelFiles> find_model(const std::string& name, LoadFormat load_format) {
  ModelFiles files{.path = name, .checkpoint = nullptr};
  if (!file_exists(name)) {
    if (!looks_like_hub_name(name)) {
      return not_found("there is no file or folder " + name + "; name a Hugging Face folder, a GGUF file, or ORGANISATION/NAME in the hub cache");
    }
    ASSIGN_OR_RETURN(files.path, find_in_hub(name));
  }
  ASSIGN_OR_RETURN(files.checkpoint, Checkpoint::open(files.path, load_format));
  return files;
}

Result<ServedModel> describe_served_model(const ModelFiles& files, const std::string& served_name,
                                          const std::string& template_file, int context_max) {
  const ModelDescription& description = files.checkpoint->description();
  ServedModel model;
  model.name = served_name;
  model.root = files.path;
  model.created = static_cast<int64_t>(std::time(nullptr));
  model.vocabulary = description.vocabulary;
  model.context_max = context_max;
  std::string chat_template;
  if (const GgufFile* gguf = files.checkpoint->gguf()) {
    RETURN_IF_ERROR(add_gguf_text(*gguf, &model, &chat_template));
  } else {
    RETURN_IF_ERROR(add_folder_text(files.path, &model, &chat_template));
  }
  // The tokenizer's ends a sequence besides what the configuration lists, as in vLLM: the two often differ.
  if (model.tokenizer != nullptr && model.tokenizer->eos() &&
      std::ranges::find(model.eos_tokens, *model.tokenizer->eos()) == model.eos_tokens.end()) {
    model.eos_tokens.push_back(*model.tokenizer->eos());
  }
  if (model.tokenizer != nullptr && model.tokenizer->size() > description.vocabulary) {
    return invalid_argument("the tokenizer of " + files.path + " has " + std::to_string(model.tokenizer->size()) +
                            " ids but the model only " + std::to_string(description.vocabulary) +
                            ": they do not belong together");
  }
  std::erase_if(model.eos_tokens, [&](int32_t id) { return id >= description.vocabulary; });
  if (!template_file.empty()) {
    ASSIGN_OR_RETURN(chat_template, read_file(template_file, kSmallFileBytesMax));
  }
  if (!chat_template.empty()) {
    Result<ChatTemplate> compiled = ChatTemplate::compile(chat_template);
    if (!compiled.ok()) {
      return compiled.status().within(template_file.empty() ? "the model's chat template" : template_file);
    }
    model.chat_template = std::move(*compiled);
  }
  return model;
}

}  // namespace skein
