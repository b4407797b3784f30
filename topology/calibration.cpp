#include "topology/calibration.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/check.h"
#include "base/yaml.h"
#include "model/mapped_file.h"

namespace skein {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;
constexpr double kShareMax = 2;
// What rows and columns of a table stand for, in its keys.
struct TableKeys {
  const char* prefix;
  const char* rows;
  const char* columns;
  const char* of;  // ... whose, behind a device's name
  const char* values = "share";
};
constexpr const char* kGain = "gain";
constexpr TableKeys kFormatKeys = {"", "tokens", "bytes", ""};
constexpr TableKeys kCachedKeys = {"cached_", "tokens", "bytes", "'s weights in caches", kGain};
constexpr TableKeys kProductKeys = {"product_", "tokens", "bytes", ""};
constexpr TableKeys kCachedProductKeys = {"cached_product_", "tokens", "bytes", "'s weights in caches", kGain};
constexpr TableKeys kAttentionKeys = {"group_attention_", "heads", "keys", "'s attention"};
constexpr TableKeys kCachedAttentionKeys = {"cached_attention_", "heads", "keys", "'s keys in caches", kGain};
constexpr TableKeys kNormKeys = {"norm_", "tokens", "bytes", "'s norms"};
constexpr TableKeys kGateKeys = {"gate_", "tokens", "bytes", "'s gates"};
constexpr TableKeys kRopeKeys = {"rope_", "tokens", "bytes", "'s rotations"};

// Every plain number of a device, by its key: reader and writer go by this list.
template <typename Calibrated, typename Visit>
void numbers_of(Calibrated& device, Visit visit) {
  visit("read_bytes_per_s", device.read_bytes_per_s);
  visit("flops", device.flops);
  visit("decode_attention_us", device.decode_attention_us);
  visit("prefill_attention_us", device.prefill_attention_us);
  visit("layer_us", device.layer_us);
  visit("row_bytes_share", device.row_bytes_share);
  visit("step_us", device.step_us);
  visit("sample_us", device.sample_us);
  visit("logits_per_s", device.logits_per_s);
  visit("wake_us", device.wake_us);
  visit("cache_decay_bytes_per_s", device.cache_decay_bytes_per_s);
  visit("host_us", device.host_us);
  visit("layer_launch_us", device.layer_launch_us);
  visit("request_us", device.request_us);
  visit("context_bytes", device.context_bytes);
  visit("graph_bytes", device.graph_bytes);
}

template <typename Calibrated, typename Visit>
void tables_of(Calibrated& device, Visit visit) {
  visit(kProductKeys, device.products);
  visit(kCachedProductKeys, device.cached_products);
  visit(kAttentionKeys, device.group_attention);
  visit(kCachedAttentionKeys, device.cached_attention);
  visit(kNormKeys, device.norms);
  visit(kGateKeys, device.gates);
  visit(kRopeKeys, device.ropes);
}

template <typename Calibrated, typename Visit>
void curves_of(Calibrated& device, Visit visit) {
  visit("waiting_gain", device.waiting_gain);
  visit("from_memory", device.from_memory);
  visit("decode_attention_share", device.decode_attention_share);
  visit("prefill_attention_share", device.prefill_attention_share);
}

template <typename Calibrated, typename Visit>
void link_fields_of(Calibrated& link, Visit visit) {
  visit("described_bytes_per_s", link.described_bytes_per_s);
  visit("described_latency_us", link.described_latency_us);
  visit("all_reduce_us", link.all_reduce_us);
  visit("all_gather_us", link.all_gather_us);
  visit("point_to_point_us", link.point_to_point_us);
  visit("library_bytes", link.library_bytes);
  visit("stage_bytes", link.stage_bytes);
}

constexpr LinkKind kLinks[] = {LinkKind::kSelf,   LinkKind::kNvlink,     LinkKind::kPcie, LinkKind::kSocket,
                               LinkKind::kMemory, LinkKind::kInfiniBand, LinkKind::kRoce, LinkKind::kTcp};

constexpr Format kWeightFormats[] = {Format::kF32,  Format::kF16,  Format::kBF16,
                                     Format::kQ8_0, Format::kQ4_0, Format::kQ4_1};

Status at_line(int line, const std::string& what) {
  return invalid_argument("line " + std::to_string(line) + ": " + what);
}

Result<double> read_number(const Yaml& yaml, const std::string& key) {
  double value = 0;
  const char* text = yaml.scalar.data();
  const auto [end, error] = std::from_chars(text, text + yaml.scalar.size(), value);
  const bool whole = yaml.kind == Yaml::Kind::kScalar && error == std::errc() && end == text + yaml.scalar.size();
  if (!whole || !std::isfinite(value) || value < 0) {
    return at_line(yaml.line, key + " must be a number that is not negative");
  }
  return value;
}

Result<std::vector<double>> read_numbers(const Yaml& yaml, const std::string& key) {
  if (yaml.kind != Yaml::Kind::kList) return at_line(yaml.line, key + " must be a list of numbers");
  std::vector<double> values;
  for (const Yaml& item : yaml.list) {
    ASSIGN_OR_RETURN(const double value, read_number(item, key));
    values.push_back(value);
  }
  return values;
}

Status check_ascending(const std::vector<double>& values, int line, const std::string& key) {
  if (std::ranges::adjacent_find(values, std::greater_equal<>()) == values.end()) return {};
  return at_line(line, key + " must ascend");
}

Status check_gains(const std::vector<double>& values, int line, const std::string& key) {
  if (std::ranges::all_of(values, [](double faster) { return faster >= 1; })) return {};
  return at_line(line, key + ": how many times faster something is must be 1 or more");
}

Status check_shares(const std::vector<double>& values, int line, const std::string& key) {
  if (std::ranges::all_of(values, [](double share) { return share > 0 && share <= kShareMax; })) return {};
  return at_line(line, key + " must be shares above 0, at most 2");
}

Result<Curve> read_curve(const Yaml& yaml, const std::string& key) {
  if (yaml.kind != Yaml::Kind::kMap) return at_line(yaml.line, key + " must be a map of two lists, x and y");
  Curve curve;
  for (const Yaml::Member& member : yaml.map) {
    if (member.key != "x" && member.key != "y") {
      return at_line(member.line, key + " has no \"" + member.key + "\", only x and y");
    }
    ASSIGN_OR_RETURN((member.key == "x" ? curve.x : curve.y), read_numbers(member.value, key + "." + member.key));
  }
  if (curve.x.empty() || curve.x.size() != curve.y.size()) {
    return at_line(yaml.line, key + " needs x and y of one length");
  }
  RETURN_IF_ERROR(check_ascending(curve.x, yaml.line, key + ".x"));
  return curve;
}

Result<std::string> read_text(const Yaml& yaml, const std::string& key) {
  if (yaml.kind != Yaml::Kind::kScalar || yaml.scalar.empty()) return at_line(yaml.line, key + " must be a text");
  return yaml.scalar;
}

// True: it was one of the source's keys.
Result<bool> read_source(const Yaml::Member& member, Source* source) {
  std::string* target = member.key == "machine"  ? &source->machine
                        : member.key == "commit" ? &source->commit
                        : member.key == "date"   ? &source->date
                                                 : nullptr;
  if (target == nullptr) return false;
  ASSIGN_OR_RETURN(*target, read_text(member.value, member.key));
  return true;
}

// True: it was one of the table's keys.
Result<bool> read_table_member(const Yaml::Member& member, const TableKeys& keys, ShareTable* table) {
  const Yaml& yaml = member.value;
  const std::string prefix = keys.prefix;
  if (member.key == prefix + keys.rows || member.key == prefix + keys.columns) {
    std::vector<double>& target = member.key == prefix + keys.rows ? table->rows : table->columns;
    ASSIGN_OR_RETURN(target, read_numbers(yaml, member.key));
    RETURN_IF_ERROR(check_ascending(target, member.line, member.key));
    return true;
  }
  if (member.key != prefix + keys.values) return false;
  if (yaml.kind != Yaml::Kind::kList) return at_line(yaml.line, member.key + " must be a list of lists");
  for (const Yaml& row : yaml.list) {
    ASSIGN_OR_RETURN(std::vector<double> shares, read_numbers(row, member.key));
    const bool gains = std::string_view(keys.values) == kGain;
    RETURN_IF_ERROR(gains ? check_gains(shares, row.line, member.key) : check_shares(shares, row.line, member.key));
    table->share.push_back(std::move(shares));
  }
  return true;
}

Status check_table(const ShareTable& table, int line, const std::string& of, const TableKeys& keys) {
  const bool whole = table.share.size() == table.rows.size() &&
                     std::ranges::all_of(table.share, [&](const std::vector<double>& row) {
                       return row.size() == table.columns.size() && !row.empty();
                     });
  if (whole) return {};
  return at_line(line, std::string("the ") + keys.values + "s of " + of + " need a row for each number of " +
                           keys.rows + " and a column for each number of " + keys.columns);
}

Result<FormatProducts> read_format_products(const Yaml& yaml) {
  if (yaml.kind != Yaml::Kind::kMap) return at_line(yaml.line, "products of a format must be a map");
  FormatProducts products;
  bool named = false;
  for (const Yaml::Member& member : yaml.map) {
    ASSIGN_OR_RETURN(bool known, read_table_member(member, kFormatKeys, &products.table));
    if (known) continue;
    ASSIGN_OR_RETURN(known, read_table_member(member, kCachedKeys, &products.cached));
    if (known) continue;
    if (member.key == "inputs") {
      ASSIGN_OR_RETURN(products.inputs, read_number(member.value, "inputs"));
    } else if (member.key == "flops") {
      ASSIGN_OR_RETURN(products.flops, read_number(member.value, "flops"));
    } else if (member.key == "waiting_gain") {
      ASSIGN_OR_RETURN(products.waiting_gain, read_curve(member.value, "waiting_gain"));
      RETURN_IF_ERROR(check_gains(products.waiting_gain.y, member.line, "waiting_gain"));
    } else if (member.key == "format") {
      const auto* found = std::ranges::find_if(
          kWeightFormats, [&](Format format) { return member.value.scalar == info(format).name; });
      if (found == std::end(kWeightFormats)) {
        return at_line(member.line, "there is no format of weights \"" + member.value.scalar + "\"");
      }
      products.format = *found;
      named = true;
    } else {
      return at_line(member.line, "products of a format have no key \"" + member.key + "\"");
    }
  }
  if (!named || products.flops <= 0 || products.table.rows.empty()) {
    return at_line(yaml.line, "products of a format need format, flops above 0, tokens, bytes and share");
  }
  const std::string of(info(products.format).name);
  RETURN_IF_ERROR(check_table(products.table, yaml.line, of, kFormatKeys));
  RETURN_IF_ERROR(check_table(products.cached, yaml.line, of + kCachedKeys.of, kCachedKeys));
  return products;
}

Status read_all_format_products(const Yaml::Member& member, DeviceCalibration* device) {
  if (member.value.kind != Yaml::Kind::kList) return at_line(member.line, "products must be a list");
  for (const Yaml& item : member.value.list) {
    ASSIGN_OR_RETURN(FormatProducts products, read_format_products(item));
    const auto same = [&](const FormatProducts& other) {
      return other.format == products.format && other.inputs == products.inputs;
    };
    if (std::ranges::any_of(device->format_products, same)) {
      const char* inputs = products.inputs == 0 ? "" : " with as many inputs";
      return at_line(item.line, "products of " + std::string(info(products.format).name) + inputs + " are there twice");
    }
    device->format_products.push_back(std::move(products));
  }
  return {};
}

// True: it was a number or a curve of that list.
template <typename Visited, typename Fields>
Result<bool> read_field(const Yaml::Member& member, Visited& into, Fields fields) {
  bool found = false;
  Status status;
  fields(into, [&](const char* key, auto& target) {
    if (member.key != key) return;
    found = true;
    if constexpr (std::is_same_v<std::decay_t<decltype(target)>, Curve>) {
      Result<Curve> curve = read_curve(member.value, key);
      if (curve.ok()) target = std::move(*curve);
      if (!curve.ok()) status = curve.status();
    } else {
      const Result<double> value = read_number(member.value, key);
      if (value.ok()) target = *value;
      if (!value.ok()) status = value.status();
    }
  });
  if (!status.ok()) return status;
  return found;
}

Status read_device_member(const Yaml::Member& member, DeviceCalibration* device) {
  ASSIGN_OR_RETURN(bool known, read_source(member, &device->source));
  if (known) return {};
  if (member.key == "name") {
    ASSIGN_OR_RETURN(device->name, read_text(member.value, "name"));
    return {};
  }
  if (member.key == "products") return read_all_format_products(member, device);
  Status status;
  tables_of(*device, [&](const TableKeys& keys, ShareTable& table) {
    if (known || !status.ok()) return;
    const Result<bool> read = read_table_member(member, keys, &table);
    status = read.status();
    known = read.ok() && *read;
  });
  RETURN_IF_ERROR(status);
  if (known) return {};
  ASSIGN_OR_RETURN(known, read_field(member, *device, [](auto& d, auto visit) { numbers_of(d, visit); }));
  if (known) return {};
  ASSIGN_OR_RETURN(known, read_field(member, *device, [](auto& d, auto visit) { curves_of(d, visit); }));
  return known ? Status() : at_line(member.line, "a device has no key \"" + member.key + "\"");
}

Result<DeviceCalibration> read_device(const Yaml& yaml) {
  if (yaml.kind != Yaml::Kind::kMap) return at_line(yaml.line, "a device must be a map");
  DeviceCalibration device;
  for (const Yaml::Member& member : yaml.map) RETURN_IF_ERROR(read_device_member(member, &device));
  if (device.name.empty()) return at_line(yaml.line, "a device needs a name");
  if (device.read_bytes_per_s <= 0 || device.flops <= 0) {
    return at_line(yaml.line, "\"" + device.name + "\" needs read_bytes_per_s and flops above 0");
  }
  Status tables;
  tables_of(device, [&](const TableKeys& keys, const ShareTable& table) {
    if (tables.ok()) tables = check_table(table, yaml.line, "\"" + device.name + "\"" + keys.of, keys);
  });
  RETURN_IF_ERROR(tables);
  RETURN_IF_ERROR(check_gains(device.waiting_gain.y, yaml.line, "waiting_gain of \"" + device.name + "\""));
  if (std::ranges::any_of(device.from_memory.y, [](double share) { return share > 1; })) {
    return at_line(yaml.line, "what \"" + device.name + "\" reads from memory must be shares, at most 1");
  }
  for (const Curve* shares : {&device.decode_attention_share, &device.prefill_attention_share}) {
    RETURN_IF_ERROR(check_shares(shares->y, yaml.line, "what attention of \"" + device.name + "\" reaches"));
  }
  return device;
}

Status read_link_member(const Yaml::Member& member, LinkCalibration* link) {
  ASSIGN_OR_RETURN(bool known, read_source(member, &link->source));
  if (known) return {};
  if (member.key == "link") {
    const auto* found = std::ranges::find_if(kLinks, [&](LinkKind kind) { return member.value.scalar == name(kind); });
    if (found == std::end(kLinks)) return at_line(member.line, "there is no link \"" + member.value.scalar + "\"");
    link->link = *found;
    return {};
  }
  if (member.key == "device") {
    ASSIGN_OR_RETURN(link->device, read_text(member.value, "device"));
    return {};
  }
  if (member.key == "ranks") {
    ASSIGN_OR_RETURN(const double ranks, read_number(member.value, "ranks"));
    link->ranks = static_cast<int>(ranks);
    return link->ranks >= 2 ? Status() : at_line(member.line, "ranks must be 2 or more");
  }
  ASSIGN_OR_RETURN(known, read_field(member, *link, [](auto& l, auto visit) { link_fields_of(l, visit); }));
  return known ? Status() : at_line(member.line, "a link has no key \"" + member.key + "\"");
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value);
  return text;
}

