#pragma once

#include "kernels/cuda/device.h"

// Weights on the device: bf16, rows one after another. Whatever a file stores becomes bf16 on the way.

namespace skein::cuda {

int64_t linear_bytes(Format format, int64_t rows, int64_t columns);

// Ops::pack_linear through WeightUpload; what is not bf16 is converted on the device.
void pack_linear(Device& device, const PackArgs& args);

// out (row_count, columns) bf16 = rows in a file's format other than bf16, one after another; both on the device.
void convert_rows(CudaDevice& device, CUstream_st* stream, void* out, const void* rows, Format format,
                  int64_t row_count, int64_t columns);

}  // namespace skein::cuda
