#include "tests/support/recording_ops.h"

#include <atomic>
#include <functional>
#include <map>
#include <type_traits>
#include <vector>

#include "base/check.h"

namespace skein::testing {
namespace {

using Launches = std::vector<std::function<void(Device&)>>;

struct Recordings {
  std::map<uint64_t, Launches> kept;
  Launches* recording = nullptr;
};

// A device belongs to the thread that opened it.
thread_local std::map<const Device*, Recordings> recordings_of;
std::atomic<int64_t> replay_count = 0;

bool recording(const Device& device) { return recordings_of[&device].recording != nullptr; }

void run(Device& device, void (*launch)(Device&, const AttentionArgs&), AttentionArgs args,
         const RopeAppendArgs& append) {
  args.append = &append;
  launch(device, args);
}

// The entry of the CPU's table: now, or whenever the recording is replayed.
template <auto Entry, typename Args>
void launch(Device& device, const Args& args) {
  Launches* const to = recordings_of[&device].recording;
  if (to == nullptr) return (cpu_ops().*Entry)(device, args);
  if constexpr (std::is_same_v<Args, AttentionArgs>) {
    CHECK(args.append != nullptr);
    to->push_back([args, append = *args.append](Device& of) { run(of, cpu_ops().*Entry, args, append); });
  } else {
    to->push_back([args](Device& of) { (cpu_ops().*Entry)(of, args); });
  }
}

void copy_to_device(Device& device, void* to, const void* from_host, int64_t bytes) {
  CHECK(!recording(device));
  cpu_ops().copy_to_device(device, to, from_host, bytes);
}

void copy_to_host(Device& device, void* to_host, const void* from, int64_t bytes) {
  CHECK(!recording(device));
  cpu_ops().copy_to_host(device, to_host, from, bytes);
}

uint64_t mark(Device& device) {
  CHECK(!recording(device));
  return cpu_ops().mark(device);
}

bool replay(Device& device, uint64_t key) {
  Recordings& recordings = recordings_of[&device];
  CHECK(recordings.recording == nullptr);
  const auto found = recordings.kept.find(key);
  if (found == recordings.kept.end()) return false;
  for (const auto& launch : found->second) launch(device);
  ++replay_count;
  return true;
}

void record(Device& device, uint64_t key) {
  Recordings& recordings = recordings_of[&device];
  CHECK(recordings.recording == nullptr);
  recordings.recording = &recordings.kept[key];
  recordings.recording->clear();
}

Status end_record(Device& device) {
  CHECK(recording(device));
  recordings_of[&device].recording = nullptr;
  return {};
}

void forget_recorded(Device& device) { recordings_of.erase(&device); }

Ops make_ops() {
  Ops ops = cpu_ops();
  ops.records = true;
  ops.copy_to_device = copy_to_device;
  ops.copy_to_host = copy_to_host;
  ops.mark = mark;
  ops.replay = replay;
  ops.record = record;
  ops.end_record = end_record;
  ops.forget_recorded = forget_recorded;
  ops.scatter = launch<&Ops::scatter, ScatterArgs>;
  ops.gather = launch<&Ops::gather, GatherArgs>;
  ops.store_tokens = launch<&Ops::store_tokens, StoreTokensArgs>;
  ops.embed = launch<&Ops::embed, EmbedArgs>;
  ops.add_norm = launch<&Ops::add_norm, AddNormArgs>;
  ops.linear = launch<&Ops::linear, LinearArgs>;
  ops.gated_linear = launch<&Ops::gated_linear, GatedLinearArgs>;
  ops.rope_append = launch<&Ops::rope_append, RopeAppendArgs>;
  ops.attention = launch<&Ops::attention, AttentionArgs>;
  ops.silu_mul = launch<&Ops::silu_mul, SiluMulArgs>;
  ops.gather_rows = launch<&Ops::gather_rows, GatherRowsArgs>;
  ops.sample = launch<&Ops::sample, SampleArgs>;
  ops.copy_blocks = launch<&Ops::copy_blocks, CopyBlocksArgs>;
  return ops;
}

}  // namespace

const Ops& recording_ops() {
  static const Ops ops = make_ops();
  return ops;
}

int64_t replays() { return replay_count; }

}  // namespace skein::testing
