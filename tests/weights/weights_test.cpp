#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

#include "quadrat/base/error.h"
#include "quadrat/weights/describe.h"
#include "quadrat/weights/weights_file.h"
#include "weights/zip.h"

namespace quadrat {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string refusal(std::string_view file) {
  try {
    parse_weights(bytes(file));
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

std::string number(std::uint64_t value, int width) {
  std::string text;
  for (int i = 0; i < width; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::vector<float> floats(const StoredTensor& tensor) {
  std::vector<float> values(tensor.data.size() / sizeof(float));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

std::string as_text(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}

StoredTensor tensor(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
  StoredTensor made{name, dtype, std::move(shape), {}};
  made.data.resize(static_cast<std::size_t>(made.elements()) * bytes_per_element(dtype));
  for (std::size_t i = 0; i < made.data.size(); ++i)
    made.data[i] = static_cast<std::byte>(i * 7 + 1);
  return made;
}

// ---------------------------------------------------------------- safetensors

std::string safetensors(const std::string& header, std::string_view data) {
  return number(header.size(), 8) + header + std::string(data);
}

std::string entry(std::string_view fields, std::size_t data_bytes = 8) {
  return safetensors("{\"w\":{" + std::string(fields) + "}}", std::string(data_bytes, 'x'));
}

TEST(Safetensors, reads_names_types_and_metadata_in_the_files_order) {
  const std::string file =
      safetensors(R"({"__metadata__":{"classes":"[\"a\"]"},)"
                  R"("z":{"dtype":"F32","shape":[1,2],"data_offsets":[2,10]},)"
                  R"("a":{"shape":[],"data_offsets":[0,2],"dtype":"BF16"}}   )",
                  "\x80\x3f" + as_text({1.5f, -2.0f}));
  const WeightsFile weights = parse_weights(bytes(file));
  ASSERT_EQ(weights.tensors.size(), 2u);
  EXPECT_EQ(weights.tensors[0].name, "z");
  EXPECT_THAT(weights.tensors[0].shape, ElementsAre(1, 2));
  EXPECT_THAT(floats(weights.tensors[0]), ElementsAre(1.5f, -2.0f));
  EXPECT_EQ(weights.tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(weights.tensors[1].elements(), 1);
  EXPECT_EQ(weights.metadata.at("classes"), "[\"a\"]");
  EXPECT_EQ(weights.find("a"), &weights.tensors[1]);
  EXPECT_EQ(weights.find("b"), nullptr);
}

TEST(Safetensors, memory_given_back_while_it_is_read_is_not_looked_at_again) {
  WeightsFile written;
  for (const std::int64_t side : {3, 5'000'011, 0, 1'200'000}) {
    written.tensors.push_back(tensor("t" + std::to_string(side), DType::kU8, {side}));
  }
  written.tensors.push_back(tensor("wide", DType::kF64, {3, 700'001}));
  Bytes file = to_safetensors(written);
  const WeightsFile weights = parse_weights(std::move(file));
  ASSERT_EQ(weights.tensors.size(), written.tensors.size());
  for (std::size_t i = 0; i < written.tensors.size(); ++i) {
    EXPECT_EQ(weights.tensors[i].name, written.tensors[i].name);
    EXPECT_TRUE(weights.tensors[i].data == written.tensors[i].data) << written.tensors[i].name;
  }
}

TEST(Safetensors, refuses_what_the_format_forbids) {
  EXPECT_EQ(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])")), "accepted");
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 7)),
              HasSubstr("byte 8 of 7"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 9)),
              HasSubstr("1 bytes at its end belong to no tensor"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])")),
              HasSubstr("belong to none"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])")),
              HasSubstr("more bytes than"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])")),
              HasSubstr("its shape needs 4"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])")),
              HasSubstr("before it begins"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])")),
              HasSubstr("other than two"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])")),
              HasSubstr("other than two"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8])")),
              HasSubstr("'F8_E4M3'"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])")),
              HasSubstr("negative"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])")),
              HasSubstr("fraction"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","data_offsets":[0,8])")),
              HasSubstr("no dtype, shape"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])")),
              HasSubstr("array"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])")),
              HasSubstr("array"));
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"more":{})")),
              HasSubstr("object"));
  EXPECT_THAT(
      refusal(entry(
          R"("dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8])")),
      HasSubstr("more bytes than"));
  // 2^64 elements of 4 bytes, which is 0 in 64 bits.
  EXPECT_THAT(
      refusal(entry(R"("dtype":"F32","shape":[4294967296,1073741824],"data_offsets":[0,0])", 0)),
      HasSubstr("more bytes than"));
  EXPECT_EQ(refusal(entry(R"("dtype":"F32","shape":[5,3,0],"data_offsets":[0,0])", 0)), "accepted");
  // No bytes at all, and more elements on the way there than 63 bits count.
  EXPECT_THAT(
      refusal(entry(R"("dtype":"U8","shape":[9223372036854775807,3,0],"data_offsets":[0,0])", 0)),
      HasSubstr("more bytes than"));
  const std::string good = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(refusal(safetensors("{\"a\":" + good + ",\"a\":" + good + "}", "abcd")),
              HasSubstr("comes twice"));
  EXPECT_THAT(refusal(safetensors("{\"a\":" + good + ",\"b\":" + good + "}", "abcd")),
              HasSubstr("overlaps"));
  EXPECT_THAT(refusal(safetensors("{\"a\":" + good, "abcd")), HasSubstr("no valid JSON"));
  EXPECT_THAT(refusal(safetensors("{\"a\":" + good + "}x", "abcd")), HasSubstr("no valid JSON"));
  EXPECT_THAT(refusal(safetensors(R"({"__metadata__":{"a":1}})", "")), HasSubstr("a number"));
  EXPECT_THAT(refusal(safetensors(R"({"__metadata__":{"a":"1","a":"2"}})", "")),
              HasSubstr("comes twice"));
  EXPECT_THAT(refusal(safetensors(R"({"a":3})", "")), HasSubstr("a number"));
  EXPECT_THAT(refusal(number(1000, 8) + "{}"), HasSubstr("cut short"));
  EXPECT_THAT(refusal(number(UINT64_MAX, 8) + "{}"), HasSubstr("neither a safetensors"));
  EXPECT_THAT(refusal(safetensors("{\"a\":" + std::string(100000, '['), "")),
              HasSubstr("an array"));
}

