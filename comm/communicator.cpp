#include "comm/communicator.h"

#include <sys/random.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "comm/shared_memory.h"
#include "comm/shared_stream.h"

namespace skein {
namespace {

constexpr size_t kPlanBytes = 1 << 20;
constexpr size_t kResultBytes = 1 << 20;
constexpr size_t kTokenBytes = 64 << 10;
constexpr size_t kStageBytes = 4 << 20;
constexpr size_t kColumnBytes = 1 << 20;
constexpr int64_t kReduceFloats = 64 << 10;  // of one rank, in each of two buffers
constexpr int kSpinRounds = 4000;            // tens of microseconds

// Containers that share /dev/shm have the same process ids, and one that was killed may have left its segment: so a
// random part, too.
std::string segment_name() {
  uint64_t random = 0;
  CHECK_EQ(getrandom(&random, sizeof random, 0), static_cast<ssize_t>(sizeof random));
  char digits[16];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, random, 16);
  return "/skein-" + std::to_string(getpid()) + "-" + std::string(digits, static_cast<size_t>(end - digits));
}

// The barrier and the buffers of one tensor-parallel group.
struct ReduceArea {
  Signal passed_signal;
  alignas(64) std::atomic<uint32_t> arrived;
  alignas(64) std::atomic<uint32_t> passed;
  alignas(64) float buffers[];  // (2, tp_size, kReduceFloats)

  static size_t bytes(int tp_size) {
    return sizeof(ReduceArea) + sizeof(float) * 2 * static_cast<size_t>(tp_size) * kReduceFloats;
  }
};

// Hands out consecutive parts of the segment; the same calls give the same offsets on every rank.
class Layout {
 public:
  size_t take(size_t bytes) {
    const size_t offset = end_;
    end_ += (bytes + 63) / 64 * 64;
    return offset;
  }
  size_t size() const { return end_; }

 private:
  size_t end_ = 0;
};

struct Offsets {
  size_t plans, results, tokens;
  std::vector<size_t> stages;   // (pp_size - 1, tp_size)
  std::vector<size_t> reduces;  // (pp_size)
  std::vector<size_t> columns;  // (tp_size - 1), of ranks 1...
  size_t bytes;
};

int token_readers(const CommunicatorConfig& config) {
  return config.pp_size == 1 ? config.tp_size - 1 : config.tp_size;
}

Offsets lay_out(const CommunicatorConfig& config) {
  Layout layout;
  Offsets offsets{};
  offsets.plans = layout.take(SharedStream::bytes(config.world_size(), kPlanBytes));
  offsets.results = layout.take(SharedStream::bytes(1, kResultBytes));
  offsets.tokens = layout.take(SharedStream::bytes(token_readers(config) + 1, kTokenBytes));
  for (int i = 0; i < (config.pp_size - 1) * config.tp_size; ++i) {
    offsets.stages.push_back(layout.take(SharedStream::bytes(1, kStageBytes)));
  }
  for (int i = 0; i < config.pp_size; ++i) {
    offsets.reduces.push_back(layout.take(ReduceArea::bytes(config.tp_size)));
  }
  for (int i = 0; i + 1 < config.tp_size; ++i) {
    offsets.columns.push_back(layout.take(SharedStream::bytes(1, kColumnBytes)));
  }
  offsets.bytes = layout.size();
  return offsets;
}

class SharedCommunicator : public Communicator {
 public:
  SharedCommunicator(const CommunicatorConfig& config, std::unique_ptr<SharedMemory> memory)
      : Communicator(config), memory_(std::move(memory)), spin_rounds_(config.spin ? kSpinRounds : 0) {
    const Offsets offsets = lay_out(config);
    std::byte* base = memory_->data();
    plans_ = SharedStream(base + offsets.plans, config.world_size(), kPlanBytes, spin_rounds_);
    results_ = SharedStream(base + offsets.results, 1, kResultBytes, 0);
    if (token_readers(config) > 0) {
      tokens_ = SharedStream(base + offsets.tokens, token_readers(config), kTokenBytes, spin_rounds_);
    }
    const auto stage = [&](int from) {
      const size_t index = static_cast<size_t>(from * config.tp_size + config.tp_rank);
      return SharedStream(base + offsets.stages[index], 1, kStageBytes, spin_rounds_);
    };
    if (config.pp_rank + 1 < config.pp_size) to_next_ = stage(config.pp_rank);
    if (config.pp_rank > 0) from_previous_ = stage(config.pp_rank - 1);
    reduce_ = reinterpret_cast<ReduceArea*>(base + offsets.reduces[static_cast<size_t>(config.pp_rank)]);
    for (const size_t offset : offsets.columns) {
      columns_.emplace_back(base + offset, 1, kColumnBytes, spin_rounds_);
    }
  }