std::string list_text(const std::vector<double>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) text += (i == 0 ? "" : ", ") + number_text(values[i]);
  return text + "]";
}

std::string table_text(const ShareTable& table, const TableKeys& keys, const std::string& indent) {
  const std::string begin = indent + keys.prefix;
  std::string text = begin + keys.rows + ": " + list_text(table.rows) + "\n" + begin + keys.columns + ": " +
                     list_text(table.columns) + "\n" + begin + keys.values + ":\n";
  for (const std::vector<double>& row : table.share) text += indent + "  - " + list_text(row) + "\n";
  return text;
}

std::string quoted_text(const std::string& value) {
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + "\"";
}

std::string source_text(const Source& source) {
  std::string text;
  if (!source.machine.empty()) text += "    machine: " + quoted_text(source.machine) + "\n";
  if (!source.commit.empty()) text += "    commit: " + quoted_text(source.commit) + "\n";
  if (!source.date.empty()) text += "    date: " + quoted_text(source.date) + "\n";
  return text;
}

// Appends curves and numbers that say something.
struct FieldWriter {
  std::string& out;
  std::string indent = "    ";
  void operator()(const char* key, double value) const {
    if (value > 0) out += indent + key + ": " + number_text(value) + "\n";
  }
  void operator()(const char* key, const Curve& curve) const {
    if (curve.empty()) return;
    out += indent + key + ":\n" + indent + "  x: " + list_text(curve.x) + "\n" + indent + "  y: " +
           list_text(curve.y) + "\n";
  }
};

