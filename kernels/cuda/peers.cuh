#pragma once

#include <cstdint>

#include "kernels/cuda/peers.h"
#include "kernels/cuda/ptx.cuh"

// One block's exchange with the blocks of the same index on the other ranks: everyone writes its words into the others'
// inboxes, and the data are their own flag. After Lamport's idea, as TensorRT-LLM and SGLang use it.
//
// An inbox has channels (one a block), each with three slots, each with room for one message from every other rank.
// Words (32 bits, written whole) are all ones while nothing has come; whoever sends all ones, two NaNs, sends another
// NaN instead. Launches of a channel use the slots in turns: launch e writes and reads slot e % 3, and empties in its
// own inbox the slot of launch e - 1, of which it has seen every word. No rank ever waits for more than the message:
//
//   A peer q writes launch e + 2's words into the slot that I empty in launch e (they are the same modulo three).
//   It starts launch e + 2 after its launch e + 1 is complete, for which it needs my words of launch e + 1; those I
//   write after my launch e is complete, with its reads of the slot before (in launch e - 1) and its emptying now.
//   So a slot is read out and emptied before anyone writes to it again, however far apart the ranks are, and a reader
//   in launch e + 2 finds either all ones or the new word.
//
// "Complete" is griddepcontrol.wait, which every launch calls first, or the end of the launch before. It takes that
// every rank waits for every other rank in every launch of a channel, be it for a sum that another one made of its
// words; and that ranks launch the same in the same order.

namespace skein::cuda {

inline constexpr int kUnitBytes = 16;  // what a thread moves at a time
inline constexpr uint32_t kNothing = 0xffffffffu;

// What can be sent: `of_nan` instead of a word that means nothing.
__device__ __forceinline__ uint4 sendable(uint4 v, uint32_t of_nan) {
  v.x = v.x == kNothing ? of_nan : v.x;
  v.y = v.y == kNothing ? of_nan : v.y;
  v.z = v.z == kNothing ? of_nan : v.z;
  v.w = v.w == kNothing ? of_nan : v.w;
  return v;
}

__device__ __forceinline__ bool has_come(const uint4& v) {
  return v.x != kNothing && v.y != kNothing && v.z != kNothing && v.w != kNothing;
}

// A peer that does not come must not hang the device: after a while everyone goes on with what is there, and the host
// sees `failed`. Who waits does not look there: reads of host memory by tens of thousands of threads take longer than
// what they wait for, which makes this rank the late one in the next sum, and so on from rank to rank.
__device__ __forceinline__ uint4 wait_for_unit(const std::byte* from, const PeerGroup& group) {
  constexpr uint32_t kTriesBetweenLooks = 1024;
  const uint64_t begin = nanoseconds();
  while (true) {
    for (uint32_t i = 0; i < kTriesBetweenLooks; ++i) {
      const uint4 v = load_system(from);
      if (has_come(v)) return v;
    }
    if (*static_cast<volatile uint32_t*>(group.gave_up) != 0) return {};
    if (nanoseconds() - begin < static_cast<uint64_t>(group.patience_ns)) continue;
    *static_cast<volatile uint32_t*>(group.gave_up) = 1;
    *static_cast<volatile uint32_t*>(group.failed) = 1;
    return {};
  }
}

// A block's view of its channel in one launch. All threads make one after wait_for_previous_launch(); thread 0 calls
// finish() after all of them have (a __syncthreads() in between). kRanks: of the group, or 0 for any number.
template <int kRanks>
class Channel {
 public:
  __device__ __forceinline__ Channel(const PeerGroup& group, int index) : group_(group), index_(index) {
    const uint64_t state = __ldcg(group.states + index);
    turn_ = static_cast<int>(state & 0xffffffffu);
    stale_units_ = static_cast<int>(state >> 32);
    slot_ = slot_at(turn_);
  }

  __device__ __forceinline__ int size() const { return kRanks > 0 ? kRanks : group_.size; }

  // `offset`: in the message, in bytes, a multiple of 16.
  __device__ __forceinline__ void send(int64_t offset, const uint4& v) const {
    if constexpr (kRanks == 2) {
      store_system(group_.inboxes[1 - group_.rank] + slot_ + offset, v);
    } else {
      for (int peer = 0; peer < size(); ++peer) {
        if (peer != group_.rank) send_to(peer, offset, v);
      }
    }
  }
  __device__ __forceinline__ void send_to(int peer, int64_t offset, const uint4& v) const {
    store_system(message(peer, slot_, group_.rank) + offset, v);
  }

  // Whatever is there by now.
  __device__ __forceinline__ uint4 look(int source, int64_t offset) const {
    return load_system(message(group_.rank, slot_, source) + offset);
  }
  // `v` if it has come, else what comes.
  __device__ __forceinline__ uint4 awaited(const uint4& v, int source, int64_t offset) const {
    if (has_come(v)) return v;
    return wait_for_unit(message(group_.rank, slot_, source) + offset, group_);
  }
  __device__ __forceinline__ uint4 receive(int source, int64_t offset) const {
    return awaited(look(source, offset), source, offset);
  }

  // The slot of the launch before. Best between sending and receiving.
  __device__ __forceinline__ void empty_last() const {
    const int64_t slot = slot_at(turn_ == 0 ? Peers::kSlots - 1 : turn_ - 1);
    for (int source = 0; source < size(); ++source) {
      if (source == group_.rank) continue;
      std::byte* stale = message(group_.rank, slot, source);
      for (int i = static_cast<int>(threadIdx.x); i < stale_units_; i += static_cast<int>(blockDim.x)) {
        *reinterpret_cast<uint4*>(stale + int64_t{i} * kUnitBytes) = {kNothing, kNothing, kNothing, kNothing};
      }
    }
  }

  // `units`: the length of this launch's messages.
  __device__ __forceinline__ void finish(int units) const {
    const uint32_t next = turn_ == Peers::kSlots - 1 ? 0 : static_cast<uint32_t>(turn_ + 1);
    group_.states[index_] = uint64_t{next} | uint64_t{static_cast<uint32_t>(units)} << 32;
  }

 private:
  __device__ __forceinline__ int64_t slot_at(int turn) const {
    return (int64_t{index_} * Peers::kSlots + turn) * (size() - 1) * group_.channel_bytes;
  }
  __device__ __forceinline__ std::byte* message(int owner, int64_t slot, int source) const {
    const int place = kRanks == 2 ? 0 : source < owner ? source : source - 1;
    return group_.inboxes[owner] + slot + place * group_.channel_bytes;
  }

  const PeerGroup& group_;
  const int index_;
  int turn_;
  int stale_units_;
  int64_t slot_;
};

}  // namespace skein::cuda