  void send_plan(std::string_view plan) override { plans_.write_message(plan); }
  std::string receive_plan() override { return plans_.read_message(config_.world_rank()); }
  bool plan_waits() const override { return plans_.readable(config_.world_rank()); }
  void send_result(std::string_view result) override { results_.write_message(result); }
  std::string receive_result() override { return results_.read_message(0); }

  void send_tokens(std::string_view tokens) override {
    if (token_readers(config_) > 0) tokens_.write_message(tokens);
  }
  std::string receive_tokens() override {
    CHECK(receives_tokens());
    return tokens_.read_message(config_.tp_rank - first_token_reader());
  }

  void send_stage(const void* data, size_t bytes) override { to_next_.write(data, bytes); }
  void receive_stage(void* data, size_t bytes) override { from_previous_.read(0, data, bytes); }

  void all_reduce(float* data, int64_t count) override {
    if (config_.tp_size == 1) return;
    for (int64_t done = 0; done < count; done += kReduceFloats) {
      reduce_chunk(data + done, std::min(kReduceFloats, count - done));
    }
  }

  void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) override {
    const int64_t own = begins[config_.tp_rank + 1] - begins[config_.tp_rank];
    if (config_.tp_rank != 0) {
      SharedStream& stream = columns_[static_cast<size_t>(config_.tp_rank - 1)];
      stream.write(part, sizeof(float) * static_cast<size_t>(rows * own));
      return;
    }
    const int64_t columns = begins[config_.tp_size];
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(out + row * columns, part + row * own, sizeof(float) * static_cast<size_t>(own));
    }
    for (int rank = 1; rank < config_.tp_size; ++rank) {
      const size_t bytes = sizeof(float) * static_cast<size_t>(begins[rank + 1] - begins[rank]);
      for (int64_t row = 0; row < rows; ++row) {
        columns_[static_cast<size_t>(rank - 1)].read(0, out + row * columns + begins[rank], bytes);
      }
    }
  }

 private:
  // Waits until every rank of the group has arrived.
  void meet() {
    const uint32_t target = ++reductions_;
    const uint32_t everyone = target * static_cast<uint32_t>(config_.tp_size);
    if (reduce_->arrived.fetch_add(1) + 1 == everyone) {
      reduce_->passed.store(target);
      reduce_->passed_signal.notify();
    } else {
      reduce_->passed_signal.wait(
          [&] { return static_cast<int32_t>(reduce_->passed.load() - target) >= 0; }, spin_rounds_);
    }
  }

  // Two buffers in turn: whoever enters the barrier of call k + 1 has read all of call k, so that nobody can
  // overwrite what another still reads.
  void reduce_chunk(float* data, int64_t count) {
    float* area = reduce_->buffers + (reductions_ % 2) * config_.tp_size * kReduceFloats;
    std::memcpy(area + config_.tp_rank * kReduceFloats, data, sizeof(float) * static_cast<size_t>(count));
    meet();
    const float* first = area;
    for (int64_t i = 0; i < count; ++i) data[i] = first[i];
    for (int rank = 1; rank < config_.tp_size; ++rank) {
      const float* part = area + rank * kReduceFloats;
      for (int64_t i = 0; i < count; ++i) data[i] += part[i];
    }
  }

  const std::unique_ptr<SharedMemory> memory_;
  const int spin_rounds_;
  SharedStream plans_, results_, tokens_, to_next_, from_previous_;
  std::vector<SharedStream> columns_;
  ReduceArea* reduce_ = nullptr;
  uint32_t reductions_ = 0;  // barriers passed so far
};

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::create(const CommunicatorConfig& config,
                                                           const Rendezvous& rendezvous) {
  std::unique_ptr<SharedMemory> memory;
  const size_t bytes = lay_out(config).bytes;
  std::string name;
  if (config.world_rank() == 0) {
    name = segment_name();
    ASSIGN_OR_RETURN(memory, SharedMemory::create(name, bytes));
  }
  name = rendezvous.broadcast(name);
  if (config.world_rank() != 0) {
    ASSIGN_OR_RETURN(memory, SharedMemory::attach(name, bytes));
  }
  rendezvous.barrier();
  memory->unlink();
  return std::unique_ptr<Communicator>(std::make_unique<SharedCommunicator>(config, std::move(memory)));
}

}  // namespace skein
