// The format: https://github.com/huggingface/safetensors, README, "Format". Eight bytes with the
// header's length, the header as JSON, the tensors' bytes, every byte belonging to exactly one
// tensor.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "formats.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::weights {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr std::size_t kMaxDimensions = 32;
constexpr std::size_t kPieceBytes = std::size_t{1} << 22;  // copied before it is released
constexpr const char* kMetadata = "__metadata__";

std::optional<DType> dtype_named(std::string_view name) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                            DType::kI32, DType::kI16, DType::kI8, DType::kU8, DType::kBool}) {
    if (to_string(dtype) == name) return dtype;
  }
  return std::nullopt;
}

struct Entry {
  StoredTensor tensor;
  std::vector<std::uint64_t> offsets;
  bool has_dtype = false;
  bool has_shape = false;
  bool has_offsets = false;
};

/// Takes the header as its tokens come and stops at the first that does not belong, so that memory
/// stays in proportion to the tensors and a name given twice is noticed.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (depth_ == 0) {
      depth_ = 1;
      return true;
    }
    if (depth_ != 1) unexpected("an object");
    depth_ = 2;
    if (name_ != kMetadata) {
      entries.emplace_back();
      entries.back().tensor.name = name_;
    }
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && name_ != kMetadata) {
      const Entry& entry = entries.back();
      if (!entry.has_dtype || !entry.has_shape || !entry.has_offsets) {
        unexpected("no dtype, shape or data_offsets");
      }
    }
    --depth_;
    return true;
  }

  bool key(std::string& key) override {
    if (depth_ == 1) {
      name_ = key;
      if (!names_.insert(key).second) {
        throw Fault{fmt::format("the name '{}' comes twice in the header", printable(key))};
      }
    } else {
      field_ = key;
      if (name_ == kMetadata && metadata.contains(key)) {
        throw Fault{fmt::format("the metadata '{}' comes twice in the header", printable(key))};
      }
    }
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ != 2) unexpected("a string");
    if (name_ == kMetadata) {
      metadata.emplace(field_, value);
      return true;
    }
    if (field_ != "dtype" || entries.back().has_dtype) unexpected("a string");
    const auto dtype = dtype_named(value);
    if (!dtype) {
      throw Fault{fmt::format("tensor '{}' is of type '{}', which is not supported",
                              printable(name_), printable(value)),
                  "save it as F32, F16 or BF16"};
    }
    entries.back().tensor.dtype = *dtype;
    entries.back().has_dtype = true;
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || name_ == kMetadata) unexpected("an array");
    bool& has = field_ == "shape" ? entries.back().has_shape : entries.back().has_offsets;
    if ((field_ != "shape" && field_ != "data_offsets") || has) unexpected("an array");
    has = true;
    depth_ = 3;
    return true;
  }

  bool end_array() override {
    depth_ = 2;
    if (field_ == "data_offsets" && entries.back().offsets.size() != 2) {
      unexpected("other than two data_offsets");
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) unexpected("a number");
    Entry& entry = entries.back();
    if (field_ == "data_offsets") {
      if (entry.offsets.size() == 2) unexpected("other than two data_offsets");
      entry.offsets.push_back(value);
      return true;
    }
    if (entry.tensor.shape.size() == kMaxDimensions || value > INT64_MAX) {
      unexpected("an impossible shape");
    }
    entry.tensor.shape.push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a truth value"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const std::string&) override { unexpected("a fraction"); }
  bool binary(Json::binary_t&) override { unexpected("binary data"); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw Fault{fmt::format("its header is no valid JSON at byte {}", position)};
  }

 private:
  [[noreturn]] void unexpected(std::string_view what) const {
    throw Fault{
        fmt::format("its header has {} where none belongs, at '{}'", what, printable(name_))};
  }

  int depth_ = 0;  ///< 1 in the header, 2 in a tensor or the metadata, 3 in an array
  std::string name_;
  std::string field_;
  std::unordered_set<std::string> names_;
};

/// Every byte of `data` in exactly one tensor.
void check_offsets(const std::vector<Entry>& entries, std::uint64_t data_bytes) {
  std::vector<const Entry*> sorted;
  for (const Entry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const Entry* a, const Entry* b) { return a->offsets < b->offsets; });
  std::uint64_t end = 0;
  for (const Entry* entry : sorted) {
    const std::uint64_t from = entry->offsets[0];
    const std::uint64_t to = entry->offsets[1];
    const std::string name = printable(entry->tensor.name);
    if (from > to) throw Fault{fmt::format("tensor '{}' ends before it begins", name)};
    if (to > data_bytes) {
      throw Fault{fmt::format("tensor '{}' ends at byte {} of {}: the file is cut short or damaged",
                              name, to, data_bytes)};
    }
    if (from < end) throw Fault{fmt::format("tensor '{}' overlaps another", name)};
    if (from > end) throw Fault{fmt::format("bytes before tensor '{}' belong to none", name)};
    const std::uint64_t expected =
        byte_count(entry->tensor.name, entry->tensor.shape, entry->tensor.dtype, data_bytes);
    if (to - from != expected) {
      throw Fault{fmt::format("tensor '{}' has {} bytes, and its shape needs {}", name, to - from,
                              expected)};
    }
    end = to;
  }
  if (end != data_bytes) {
    throw Fault{fmt::format("{} bytes at its end belong to no tensor", data_bytes - end)};
  }
}

