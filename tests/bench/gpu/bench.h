#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

// What the GPU benchmarks share. A benchmark computes its own bytes and FLOPs; a line shows the time and its share of
// the ceilings measured in the same run.

namespace skein::bench {

struct Ceilings {
  double read_bytes_per_s = 0;
  double bf16_flops_per_s = 0;  // a large product through cuBLASLt on random data
  double link_bytes_per_s = 0;  // between two GPUs, one way while as much comes the other way; 0: not measured
};
const Ceilings& ceilings();
// A benchmark of two GPUs measures their link itself, before its first line.
void set_link_ceiling(double bytes_per_s);

cuda::CudaDevice& gpu();

// Median microseconds of one call. `calls` calls of body(i) are recorded as one graph, i = 0, 1, ...: rotate inputs by
// i so that they come from memory and not from the L2 cache. The device's clocks are as they are.
double time_us(const std::function<void(int)>& body, int calls = 20, int rounds = 9);

// How many copies of something of that size make sure that each comes from memory.
int rotations(int64_t bytes);

// Device memory with random bf16 (normal, standard deviation `scale`), freed at the program's end.
void* random_bf16(int64_t elements, double scale = 1, uint32_t seed = 1);
void* device_memory(int64_t bytes);
template <typename T>
T* upload(const std::vector<T>& values) {
  void* memory = device_memory(static_cast<int64_t>(values.size() * sizeof(T)));
  gpu().copy_to_device(memory, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  return static_cast<T*>(memory);
}

struct Line {
  std::string name;   // "linear 4096x4096 m=1": also the key of peers.tsv
  double us = 0;
  double bytes = 0;   // each input read once, each output written once
  double flops = 0;
  double link_bytes = 0;  // written to another GPU
};
// Prints a line: time, bytes, FLOPs, rates, share of the ceilings' floor (bytes, FLOPs and bytes over the link, one
// after the other), the peer's time.
// When the program ends, it lists lines that miss the floor or the peer by more than 5 %, with the cause as
// tests/bench/gpu/causes.tsv has it by the beginning of the name. Names that begin with a blank are not looked at.
void report(const Line& line);

// Opens the GPU, measures the ceilings, prints the machine; 77 where there is no GPU. Options: --commit TEXT,
// --deterministic.
int open_bench(int argc, char** argv);

}  // namespace skein::bench