// Index of the last point not above x, and how far x is from it to the next, given both by `scale`.
template <typename Scale>
std::pair<size_t, double> locate(const std::vector<double>& points, double x, Scale scale) {
  CHECK(!points.empty());
  if (!(x > points.front())) return {0, 0.0};  // nor is NaN
  if (x >= points.back()) return {points.size() - 1, 0.0};
  const auto next = static_cast<size_t>(std::ranges::upper_bound(points, x) - points.begin());
  const double from = scale(points[next - 1]);
  return {next - 1, (scale(x) - from) / (scale(points[next]) - from)};
}

double between(const std::vector<double>& values, std::pair<size_t, double> at) {
  const double value = values[at.first];
  return at.second == 0 ? value : value + at.second * (values[at.first + 1] - value);
}

double logarithm(double value) { return std::log(std::max(value, 1e-9)); }

}  // namespace

const DeviceCalibration* Calibration::find_device(std::string_view name) const {
  const auto found = std::ranges::find(devices, name, &DeviceCalibration::name);
  return found == devices.end() ? nullptr : &*found;
}

void Calibration::replace_with(const Calibration& measured) {
  for (const DeviceCalibration& device : measured.devices) {
    std::erase_if(devices, [&](const DeviceCalibration& old) { return old.name == device.name; });
    devices.push_back(device);
  }
  for (const LinkCalibration& link : measured.links) {
    std::erase_if(links, [&](const LinkCalibration& old) {
      return old.link == link.link && old.device == link.device && old.ranks == link.ranks &&
             old.described_bytes_per_s == link.described_bytes_per_s &&
             old.described_latency_us == link.described_latency_us;
    });
    links.push_back(link);
  }
}

