#include <cuda_runtime.h>

#include "kernels/cuda/wgmma.cuh"
#include "tests/gpu/fixture.h"

// Operands as kernels/cuda/wgmma.cuh describes them, against float64.

namespace skein::test {
namespace {

enum class Form { kBothKMajor, kRightMnMajor, kLeftRegisters, kLeftRegistersRightMnMajor, kLeftMnMajor };

constexpr int kDepth = 128;  // K: two tiles of 64 along K-major rows
constexpr int kLeft = 64;    // M
constexpr int kPanel = 64;   // elements of a 128-byte row

// Element (row, column) of panels of 64 columns and `rows` rows, each with the 128-byte swizzle.
__device__ int place(int row, int column, int rows) {
  const int chunk = column % kPanel / 8 ^ row % 8;
  return column / kPanel * rows * kPanel + row * kPanel + chunk * 8 + column % 8;
}

// out (64, kRight) = a (64, 128) b (kRight, 128)^T.
template <int kRight, Form kForm>
__global__ void multiply(float* out, const __nv_bfloat16* a, const __nv_bfloat16* b) {
  extern __shared__ __nv_bfloat16 memory[];
  const uint32_t misplaced = cuda::shared_address(memory) % 1024;
  __nv_bfloat16* left = memory + (misplaced == 0 ? 0 : 1024 - misplaced) / 2;
  __nv_bfloat16* right = left + kLeft * kDepth;
  constexpr bool kLeftMn = kForm == Form::kLeftMnMajor;
  constexpr bool kRightMn =
      kForm == Form::kRightMnMajor || kForm == Form::kLeftRegistersRightMnMajor || kForm == Form::kLeftMnMajor;
  for (int i = static_cast<int>(threadIdx.x); i < kLeft * kDepth; i += 128) {
    const int row = i / kDepth, k = i % kDepth;
    left[kLeftMn ? place(k, row, kDepth) : place(row, k, kLeft)] = a[i];
  }
  for (int i = static_cast<int>(threadIdx.x); i < kRight * kDepth; i += 128) {
    const int row = i / kDepth, k = i % kDepth;
    right[kRightMn ? place(k, row, kDepth) : place(row, k, kRight)] = b[i];
  }
  cuda::fence_async_shared();
  __syncthreads();

  float d[kRight / 2] = {};
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / 32 * 16 + thread % 32 / 4;
  const int column = thread % 4 * 2;
  cuda::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    const uint32_t right_at = cuda::shared_address(right) +
                              (kRightMn ? k / 16 * 2048 : k / kPanel * kRight * 128 + k % kPanel * 2);
    const uint64_t b_operand =
        kRightMn ? cuda::mn_major_operand(right_at, kDepth * 128) : cuda::k_major_operand(right_at);
    if constexpr (kForm == Form::kLeftRegisters || kForm == Form::kLeftRegistersRightMnMajor) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const __nv_bfloat16* from = a + (row + i % 2 * 8) * kDepth + k + column + i / 2 * 8;
        pairs[i] = cuda::pack_bf16(__bfloat162float(from[0]), __bfloat162float(from[1]));
      }
      cuda::wgmma_registers<kRightMn>(d, pairs, b_operand, k > 0);
    } else {
      const uint32_t left_at =
          cuda::shared_address(left) + (kLeftMn ? k / 16 * 2048 : k / kPanel * kLeft * 128 + k % kPanel * 2);
      const uint64_t a_operand =
          kLeftMn ? cuda::mn_major_operand(left_at, kDepth * 128) : cuda::k_major_operand(left_at);
      cuda::wgmma<kLeftMn, kRightMn>(d, a_operand, b_operand, k > 0);
    }
  }
  cuda::wgmma_commit();
  cuda::wgmma_wait<0>();
  cuda::hold(d);
#pragma unroll
  for (int i = 0; i < kRight / 2; ++i) {
    out[(row + i / 2 % 2 * 8) * kRight + i / 4 * 8 + column + i % 2] = d[i];
  }
}

template <int kRight, Form kForm>
void compare() {
  std::mt19937 random(kRight);
  const auto a = bf16_normals(random, kLeft * kDepth);
  const auto b = bf16_normals(random, int64_t{kRight} * kDepth);
  const GpuMemory left = upload(gpu(), to_bf16(a));
  const GpuMemory right = upload(gpu(), to_bf16(b));
  const GpuMemory out(gpu(), int64_t{kLeft} * kRight * 4);
  constexpr int kBytes = (kLeft + kRight) * kDepth * 2 + 1024;
  auto* kernel = multiply<kRight, kForm>;
  ASSERT_EQ(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), cudaSuccess);
  kernel<<<1, 128, kBytes, gpu().stream()>>>(out.as<float>(), left.as<__nv_bfloat16>(), right.as<__nv_bfloat16>());
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  std::vector<double> expected;
  for (int m = 0; m < kLeft; ++m) {
    for (int n = 0; n < kRight; ++n) {
      double sum = 0;
      for (int k = 0; k < kDepth; ++k) {
        sum += static_cast<double>(a[static_cast<size_t>(m * kDepth + k)]) * b[static_cast<size_t>(n * kDepth + k)];
      }
      expected.push_back(sum);
    }
  }
  EXPECT_LT(relative_error(download<float>(gpu(), out.as(), kLeft * kRight), expected), 1e-6);
  EXPECT_TRUE(out.intact());
}

TEST(Wgmma, BothKMajor) {
  compare<8, Form::kBothKMajor>();
  compare<16, Form::kBothKMajor>();
  compare<64, Form::kBothKMajor>();
  compare<128, Form::kBothKMajor>();
  compare<256, Form::kBothKMajor>();
}
TEST(Wgmma, RightMnMajor) {
  compare<64, Form::kRightMnMajor>();
  compare<128, Form::kRightMnMajor>();
  compare<192, Form::kRightMnMajor>();
}
TEST(Wgmma, LeftRegisters) { compare<128, Form::kLeftRegisters>(); }
TEST(Wgmma, LeftRegistersRightMnMajor) {
  compare<64, Form::kLeftRegistersRightMnMajor>();
  compare<128, Form::kLeftRegistersRightMnMajor>();
}
TEST(Wgmma, LeftMnMajor) { compare<128, Form::kLeftMnMajor>(); }

}  // namespace
}  // namespace skein::test
