#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/replica_spec.h"
#include "base/status.h"

namespace skein {

// What a rank finds where it runs, before it loads anything. Ranks compare theirs, so that what does not fit together
// is said in a sentence instead of found in the middle of a load, or never.
struct RankReport {
  std::string build;
  std::string host;            // equal where ranks share memory
  uint64_t fingerprint = 0;    // of the model: headers, sizes, a few bytes of every tensor
  int64_t memory_free = 0;     // of the host
  int64_t clock_ms = 0;        // since 1970, read when everyone reads theirs
  bool rdma = false;           // NCCL may use an InfiniBand or RoCE port here
  std::string error;           // why it cannot open the model or its device; empty: it can
};

// Of this process's machine; the caller adds fingerprint and error.
RankReport look_around();

// What this process holds of its host's memory, files and what it shares with others apart.
int64_t own_memory();

std::string encode(const RankReport& report);
// kCorrupt: from another build.
Result<RankReport> decode_rank_report(std::string_view bytes);

// By rank. kOk: they fit together. Else one sentence that names rank and node, the same on every rank.
Status compare(const ReplicaSpec& spec, const std::vector<RankReport>& reports);

// Whether RankReport::host is the same for all.
bool on_one_host(const std::vector<RankReport>& reports);

// How the ranks of a replica reach each other; `peers`: their devices write into each other's memory.
std::string transport_of(const ReplicaSpec& spec, const std::vector<RankReport>& reports, bool peers);

// Whether a port below `sys`/class/infiniband is active and a uverbs file in `dev`/infiniband lets programs use it,
// without which NCCL takes TCP and does not say so; and NCCL_IB_DISABLE is unset or 0.
bool rdma_usable(const std::string& sys, const std::string& dev);

// "rank 2 on node-c"; without places "rank 2".
std::string name_of_rank(const ReplicaSpec& spec, int rank);

}  // namespace skein
