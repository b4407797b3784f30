#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "base/check.h"

namespace skein::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver that the runtime has loaded: nothing links with libcuda.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
  CHECK_EQ(static_cast<int>(error), static_cast<int>(cudaSuccess));
  CHECK_EQ(static_cast<int>(result), static_cast<int>(cudaDriverEntryPointSuccess));
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap tensor_map(const TensorMapShape& shape) {
  static const Encode encode = find_encode();
  constexpr cuuint32_t kElementStrides[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(shape.dimensions), shape.data, shape.sizes,
             shape.strides, shape.box, kElementStrides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             shape.read_once ? CU_TENSOR_MAP_L2_PROMOTION_L2_64B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK_EQ(static_cast<int>(result), static_cast<int>(CUDA_SUCCESS));
  return map;
}

}  // namespace skein::cuda
