#pragma once

#include "kernels/cuda/decode_attention.cuh"
#include "kernels/cuda/ptx.cuh"

// The warp that walks through the block's share of the step and keeps the ring full.

namespace skein::cuda::decode {

// 32 entries of a row's block table, one a lane; entries beyond the row's last block are not read.
struct TableWindow {
  const int32_t* table;
  int last;
  int first = -1;
  int value = 0;
  __device__ void cover(int begin, int end, int lane) {
    if (first >= 0 && begin >= first && end < first + 32) return;
    first = begin;
    value = begin + lane <= last ? load_kept(table + begin + lane) : 0;
  }
  __device__ int at(int index) const { return __shfl_sync(0xffffffff, value, (index - first) & 31); }
};

template <int kHeadDim, int kGroups>
struct Producer {
  using Stages = Ring<kHeadDim, kGroups>;
  const Parameters& p;
  Shared<kHeadDim, kGroups>& shared;
  const int lane;
  const uint64_t policy;
  Stages ring;

  __device__ void describe(const Work& work) {
    barrier_wait(&shared.emptied[ring.stage], ring.parity ^ 1);
    if (lane == 0) {
      shared.work[ring.stage] = work;
      barrier_arrive(&shared.described[ring.stage]);
    }
    __syncwarp();
  }

  // Lanes 0 to 3 fetch a block of 16 keys each, lanes 4 to 7 the values; nothing where no token is seen.
  __device__ void load(const Work& work, TableWindow& table) {
    const int token = work.first_token + lane % kWarps * 16;
    const int last = min(work.first_token + kTileTokens, work.tokens) - 1;
    const bool wanted = lane < 2 * kWarps && token < work.tokens && token + 16 > work.begin;
    const uint32_t count = __popc(__ballot_sync(0xffffffff, wanted));
    table.cover(work.first_token / p.block_tokens, last / p.block_tokens, lane);
    const int block = table.at(token / p.block_tokens);
    const int last_block = table.at(last / p.block_tokens);
    uint64_t* filled = &shared.filled[ring.stage];
    if (lane == 0) {
      shared.last_block[ring.stage] = last_block;
      barrier_arrive_expect(filled, count * Stages::kBlockBytes);
    }
    __syncwarp();
    if (!wanted) return;
    const int plane = (block * p.page_heads + work.kv_head) * 2 + lane / kWarps;
    tensor_load_3d(shared.ring + ring.stage * Stages::kStageBytes + lane * Stages::kBlockBytes, &p.pages_map, 0,
                   plane * p.block_tokens + token % p.block_tokens, 0, filled, policy);
  }

  // Chunks [work.run_begin, end) of a row and KV head.
  __device__ void produce_run(const RowPlan& plan, Work work, int end, int slot) {
    TableWindow table = {.table = p.block_table + int64_t{slot} * p.blocks_per_slot,
                         .last = (plan.tokens - 1) / p.block_tokens};
    const int first = work.run_begin * plan.chunk_tiles;
    const int last = max(min(end * plan.chunk_tiles, plan.tiles) - 1, first);  // a padding row has one tile of nothing
    int left = plan.chunk_tiles;
    work.chunk = work.run_begin;
    for (int tile = first; tile <= last; ++tile) {
      work.first_token = (plan.first_tile + tile) * kTileTokens;
      work.flags = (tile == first ? Work::kRunStart : 0) | (tile == last ? Work::kRunEnd | Work::kChunkEnd : 0) |
                   (left == 1 ? Work::kChunkEnd : 0) |
                   (end == plan.chunks && plan.tokens > 0 ? Work::kLastChunk : 0);
      describe(work);
      if (plan.tokens > 0) {
        load(work, table);
      } else if (lane == 0) {
        barrier_arrive(&shared.filled[ring.stage]);
      }
      ring.advance();
      if (--left == 0) {
        left = plan.chunk_tiles;
        ++work.chunk;
      }
    }
  }

  // Few rows: this block's chunks of its row and KV head.
  __device__ void produce_own() {
    const int row = static_cast<int>(blockIdx.z);
    const int position = load_kept(p.plan.positions + row);
    const int slot = load_kept(p.plan.slots + row);
    const RowPlan plan = p.plan.row(position);
    Work work = {.row = row, .kv_head = static_cast<int>(blockIdx.y), .begin = plan.begin, .tokens = plan.tokens,
                 .chunks = plan.chunks};
    work.run_chunks = static_cast<int>((plan.chunks + gridDim.x - 1) / gridDim.x);
    work.run_begin = static_cast<int>(blockIdx.x) * work.run_chunks;
    if (work.in_cluster(p)) ring.stages = Stages::kStagesBesidesReceived;
    const int end = min(work.run_begin + work.run_chunks, plan.chunks);
    if (work.run_begin < end) produce_run(plan, work, end, slot);
  }

  // Many rows: the chunks that begin in the block's share.
  __device__ void produce_share() {
    const Line line(shared.rows, p.plan.rows, lane);
    const Shares shares = Shares::of(line.total(), static_cast<int>(gridDim.x));
    if (lane == 0) shared.shares = shares;
    const int share = p.share();
    ShareStart start = line.find(shares, share);
    int row_begin = start.row_begin;
    int from = start.begin - row_begin;  // cost within the row
    bool more = start.begin < start.end;
    for (int row = start.row; more && row < p.plan.rows; ++row) {
      start.rows.cover(p.plan, row, lane);
      const RowPlan plan = p.plan.row(start.rows.position_of(row));
      const int slot = start.rows.slot_of(row);
      const int head_cost = plan.head_cost();
      for (int head = from / head_cost; more && head < p.plan.kv_heads; ++head) {
        Work work = {.row = row, .kv_head = head, .begin = plan.begin, .tokens = plan.tokens, .chunks = plan.chunks};
        work.head_begin = row_begin + head * head_cost;
        work.chunk_cost = plan.chunk_cost();
        work.share = share;
        work.run_begin = plan.chunks_within(from - head * head_cost);
        const int end = plan.chunks_within(start.end - work.head_begin);
        if (work.run_begin < end) produce_run(plan, work, end, slot);
        more = end == plan.chunks;
      }
      row_begin += p.plan.kv_heads * head_cost;
      from = 0;
    }
  }

  __device__ void produce() {
    if (p.clusters) {
      produce_own();
    } else {
      produce_share();
    }
    describe({.flags = Work::kStop});
  }
};

}  // namespace skein::cuda::decode
