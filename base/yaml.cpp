#include "base/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <sstream>
#include <stdexcept>

namespace skein {
namespace {

constexpr size_t kBytesMax = 1 << 20;
constexpr int kDepthMax = 32;

// Thrown inside yaml-cpp's parser by the builder below, caught in parse_yaml.
struct Refusal : std::runtime_error {
  Refusal(const YAML::Mark& mark, const std::string& what)
      : std::runtime_error("line " + std::to_string(mark.line + 1) + ": " + what) {}
};

class Builder : public YAML::EventHandler {
 public:
  Yaml take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(mark, anchor, {.kind = Yaml::Kind::kNull, .line = mark.line + 1, .scalar = {}, .list = {}, .map = {}});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { throw Refusal(mark, "aliases are not allowed"); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor, const std::string& value) override {
    add(mark, anchor, {.kind = Yaml::Kind::kScalar, .line = mark.line + 1, .scalar = value, .list = {}, .map = {}});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, anchor, Yaml::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, anchor, Yaml::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    Yaml value;
    bool has_key = false;
    std::string key;
    int key_line = 0;
  };

  void open(const YAML::Mark& mark, YAML::anchor_t anchor, Yaml::Kind kind) {
    if (anchor != 0) throw Refusal(mark, "anchors are not allowed");
    if (frames_.size() >= kDepthMax) throw Refusal(mark, "nested deeper than 32 levels");
    frames_.push_back({{.kind = kind, .line = mark.line + 1, .scalar = {}, .list = {}, .map = {}}, false, {}, 0});
  }

  void close() {
    Yaml value = std::move(frames_.back().value);
    frames_.pop_back();
    place(std::move(value));
  }

  void add(const YAML::Mark& mark, YAML::anchor_t anchor, Yaml value) {
    if (anchor != 0) throw Refusal(mark, "anchors are not allowed");
    if (!frames_.empty() && frames_.back().value.kind == Yaml::Kind::kMap && !frames_.back().has_key) {
      Frame& frame = frames_.back();
      if (value.kind != Yaml::Kind::kScalar) throw Refusal(mark, "a key must be plain text");
      for (const Yaml::Member& member : frame.value.map) {
        if (member.key == value.scalar) throw Refusal(mark, "the key \"" + value.scalar + "\" is given twice");
      }
      frame.has_key = true;
      frame.key = value.scalar;
      frame.key_line = value.line;
      return;
    }
    place(std::move(value));
  }

  void place(Yaml value) {
    if (frames_.empty()) {
      root_ = std::move(value);
      return;
    }
    Frame& frame = frames_.back();
    if (frame.value.kind == Yaml::Kind::kList) {
      frame.value.list.push_back(std::move(value));
    } else if (!frame.has_key) {
      throw std::runtime_error("line " + std::to_string(value.line) + ": a key must be plain text");
    } else {
      frame.value.map.push_back({std::move(frame.key), frame.key_line, std::move(value)});
      frame.has_key = false;
    }
  }

  std::vector<Frame> frames_;
  Yaml root_;
};

}  // namespace

Result<Yaml> parse_yaml(std::string_view text) {
  if (text.size() > kBytesMax) return invalid_argument("YAML of more than 1 MiB");
  std::istringstream stream{std::string(text)};
  Builder builder;
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return Yaml{};
    Builder rest;
    if (parser.HandleNextDocument(rest)) return invalid_argument("YAML with more than one document");
  } catch (const YAML::Exception& error) {
    return invalid_argument("line " + std::to_string(error.mark.line + 1) + ": " + error.msg);
  } catch (const std::runtime_error& error) {
    return invalid_argument(error.what());
  }
  return builder.take();
}

}  // namespace skein
