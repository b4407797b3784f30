#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"

struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace skein::cuda {

class CublasLt;
class LinearChoice;
class Peers;
class WeightUpload;

// One GPU of compute capability 9.0: its stream, the working memory that launches share, and recorded graphs.
// Single-owner: the executor thread.
class CudaDevice : public Device {
 public:
  static Result<std::unique_ptr<Device>> open(const DeviceConfig& config);
  ~CudaDevice() override;

  CUstream_st* stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }
  int64_t l2_bytes() const { return l2_bytes_; }
  const std::string& uuid() const { return uuid_; }  // 16 bytes
  // Whether results must not depend on what else a step holds: DeviceConfig::deterministic.
  bool deterministic() const { return deterministic_; }
  const std::string& architecture() const { return architecture_; }  // "sm_90"
  bool recording() const { return recording_; }

  // Working memory of the launch that runs: nothing survives it but that counters() are zero between launches
  // (whoever counts sets them back).
  static constexpr int64_t kScratchBytes = int64_t{64} << 20;
  static constexpr int64_t kCounters = 64 << 10;
  void* scratch() const { return scratch_; }
  uint32_t* counters() const { return counters_; }  // (kCounters)

  CublasLt& cublas() const { return *cublas_; }
  LinearChoice& linear_choice() const { return *linear_choice_; }

  // Once.
  Result<const PeerGroup*> join_peers(const PeerSetup& setup);

  // Remembers the first error of a launch; reached() and synchronize() tell it.
  void check(int cuda_error, const char* what);
  Status status() const { return first_error_; }

  Result<void*> allocate(int64_t bytes);
  void release(void* data);
  Result<DeviceMemory> memory() const;
  Result<void*> allocate_host(int64_t bytes);
  void release_host(void* data);
  void copy_to_device(void* to, const void* from_host, int64_t bytes);
  void copy_to_host(void* to_host, const void* from, int64_t bytes);
  // Made at its first use; synchronize() waits for what it was given.
  WeightUpload& weight_upload();
  // Takes its threads and its memory back. Requires: it was waited for.
  void end_weight_upload();
  uint64_t mark();
  Result<bool> reached(uint64_t mark);
  Result<int64_t> since(uint64_t mark);
  Status synchronize();
  bool replay(uint64_t key);
  void record(uint64_t key);
  Status end_record();
  void forget_recorded();

 private:
  CudaDevice();
  Status prepare(int index);
  // Remembers it if a peer has not come.
  void check_peers();
  // Room in the ring of staging memory; waits until the device has read what was there. Whoever takes it queues its
  // copy before it takes more.
  std::byte* stage(int64_t bytes);

  int index_ = 0;
  int multiprocessors_ = 0;
  int64_t l2_bytes_ = 0;
  std::string uuid_;
  bool deterministic_ = false;
  std::string architecture_;
  CUstream_st* stream_ = nullptr;
  void* scratch_ = nullptr;
  uint32_t* counters_ = nullptr;
  Status first_error_;
  std::unique_ptr<CublasLt> cublas_;
  std::unique_ptr<LinearChoice> linear_choice_;
  std::unique_ptr<Peers> peers_;
  std::unique_ptr<WeightUpload> weight_upload_;

  std::byte* ring_ = nullptr;  // page-locked, two halves
  int half_ = 0;               // being filled
  int64_t half_used_ = 0;      // bytes of it
  CUevent_st* half_read_[2] = {};  // behind the last copy out of a half that was left
  std::vector<CUevent_st*> marks_;  // a ring, by mark number
  uint64_t last_mark_ = 0;
  CUstream_st* clock_ = nullptr;  // on which nothing runs, so that now_ is reached when it is recorded
  CUevent_st* now_ = nullptr;

  bool recording_ = false;
  uint64_t recording_key_ = 0;
  std::map<uint64_t, CUgraphExec_st*> graphs_;
};

inline CudaDevice& device_of(Device& device) { return static_cast<CudaDevice&>(device); }

// The launches of ops.h, one file a family. Each checks its arguments, launches and checks the launch.
void scatter(Device& device, const ScatterArgs& args);
void gather(Device& device, const GatherArgs& args);
void store_tokens(Device& device, const StoreTokensArgs& args);
void embed(Device& device, const EmbedArgs& args);
void add_norm(Device& device, const AddNormArgs& args);
void linear(Device& device, const LinearArgs& args);
void gated_linear(Device& device, const GatedLinearArgs& args);
void rope_append(Device& device, const RopeAppendArgs& args);
void attention(Device& device, const AttentionArgs& args);
void silu_mul(Device& device, const SiluMulArgs& args);
void gather_rows(Device& device, const GatherRowsArgs& args);
void sample(Device& device, const SampleArgs& args);
void copy_blocks(Device& device, const CopyBlocksArgs& args);
void peer_sum(Device& device, const PeerSumArgs& args);
void peer_meet(Device& device, const PeerMeetArgs& args);

}  // namespace skein::cuda
