#include "worker/numerics.h"

#include <gtest/gtest.h>

#include <set>

namespace skein {
namespace {

constexpr char kGpu[] = "cuda sm_90";
constexpr uint64_t kWeights = 7;

ReplicaSpec spec_of(uint64_t launch, uint32_t replica) {
  ReplicaSpec spec;
  spec.launch = launch;
  spec.replica = replica;
  spec.tensor_parallel_size = 2;
  return spec;
}

TEST(Numerics, EqualReplicasHaveOneId) {
  const uint64_t id = numerics_id(spec_of(1, 0), kWeights, kGpu);
  ReplicaSpec other = spec_of(25, 3);
  // Nothing of this changes what a token becomes.
  other.first_device = 2;
  other.slots = 7;
  other.step_tokens_max = 300;
  other.block_tokens = 32;
  other.kv_blocks = 99;
  other.context_max = 512;
  other.threads = 5;
  other.prefix_caching = false;
  EXPECT_EQ(numerics_id(other, kWeights, kGpu), id);
}

TEST(Numerics, WhateverChangesBitsChangesTheId) {
  std::set<uint64_t> ids;
  const ReplicaSpec spec = spec_of(1, 0);
  ids.insert(numerics_id(spec, kWeights, kGpu));
  ids.insert(numerics_id(spec, kWeights + 1, kGpu));
  ids.insert(numerics_id(spec, kWeights, "cuda sm_100"));
  ids.insert(numerics_id(spec, kWeights, "cpu avx2"));
  ids.insert(numerics_id(spec, kWeights, "cpu vnni"));
  ReplicaSpec other = spec;
  other.dtype = "float16";
  ids.insert(numerics_id(other, kWeights, kGpu));
  other = spec;
  other.kv_cache_dtype = "float16";
  ids.insert(numerics_id(other, kWeights, kGpu));
  other = spec;
  other.tensor_parallel_size = 4;
  ids.insert(numerics_id(other, kWeights, kGpu));
  other = spec;
  other.pipeline_parallel_size = 2;
  ids.insert(numerics_id(other, kWeights, kGpu));
  EXPECT_EQ(ids.size(), 9u);
}

// Where a backend promises nothing, every start of every replica is on its own.
TEST(Numerics, NoPromiseNoEqual) {
  std::set<uint64_t> ids;
  for (const uint64_t launch : {1, 2, 11}) {
    for (const uint32_t replica : {0, 1, 2}) ids.insert(numerics_id(spec_of(launch, replica), kWeights, ""));
  }
  ids.insert(numerics_id(spec_of(1, 0), kWeights, kGpu));
  EXPECT_EQ(ids.size(), 10u);
  EXPECT_EQ(numerics_id(spec_of(1, 0), kWeights, ""), numerics_id(spec_of(1, 0), kWeights, ""));
}

}  // namespace
}  // namespace skein
