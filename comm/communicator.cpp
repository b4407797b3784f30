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

}  // namespace

struct Communicator::State {
  CommunicatorConfig config;
  std::unique_ptr<SharedMemory> memory;
  SharedStream plans, results, tokens, to_next, from_previous;
  std::vector<SharedStream> columns;
  ReduceArea* reduce = nullptr;
  uint32_t reductions = 0;  // barriers passed so far
  int spin_rounds = 0;

  void attach() {
    const Offsets offsets = lay_out(config);
    std::byte* base = memory->data();
    spin_rounds = config.spin ? kSpinRounds : 0;
    plans = SharedStream(base + offsets.plans, config.world_size(), kPlanBytes, spin_rounds);
    results = SharedStream(base + offsets.results, 1, kResultBytes, 0);
    if (token_readers(config) > 0) {
      tokens = SharedStream(base + offsets.tokens, token_readers(config), kTokenBytes, spin_rounds);
    }
    const auto stage = [&](int from) {
      const size_t index = static_cast<size_t>(from * config.tp_size + config.tp_rank);
      return SharedStream(base + offsets.stages[index], 1, kStageBytes, spin_rounds);
    };
    if (config.pp_rank + 1 < config.pp_size) to_next = stage(config.pp_rank);
    if (config.pp_rank > 0) from_previous = stage(config.pp_rank - 1);
    reduce = reinterpret_cast<ReduceArea*>(base + offsets.reduces[static_cast<size_t>(config.pp_rank)]);
    for (const size_t offset : offsets.columns) {
      columns.emplace_back(base + offset, 1, kColumnBytes, spin_rounds);
    }
  }

  // Waits until every rank of the group has arrived.
  void meet() {
    const uint32_t target = ++reductions;
    const uint32_t everyone = target * static_cast<uint32_t>(config.tp_size);
    if (reduce->arrived.fetch_add(1) + 1 == everyone) {
      reduce->passed.store(target);
      reduce->passed_signal.notify();
    } else {
      reduce->passed_signal.wait(
          [&] { return static_cast<int32_t>(reduce->passed.load() - target) >= 0; }, spin_rounds);
    }
  }

  // Two buffers in turn: whoever enters the barrier of call k + 1 has read all of call k, so that nobody can
  // overwrite what another still reads.
  void reduce_chunk(float* data, int64_t count) {
    float* area = reduce->buffers + (reductions % 2) * config.tp_size * kReduceFloats;
    std::memcpy(area + config.tp_rank * kReduceFloats, data, sizeof(float) * static_cast<size_t>(count));
    meet();
    const float* first = area;
    for (int64_t i = 0; i < count; ++i) data[i] = first[i];
    for (int rank = 1; rank < config.tp_size; ++rank) {
      const float* part = area + rank * kReduceFloats;
      for (int64_t i = 0; i < count; ++i) data[i] += part[i];
    }
  }
};

Communicator::Communicator(std::unique_ptr<State> state) : state_(std::move(state)) {}
Communicator::~Communicator() = default;

Result<std::unique_ptr<Communicator>> Communicator::create(const CommunicatorConfig& config,
                                                           const Rendezvous& rendezvous) {
  auto state = std::make_unique<State>();
  state->config = config;
  const size_t bytes = lay_out(config).bytes;
  std::string name;
  if (config.world_rank() == 0) {
    name = segment_name();
    ASSIGN_OR_RETURN(state->memory, SharedMemory::create(name, bytes));
  }
  name = rendezvous.broadcast(name);
  if (config.world_rank() != 0) {
    ASSIGN_OR_RETURN(state->memory, SharedMemory::attach(name, bytes));
  }
  rendezvous.barrier();
  state->memory->unlink();
  state->attach();
  return std::unique_ptr<Communicator>(new Communicator(std::move(state)));
}

void Communicator::send_plan(std::string_view plan) { state_->plans.write_message(plan); }
std::string Communicator::receive_plan() { return state_->plans.read_message(state_->config.world_rank()); }
bool Communicator::plan_waits() const { return state_->plans.readable(state_->config.world_rank()); }
void Communicator::send_result(std::string_view result) { state_->results.write_message(result); }
std::string Communicator::receive_result() { return state_->results.read_message(0); }

bool Communicator::receives_tokens() const {
  return state_->config.pp_rank == 0 && (state_->config.pp_size > 1 || state_->config.tp_rank > 0);
}

void Communicator::send_tokens(std::string_view tokens) {
  if (token_readers(state_->config) > 0) state_->tokens.write_message(tokens);
}

std::string Communicator::receive_tokens() {
  CHECK(receives_tokens());
  const int reader = state_->config.pp_size == 1 ? state_->config.tp_rank - 1 : state_->config.tp_rank;
  return state_->tokens.read_message(reader);
}

void Communicator::send_stage(const void* data, size_t bytes) { state_->to_next.write(data, bytes); }
void Communicator::receive_stage(void* data, size_t bytes) { state_->from_previous.read(0, data, bytes); }

void Communicator::all_reduce(float* data, int64_t count) {
  if (state_->config.tp_size == 1) return;
  for (int64_t done = 0; done < count; done += kReduceFloats) {
    state_->reduce_chunk(data + done, std::min(kReduceFloats, count - done));
  }
}

void Communicator::gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) {
  const CommunicatorConfig& config = state_->config;
  const int64_t own = begins[config.tp_rank + 1] - begins[config.tp_rank];
  if (config.tp_rank != 0) {
    SharedStream& stream = state_->columns[static_cast<size_t>(config.tp_rank - 1)];
    stream.write(part, sizeof(float) * static_cast<size_t>(rows * own));
    return;
  }
  const int64_t columns = begins[config.tp_size];
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(out + row * columns, part + row * own, sizeof(float) * static_cast<size_t>(own));
  }
  for (int rank = 1; rank < config.tp_size; ++rank) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(begins[rank + 1] - begins[rank]);
    for (int64_t row = 0; row < rows; ++row) {
      state_->columns[static_cast<size_t>(rank - 1)].read(0, out + row * columns + begins[rank], bytes);
    }
  }
}

}  // namespace skein
