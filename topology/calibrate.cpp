#include "topology/calibrate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/check.h"

namespace skein {
namespace {

constexpr double kShareMax = 2;  // what a calibration file may say
constexpr double kHalfGainMax = 2;
constexpr double kMicro = 1e6;
constexpr double kDecayMin = 1.0 / 256;  // of the read rate
constexpr double kDecayStep = 1.1;
constexpr int kDecaySteps = 88;  // to sixteen times the read rate
constexpr double kFromMemoryMax = 0.5;  // of weights whose age is to tell anything
// Where ranks compute on every core: what the threads that pass a token on take of one, for which the others wait. Not
// timed by the probe: 35 % of a core for 31,731 tokens/s (docs/performance.md, "Everything but the device").
constexpr double kTokenUs = 11;

template <typename Visit>
void each(const std::vector<ProbeSample>& samples, std::string_view what, Visit visit) {
  for (const ProbeSample& sample : samples) {
    if (sample.what == what && sample.us > 0) visit(sample);
  }
}

Curve curve_of(const std::map<double, double>& points) {
  Curve curve;
  for (const auto& [x, y] : points) {
    curve.x.push_back(x);
    curve.y.push_back(y);
  }
  return curve;
}

Curve times_of(const std::vector<ProbeSample>& samples, std::string_view what) {
  std::map<double, double> points;
  each(samples, what, [&](const ProbeSample& sample) { points[sample.size] = sample.us; });
  return curve_of(points);
}

class DeviceFit {
 public:
  DeviceFit(const DeviceCalibration& before, const std::vector<ProbeSample>& samples, int cores)
      : fit_(before), samples_(samples), cores_(cores) {}

  DeviceCalibration run() {
    fit_ceilings();
    fit_turns();
    fit_products();
    fit_attention();
    fit_rows();
    fit_sampling();
    each(samples_, "woken", [&](const ProbeSample& s) { fit_.wake_us = s.us; });
    return std::move(fit_);
  }

 private:
  // The best that anything reached.
  void fit_ceilings() {
    double read = 0;
    const auto take_best = [&](const ProbeSample& s) { read = std::max(read, s.bytes / s.us * kMicro); };
    each(samples_, "product", take_best);
    each(samples_, "decode_attention", [&](const ProbeSample& s) {
      if (s.group == 0) take_best(s);  // those with a group are of cores, whose caches may hold the keys
    });
    each(samples_, "read", take_best);
    if (read > 0) fit_.read_bytes_per_s = read;
    const double flops = best_flops(Format::kBF16);
    if (flops > 0) fit_.flops = flops;
  }

  // The time of a product by how many bytes of weights take turns: from that of the fewest to that of the most.
  void fit_turns() {
    std::map<double, double> shares;
    each(samples_, "turns", [&](const ProbeSample& s) { shares[s.size] = s.us; });
    if (shares.empty()) return;
    const double cached_us = shares.begin()->second;
    const double memory_us = shares.rbegin()->second;
    for (auto& [bytes, value] : shares) {
      value = memory_us <= cached_us ? 1 : std::clamp((value - cached_us) / (memory_us - cached_us), 0.0, 1.0);
    }
    fit_.from_memory = curve_of(shares);
    fit_decay(cached_us, memory_us);
  }

  // Of some rates the one that tells the times of weights that were read again later.
  void fit_decay(double cached_us, double memory_us) {
    fit_.cache_decay_bytes_per_s = 0;
    if (memory_us <= cached_us) return;
    const auto error = [&](double bytes_per_s) {
      double sum = 0;
      each(samples_, "aged", [&](const ProbeSample& s) {
        if (share_at(fit_.from_memory, s.size) > kFromMemoryMax) return;
        const double share = std::clamp((s.us - cached_us) / (memory_us - cached_us), 0.0, 1.0);
        const double told = share_at(fit_.from_memory, s.size + bytes_per_s * s.age_us / kMicro);
        sum += (share - told) * (share - told);
      });
      return sum;
    };
    double best = 0;
    for (int step = 0; step < kDecaySteps; ++step) {
      const double rate = fit_.read_bytes_per_s * kDecayMin * std::pow(kDecayStep, step);
      if (error(rate) < error(best)) best = rate;
    }
    fit_.cache_decay_bytes_per_s = best;
  }