TEST(Safetensors, writes_aligned_tensors_and_keeps_the_order) {
  WeightsFile weights;
  weights.tensors = {tensor("mask", DType::kBool, {3}),
                     tensor("conv \"1\".weight", DType::kF32, {2, 0, 3}),
                     tensor("half", DType::kF16, {5}), tensor("steps", DType::kI64, {}),
                     tensor("fc.weight", DType::kF32, {2, 3})};
  weights.metadata = {{"mean", "[0.5]"}, {"name", "Forêt \"x\""}};
  const Path path = Path(testing::TempDir()) / "quadrat_weights_test.safetensors";
  write_safetensors(path, weights);
  const Bytes file = read_file(path);
  const WeightsFile back = read_weights(path);
  std::filesystem::remove(path);
  EXPECT_EQ(back.metadata, weights.metadata);
  ASSERT_EQ(back.tensors.size(), weights.tensors.size());
  for (std::size_t i = 0; i < weights.tensors.size(); ++i) {
    EXPECT_EQ(back.tensors[i].name, weights.tensors[i].name);
    EXPECT_EQ(back.tensors[i].dtype, weights.tensors[i].dtype);
    EXPECT_EQ(back.tensors[i].shape, weights.tensors[i].shape);
    EXPECT_EQ(back.tensors[i].data, weights.tensors[i].data);
    const Bytes& data = weights.tensors[i].data;
    const auto at = std::search(file.begin(), file.end(), data.begin(), data.end()) - file.begin();
    EXPECT_EQ(static_cast<std::size_t>(at) % bytes_per_element(weights.tensors[i].dtype), 0u) << i;
  }
}

