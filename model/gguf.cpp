#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/checked.h"
#include "model/gguf_types.h"
#include "model/quoted.h"

namespace skein {
namespace {

constexpr uint64_t kPairsMax = 65536;
constexpr uint64_t kTensorsMax = 100'000;
constexpr uint64_t kStringBytesMax = uint64_t{64} << 20;
constexpr uint64_t kKeyBytesMax = 65535;
constexpr uint64_t kArrayElementsMax = uint64_t{32} << 20;  // of all arrays together
constexpr size_t kTensorNameMax = 63;
constexpr uint32_t kDimsMax = 4;
constexpr uint64_t kAlignmentMax = uint64_t{1} << 20;

// The numbers that GGUF gives to the types of metadata values.
enum class ValueType : uint32_t {
  kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64,
};
constexpr uint32_t kValueTypes = 13;

uint64_t value_bytes_min(ValueType type) {
  constexpr uint8_t kBytes[kValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kBytes[static_cast<uint32_t>(type)];
}

std::string_view type_name(const GgufValue& value) {
  constexpr std::string_view kNames[] = {"a boolean",           "an integer",
                                         "an integer",          "a number",
                                         "a string",            "an array of booleans",
                                         "an array of integers", "an array of numbers",
                                         "an array of strings"};
  return kNames[value.index()];
}

// Reads little-endian values from the front of a file; every read is checked against the end.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }

  template <typename T>
  Status read(T* out) {
    if (left() < sizeof(T)) return truncated();
    std::memcpy(out, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return {};
  }

  Status read_string(uint64_t bytes_max, std::string* out) {
    uint64_t length = 0;
    RETURN_IF_ERROR(read(&length));
    if (length > bytes_max) {
      return corrupt("a string of " + std::to_string(length) + " bytes is over the limit of " +
                     std::to_string(bytes_max));
    }
    if (length > left()) return truncated();
    out->assign(bytes_.substr(position_, length));
    position_ += length;
    return {};
  }

 private:
  Status truncated() const {
    return corrupt("the file ends inside its header at byte " + std::to_string(bytes_.size()));
  }

  std::string_view bytes_;
  uint64_t position_ = 0;
};

template <typename T>
Status read_as(Cursor& cursor, auto* out) {
  T value{};
  RETURN_IF_ERROR(cursor.read(&value));
  *out = value;
  return {};
}

// Any integer type, widened.
Status read_integer(Cursor& cursor, ValueType type, int64_t* out) {
  switch (type) {
    case ValueType::kU8: return read_as<uint8_t>(cursor, out);
    case ValueType::kI8: return read_as<int8_t>(cursor, out);
    case ValueType::kU16: return read_as<uint16_t>(cursor, out);
    case ValueType::kI16: return read_as<int16_t>(cursor, out);
    case ValueType::kU32: return read_as<uint32_t>(cursor, out);
    case ValueType::kI32: return read_as<int32_t>(cursor, out);
    case ValueType::kI64: return read_as<int64_t>(cursor, out);
    case ValueType::kU64: {
      uint64_t value = 0;
      RETURN_IF_ERROR(cursor.read(&value));
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return corrupt("the array element " + std::to_string(value) + " is out of range");
      }
      *out = static_cast<int64_t>(value);
      return {};
    }
    case ValueType::kF32: case ValueType::kF64: case ValueType::kBool: case ValueType::kString:
    case ValueType::kArray: break;
  }
  CHECK(false);
  return {};
}

Status read_real(Cursor& cursor, ValueType type, double* out) {
  return type == ValueType::kF32 ? read_as<float>(cursor, out) : cursor.read(out);
}

Status read_bool(Cursor& cursor, bool* out) {
  uint8_t value = 0;
  RETURN_IF_ERROR(cursor.read(&value));
  if (value > 1) return corrupt("a boolean is " + std::to_string(value));
  *out = value == 1;
  return {};
}

Status read_type(Cursor& cursor, ValueType* out) {
  uint32_t number = 0;
  RETURN_IF_ERROR(cursor.read(&number));
  if (number >= kValueTypes) return corrupt("unknown value type " + std::to_string(number));
  *out = static_cast<ValueType>(number);
  return {};
}

// Requires: count elements of the smallest size fit in what is left, so that reserving is bounded
// by the file.
template <typename T>
Status read_elements(uint64_t count, GgufValue* out, auto read_one) {
  std::vector<T> elements;
  elements.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    T element{};
    RETURN_IF_ERROR(read_one(&element));
    elements.push_back(std::move(element));
  }
  *out = std::move(elements);
  return {};
}

bool is_power_of_two(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

}  // namespace

class GgufParser {
 public:
  GgufParser(std::string_view bytes, GgufFile* file)
      : bytes_(bytes), cursor_(bytes), file_(*file) {}