  // How many times faster products are whose weights caches hold.
  ShareTable cached_gains(Format format, double inputs) const {
    std::map<double, std::map<double, double>> gains;  // by tokens and weight bytes
    each_of("cached_product", format, [&](const ProbeSample& cached) {
      if (cached.inputs != inputs) return;
      each_product(format, inputs, [&](const ProbeSample& from_memory) {
        if (from_memory.tokens != cached.tokens || from_memory.size != cached.size) return;
        gains[cached.tokens][cached.size] = std::max(from_memory.us / cached.us, 1.0);
      });
    });
    return table_of(gains);
  }

  // Half of the cores while the others wait, against the same while they work: the mean over weights.
  Curve waiting_gain(Format format) const {
    std::map<double, std::vector<double>> ratios;  // by tokens
    each_of("half_beside", format, [&](const ProbeSample& beside) {
      each_of("half_alone", format, [&](const ProbeSample& alone) {
        if (alone.tokens != beside.tokens || alone.size != beside.size) return;
        ratios[alone.tokens].push_back(beside.us / alone.us);
      });
    });
    std::map<double, double> gains;
    for (const auto& [tokens, of_weights] : ratios) {
      const double mean = std::reduce(of_weights.begin(), of_weights.end()) / static_cast<double>(of_weights.size());
      gains[tokens] = std::clamp(mean, 1.0, kHalfGainMax);
    }
    return curve_of(gains);
  }

  // Of one core.
  double best_flops(Format format) const {
    double flops = 0;
    each_of("product", format,
            [&](const ProbeSample& s) { flops = std::max(flops, s.flops / s.us * kMicro / cores_); });
    return flops;
  }

  template <typename Visit>
  void each_of(std::string_view what, Format format, Visit visit) const {
    each(samples_, what, [&](const ProbeSample& s) {
      if (s.format == info(format).name) visit(s);
    });
  }
  template <typename Visit>
  void each_product(Format format, double inputs, Visit visit) const {
    each_of("product", format, [&](const ProbeSample& s) {
      if (s.inputs == inputs) visit(s);
    });
  }
  // 0 alone where it is not told: a GPU's.
  std::set<double> inputs_of(Format format) const {
    std::set<double> inputs;
    each_of("product", format, [&](const ProbeSample& s) { inputs.insert(s.inputs); });
    return inputs;
  }

  // Of the ceiling that binds.
  double share_of(const ProbeSample& sample, double flops) const {
    const double read_us = sample.bytes / fit_.read_bytes_per_s * kMicro;
    const double compute_us = sample.flops / (flops * cores_) * kMicro;
    return std::min(std::max(read_us, compute_us) / sample.us, kShareMax);
  }
  double share_of(const ProbeSample& sample) const { return share_of(sample, fit_.flops); }

  void fit_products() {
    for (const Format format :
         {Format::kBF16, Format::kF32, Format::kF16, Format::kQ8_0, Format::kQ4_0, Format::kQ4_1}) {
      const std::set<double> all_inputs = inputs_of(format);
      if (all_inputs.empty()) continue;
      const double flops = format == Format::kBF16 ? fit_.flops : best_flops(format);
      if (flops == 0) continue;
      std::erase_if(fit_.format_products, [&](const FormatProducts& old) { return old.format == format; });
      const Curve waiting = waiting_gain(format);
      for (const double inputs : all_inputs) {
        fit_.format_products.push_back({.format = format,
                                        .inputs = inputs,
                                        .flops = flops,
                                        .waiting_gain = waiting,
                                        .table = table_of_products(format, inputs, flops),
                                        .cached = cached_gains(format, inputs)});
      }
      if (format != Format::kBF16) continue;
      const FormatProducts& last = fit_.format_products.back();
      fit_.products = last.table;
      fit_.cached_products = last.cached;
      fit_.waiting_gain = last.waiting_gain;
      if (last.inputs == 0) fit_.format_products.pop_back();  // says nothing besides
    }
  }

  // Every weight was multiplied with every number of tokens.
  ShareTable table_of_products(Format format, double inputs, double flops) const {
    std::map<double, std::map<double, double>> shares;  // by tokens and weight bytes
    each_product(format, inputs, [&](const ProbeSample& s) { shares[s.tokens][s.size] = share_of(s, flops); });
    return table_of(shares);
  }

  static ShareTable table_of(const std::map<double, std::map<double, double>>& shares) {
    ShareTable table;
    for (const auto& [at, row] : shares) {
      table.rows.push_back(at);
      table.columns = curve_of(row).x;
      table.share.push_back(curve_of(row).y);
    }
    return table;
  }

