#include "model/safetensors.h"

#include <gtest/gtest.h>

#include "tests/unit/model/file_pieces.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

using namespace test;

std::string entry(const char* dtype, const char* shape, const char* offsets) {
  return std::string(R"({"dtype":)") + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}

std::string one(const std::string& tensor, size_t data_bytes) {
  return safetensors(R"({"t":)" + tensor + "}", std::string(data_bytes, 'x'));
}

TEST(Safetensors, ReadsTensors) {
  SafetensorsBuilder builder;
  builder.add("a", "F32", {2, 3}, std::string(24, 'a'));
  builder.add("b", "BF16", {5}, std::string(10, 'b'));
  builder.add("scalar", "I64", {}, std::string(8, 's'));
  builder.add("nothing", "F16", {0, 4}, "");
  const std::string bytes = builder.build();
  const auto tensors = parse_safetensors(bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status().message();
  ASSERT_EQ(tensors->size(), 4u);
  const FileTensor& a = tensors->at("a");
  EXPECT_EQ(a.format, Format::kF32);
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a.bytes, 24);
  const FileTensor& b = tensors->at("b");
  EXPECT_EQ(b.format, Format::kBF16);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b.data), 10), std::string(10, 'b'));
  EXPECT_FALSE(tensors->at("scalar").format.has_value());
  EXPECT_EQ(tensors->at("scalar").type, "I64");
}

TEST(Safetensors, AcceptsMetadataPaddingAndAnyOrder) {
  const std::string header = R"({"__metadata__":{"format":"pt"},"late":)" +
                             entry("\"F16\"", "[2]", "[4,8]") + R"(,"early":)" +
                             entry("\"F16\"", "[2]", "[0,4]") + "}     ";
  const std::string bytes = safetensors(header, "earllate");
  const auto tensors = parse_safetensors(bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status().message();
  EXPECT_EQ(tensors->size(), 2u);
  EXPECT_EQ(static_cast<char>(*tensors->at("late").data), 'l');
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* message;  // a part of it
};

std::vector<BadFile> bad_headers() {
  const std::string tensor = entry("\"U8\"", "[1]", "[0,1]");
  return {
      {"empty", "", "shorter than a header's length"},
      {"seven bytes", std::string(7, '\0'), "shorter than a header's length"},
      {"length of 2^64 - 1", le(~uint64_t{0}) + "{}", "over the limit of 100000000"},
      {"length over 100 MB", le<uint64_t>(100'000'001) + "{}", "over the limit of 100000000"},
      {"length past the end", le<uint64_t>(3) + "{}", "runs past the end of the file"},
      {"no header", safetensors(""), "does not begin with '{'"},
      {"space first", safetensors(" {}"), "does not begin with '{'"},
      {"an array", safetensors("[]"), "does not begin with '{'"},
      {"cut short", safetensors("{\"t\":"), "the header is malformed"},
      {"trailing bytes", safetensors("{}{}"), "the header is malformed"},
      {"invalid UTF-8", safetensors("{\"\xff\":" + tensor + "}", "x"), "the header is malformed"},
      {"a name twice", safetensors(R"({"t":)" + tensor + R"(,"t":)" + tensor + "}", "x"),
       "duplicate key \"t\""},
      {"a key of an entry twice",
       one(R"({"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]})", 1),
       "duplicate key \"dtype\""},
      {"deep", safetensors("{\"t\":[[[[[[1]]]]]]}"), "nested deeper"},
      {"metadata is a list", safetensors(R"({"__metadata__":[]})"),
       "\"__metadata__\" is no object"},
      {"metadata with a number", safetensors(R"({"__metadata__":{"a":1}})"),
       "something else than strings"},
      {"data without tensors", safetensors("{}", "x"), "cover 0 of the file's 1 bytes"},
  };
}

