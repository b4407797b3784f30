#pragma once

#include <memory>
#include <string>

#include "topology/planner.h"

namespace skein::test {

// Searches take ten times as long under a sanitizer: what repeats one for its figures does so less often there.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)  // clang
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

// A model of that shape with made-up weights. Layers of 109 MB, an embedding and an output of 67 MB each in bfloat16.
std::unique_ptr<Checkpoint> dummy_model(int layers, int heads = 16, int kv_heads = 4);

// A kind of GPU that holds `model_bytes` of weights and pages beside what the runtime takes, with 0.9 of its memory.
DeviceKind gpu_kind(const std::string& name, int64_t model_bytes, double read_bytes_per_s);

// `devices` GPUs of that kind; one InfiniBand NIC for all of them.
Node gpu_node(const std::string& name, int devices, int kind = 0, bool nvlink = true);

// A NIC and a rail for each GPU.
void give_each_gpu_a_nic(Node* node);

}  // namespace skein::test