  ShareTable cached_attention_gains() const {
    std::map<double, std::map<double, double>> gains;  // by query heads that share keys, and keys of a row
    each(samples_, "cached_attention", [&](const ProbeSample& cached) {
      each(samples_, "decode_attention", [&](const ProbeSample& from_memory) {
        if (from_memory.group != cached.group || from_memory.size != cached.size) return;
        gains[cached.group][cached.size] = std::max(from_memory.us / cached.us, 1.0);
      });
    });
    return table_of(gains);
  }

  void fit_attention() {
    std::map<double, std::map<double, double>> groups;  // by query heads that share keys, and keys of a row
    std::map<double, double> decode;
    each(samples_, "decode_attention", [&](const ProbeSample& s) {
      if (s.group > 0) {
        groups[s.group][s.size] = share_of(s);
        return;
      }
      if (decode.empty() || s.us < fit_.decode_attention_us) fit_.decode_attention_us = s.us;
      decode[s.size] = share_of(s);
    });
    if (!groups.empty()) {
      fit_.group_attention = table_of(groups);
      fit_.cached_attention = cached_attention_gains();
      fit_.decode_attention_us = 0;
      each(samples_, "decode_launch", [&](const ProbeSample& s) { fit_.decode_attention_us = s.us; });
    }
    if (!decode.empty()) fit_.decode_attention_share = curve_of(decode);
    std::map<double, double> prefill;
    double least = 0;
    each(samples_, "prefill_attention", [&](const ProbeSample& s) {
      if (prefill.empty() || s.us < least) least = s.us;
      prefill[s.tokens] = share_of(s);
    });
    if (prefill.empty()) return;
    fit_.prefill_attention_share = curve_of(prefill);
    fit_.prefill_attention_us = least;
  }

  // Every width was worked on with every number of tokens.
  bool fit_row_table(std::string_view what, ShareTable* table) {
    std::map<double, std::map<double, double>> shares;  // by tokens and bytes of a token
    each(samples_, what, [&](const ProbeSample& s) {
      if (s.size > 0) shares[s.tokens][s.size] = share_of(s);
    });
    if (!shares.empty()) *table = table_of(shares);
    return !shares.empty();
  }

  void fit_rows() {
    fit_row_table("gate", &fit_.gates);
    fit_row_table("rope", &fit_.ropes);
    if (fit_row_table("norm", &fit_.norms)) return;
    double fewest = 0;
    double most = 0;
    each(samples_, "norm", [&](const ProbeSample& s) {
      // A layer has two; an older figure that also knows its other small launches is better.
      if ((fewest == 0 || s.tokens < fewest) && fit_.layer_us == 0) fit_.layer_us = 2 * s.us;
      if (fewest == 0 || s.tokens < fewest) fewest = s.tokens;
      if (s.tokens >= most) fit_.row_bytes_share = share_of(s);
      most = std::max(most, s.tokens);
    });
  }

  // Rows that all cores share.
  void fit_sampling() {
    each(samples_, "sample", [&](const ProbeSample& s) {
      fit_.logits_per_s = s.tokens * s.size / s.us * kMicro / cores_;
      fit_.sample_us = kTokenUs;
    });
  }

  DeviceCalibration fit_;
  const std::vector<ProbeSample>& samples_;
  const int cores_;
};

}  // namespace

DeviceCalibration calibrate_device(const DeviceCalibration& before, const std::vector<ProbeSample>& samples,
                                   int cores) {
  return DeviceFit(before, samples, cores).run();
}

LinkCalibration calibrate_link(LinkKind link, int ranks, const std::vector<ProbeSample>& samples) {
  LinkCalibration fit;
  fit.link = link;
  fit.ranks = ranks;
  fit.all_reduce_us = times_of(samples, "all_reduce");
  fit.point_to_point_us = times_of(samples, "point_to_point");
  for (const ProbeSample& sample : samples) {
    if (sample.what == "library_bytes") fit.library_bytes = sample.bytes;
  }
  return fit;
}

LinkCalibration calibrate_path(const Path& path, const std::vector<ProbeSample>& samples) {
  LinkCalibration fit = calibrate_link(path.link, 2, samples);
  fit.described_bytes_per_s = path.bytes_per_s;
  fit.described_latency_us = path.latency_us;
  return fit;
}

double carried_bytes_per_s(const Curve& sends) {
  CHECK(!sends.empty());
  const size_t last = sends.x.size() - 1;
  const double whole = sends.x[last] / sends.y[last];
  if (last == 0 || sends.y[last] <= sends.y[last - 1]) return whole * kMicro;
  return (sends.x[last] - sends.x[last - 1]) / (sends.y[last] - sends.y[last - 1]) * kMicro;
}

}  // namespace skein