  Status parse() {
    uint64_t tensors = 0;
    uint64_t pairs = 0;
    RETURN_IF_ERROR(parse_preamble(&tensors, &pairs));
    for (uint64_t i = 0; i < pairs; ++i) RETURN_IF_ERROR(parse_pair());
    RETURN_IF_ERROR(find_alignment());
    for (uint64_t i = 0; i < tensors; ++i) RETURN_IF_ERROR(parse_tensor());
    file_.file_bytes_ = bytes_.size();
    return place_tensors();
  }

 private:
  struct Placed {
    std::string name;
    uint64_t offset = 0;
  };

  Status parse_preamble(uint64_t* tensors, uint64_t* pairs) {
    if (!bytes_.starts_with("GGUF"))
      return corrupt("no GGUF file: it does not begin with \"GGUF\"");
    uint32_t magic = 0;
    uint32_t version = 0;
    RETURN_IF_ERROR(cursor_.read(&magic));
    RETURN_IF_ERROR(cursor_.read(&version));
    if (version != 0 && (version & 0xFFFF) == 0) return unsupported("the file is big-endian");
    if (version != 2 && version != 3) {
      return unsupported("GGUF version " + std::to_string(version) + "; versions 2 and 3 are read");
    }
    RETURN_IF_ERROR(cursor_.read(tensors));
    RETURN_IF_ERROR(cursor_.read(pairs));
    if (*tensors > kTensorsMax) {
      return corrupt(std::to_string(*tensors) + " tensors are over the limit of " +
                     std::to_string(kTensorsMax));
    }
    if (*pairs > kPairsMax) {
      return corrupt(std::to_string(*pairs) + " metadata values are over the limit of " +
                     std::to_string(kPairsMax));
    }
    return {};
  }

  Status parse_pair() {
    std::string key;
    RETURN_IF_ERROR(cursor_.read_string(kKeyBytesMax, &key));
    if (key.empty()) return corrupt("a metadata key is empty");
    ValueType type{};
    GgufValue value;
    if (Status read = read_type(cursor_, &type); !read.ok()) return read.within(quoted(key));
    const Status read =
        type == ValueType::kArray ? parse_array(&value) : parse_scalar(type, &value);
    if (!read.ok()) return read.within(quoted(key));
    if (!file_.metadata_.emplace(key, std::move(value)).second) {
      return corrupt("the metadata key " + quoted(key) + " appears twice");
    }
    return {};
  }

  Status parse_scalar(ValueType type, GgufValue* out) {
    switch (type) {
      case ValueType::kBool: return read_bool(cursor_, &out->emplace<bool>());
      case ValueType::kString:
        return cursor_.read_string(kStringBytesMax, &out->emplace<std::string>());
      case ValueType::kF32:
      case ValueType::kF64: return read_real(cursor_, type, &out->emplace<double>());
      case ValueType::kU64: return cursor_.read(&out->emplace<uint64_t>());
      case ValueType::kU8: case ValueType::kI8: case ValueType::kU16: case ValueType::kI16:
      case ValueType::kU32: case ValueType::kI32: case ValueType::kI64:
        return read_integer(cursor_, type, &out->emplace<int64_t>());
      case ValueType::kArray: break;
    }
    CHECK(false);
    return {};
  }

