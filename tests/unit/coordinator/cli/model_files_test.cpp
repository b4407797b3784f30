#include "coordinator/cli/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>

#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr const char* kTiny = "tests/oracles/fixtures/llama_gqa";  // its end of sequence is 2, "<|im_end|>"

void copy_model(const fs::path& to) {
  fs::create_directories(to);
  fs::copy(kTiny, to, fs::copy_options::recursive);
}

class EndOfSequence : public ::testing::Test {
 protected:
  EndOfSequence() { copy_model(folder_.path()); }

  std::vector<int32_t> described() {
    const Result<ModelFiles> files = find_model(folder_.path(), LoadFormat::kAuto);
    EXPECT_TRUE(files.ok()) << files.status().message();
    if (!files.ok()) return {};
    const Result<ServedModel> model = describe_served_model(*files, "tiny", "", 128);
    EXPECT_TRUE(model.ok()) << model.status().message();
    return model.ok() ? model->eos_tokens : std::vector<int32_t>();
  }

  test::TemporaryFolder folder_;
};

TEST_F(EndOfSequence, OfTheTokenizerAndOfGenerationConfig) {
  folder_.write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(described(), UnorderedElementsAre(2, 7));
  folder_.write("generation_config.json", R"({"eos_token_id": [7, 2, 9]})");
  EXPECT_THAT(described(), UnorderedElementsAre(2, 7, 9));
}

TEST_F(EndOfSequence, OfConfigWhereGenerationConfigHasNone) {
  folder_.write("generation_config.json", "{}");
  EXPECT_THAT(described(), UnorderedElementsAre(2));
}

class HubCache : public ::testing::Test {
 protected:
  HubCache() {
    for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) unsetenv(name);
    setenv("HOME", folder_.path().c_str(), 1);
  }

  fs::path snapshots(const std::string& hub) const {
    return fs::path(folder_.path()) / hub / "models--flock--tiny" / "snapshots";
  }
  static std::string found() {
    const Result<ModelFiles> files = find_model("flock/tiny", LoadFormat::kAuto);
    return files.ok() ? files->path : files.status().message();
  }

  test::TemporaryFolder folder_;
};

TEST_F(HubCache, LiesWhereTheHubsOwnClientPutsIt) {
  EXPECT_THAT(found(), HasSubstr("hf download flock/tiny"));
  copy_model(snapshots(".cache/huggingface/hub") / "a");
  EXPECT_EQ(found(), snapshots(".cache/huggingface/hub") / "a");
  setenv("XDG_CACHE_HOME", folder_.file("cache").c_str(), 1);
  EXPECT_THAT(found(), HasSubstr("hf download flock/tiny"));
  copy_model(snapshots("cache/huggingface/hub") / "b");
  EXPECT_EQ(found(), snapshots("cache/huggingface/hub") / "b");
  setenv("HF_HOME", folder_.file("home").c_str(), 1);
  copy_model(snapshots("home/hub") / "c");
  EXPECT_EQ(found(), snapshots("home/hub") / "c");
  setenv("HF_HUB_CACHE", folder_.file("hub").c_str(), 1);
  copy_model(snapshots("hub") / "d");
  EXPECT_EQ(found(), snapshots("hub") / "d");
}

TEST_F(HubCache, IsWhereItAlwaysIsWhereVariablesAreEmpty) {
  copy_model(snapshots(".cache/huggingface/hub") / "a");
  for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) {
    setenv(name, "", 1);
    EXPECT_EQ(found(), snapshots(".cache/huggingface/hub") / "a") << name;
  }
  setenv("XDG_CACHE_HOME", "relative", 1);
  EXPECT_EQ(found(), snapshots(".cache/huggingface/hub") / "a");
  setenv("HF_HOME", "relative", 1);
  EXPECT_THAT(found(), HasSubstr("in the hub cache at relative/hub;"));
}

TEST_F(HubCache, MainWinsAndElseTheNewestSnapshot) {
  const fs::path all = snapshots(".cache/huggingface/hub");
  copy_model(all / "old");
  copy_model(all / "new");
  copy_model(all / "older");
  const auto now = fs::file_time_type::clock::now();
  fs::last_write_time(all / "old", now - std::chrono::hours(2));
  fs::last_write_time(all / "older", now - std::chrono::hours(3));
  fs::create_directories(all / "unfinished");
  EXPECT_EQ(found(), all / "new");
  fs::create_directories(all / "../refs");
  folder_.write(".cache/huggingface/hub/models--flock--tiny/refs/main", "old\n");
  EXPECT_EQ(found(), all / "old");
}

}  // namespace
}  // namespace skein
