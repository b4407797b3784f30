#include "base/probe.h"

namespace skein {
namespace {

constexpr double kThreadsMax = 4096;
constexpr double kDeviceMax = 1023;
constexpr double kFigureMax = 1e18;

template <typename Sample, typename Visit>
void numbers_of(Sample& sample, Visit visit) {
  visit("tokens", sample.tokens);
  visit("inputs", sample.inputs);
  visit("size", sample.size);
  visit("group", sample.group);
  visit("bytes", sample.bytes);
  visit("flops", sample.flops);
  visit("age_us", sample.age_us);
  visit("us", sample.us);
}

Status lacks(const std::string& what) { return invalid_argument("the probe's file lacks a proper \"" + what + "\""); }

Result<std::string> text_of(const Json& json, const char* key) {
  const Json* member = json.find(key);
  if (member == nullptr || !member->is_string()) return lacks(key);
  return member->as_string();
}

Result<double> number_of(const Json& json, const char* key, double least, double most) {
  const Json* member = json.find(key);
  if (member == nullptr || !member->is_number()) return lacks(key);
  const double value = member->as_double();
  if (!(value >= least && value <= most)) return lacks(key);
  return value;
}

}  // namespace

Json to_json(const ProbeSpec& spec) {
  Json json = Json::object();
  json.set("device", spec.device);
  json.set("first_device", spec.first_device);
  json.set("threads", spec.threads);
  json.set("spin", spec.spin);
  json.set("output", spec.output);
  return json;
}

Result<ProbeSpec> parse_probe_spec(const Json& json) {
  ProbeSpec spec;
  ASSIGN_OR_RETURN(spec.device, text_of(json, "device"));
  ASSIGN_OR_RETURN(spec.output, text_of(json, "output"));
  ASSIGN_OR_RETURN(const double first, number_of(json, "first_device", 0, kDeviceMax));
  ASSIGN_OR_RETURN(const double threads, number_of(json, "threads", 1, kThreadsMax));
  spec.first_device = static_cast<int>(first);
  spec.threads = static_cast<int>(threads);
  const Json* spin = json.find("spin");
  if (spin == nullptr || !spin->is_bool()) return lacks("spin");
  spec.spin = spin->as_bool();
  return spec;
}

Json to_json(const std::vector<ProbeSample>& samples) {
  Json list = Json::array();
  for (const ProbeSample& sample : samples) {
    Json json = Json::object();
    json.set("what", sample.what);
    json.set("format", sample.format);
    numbers_of(sample, [&](const char* key, double value) { json.set(key, value); });
    list.push_back(std::move(json));
  }
  return list;
}

Result<std::vector<ProbeSample>> parse_probe_samples(const Json& json) {
  if (!json.is_array() || json.as_array().size() > kProbeSamplesMax) {
    return invalid_argument("the probe's answer must be a list of samples, at most " + std::to_string(kProbeSamplesMax));
  }
  std::vector<ProbeSample> samples;
  for (const Json& entry : json.as_array()) {
    ProbeSample sample;
    ASSIGN_OR_RETURN(sample.what, text_of(entry, "what"));
    ASSIGN_OR_RETURN(sample.format, text_of(entry, "format"));
    Status status;
    numbers_of(sample, [&](const char* key, double& value) {
      const Result<double> number = number_of(entry, key, 0, kFigureMax);
      if (number.ok()) value = *number;
      else if (status.ok()) status = number.status();
    });
    RETURN_IF_ERROR(status);
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace skein