  Status parse_array(GgufValue* out) {
    ValueType type{};
    RETURN_IF_ERROR(read_type(cursor_, &type));
    if (type == ValueType::kArray) return unsupported("arrays of arrays are not read");
    uint64_t count = 0;
    RETURN_IF_ERROR(cursor_.read(&count));
    if (count > cursor_.left() / value_bytes_min(type)) {
      return corrupt("an array of " + std::to_string(count) +
                     " elements runs past the end of the file");
    }
    if (count > array_elements_left_) {
      return corrupt("the arrays have more than " + std::to_string(kArrayElementsMax) +
                     " elements");
    }
    array_elements_left_ -= count;
    switch (type) {
      case ValueType::kBool:
        return read_elements<bool>(count, out, [&](bool* e) { return read_bool(cursor_, e); });
      case ValueType::kString:
        return read_elements<std::string>(
            count, out, [&](std::string* e) { return cursor_.read_string(kStringBytesMax, e); });
      case ValueType::kF32:
      case ValueType::kF64:
        return read_elements<double>(count, out,
                                     [&](double* e) { return read_real(cursor_, type, e); });
      case ValueType::kU8: case ValueType::kI8: case ValueType::kU16: case ValueType::kI16:
      case ValueType::kU32: case ValueType::kI32: case ValueType::kU64: case ValueType::kI64:
        return read_elements<int64_t>(count, out,
                                      [&](int64_t* e) { return read_integer(cursor_, type, e); });
      case ValueType::kArray: break;
    }
    CHECK(false);
    return {};
  }

  Status find_alignment() {
    if (file_.find("general.alignment") == nullptr) return {};
    ASSIGN_OR_RETURN(const int64_t alignment, file_.integer("general.alignment"));
    if (alignment <= 0 || !is_power_of_two(static_cast<uint64_t>(alignment)) ||
        static_cast<uint64_t>(alignment) > kAlignmentMax) {
      return corrupt("general.alignment is " + std::to_string(alignment) +
                     ", not a power of two up to " + std::to_string(kAlignmentMax));
    }
    alignment_ = static_cast<uint64_t>(alignment);
    return {};
  }

  Status parse_tensor() {
    Placed placed;
    RETURN_IF_ERROR(cursor_.read_string(kTensorNameMax, &placed.name));
    if (placed.name.empty()) return corrupt("a tensor's name is empty");
    GgufTensor tensor;
    const Status read = parse_tensor_info(&tensor, &placed.offset);
    if (!read.ok()) return read.within("tensor " + quoted(placed.name));
    if (!file_.tensors_.emplace(placed.name, std::move(tensor)).second) {
      return corrupt("the tensor " + quoted(placed.name) + " appears twice");
    }
    file_.tensor_names_.push_back(placed.name);
    placed_.push_back(std::move(placed));
    return {};
  }

  Status parse_tensor_info(GgufTensor* tensor, uint64_t* offset) {
    uint32_t dims = 0;
    RETURN_IF_ERROR(cursor_.read(&dims));
    if (dims < 1 || dims > kDimsMax) return corrupt(std::to_string(dims) + " dimensions");
    int64_t elements = 1;
    for (uint32_t i = 0; i < dims; ++i) {
      int64_t size = 0;
      RETURN_IF_ERROR(cursor_.read(&size));
      const auto product = size > 0 ? checked_mul(elements, size) : std::nullopt;
      if (!product) return corrupt("a dimension of " + std::to_string(size) + " is out of range");
      elements = *product;
      tensor->dims.push_back(size);
    }
    uint32_t number = 0;
    RETURN_IF_ERROR(cursor_.read(&number));
    RETURN_IF_ERROR(cursor_.read(offset));
    return set_type(number, elements, tensor);
  }

