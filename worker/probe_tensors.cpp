#include "worker/probe_tensors.h"

#include <algorithm>

#include "base/checked.h"
#include "base/half.h"

namespace skein {
namespace {

constexpr int64_t kNumbers = 1 << 20;
constexpr int64_t kAlignment = 256;
constexpr int64_t kSlack = 8;  // for the part of turn_bytes of the largest weight

std::vector<float> numbers(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

std::vector<uint16_t> rounded(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(f32_to_bf16(value));
  return halves;
}

// At least so many bytes: blocks of a quantised format with scales of about a hundredth.
std::vector<uint8_t> blocks_of(Format format, int64_t bytes) {
  const auto block_bytes = static_cast<size_t>(info(format).block_bytes);
  std::vector<uint8_t> blocks;
  uint32_t state = 1;
  while (blocks.size() < static_cast<size_t>(bytes)) {
    blocks.insert(blocks.end(), {0x1f, 0x21});  // 0.01 in float16
    if (format == Format::kQ4_1) blocks.insert(blocks.end(), {0x1f, 0xad});  // -0.08
    while (blocks.size() % block_bytes != 0) {
      state = state * 1664525u + 1013904223u;
      blocks.push_back(static_cast<uint8_t>(state >> 24));
    }
  }
  return blocks;
}

Tensor weight_at(void* memory, Format format, const ProductShape& shape) {
  return {.data = memory, .rows = shape.outputs, .columns = shape.inputs, .format = format,
          .layout = Layout::kPacked, .row_stride = shape.inputs};
}

}  // namespace

ProbeTensors::ProbeTensors(const Ops& ops, Device& device, bool unlike_rows, int64_t turn_bytes)
    : ops_(ops),
      device_(device),
      unlike_rows_(unlike_rows),
      turn_bytes_(turn_bytes),
      floats_(numbers(kNumbers)),
      bf16_(rounded(floats_)) {}

// The same few elements again and again.
template <typename Element>
void ProbeTensors::fill(void* memory, int64_t count, const std::vector<Element>& elements) const {
  for (int64_t begin = 0; begin < count; begin += kNumbers) {
    ops_.copy_to_device(device_, static_cast<Element*>(memory) + begin, elements.data(),
                        std::min(count - begin, kNumbers) * static_cast<int64_t>(sizeof(Element)));
  }
}

void ProbeTensors::fill_pages(void* memory, int64_t count) const { fill(memory, count, bf16_); }

Result<Tensor> ProbeTensors::activation(DeviceArena& arena, Format format, int64_t rows, int64_t columns) const {
  ASSIGN_OR_RETURN(void* memory, arena.allocate(ops_.tensor_bytes(format, rows, columns)));
  const Tensor tensor = ops_.make_tensor(memory, format, rows, columns);
  if (format == Format::kF32) {
    fill(memory, rows * columns, floats_);
  } else if (format == Format::kI8Block32) {
    ASSIGN_OR_RETURN(const Tensor residual, activation(arena, Format::kF32, rows, columns));
    ASSIGN_OR_RETURN(const float* weight, norm_weight(arena, columns));
    ops_.add_norm(device_, {.out = tensor, .residual = residual, .x = {}, .weight = weight, .epsilon = 1e-5f});
  } else {
    fill(memory, rows * columns, bf16_);
  }
  return tensor;
}

Result<const float*> ProbeTensors::norm_weight(DeviceArena& arena, int64_t columns) const {
  ASSIGN_OR_RETURN(const float* weight, arena.upload(numbers(columns)));
  return weight;
}

Result<Tensor> ProbeTensors::packed_weight(DeviceArena& arena, Format format, const ProductShape& shape) const {
  ASSIGN_OR_RETURN(void* memory, arena.allocate(ops_.linear_bytes(format, shape.outputs, shape.inputs)));
  const Tensor weight = weight_at(memory, format, shape);
  RETURN_IF_ERROR(pack(weight));
  return weight;
}

Status ProbeTensors::pack(const Tensor& weight) const {
  const bool quantised = info(weight.format).block_elements > 1;
  std::vector<uint8_t> blocks;
  if (quantised) blocks = blocks_of(weight.format, row_bytes(weight.format, weight.columns));
  const void* any_row = quantised ? static_cast<const void*>(blocks.data()) : bf16_.data();
  std::vector<const void*> rows(static_cast<size_t>(weight.rows), any_row);
  if (unlike_rows_ && !quantised) {  // unlike activations, too
    const size_t half = bf16_.size() / 2;
    for (size_t row = 0; row < rows.size(); ++row) {
      rows[row] = bf16_.data() + half + row * 7 % (half - static_cast<size_t>(weight.columns));
    }
  }
  ops_.pack_linear(device_, {.out = weight, .first_row = 0, .row_count = weight.rows, .source_rows = rows.data(),
                             .source_format = quantised ? weight.format : Format::kBF16});
  return ops_.synchronize(device_);  // the rows have been read
}

Result<std::vector<Tensor>> ProbeTensors::weights_for_turns(Format format, const ProductShape& shape) {
  const int64_t stride = round_up(ops_.linear_bytes(format, shape.outputs, shape.inputs), kAlignment);
  const int64_t count = ceil_div(turn_bytes_, stride);
  if (count * stride > turn_capacity_) {
    turn_capacity_ = 0;
    turns_.emplace(ops_, device_);  // what was there is released before more is taken
    const int64_t capacity = std::max(count * stride, turn_bytes_ + turn_bytes_ / kSlack);
    ASSIGN_OR_RETURN(void* data, turns_->allocate(capacity));
    turn_data_ = static_cast<std::byte*>(data);
    turn_capacity_ = capacity;
  }
  std::vector<Tensor> weights;
  for (int64_t i = 0; i < count; ++i) {
    weights.push_back(weight_at(turn_data_ + i * stride, format, shape));
    RETURN_IF_ERROR(pack(weights.back()));
  }
  return weights;
}

}  // namespace skein
