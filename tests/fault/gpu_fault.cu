// A library to preload: makes a GPU fail under a rank that knows nothing of it. On the real-time signal SIGRTMIN + d,
// skein-worker gets a kernel that traps on GPU d: every CUDA call that this process makes there fails from then on.

#include <cuda_runtime.h>
#include <errno.h>
#include <signal.h>

#include <cstring>
#include <thread>

namespace {

constexpr int kDevicesMax = 8;

__global__ void trap() { asm volatile("trap;"); }

void watch(sigset_t orders) {
  int order = 0;
  while (sigwait(&orders, &order) == 0) {
    cudaSetDevice(order - SIGRTMIN);
    trap<<<1, 1>>>();
  }
}

// Before main(): its threads inherit what is blocked here.
__attribute__((constructor)) void begin() {
  if (std::strcmp(program_invocation_short_name, "skein-worker") != 0) return;
  sigset_t orders;
  sigemptyset(&orders);
  for (int device = 0; device < kDevicesMax; ++device) sigaddset(&orders, SIGRTMIN + device);
  pthread_sigmask(SIG_BLOCK, &orders, nullptr);
  static auto* const watcher = new std::thread(watch, orders);  // lives as long as the process
  (void)watcher;
}

}  // namespace
