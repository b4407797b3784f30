#include "model/gguf.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/model/file_pieces.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

using namespace test;

// Every kind of value, three tensors of which one is of a format that is not read.
std::string valid_file() {
  GgufBuilder file;
  file.add_string("general.architecture", "llama");
  file.add("u8", kU8, le<uint8_t>(200));
  file.add("i8", kI8, le<int8_t>(-3));
  file.add("u16", kU16, le<uint16_t>(60000));
  file.add("i16", kI16, le<int16_t>(-300));
  file.add("u32", kU32, le<uint32_t>(4000000000u));
  file.add("i32", kI32, le<int32_t>(-70000));
  file.add("u64", kU64, le<uint64_t>(~uint64_t{0}));
  file.add("i64", kI64, le<int64_t>(-5));
  file.add("f32", kF32, le(0.5f));
  file.add("f64", kF64, le(0.1));
  file.add("yes", kBool, le<uint8_t>(1));
  file.add("bools", kArray, gguf_array(kBool, 2, std::string("\1\0", 2)));
  file.add("ints", kArray, gguf_array(kI32, 2, le<int32_t>(7) + le<int32_t>(-7)));
  file.add("reals", kArray, gguf_array(kF32, 1, le(2.5f)));
  file.add_strings("words", {"a", "", "long"});
  file.add_tensor("matrix", {3, 2}, 0, std::string(24, 'm'));
  file.add_tensor("blocks", {32, 2}, 8, std::string(68, 'b'));
  file.add_tensor("other", {256}, 14, std::string(210, 'k'));
  return file.build();
}

TEST(Gguf, ReadsEveryKindOfValue) {
  const std::string bytes = valid_file();
  const auto parsed = GgufFile::parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  const GgufFile& file = **parsed;
  EXPECT_EQ(*file.string("general.architecture"), "llama");
  EXPECT_EQ(*file.integer("u8"), 200);
  EXPECT_EQ(*file.integer("i8"), -3);
  EXPECT_EQ(*file.integer("u16"), 60000);
  EXPECT_EQ(*file.integer("i16"), -300);
  EXPECT_EQ(*file.integer("u32"), 4000000000);
  EXPECT_EQ(*file.integer("i32"), -70000);
  EXPECT_EQ(*file.integer("i64"), -5);
  EXPECT_EQ(*file.real("f32"), 0.5);
  EXPECT_EQ(*file.real("f64"), 0.1);
  EXPECT_EQ(std::get<uint64_t>(*file.find("u64")), ~uint64_t{0});
  EXPECT_EQ(std::get<bool>(*file.find("yes")), true);
  EXPECT_EQ(std::get<std::vector<bool>>(*file.find("bools")), (std::vector<bool>{true, false}));
  EXPECT_EQ(std::get<std::vector<int64_t>>(*file.find("ints")), (std::vector<int64_t>{7, -7}));
  EXPECT_EQ(std::get<std::vector<double>>(*file.find("reals")), (std::vector<double>{2.5}));
  EXPECT_EQ(std::get<std::vector<std::string>>(*file.find("words")),
            (std::vector<std::string>{"a", "", "long"}));
  EXPECT_EQ(file.find("nothing"), nullptr);
}

TEST(Gguf, ReadsTensors) {
  const std::string bytes = valid_file();
  const auto parsed = GgufFile::parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  const GgufFile& file = **parsed;
  EXPECT_EQ(file.tensor_names(), (std::vector<std::string>{"matrix", "blocks", "other"}));
  const GgufTensor* matrix = file.tensor("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->format, Format::kF32);
  EXPECT_EQ(matrix->dims, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(matrix->data), 24), std::string(24, 'm'));
  EXPECT_EQ(file.tensor("blocks")->format, Format::kQ8_0);
  EXPECT_EQ(file.tensor("blocks")->bytes, 68);
  EXPECT_EQ(static_cast<char>(*file.tensor("blocks")->data), 'b');
  EXPECT_FALSE(file.tensor("other")->format.has_value());
  EXPECT_EQ(file.tensor("other")->type, "Q6_K");
  EXPECT_EQ(file.tensor("nothing"), nullptr);
}