double share_at(const Curve& curve, double x) { return between(curve.y, locate(curve.x, x, logarithm)); }

double time_at(const Curve& curve, double x) {
  if (x > curve.x.back()) return curve.y.back() * x / curve.x.back();
  return between(curve.y, locate(curve.x, x, [](double value) { return value; }));
}

double share_at(const ShareTable& table, double row, double column) {
  if (table.rows.empty()) return 1;
  const auto at_row = locate(table.rows, row, logarithm);
  const auto at_column = locate(table.columns, column, logarithm);
  const double low = between(table.share[at_row.first], at_column);
  if (at_row.second == 0) return low;
  return low + at_row.second * (between(table.share[at_row.first + 1], at_column) - low);
}

std::string to_yaml(const Calibration& calibration) {
  std::string out;
  if (!calibration.devices.empty()) out += "devices:\n";
  for (const DeviceCalibration& device : calibration.devices) {
    out += "  - name: " + quoted_text(device.name) + "\n" + source_text(device.source);
    numbers_of(device, FieldWriter{out});
    tables_of(device, [&](const TableKeys& keys, const ShareTable& table) {
      if (!table.rows.empty()) out += table_text(table, keys, "    ");
    });
    if (!device.format_products.empty()) out += "    products:\n";
    for (const FormatProducts& products : device.format_products) {
      out += "      - format: " + std::string(info(products.format).name) + "\n";
      const FieldWriter write{out, "        "};
      write("inputs", products.inputs);
      write("flops", products.flops);
      out += table_text(products.table, kFormatKeys, "        ");
      if (!products.cached.rows.empty()) out += table_text(products.cached, kCachedKeys, "        ");
      write("waiting_gain", products.waiting_gain);
    }
    curves_of(device, FieldWriter{out});
  }
  if (!calibration.links.empty()) out += "links:\n";
  for (const LinkCalibration& link : calibration.links) {
    out += "  - link: " + quoted_text(name(link.link)) + "\n";
    if (!link.device.empty()) out += "    device: " + quoted_text(link.device) + "\n";
    out += source_text(link.source) + "    ranks: " + std::to_string(link.ranks) + "\n";
    link_fields_of(link, FieldWriter{out});
  }
  return out;
}