std::vector<BadFile> bad_entries() {
  const auto with = [](const char* dtype, const char* shape, const char* offsets, size_t bytes) {
    return one(entry(dtype, shape, offsets), bytes);
  };
  return {
      {"entry is a number", one("1", 1), "tensor \"t\": \"dtype\" is no string"},
      {"entry is a list", one("[]", 1), "\"dtype\" is no string"},
      {"no dtype", one(R"({"shape":[1],"data_offsets":[0,1]})", 1), "\"dtype\" is no string"},
      {"dtype 7", with("7", "[1]", "[0,1]", 1), "\"dtype\" is no string"},
      {"unknown dtype", with("\"F99\"", "[1]", "[0,1]", 1), "unknown dtype \"F99\""},
      {"no shape", one(R"({"dtype":"U8","data_offsets":[0,1]})", 1), "\"shape\" is no array"},
      {"shape 1", with("\"U8\"", "1", "[0,1]", 1), "\"shape\" is no array"},
      {"dimension -1", with("\"U8\"", "[-1]", "[0,1]", 1), "the dimension -1 is out of range"},
      {"dimension 1.5", with("\"U8\"", "[1.5]", "[0,1]", 1), "the dimension 1.5"},
      {"dimension \"1\"", with("\"U8\"", "[\"1\"]", "[0,1]", 1), "the dimension \"1\""},
      {"dimension 2^64", with("\"U8\"", "[18446744073709551616]", "[0,1]", 1), "out of range"},
      {"9 dimensions", with("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]", 1), "9 dimensions"},
      {"elements overflow", with("\"U8\"", "[4294967296,4294967296]", "[0,1]", 1),
       "is out of range"},
      {"overflow before a zero", with("\"U8\"", "[4294967296,4294967296,0]", "[0,0]", 0),
       "out of range"},
      {"bits overflow", with("\"F64\"", "[1152921504606846976]", "[0,1]", 1),
       "its size is out of range"},
      {"half a byte", with("\"F4\"", "[3]", "[0,1]", 1), "its size is out of range"},
      {"no offsets", one(R"({"dtype":"U8","shape":[1]})", 1), "no pair of offsets"},
      {"one offset", with("\"U8\"", "[1]", "[0]", 1), "no pair of offsets"},
      {"three offsets", with("\"U8\"", "[1]", "[0,1,2]", 1), "no pair of offsets"},
      {"offset -1", with("\"U8\"", "[1]", "[-1,0]", 1), "no pair of offsets"},
      {"offset 1.0", with("\"U8\"", "[1]", "[0,1.0]", 1), "no pair of offsets"},
      {"offset 2^64", with("\"U8\"", "[1]", "[0,18446744073709551616]", 1), "no pair of offsets"},
      {"backwards", with("\"U8\"", "[1]", "[1,0]", 1), "are outside the file's 1 bytes"},
      {"past the end", with("\"U8\"", "[2]", "[0,2]", 1), "are outside the file's 1 bytes"},
      {"far past the end", with("\"U8\"", "[1]", "[9223372036854775806,9223372036854775807]", 1),
       "are outside the file's 1 bytes"},
      {"more bytes than elements", with("\"F32\"", "[1]", "[0,8]", 8),
       "span 8 bytes, its shape and dtype need 4"},
      {"more elements than bytes", with("\"F32\"", "[3]", "[0,8]", 8),
       "span 8 bytes, its shape and dtype need 12"},
      {"hole in front", with("\"U8\"", "[1]", "[1,2]", 2), "a hole or an overlap"},
      {"data after the last", with("\"U8\"", "[1]", "[0,1]", 2), "cover 1 of the file's 2 bytes"},
      {"truncated data", with("\"F32\"", "[4]", "[0,16]", 15), "are outside the file's 15 bytes"},
  };
}

std::vector<BadFile> bad_layouts() {
  const auto two = [](const char* a, const char* b) {
    const std::string header =
        R"({"a":)" + entry("\"U8\"", "[2]", a) + R"(,"b":)" + entry("\"U8\"", "[2]", b) + "}";
    return safetensors(header, std::string(5, 'x'));
  };
  return {
      {"overlap", two("[0,2]", "[1,3]"), "\"b\" begins at 1 of the data where 2 was expected"},
      {"the same bytes", two("[0,2]", "[0,2]"), "begins at 0 of the data where 2"},
      {"hole between", two("[0,2]", "[3,5]"), "\"b\" begins at 3 of the data where 2"},
  };
}