  static Status set_type(uint32_t number, int64_t elements, GgufTensor* tensor) {
    const GgufType* type = find_gguf_type(number);
    if (type == nullptr) {
      tensor->type = "type " + std::to_string(number);
      return {};
    }
    tensor->type = type->name;
    tensor->format = type->format;
    if (tensor->dims[0] % type->block_elements != 0) {
      return corrupt("rows of " + std::to_string(tensor->dims[0]) +
                     " elements are no multiple of " + tensor->type + "'s block of " +
                     std::to_string(type->block_elements));
    }
    const auto bytes = checked_mul<int64_t>(elements / type->block_elements, type->block_bytes);
    if (!bytes) return corrupt("its size is out of range");
    tensor->bytes = *bytes;
    return {};
  }

  // The data section begins at the first multiple of the alignment after the header.
  Status place_tensors() {
    std::sort(placed_.begin(), placed_.end(),
              [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
    const uint64_t begin = round_up(cursor_.position(), alignment_);
    if (placed_.empty()) return {};
    if (begin > bytes_.size()) return corrupt("the file ends before its tensor data");
    const uint64_t size = bytes_.size() - begin;
    uint64_t previous_end = 0;
    for (const Placed& placed : placed_) {
      GgufTensor& tensor = file_.tensors_.find(placed.name)->second;
      const std::string name = "tensor " + quoted(placed.name);
      const auto bytes = static_cast<uint64_t>(tensor.bytes);
      if (placed.offset % alignment_ != 0) {
        return corrupt(name + " begins at " + std::to_string(placed.offset) +
                       ", no multiple of the alignment " + std::to_string(alignment_));
      }
      if (!range_within(placed.offset, bytes, size)) {
        return corrupt(name + " (" + std::to_string(bytes) + " bytes at " +
                       std::to_string(placed.offset) +
                       " of the data) runs past the end of the file");
      }
      if (placed.offset < previous_end) return corrupt(name + " overlaps another tensor");
      previous_end = placed.offset + bytes;
      if (bytes == 0) continue;
      tensor.data = reinterpret_cast<const std::byte*>(bytes_.data()) + begin + placed.offset;
    }
    return {};
  }

  std::string_view bytes_;
  Cursor cursor_;
  GgufFile& file_;
  uint64_t alignment_ = 32;
  uint64_t array_elements_left_ = kArrayElementsMax;
  std::vector<Placed> placed_;
};

Result<std::unique_ptr<GgufFile>> GgufFile::open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(path));
  auto file = parse(mapped.bytes());
  if (!file.ok()) return file.status().within(path);
  (*file)->file_ = std::move(mapped);
  return file;
}

Result<std::unique_ptr<GgufFile>> GgufFile::parse(std::string_view bytes) {
  auto file = std::make_unique<GgufFile>();
  RETURN_IF_ERROR(GgufParser(bytes, file.get()).parse());
  return file;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(std::string(key));
  return found == metadata_.end() ? nullptr : &found->second;
}

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  return found == tensors_.end() ? nullptr : &found->second;
}

namespace {

Status missing(std::string_view key) {
  return not_found("the metadata has no " + quoted(key));
}

Status wrong_type(std::string_view key, const GgufValue& value, std::string_view wanted) {
  return invalid_argument("the metadata value " + quoted(key) + " is " +
                          std::string(type_name(value)) + ", not " + std::string(wanted));
}

}  // namespace

Result<int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto* number = std::get_if<int64_t>(value)) return *number;
  const auto* number = std::get_if<uint64_t>(value);
  if (number == nullptr) return wrong_type(key, *value, "an integer");
  if (*number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return invalid_argument("the metadata value " + quoted(key) + " is " + std::to_string(*number) +
                            ", out of range");
  }
  return static_cast<int64_t>(*number);
}

Result<double> GgufFile::real(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto* number = std::get_if<double>(value)) return *number;
  return wrong_type(key, *value, "a number");
}

Result<std::string> GgufFile::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  return wrong_type(key, *value, "a string");
}

}  // namespace skein