Result<Calibration> parse_calibration(std::string_view text) {
  ASSIGN_OR_RETURN(const Yaml yaml, parse_yaml(text));
  if (yaml.kind != Yaml::Kind::kMap) return invalid_argument("a calibration must be a map of devices and links");
  Calibration calibration;
  for (const Yaml::Member& member : yaml.map) {
    if (member.value.kind != Yaml::Kind::kList) return at_line(member.line, member.key + " must be a list");
    if (member.key != "devices" && member.key != "links") {
      return at_line(member.line, "a calibration has no key \"" + member.key + "\", only devices and links");
    }
    for (const Yaml& item : member.value.list) {
      if (member.key == "devices") {
        ASSIGN_OR_RETURN(DeviceCalibration device, read_device(item));
        calibration.devices.push_back(std::move(device));
        continue;
      }
      if (item.kind != Yaml::Kind::kMap) return at_line(item.line, "a link must be a map");
      LinkCalibration link;
      for (const Yaml::Member& field : item.map) RETURN_IF_ERROR(read_link_member(field, &link));
      calibration.links.push_back(std::move(link));
    }
  }
  return calibration;
}

Result<Calibration> read_calibrations(Calibration all, const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const std::string text, read_file(path, kFileBytesMax));
    const Result<Calibration> one = parse_calibration(text);
    if (!one.ok()) return one.status().within(path);
    all.replace_with(*one);
  }
  return all;
}

}  // namespace skein
