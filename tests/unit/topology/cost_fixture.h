#pragma once

#include <vector>

#include "base/check.h"
#include "topology/cost.h"

namespace skein::test {

// A model whose figures fit on paper: bfloat16, two layers. Bytes that a layer's products move for one token:
//   q, k, v    128 x 64   16,384 of weights + 384
//   output      64 x 64    8,192 + 256
//   gate, up   256 x 64   32,768 + 640
//   down        64 x 128  16,384 + 384     together 75,392
// Logits of one row: 256 x 64, 32,768 + 640. A token's keys and values: 128 of a layer.
inline ModelDescription paper_model() {
  ModelDescription model;
  model.vocabulary = 256;
  model.hidden = 64;
  model.intermediate = 128;
  model.q_heads = 4;
  model.kv_heads = 2;
  model.head_dim = 16;
  model.kv_groups.resize(1);
  model.layers.resize(2);
  return model;
}

inline constexpr double kNoLimit = 1e18;

// Reads 1000 bytes a microsecond, and computes as fast as asked.
inline DeviceCalibration paper_device() {
  DeviceCalibration device;
  device.name = "paper";
  device.read_bytes_per_s = 1e9;
  device.flops = kNoLimit;
  return device;
}

// Every step takes 1000 us, and one with a part of a prompt 500 us more; half of both on each of two stages.
inline DeviceCalibration even_device() {
  DeviceCalibration device = paper_device();
  device.read_bytes_per_s = kNoLimit;
  device.layer_us = 500;
  device.prefill_attention_us = 250;
  return device;
}

inline ReplicaCost paper_cost(const std::vector<StageSite>& sites, int tp = 1,
                              const ModelFormats& formats = {.layers = std::vector<LayerFormats>(2)}) {
  const ModelDescription model = paper_model();
  const auto shards = plan_shards(model, tp, static_cast<int>(sites.size()));
  CHECK(shards.ok());
  return {model, formats, *shards, sites};
}

inline double stage_us(const DeviceCalibration& device, const StepLoad& load) {
  return paper_cost({{.device = &device}}).stage_us(0, load, 1);
}

}  // namespace skein::test