std::string json_text(std::string_view text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw Fault{fmt::format("'{}' is not UTF-8", printable(text))};
  }
}

}  // namespace

bool is_safetensors(std::span<const std::byte> file) {
  return file.size() > kLengthBytes && file[kLengthBytes] == std::byte{'{'} &&
         little_endian(file.data(), 8) <= kMaxHeaderBytes;
}

WeightsFile parse_safetensors(std::span<const std::byte> file, const Release& release) {
  const std::uint64_t header_bytes = little_endian(file.data(), 8);
  if (header_bytes > file.size() - kLengthBytes) {
    throw Fault{fmt::format("its header says {} bytes, and {} follow: the file is cut short",
                            header_bytes, file.size() - kLengthBytes)};
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  HeaderReader header;
  Json::sax_parse(text, text + header_bytes, &header);
  const auto data = file.subspan(kLengthBytes + header_bytes);
  check_offsets(header.entries, data.size());

  WeightsFile weights;
  weights.metadata = std::move(header.metadata);
  for (Entry& entry : header.entries) {
    auto bytes = data.subspan(entry.offsets[0], entry.offsets[1] - entry.offsets[0]);
    entry.tensor.data.reserve(bytes.size());
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(bytes.size(), kPieceBytes));
      entry.tensor.data.insert(entry.tensor.data.end(), piece.begin(), piece.end());
      if (release) release(piece);
      bytes = bytes.subspan(piece.size());
    }
    weights.tensors.push_back(std::move(entry.tensor));
  }
  return weights;
}

}  // namespace quadrat::weights

namespace quadrat {

namespace {

/// A file's bytes up to its tensors, and the order in which their bytes follow.
struct Outline {
  Bytes header;
  std::vector<std::size_t> order;
  std::uint64_t data_bytes = 0;
};

Outline outline_of(const WeightsFile& weights) {
  using weights::Fault;
  try {
    Outline outline;
    // Wide elements first, so that every tensor is aligned for readers that map the file.
    std::vector<std::uint64_t> offsets(weights.tensors.size());
    for (const std::size_t width : {8u, 4u, 2u, 1u}) {
      for (std::size_t i = 0; i < weights.tensors.size(); ++i) {
        if (bytes_per_element(weights.tensors[i].dtype) != width) continue;
        offsets[i] = outline.data_bytes;
        outline.data_bytes += weights.tensors[i].data.size();
        outline.order.push_back(i);
      }
    }
    std::string text = "{";
    if (!weights.metadata.empty()) {
      text += "\"__metadata__\":{";
      for (const auto& [key, value] : weights.metadata) {
        if (text.back() != '{') text += ',';
        text += weights::json_text(key) + ':' + weights::json_text(value);
      }
      text += '}';
    }
    std::unordered_set<std::string_view> names = {weights::kMetadata};
    for (std::size_t i = 0; i < weights.tensors.size(); ++i) {
      const StoredTensor& tensor = weights.tensors[i];
      if (!names.insert(tensor.name).second) {
        throw Fault{fmt::format("the name '{}' is taken", printable(tensor.name))};
      }
      const std::uint64_t expected =
          weights::byte_count(tensor.name, tensor.shape, tensor.dtype, INT64_MAX);
      if (tensor.data.size() != expected) {
        throw Fault{fmt::format("tensor '{}' has {} bytes, and its shape needs {}",
                                printable(tensor.name), tensor.data.size(), expected)};
      }
      if (text.back() != '{') text += ',';
      text += fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          weights::json_text(tensor.name), to_string(tensor.dtype),
                          fmt::join(tensor.shape, ","), offsets[i], offsets[i] + expected);
    }
    text += '}';
    text.resize((text.size() + 7) / 8 * 8, ' ');
    outline.header.resize(weights::kLengthBytes + text.size());
    for (std::size_t i = 0; i < weights::kLengthBytes; ++i) {
      outline.header[i] = static_cast<std::byte>(text.size() >> (8 * i));
    }
    std::memcpy(outline.header.data() + weights::kLengthBytes, text.data(), text.size());
    return outline;
  } catch (const Fault& fault) {
    throw InputError("write weights", "", fault.finding, fault.remedy);
  }
}

}  // namespace

Bytes to_safetensors(const WeightsFile& weights) {
  Outline outline = outline_of(weights);
  Bytes file = std::move(outline.header);
  file.reserve(file.size() + outline.data_bytes);
  for (const std::size_t i : outline.order) {
    const Bytes& bytes = weights.tensors[i].data;
    file.insert(file.end(), bytes.begin(), bytes.end());
  }
  return file;
}

void write_safetensors(const Path& path, const WeightsFile& weights) {
  const Outline outline = outline_of(weights);
  std::vector<std::span<const std::byte>> pieces = {outline.header};
  for (const std::size_t i : outline.order) pieces.emplace_back(weights.tensors[i].data);
  write_file(path, pieces);
}

}  // namespace quadrat