TEST(Safetensors, RefusesFilesThatLie) {
  int cases = 0;
  for (const auto& list : {bad_headers(), bad_entries(), bad_layouts()}) {
    for (const BadFile& bad : list) {
      const auto tensors = parse_safetensors(bad.bytes);
      ASSERT_FALSE(tensors.ok()) << bad.name;
      EXPECT_EQ(tensors.status().code(), Code::kCorrupt) << bad.name;
      EXPECT_NE(tensors.status().message().find(bad.message), std::string::npos)
          << bad.name << ": " << tensors.status().message();
      ++cases;
    }
  }
  EXPECT_GE(cases, 30);
}

TEST(Safetensors, RefusesMoreTensorsThanItsLimit) {
  std::string header = "{";
  for (int i = 0; i <= 100'000; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) +
              R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  const std::string bytes = safetensors(header + "}");
  EXPECT_EQ(parse_safetensors(bytes).status().message(), "more than 100000 tensors");
}

TEST(Safetensors, RefusesEveryTruncation) {
  SafetensorsBuilder builder;
  builder.add("a", "F32", {2, 3}, std::string(24, 'a'));
  builder.add("b", "BF16", {5}, std::string(10, 'b'));
  const std::string bytes = builder.build();
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(parse_safetensors(bytes.substr(0, length)).ok()) << length;
  }
}

TEST(SafetensorsIndex, RefusesFilesOutsideTheFolder) {
  for (const char* file :
       {"\"../x.safetensors\"", "\"/etc/x.safetensors\"", "\"a/x.safetensors\"",
        "\"..safetensors\"", "\"x.bin\"", "\"\"", "7", "null", "\"a\\u0000.safetensors\""}) {
    const std::string text = R"({"weight_map":{"w":)" + std::string(file) + "}}";
    const auto index = parse_safetensors_index(text);
    ASSERT_FALSE(index.ok()) << file;
    EXPECT_NE(index.status().message().find("the file of \"w\""), std::string::npos) << file;
  }
  for (const char* text : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":)",
                           R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})"}) {
    EXPECT_FALSE(parse_safetensors_index(text).ok()) << text;
  }
}

TEST(SafetensorsFolder, FindsTensorsInTheirShards) {
  const TemporaryFolder folder;
  SafetensorsBuilder first;
  first.add("a", "U8", {1}, "a");
  first.add("both", "U8", {1}, "1");
  SafetensorsBuilder second;
  second.add("b", "U8", {1}, "b");
  second.add("both", "U8", {1}, "2");
  folder.write("m-1.safetensors", first.build());
  folder.write("m-2.safetensors", second.build());
  const auto write_index = [&](const std::string& map) {
    folder.write("model.safetensors.index.json", R"({"metadata":{},"weight_map":{)" + map + "}}");
  };
  write_index(R"("a":"m-1.safetensors","b":"m-2.safetensors","both":"m-2.safetensors")");
  const auto model = open_safetensors(folder.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->files.size(), 2u);
  EXPECT_EQ(model->tensors.size(), 3u);
  EXPECT_EQ(static_cast<char>(*model->tensors.at("both").data), '2');

  write_index(R"("a":"m-2.safetensors")");
  EXPECT_NE(open_safetensors(folder.path())
                .status()
                .message()
                .find("\"a\" is not in \"m-2.safetensors\""),
            std::string::npos);
  write_index(R"("a":"m-3.safetensors")");
  EXPECT_EQ(open_safetensors(folder.path()).status().code(), Code::kNotFound);
  folder.write("m-1.safetensors", "nonsense");
  write_index(R"("a":"m-1.safetensors")");
  EXPECT_NE(open_safetensors(folder.path()).status().message().find("m-1.safetensors"),
            std::string::npos);
}

}  // namespace
}  // namespace skein