TEST(Gguf, KeepsTensorsOfUnknownTypeNumbersWithoutData) {
  const std::string bytes = padded(gguf_head(1, 0) + gguf_tensor("t", {5}, 99, 0));
  const auto file = GgufFile::parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->tensor("t")->type, "type 99");
  EXPECT_EQ((*file)->tensor("t")->data, nullptr);
}

TEST(Gguf, HonoursTheAlignmentOfTheFile) {
  const std::string head =
      gguf_head(2, 1) + gguf_pair("general.alignment", kU32, le<uint32_t>(64)) +
      gguf_tensor(std::string(33, 'a'), {1}, 0, 0) + gguf_tensor("b", {1}, 0, 64);
  ASSERT_NE(padded(head, 32).size(), padded(head, 64).size());
  const std::string bytes = padded(padded(head, 64) + le(1.5f), 64) + le(2.5f);
  const auto file = GgufFile::parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status().message();
  float value;
  std::memcpy(&value, (*file)->tensor("b")->data, sizeof value);
  EXPECT_EQ(value, 2.5f);
}

TEST(Gguf, NamesKeyAndTypeOfAWrongValue) {
  const std::string bytes = valid_file();
  const auto file = GgufFile::parse(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->integer("f32").status().message(),
            "the metadata value \"f32\" is a number, not an integer");
  EXPECT_EQ((*file)->string("words").status().message(),
            "the metadata value \"words\" is an array of strings, not a string");
  EXPECT_EQ((*file)->integer("u64").status().code(), Code::kInvalidArgument);
  EXPECT_EQ((*file)->real("absent").status().code(), Code::kNotFound);
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* message;  // a part of it
};

std::string one_pair(const std::string& pair) { return gguf_head(0, 1) + pair; }

std::string one_tensor(const std::string& tensor, size_t data_bytes) {
  return padded(gguf_head(1, 0) + tensor) + std::string(data_bytes, 'x');
}

std::string alignment(uint32_t type, const std::string& payload) {
  return one_pair(gguf_pair("general.alignment", type, payload));
}