TEST(Safetensors, refuses_to_write_what_nobody_could_read) {
  const auto refused = [](std::vector<StoredTensor> tensors) -> std::string {
    WeightsFile weights;
    weights.tensors = std::move(tensors);
    try {
      to_safetensors(weights);
    } catch (const InputError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refused({tensor("a", DType::kF32, {2})}), "accepted");
  EXPECT_THAT(refused({tensor("a", DType::kF32, {2}), tensor("a", DType::kF32, {2})}),
              HasSubstr("is taken"));
  EXPECT_THAT(refused({tensor("__metadata__", DType::kF32, {2})}), HasSubstr("is taken"));
  EXPECT_THAT(refused({tensor("a\xff", DType::kF32, {2})}), HasSubstr("not UTF-8"));
  StoredTensor short_one = tensor("a", DType::kF32, {2});
  short_one.data.pop_back();
  EXPECT_THAT(refused({short_one}), HasSubstr("has 7 bytes, and its shape needs 8"));
}

// ---------------------------------------------------------------- pickles

std::string unicode(std::string_view text) {
  return "X" + number(text.size(), 4) + std::string(text);
}
std::string integer(std::uint32_t value) { return "J" + number(value, 4); }
std::string integers(std::initializer_list<std::uint32_t> values) {
  std::string text = "(";
  for (const std::uint32_t value : values) text += integer(value);
  return text + "t";
}
const std::string kOrderedDict = "ccollections\nOrderedDict\n)R";

std::string storage(std::string_view type, std::string_view key, std::uint32_t elements) {
  return "(" + unicode("storage") + "ctorch\n" + std::string(type) + "\n" + unicode(key) +
         unicode("cpu") + integer(elements) + "tQ";
}

std::string view(const std::string& storage, std::uint32_t offset, const std::string& shape,
                 const std::string& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + shape + strides +
         "\x89" + kOrderedDict + "tR";
}

/// A state dict {"w": value} as torch.save's zip format has it, with a storage "0" of six floats.
std::string zipped(const std::string& pickle) {
  weights::ZipWriter zip;
  zip.add("archive/data.pkl", bytes(pickle));
  zip.add("archive/data/0", bytes(as_text({0, 1, 2, 3, 4, 5})));
  zip.add("archive/version", bytes("3\n"));
  const Bytes file = zip.finish();
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

std::string state_dict(const std::string& value) {
  return "\x80\x02}(" + unicode("w") + value + "u.";
}

std::vector<float> values_of(const std::string& pickle) {
  return floats(parse_weights(bytes(zipped(pickle))).tensors.at(0));
}

TEST(TorchZip, strided_views_become_contiguous) {
  const std::string six = storage("FloatStorage", "0", 6);
  EXPECT_THAT(values_of(state_dict(view(six, 0, integers({2, 3}), integers({3, 1})))),
              ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(values_of(state_dict(view(six, 0, integers({3, 2}), integers({1, 3})))),
              ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THAT(values_of(state_dict(view(six, 1, integers({2, 2}), integers({3, 1})))),
              ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(values_of(state_dict(view(six, 5, integers({2, 2}), integers({0, 0})))),
              ElementsAre(5, 5, 5, 5));
  EXPECT_THAT(values_of(state_dict(view(six, 4, ")", ")"))), ElementsAre(4));
}

TEST(TorchZip, refuses_views_outside_their_storage) {
  const auto refused = [](const std::string& value) { return refusal(zipped(state_dict(value))); };
  const std::string six = storage("FloatStorage", "0", 6);
  EXPECT_THAT(refused(view(six, 1, integers({2, 3}), integers({3, 1}))),
              HasSubstr("'w' reaches outside"));
  EXPECT_THAT(refused(view(six, 0xffffffff, integers({2}), integers({1}))),
              HasSubstr("reaches outside"));
  EXPECT_THAT(refused(view(six, 0, integers({2}), integers({0xffffffff}))),
              HasSubstr("reaches outside"));
  EXPECT_THAT(refused(view(six, 0, integers({3, 3}), integers({0x7fffffff, 0x7fffffff}))),
              HasSubstr("reaches outside"));
  EXPECT_THAT(refused(view(six, 0, integers({0xfffffffe}), integers({1}))),
              HasSubstr("side of -2"));
  EXPECT_THAT(refused(view(six, 0, integers({2, 2}), integers({1}))),
              HasSubstr("2 sides and 1 strides"));
  EXPECT_THAT(refused(view(six, 6, ")", ")")), HasSubstr("reaches outside"));
  EXPECT_THAT(refused(view(storage("FloatStorage", "0", 7), 0, integers({2}), integers({1}))),
              HasSubstr("too few for the 7 elements"));
  EXPECT_THAT(refused(view(storage("DoubleStorage", "0", 6), 0, integers({2}), integers({1}))),
              HasSubstr("too few"));
  EXPECT_THAT(refused(view(storage("FloatStorage", "1", 6), 0, integers({2}), integers({1}))),
              HasSubstr("no storage '1'"));
}

TEST(TorchZip, a_small_file_does_not_unfold_into_a_large_one) {
  const std::string six = storage("FloatStorage", "0", 6);
  EXPECT_THAT(refusal(zipped(state_dict(view(six, 0, integers({30000, 30000}), integers({0, 0}))))),
              HasSubstr("more bytes than the file can hold"));
  std::string many = "\x80\x02}(";
  for (int i = 0; i < 200; ++i) {
    many += unicode("w" + std::to_string(i)) + view(six, 0, integers({10000}), integers({0}));
  }
  EXPECT_THAT(refusal(zipped(many + "u.")), HasSubstr("more bytes than the file can hold"));
}

TEST(Pickle, python_2_and_memo_forms_are_read) {
  const std::string tensor = view(storage("FloatStorage", "0", 6), 0, integers({2}), integers({1}));
  // OrderedDict([["w", tensor]]), short strings, attributes.
  EXPECT_THAT(values_of("\x80\x02"
                        "ccollections\nOrderedDict\nq\x01](](U\x01w"s +
                        tensor + "ee\x85R}(U\x09_metadatah\x01)Rub."),
              ElementsAre(0, 1));
  EXPECT_THAT(values_of("\x80\x04\x95" + number(9, 8) + "}\x94\x8c\x01w" + tensor + "s."),
              ElementsAre(0, 1));
  EXPECT_THAT(values_of("\x80\x02}" + unicode("w") + "ctorch._utils\n_rebuild_parameter\n(" +
                        tensor + "\x88" + kOrderedDict + "tRs."),
              ElementsAre(0, 1));
  // {"epoch": 3, "state_dict": {...}}
  EXPECT_THAT(values_of("\x80\x02}(" + unicode("epoch") + "K\x03" + unicode("state_dict") + "}" +
                        unicode("w") + tensor + "su."),
              ElementsAre(0, 1));
}

TEST(Pickle, whatever_could_run_code_is_refused_by_name) {
  const auto refused = [](const std::string& pickle) {
    return refusal(zipped("\x80\x02" + pickle));
  };
  EXPECT_THAT(refused("cos\nsystem\n(" + unicode("true") + "tR."), HasSubstr("'os.system'"));
  EXPECT_THAT(refused("c__builtin__\neval\n(" + unicode("1") + "tR."),
              HasSubstr("'__builtin__.eval'"));
  EXPECT_THAT(refused(unicode("os") + unicode("system") + "\x93."), HasSubstr("'os.system'"));
  EXPECT_THAT(refused("ctorch._utils\n_rebuild_tensor_v2.__globals__\n."), HasSubstr("refused"));
  EXPECT_THAT(refused("ctorch\nload\n."), HasSubstr("'torch.load'"));
  EXPECT_THAT(refused("(ios\nsystem\n."), HasSubstr("INST (0x69)"));
  EXPECT_THAT(refused("(cos\nsystem\no."), HasSubstr("'os.system'"));
  EXPECT_THAT(refused("(o."), HasSubstr("OBJ (0x6f)"));
  EXPECT_THAT(refused("ccollections\nOrderedDict\n)\x81."), HasSubstr("NEWOBJ (0x81)"));
  EXPECT_THAT(refused("\x82\x01."), HasSubstr("EXT1"));
  EXPECT_THAT(refused("P0\n."), HasSubstr("PERSID"));
  EXPECT_THAT(refused("\xff."), HasSubstr("opcode 0xff"));
  EXPECT_THAT(refused("cos\nsys\xff\ntem\n."), HasSubstr("\\xff"));
}

TEST(Pickle, damage_is_refused) {
  const auto refused = [](const std::string& pickle) {
    return refusal(zipped("\x80\x02" + pickle));
  };
  for (const std::string& pickle : {"."s,
                                    "t."s,
                                    "s."s,
                                    "}s."s,
                                    "(."s,
                                    "}(Ku."s,
                                    "h\x01."s,
                                    "q\x01."s,
                                    "R."s,
                                    ")R."s,
                                    "))R."s,
                                    "b."s,
                                    "}b."s,
                                    ")}b."s,
                                    "Q."s,
                                    ")Q."s,
                                    "e."s,
                                    "(e."s,
                                    "K\x01(K\x01"
                                    "e."s,
                                    "a."s,
                                    "\x85."s,
                                    "(\x85."s,
                                    "}(K\x01u."s,
                                    "X\xff\xff\xff\xff."s,
                                    "X\x05"s,
                                    "cos"s,
                                    "cos\n"s,
                                    "}"s,
                                    ""s,
                                    "\x8a\xff."s,
                                    "ctorch\nFloatStorage\n)R."s,
                                    "ccollections\nOrderedDict\n))\x86R."s,
                                    "ccollections\nOrderedDict\nK\x01\x85R."s,
                                    "ccollections\nOrderedDict\n](K\x01K\x02"
                                    "e\x85R."s,
                                    "ctorch._utils\n_rebuild_tensor_v2\n)R."s,
                                    "ctorch._utils\n_rebuild_parameter\n)R."s,
                                    "\x80\x01."s,
                                    "\x80\x09."s}) {
    EXPECT_THAT(refused(pickle), HasSubstr("cannot read weights"))
        << testing::PrintToString(pickle);
  }
  EXPECT_THAT(refused("]."), HasSubstr("no state dict"));
  EXPECT_THAT(refused("}(K\x01K\x01u."), HasSubstr("no string"));
  EXPECT_THAT(refused("}(" + unicode("a") + "K\x01u."), HasSubstr("'a' in its dict is no tensor"));
  const std::string tensor = view(storage("FloatStorage", "0", 6), 0, integers({2}), integers({1}));
  EXPECT_THAT(refused("}(" + unicode("a") + tensor + unicode("a") + tensor + "u."),
              HasSubstr("'a' comes twice"));
}

TEST(Pickle, repetition_through_the_memo_stays_small) {
  // A list of 1,000 pairs, made into an OrderedDict again and again, 4 bytes each time.
  std::string pickle = "\x80\x02](";
  for (int i = 0; i < 1000; ++i) pickle += "NN\x86";
  pickle += "e\x85q\x01";
  pickle += "ccollections\nOrderedDict\nq\x02";
  for (int i = 0; i < 100000; ++i) pickle += "h\x02h\x01R";
  EXPECT_THAT(refusal(zipped(pickle + ".")), HasSubstr("repeats itself"));
  // A list that holds itself.
  EXPECT_THAT(refusal(zipped("\x80\x02]q\x01h\x01"
                             "a.")),
              HasSubstr("no state dict"));
  EXPECT_THAT(refusal(zipped("\x80\x02}q\x01" + unicode("state_dict") + "h\x01s.")),
              HasSubstr("no tensor"));
}

// ---------------------------------------------------------------- zip and the older format

TEST(TorchZip, damage_is_refused) {
  const std::string good =
      zipped(state_dict(view(storage("FloatStorage", "0", 6), 0, integers({2}), integers({1}))));
  ASSERT_EQ(refusal(good), "accepted");
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(refusal(good.substr(0, length)), "accepted") << length;
  }
  EXPECT_THAT(refusal(good + "x"), HasSubstr("no directory"));
  const auto changed = [&](std::string_view find, std::ptrdiff_t offset, char to, bool last) {
    std::string file = good;
    const std::size_t at = last ? file.rfind(find) : file.find(find);
    file[at + static_cast<std::size_t>(offset)] = to;
    return refusal(file);
  };
  const std::string storage_bytes = as_text({3, 4, 5});
  EXPECT_THAT(changed(storage_bytes, 0, 'x', false), HasSubstr("checksum of 'archive/data/0'"));
  EXPECT_THAT(changed("PK\x01\x02", 10, 8, true), testing::_);
  EXPECT_THAT(changed("PK\x05\x06", 16, '\xff', true), HasSubstr("directory"));
  EXPECT_THAT(changed("PK\x05\x06", 10, 4, true), HasSubstr("ends after 3 of 4"));

  const auto archive = [](std::initializer_list<std::pair<std::string, std::string>> entries) {
    weights::ZipWriter zip;
    for (const auto& [name, content] : entries) zip.add(name, bytes(content));
    const Bytes file = zip.finish();
    return refusal({reinterpret_cast<const char*>(file.data()), file.size()});
  };
  EXPECT_EQ(archive({{"x/data.pkl", "\x80\x02}."}}), "accepted");
  EXPECT_THAT(archive({{"readme.txt", ""}}), HasSubstr("no data.pkl"));
  EXPECT_THAT(archive({{"a/b/data.pkl", ""}}), HasSubstr("no data.pkl"));
  EXPECT_THAT(archive({{"x/data.pkl", "}."}, {"y/data.pkl", "}."}}), HasSubstr("two pickles"));
  EXPECT_THAT(archive({{"x/data.pkl", "}."}, {"x/data.pkl", "}."}}),
              HasSubstr("'x/data.pkl' twice"));
  EXPECT_THAT(archive({{"x/data.pkl", "}."}, {"x/byteorder", "big"}}), HasSubstr("big-endian"));
}

std::string legacy(const std::string& root, const std::string& keys, const std::string& storages,
                   const std::string& version = "M\xe9\x03") {
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
         "\x80\x02" +
         version + ".\x80\x02}(X\x0d\0\0\0little_endian\x88u."s + root + "\x80\x02](" + keys +
         "e." + storages;
}

TEST(TorchLegacy, reads_storages_and_views_of_storages) {
  const std::string tensor =
      view(storage("FloatStorage", "k7", 6), 1, integers({2}), integers({2}));
  const std::string data = number(6, 8) + as_text({0, 1, 2, 3, 4, 5});
  const auto read = [](const std::string& file) {
    return floats(parse_weights(bytes(file)).tensors.at(0));
  };
  EXPECT_THAT(read(legacy(state_dict(tensor), unicode("k7"), data)), ElementsAre(1, 3));
  const std::string part = "(" + unicode("storage") + "ctorch\nFloatStorage\n" + unicode("k7") +
                           unicode("cpu") + integer(6) + "(" + unicode("v") + integer(3) +
                           integer(3) + "ttQ";
  EXPECT_THAT(
      read(legacy(state_dict(view(part, 1, integers({2}), integers({1}))), unicode("k7"), data)),
      ElementsAre(4, 5));
}

TEST(TorchLegacy, damage_is_refused) {
  const std::string root =
      state_dict(view(storage("FloatStorage", "k7", 6), 0, integers({2}), integers({1})));
  const std::string data = number(6, 8) + as_text({0, 1, 2, 3, 4, 5});
  const std::string good = legacy(root, unicode("k7"), data);
  ASSERT_EQ(refusal(good), "accepted");
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(refusal(good.substr(0, length)), "accepted") << length;
  }
  EXPECT_THAT(refusal(good + "x"), HasSubstr("1 bytes follow"));
  EXPECT_THAT(refusal(legacy(root, "", "")), HasSubstr("no storage 'k7'"));
  EXPECT_THAT(refusal(legacy(root, unicode("k8"), data)), HasSubstr("'k8' belongs to no tensor"));
  EXPECT_THAT(refusal(legacy(root, unicode("k7") + unicode("k7"), data + data)),
              HasSubstr("comes twice"));
  EXPECT_THAT(refusal(legacy(root, unicode("k7"), number(5, 8) + as_text({0, 1, 2, 3, 4}))),
              HasSubstr("too few"));
  EXPECT_THAT(refusal(legacy(root, unicode("k7"), number(UINT64_MAX, 8))), HasSubstr("cut short"));
  EXPECT_THAT(refusal(legacy(root, unicode("k7"), data, "M\x01\x01")),
              HasSubstr("unknown version"));
}

TEST(ReadWeights, names_the_file) {
  const Path path = Path(testing::TempDir()) / "quadrat_no_weights";
  write_file(path, "PNG or something");
  try {
    read_weights(path);
    ADD_FAILURE();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("cannot read weights '" + path.string() + "': it is neither"));
  }
  std::filesystem::remove(path);
}

TEST(Describe, summarises_every_type) {
  const auto summary = [](DType dtype, std::string_view data) {
    const auto content = bytes(data);
    return summarise({"t", dtype, {}, Bytes(content.begin(), content.end())});
  };
  const ValueSummary f32 = summary(DType::kF32, as_text({3, -1, INFINITY, NAN}));
  EXPECT_EQ(f32.min, -1);
  EXPECT_EQ(f32.max, 3);
  EXPECT_EQ(f32.mean, 1);
  EXPECT_EQ(f32.not_finite, 2);
  EXPECT_EQ(summary(DType::kF16, "\x00\xbe"s).mean, -1.5);
  EXPECT_EQ(summary(DType::kF16, "\x01\x00"s).mean, std::ldexp(1.0, -24));
  EXPECT_EQ(summary(DType::kF16, "\x00\x7c"s).not_finite, 1);
  EXPECT_EQ(summary(DType::kBF16, "\xc0\xbf"s).mean, -1.5);
  EXPECT_EQ(summary(DType::kI64, number(static_cast<std::uint64_t>(-5), 8)).mean, -5);
  EXPECT_EQ(summary(DType::kI32, number(7, 4)).mean, 7);
  EXPECT_EQ(summary(DType::kI16, "\xff\xff").mean, -1);
  EXPECT_EQ(summary(DType::kI8, "\x80").mean, -128);
  EXPECT_EQ(summary(DType::kU8, "\x80").mean, 128);
  EXPECT_EQ(summary(DType::kBool, "\x01").mean, 1);
}

TEST(Describe, knows_the_two_networks) {
  WeightsFile weights;
  weights.tensors = {tensor("conv1.weight", DType::kU8, {64, 3, 7, 7}),
                     tensor("fc.weight", DType::kU8, {6, 512}),
                     tensor("layer4.1.conv2.weight", DType::kU8, {512, 512, 3, 3})};
  EXPECT_EQ(guess_architecture(weights)->name, "resnet18");
  EXPECT_EQ(guess_architecture(weights)->classes, 6);
  weights.tensors.push_back(tensor("layer3.2.conv1.weight", DType::kU8, {1}));  // ResNet34
  EXPECT_FALSE(guess_architecture(weights));
  weights.tensors = {tensor("features.0.weight", DType::kU8, {64, 3, 11, 11}),
                     tensor("features.10.weight", DType::kU8, {256, 256, 3, 3}),
                     tensor("classifier.6.weight", DType::kU8, {10, 4096})};
  EXPECT_EQ(guess_architecture(weights)->name, "alexnet");
  EXPECT_THAT(describe(weights, "a.pth"), HasSubstr("alexnet, 10 classes"));
}

}  // namespace
}  // namespace quadrat
