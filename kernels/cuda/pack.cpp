#include "kernels/cuda/pack.h"

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/weight_upload.h"

namespace skein::cuda {

int64_t linear_bytes(Format format, int64_t rows, int64_t columns) {
  CHECK(format == Format::kBF16);
  CHECK(rows >= 0 && columns >= 0);
  return round_up<int64_t>(rows * row_bytes(format, columns), 256);
}

void pack_linear(Device& device, const PackArgs& args) {
  const Tensor& out = args.out;
  CHECK(out.layout == Layout::kPacked && out.data != nullptr);
  CHECK(out.format == Format::kBF16);
  CHECK(args.first_row >= 0 && args.row_count >= 0);
  CHECK_LE(args.first_row + args.row_count, out.rows);
  CHECK(args.source_format != Format::kI8Block32 && args.source_format != Format::kI32);
  CHECK_EQ(out.columns % info(args.source_format).block_elements, 0);
  if (args.row_count == 0 || out.columns == 0) return;
  CHECK(args.source_rows != nullptr);
  device_of(device).weight_upload().add(args);
}

}  // namespace skein::cuda