std::vector<BadFile> bad_preambles() {
  return {
      {"empty", "", "does not begin with \"GGUF\""},
      {"short magic", "GGU", "does not begin with \"GGUF\""},
      {"other magic", "GGML" + le<uint32_t>(3) + std::string(16, '\0'), "does not begin"},
      {"no version", "GGUF", "the file ends inside its header at byte 4"},
      {"version 0", gguf_head(0, 0, 0), "GGUF version 0"},
      {"version 1", gguf_head(0, 0, 1), "GGUF version 1"},
      {"version 4", gguf_head(0, 0, 4), "GGUF version 4"},
      {"big-endian", gguf_head(0, 0, 0x03000000), "big-endian"},
      {"no counts", "GGUF" + le<uint32_t>(3), "the file ends inside its header"},
      {"too many tensors", gguf_head(100'001, 0), "100001 tensors are over the limit"},
      {"2^64 - 1 tensors", gguf_head(~uint64_t{0}, 0), "tensors are over the limit"},
      {"tensors that are not there", gguf_head(3, 0), "the file ends inside its header"},
      {"too many pairs", gguf_head(0, 65537), "65537 metadata values are over the limit"},
      {"2^63 pairs", gguf_head(0, uint64_t{1} << 63), "metadata values are over the limit"},
      {"pairs that are not there", gguf_head(0, 2), "the file ends inside its header"},
  };
}

std::vector<BadFile> bad_metadata() {
  const std::string twice = gguf_pair("k", kU8, "\1");
  return {
      {"key past the end", one_pair(le<uint64_t>(9) + "short"), "the file ends inside"},
      {"key of 2^63 bytes", one_pair(le(uint64_t{1} << 63)), "over the limit of 65535"},
      {"empty key", one_pair(gguf_pair("", kU8, "\1")), "a metadata key is empty"},
      {"long key", one_pair(gguf_pair(std::string(65536, 'k'), kU8, "\1")), "over the limit"},
      {"value type 13", one_pair(gguf_pair("k", 13, "\1")), "\"k\": unknown value type 13"},
      {"huge value type", one_pair(gguf_pair("k", 0xFFFFFFFF, "\1")), "unknown value type"},
      {"no value type", one_pair(gguf_string("k")), "\"k\": the file ends inside"},
      {"half a value", one_pair(gguf_pair("k", kU64, "1234")), "\"k\": the file ends inside"},
      {"boolean 2", one_pair(gguf_pair("k", kBool, "\2")), "\"k\": a boolean is 2"},
      {"string past the end", one_pair(gguf_pair("k", kString, le<uint64_t>(6) + "short")),
       "\"k\": the file ends inside"},
      {"string over 64 MiB", one_pair(gguf_pair("k", kString, le((uint64_t{64} << 20) + 1))),
       "over the limit of 67108864"},
      {"array of arrays", one_pair(gguf_pair("k", kArray, gguf_array(kArray, 0, ""))),
       "arrays of arrays"},
      {"array of nothing known", one_pair(gguf_pair("k", kArray, gguf_array(77, 0, ""))),
       "unknown value type 77"},
      {"array past the end", one_pair(gguf_pair("k", kArray, gguf_array(kU32, 3, "12345678"))),
       "an array of 3 elements runs past the end"},
      {"array whose size overflows",
       one_pair(gguf_pair("k", kArray, gguf_array(kU64, uint64_t{1} << 61, "12345678"))),
       "runs past the end"},
      {"array of 2^64 - 1 bytes",
       one_pair(gguf_pair("k", kArray, gguf_array(kU8, ~uint64_t{0}, "1"))), "runs past the end"},
      {"string element past the end",
       one_pair(gguf_pair("k", kArray, gguf_array(kString, 2, gguf_string("a") + le<uint64_t>(9)))),
       "\"k\": the file ends inside"},
      {"more strings than bytes",
       one_pair(gguf_pair("k", kArray, gguf_array(kString, 2, "12345678"))),
       "an array of 2 elements runs past the end"},
      {"boolean element 3", one_pair(gguf_pair("k", kArray, gguf_array(kBool, 1, "\3"))),
       "a boolean is 3"},
      {"element beyond int64",
       one_pair(gguf_pair("k", kArray, gguf_array(kU64, 1, le(~uint64_t{0})))), "out of range"},
      {"duplicate key", gguf_head(0, 2) + twice + twice, "the metadata key \"k\" appears twice"},
      {"control characters in a key", one_pair(gguf_pair("k\n\x01", 13, "")), "\"k\\n\\u0001\""},
      {"alignment 0", alignment(kU32, le<uint32_t>(0)), "general.alignment is 0"},
      {"alignment 24", alignment(kU32, le<uint32_t>(24)), "general.alignment is 24"},
      {"alignment -32", alignment(kI32, le<int32_t>(-32)), "general.alignment is -32"},
      {"alignment 2^31", alignment(kU32, le(uint32_t{1} << 31)), "not a power of two up to"},
      {"alignment in words", alignment(kString, gguf_string("32")), "is a string, not an integer"},
  };
}

std::vector<BadFile> bad_tensors() {
  const std::string twice = gguf_tensor("t", {1}, 0, 0);
  const int64_t big = int64_t{1} << 32;
  return {
      {"no tensor name", one_tensor(gguf_tensor("", {1}, 0, 0), 4), "a tensor's name is empty"},
      {"name of 64 bytes", one_tensor(gguf_tensor(std::string(64, 'n'), {1}, 0, 0), 4),
       "over the limit of 63"},
      {"no dimensions", one_tensor(gguf_tensor("t", {}, 0, 0), 4), "tensor \"t\": 0 dimensions"},
      {"5 dimensions", one_tensor(gguf_tensor("t", {1, 1, 1, 1, 1}, 0, 0), 4), "5 dimensions"},
      {"dimension 0", one_tensor(gguf_tensor("t", {4, 0}, 0, 0), 4), "a dimension of 0"},
      {"dimension -1", one_tensor(gguf_tensor("t", {-1}, 0, 0), 4), "a dimension of -1"},
      {"elements overflow", one_tensor(gguf_tensor("t", {big, big}, 0, 0), 4), "out of range"},
      {"bytes overflow", one_tensor(gguf_tensor("t", {big, big / 4}, 28, 0), 4), "its size is out"},
      {"half a block", one_tensor(gguf_tensor("t", {48, 2}, 8, 0), 102),
       "rows of 48 elements are no multiple of Q8_0's block of 32"},
      {"half a super-block", one_tensor(gguf_tensor("t", {128, 2}, 12, 0), 144),
       "Q4_K's block of 256"},
      {"info past the end", gguf_head(1, 0) + gguf_tensor("t", {1}, 0, 0).substr(0, 20),
       "tensor \"t\": the file ends inside"},
      {"offset off the grid", one_tensor(gguf_tensor("t", {1}, 0, 4), 64),
       "no multiple of the alignment"},
      {"offset past the end", one_tensor(gguf_tensor("t", {1}, 0, 64), 64), "runs past the end"},
      {"offset 2^64 - 32", one_tensor(gguf_tensor("t", {1}, 0, ~uint64_t{31}), 64),
       "runs past the end"},
      {"one byte short", one_tensor(gguf_tensor("t", {8}, 0, 0), 31),
       "(32 bytes at 0 of the data) runs past"},
      {"unread format past the end", one_tensor(gguf_tensor("t", {256}, 14, 0), 209),
       "runs past the end"},
      {"file ends before the data", gguf_head(1, 0) + gguf_tensor("t", {1}, 0, 0),
       "ends before its tensor data"},
      {"duplicate tensor", padded(gguf_head(2, 0) + twice + twice) + std::string(64, 'x'),
       "the tensor \"t\" appears twice"},
      {"overlap",
       padded(gguf_head(2, 0) + gguf_tensor("t", {16}, 0, 0) + gguf_tensor("u", {1}, 0, 32)) +
           std::string(64, 'x'),
       "tensor \"u\" overlaps another tensor"},
  };
}

TEST(Gguf, RefusesFilesThatLie) {
  int cases = 0;
  for (const auto& list : {bad_preambles(), bad_metadata(), bad_tensors()}) {
    for (const BadFile& bad : list) {
      const auto file = GgufFile::parse(bad.bytes);
      ASSERT_FALSE(file.ok()) << bad.name;
      EXPECT_NE(file.status().message().find(bad.message), std::string::npos)
          << bad.name << ": " << file.status().message();
      ++cases;
    }
  }
  EXPECT_GE(cases, 33);
}

TEST(Gguf, RefusesEveryTruncationOfAValidFile) {
  // After the last tensor's 210 bytes comes padding that may be missing.
  const std::string bytes = valid_file();
  const size_t needed = bytes.size() - (224 - 210);
  ASSERT_TRUE(GgufFile::parse(std::string_view(bytes).substr(0, needed)).ok());
  for (size_t length = 0; length < needed; ++length) {
    const std::string part = bytes.substr(0, length);
    EXPECT_FALSE(GgufFile::parse(part).ok()) << length;
  }
}

TEST(Gguf, SurvivesEveryChangedByteOfAHeader) {
  const std::string bytes = valid_file();
  int refused = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int change : {1, 0x80, 0xFF}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ change);
      refused += !GgufFile::parse(changed).ok();
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(Gguf, OpensFilesAndSaysWhichIsBad) {
  const TemporaryFolder folder;
  const std::string good = folder.write("good.gguf", valid_file());
  const std::string bad = folder.write("bad.gguf", "GGUF");
  const auto file = GgufFile::open(good);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const GgufTensor& tensor = *(*file)->tensor("blocks");
  ASSERT_TRUE((*file)->contains(tensor.data));
  (*file)->drop_pages(tensor.data, static_cast<size_t>(tensor.bytes));
  EXPECT_EQ(static_cast<char>(*tensor.data), 'b');
  EXPECT_EQ((*file)->file_bytes(), valid_file().size());
  EXPECT_EQ(GgufFile::open(bad).status().message().find(bad), 0u);
  EXPECT_EQ(GgufFile::open(folder.file("none.gguf")).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace skein
