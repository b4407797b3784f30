#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "topology/cluster.h"

namespace skein {

// What was measured on real machines: the cost model multiplies ceilings by these shares and looks exchanges up in
// these curves. `skein topology --measure` and the benches write such files; configs/calibration/ holds ours.

// A quantity at measured points, x ascending. Linear between points in the logarithm of x (shares) or in x (times).
struct Curve {
  std::vector<double> x;
  std::vector<double> y;
  bool empty() const { return x.empty(); }
};

// Where a figure comes from.
struct Source {
  std::string machine;  // "NVIDIA H200, driver 580.159"
  std::string commit;
  std::string date;     // "2026-11-26"
};

// Share of max(bytes / read, flops / ceiling) that a product reaches: rows by tokens, columns by the weight's bytes.
// Decode attention of cores: of the read rate, rows by query heads that share a KV head, columns by keys of a query.
// Work on rows of cores: of the read rate, rows by tokens, columns by the bytes of a token.
// Or how many times faster something is, by the same.
struct ShareTable {
  std::vector<double> rows = {};
  std::vector<double> columns = {};
  std::vector<std::vector<double>> share = {};
};

// Products with weights of one format and about so many inputs: few inputs make what is done once an output count more.
struct FormatProducts {
  Format format = Format::kF32;
  double inputs = 0;  // between two of a format, in the logarithm; 0: any, unless another of the format says a number
  double flops = 0;  // of one core
  Curve waiting_gain = {};  // by tokens: how many times faster a core is while half of them wait
  ShareTable table = {};
  ShareTable cached = {};  // how many times faster, where caches hold the weights
};

// One kind of device. The name is DeviceKind::name. Ceilings are those of the run that measured the shares.
struct DeviceCalibration {
  std::string name;
  Source source = {};
  double read_bytes_per_s = 0;  // of one GPU; of cores, what all cores of a node read together
  Curve waiting_gain = {};  // of cores: FormatProducts::waiting_gain of bfloat16; the most tokens': other work's
  Curve from_memory = {};  // of cores: which share of what it reads a step finds in no cache, by the bytes
  double cache_decay_bytes_per_s = 0;  // as if a step read so many more, a second until it reads the same again
  double flops = 0;             // products with bfloat16 weights: one GPU, one core

  ShareTable products = {};   // bfloat16, for formats that format_products lacks: on GPUs all
  ShareTable cached_products = {};  // FormatProducts::cached of the same
  std::vector<FormatProducts> format_products = {};  // where formats differ in speed: cores

  Curve decode_attention_share = {};   // of the read rate, by bytes of KV that one launch reads
  double decode_attention_us = 0; // what a launch takes at least; of cores, besides
  ShareTable group_attention = {};  // of cores, in the place of both: decodes with rotation and append
  ShareTable cached_attention = {};  // how many times faster, where caches hold keys and values
  Curve prefill_attention_share = {};  // of flops, by keys that the last token sees
  double prefill_attention_us = 0;

  double layer_us = 0;            // norms, launches and gaps of a layer, one token
  double row_bytes_share = 0;     // of the read rate, what norms and activations of many tokens reach
  ShareTable norms = {};          // of cores, in the place of both
  ShareTable gates = {};          // SwiGLU, where that is a launch of its own; empty: it goes with the product
  ShareTable ropes = {};          // rotation and append of prompts, likewise; empty: they go with attention
  double step_us = 0;             // a step's embedding, final norm, sampling of one row, gaps
  double sample_us = 0;           // each further row that is sampled
  double logits_per_s = 0;        // of sampled rows, one core; 0: step_us and sample_us hold for any vocabulary
  double wake_us = 0;             // of cores: what a stage takes longer that has slept until its turn
  double host_us = 0;             // from a step's end to the next one's first launch, where none is queued behind it
  double layer_launch_us = 0;     // of the host, for a layer of a step that is not recorded
  double request_us = 0;          // from a request's arrival to its first launch, and from its token to the client

  // What a rank holds besides weights, activations and pages.
  double context_bytes = 0;       // CUDA context, code, libraries
  double graph_bytes = 0;         // recorded steps
};

// Exchanges over one kind of link. Times in microseconds by bytes of one rank's part.
struct LinkCalibration {
  LinkKind link = LinkKind::kNvlink;
  std::string device;        // name of the devices that it joins, between nodes of the sender; empty: any
  Source source = {};
  int ranks = 2;             // of the group; point-to-point: 2
  double described_bytes_per_s = 0;  // of the path (topology/cluster.h) that was measured; 0: any over such a link
  double described_latency_us = 0;
  Curve all_reduce_us = {};
  Curve all_gather_us = {};
  Curve point_to_point_us = {};   // empty where ranks > 2
  double library_bytes = 0;  // device memory that the group takes on a rank: communicator, inboxes
  double stage_bytes = 0;    // ... that a pipeline's communicator takes; ranks 2
};

struct Calibration {
  std::vector<DeviceCalibration> devices;
  std::vector<LinkCalibration> links;

  const DeviceCalibration* find_device(std::string_view name) const;  // nullptr: none
  // Measured entries of `measured` take the place of those for the same device, or link, device, ranks and path.
  void replace_with(const Calibration& measured);
};

// At x: beyond the ends a share stays what it was there; a time stays below the first point and grows in proportion
// beyond the last. Requires: !curve.empty().
double share_at(const Curve& curve, double x);
double time_at(const Curve& curve, double x);
// What a product, or attention of a group of query heads, reaches; 1 where nothing was measured.
double share_at(const ShareTable& table, double row, double column);

// The YAML text of a calibration, and back. kInvalidArgument names the line: unknown keys, lists that differ in
// length or do not ascend, shares outside (0, 2], gains below 1, negative times.
std::string to_yaml(const Calibration& calibration);
Result<Calibration> parse_calibration(std::string_view yaml);

// What comes with this program: configs/calibration/.
Calibration shipped_calibration();

// `all` with the files of `paths` over it, later ones over earlier ones.
Result<Calibration> read_calibrations(Calibration all, const std::vector<std::string>& paths);

}  // namespace skein
