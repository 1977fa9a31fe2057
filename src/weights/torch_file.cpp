// What torch.save writes: PyTorch's torch/serialization.py, _save and _legacy_save.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <unordered_set>

#include "formats.h"
#include "pickle.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "zip.h"

namespace quadrat::weights {

namespace {

using Kind = Unpickler::Kind;
using Value = Unpickler::Value;

/// Names and handles of a state dict take kilobytes; the tensors lie outside the pickle.
constexpr std::size_t kMaxPickleBytes = std::size_t{1} << 24;

/// torch.save's magic number, as the LONG1 of its first pickle.
constexpr std::array<unsigned char, 12> kLegacyMagic = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                                        0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

/// The bytes of a storage. @throws Fault where the file has none of that key or fewer bytes than it
/// says
using FindStorage = std::function<std::span<const std::byte>(const StorageRef&)>;

/// Copies the elements that `tensor` sees, row-major. The view has been checked.
void copy_view(const TensorRef& tensor, const std::byte* storage, std::size_t width, Bytes& to) {
  const std::size_t dimensions = tensor.shape.size();
  std::int64_t expected_stride = 1;
  bool contiguous = true;
  for (std::size_t d = dimensions; d-- > 0;) {
    if (tensor.shape[d] != 1 && tensor.strides[d] != expected_stride) contiguous = false;
    expected_stride *= tensor.shape[d];
  }
  const std::byte* from = storage + static_cast<std::size_t>(tensor.offset) * width;
  if (contiguous) {
    std::memcpy(to.data(), from, to.size());
    return;
  }
  std::vector<std::int64_t> place(dimensions);
  for (std::size_t at = 0; at < to.size(); at += width) {
    std::int64_t element = 0;
    for (std::size_t d = 0; d < dimensions; ++d) element += place[d] * tensor.strides[d];
    std::memcpy(to.data() + at, from + static_cast<std::size_t>(element) * width, width);
    for (std::size_t d = dimensions; d-- > 0;) {
      if (++place[d] < tensor.shape[d]) break;
      place[d] = 0;
    }
  }
}

/// @throws Fault unless every element that the view sees lies within `elements`
void check_view(std::string_view name, const TensorRef& tensor, std::uint64_t elements) {
  const auto outside = [&]() -> Fault {
    return {fmt::format("tensor '{}' reaches outside its storage", printable(name))};
  };
  if (tensor.shape.size() != tensor.strides.size()) {
    throw Fault{fmt::format("tensor '{}' has {} sides and {} strides", printable(name),
                            tensor.shape.size(), tensor.strides.size())};
  }
  if (tensor.offset < 0) throw outside();
  std::int64_t last = tensor.offset;
  for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
    std::int64_t reach = 0;
    if (tensor.strides[d] < 0 ||
        __builtin_mul_overflow(tensor.shape[d] - 1, tensor.strides[d], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      throw outside();
    }
  }
  if (static_cast<std::uint64_t>(last) >= elements) throw outside();
}

/// The state dict: the dict itself, or the one that training scripts commonly wrap with an epoch
/// and an optimizer.
Value find_state_dict(const Unpickler& pickle, Value root) {
  if (root.kind != Kind::kDict) {
    throw Fault{"it holds no state dict but something else",
                "save the state dict alone: torch.save(model.state_dict(), FILE)"};
  }
  const auto& items = pickle.items(root);
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i].kind != Kind::kString || items[i + 1].kind != Kind::kDict) continue;
    const std::string_view key = pickle.string(items[i]);
    if (key == "state_dict" || key == "model_state_dict" || key == "model") return items[i + 1];
  }
  return root;
}

WeightsFile collect(const Unpickler& pickle, Value root, std::uint64_t file_bytes,
                    const FindStorage& find_storage) {
  // Tensors may share a storage, but a small file must not unfold into a large one by sharing it
  // many times.
  std::uint64_t budget = 4 * file_bytes + (std::uint64_t{1} << 20);
  WeightsFile weights;
  std::unordered_set<std::string_view> names;
  const auto& items = pickle.items(find_state_dict(pickle, root));
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i].kind != Kind::kString) throw Fault{"a name in its state dict is no string"};
    const std::string_view name = pickle.string(items[i]);
    if (items[i + 1].kind != Kind::kTensor) {
      throw Fault{fmt::format("'{}' in its dict is no tensor", printable(name)),
                  "save the state dict alone: torch.save(model.state_dict(), FILE)"};
    }
    if (!names.insert(name).second) {
      throw Fault{fmt::format("the name '{}' comes twice in its state dict", printable(name))};
    }
    const TensorRef& tensor = pickle.tensor(items[i + 1]);
    const StorageRef& storage = pickle.storages()[tensor.storage];
    StoredTensor stored;
    stored.name = name;
    stored.dtype = storage.dtype;
    stored.shape = tensor.shape;
    const std::uint64_t bytes = byte_count(name, tensor.shape, storage.dtype, budget);
    budget -= bytes;
    const auto storage_bytes = find_storage(storage);
    const std::size_t width = bytes_per_element(storage.dtype);
    if (bytes > 0) {
      check_view(name, tensor, storage.elements);
      stored.data.resize(bytes);
      copy_view(tensor, storage_bytes.data() + storage.offset * width, width, stored.data);
    }
    weights.tensors.push_back(std::move(stored));
  }
  return weights;
}

void check_storage_bytes(const StorageRef& storage, std::uint64_t bytes) {
  if (storage.offset + storage.elements > bytes / bytes_per_element(storage.dtype)) {
    throw Fault{fmt::format("storage '{}' has {} bytes, too few for the {} elements it should have",
                            printable(storage.key), bytes, storage.offset + storage.elements)};
  }
}

}  // namespace

bool is_torch_zip(std::span<const std::byte> file) {
  return file.size() >= 4 && little_endian(file.data(), 4) == 0x04034b50;
}

WeightsFile parse_torch_zip(std::span<const std::byte> file) {
  const ZipReader zip(file);
  std::string root;
  for (const auto& [name, entry] : zip.entries()) {
    constexpr std::string_view kPickle = "/data.pkl";
    if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size()) {
      if (!root.empty()) throw Fault{"its zip archive holds two pickles"};
      root = name.substr(0, name.size() - kPickle.size() + 1);
    }
  }
  if (root.empty()) {
    throw Fault{"it is a zip archive, but not one that torch.save wrote: it has no data.pkl"};
  }
  if (zip.entries().contains(root + "byteorder")) {
    const auto order = zip.find(root + "byteorder");
    constexpr std::string_view kLittle = "little";
    if (order.size() != kLittle.size() || std::memcmp(order.data(), kLittle.data(), 6) != 0) {
      throw Fault{"it was written on a big-endian machine", "save it again on another"};
    }
  }
  const auto pickle_bytes = zip.find(root + "data.pkl");
  if (pickle_bytes.size() > kMaxPickleBytes) {
    throw Fault{fmt::format("its pickle has {} bytes, and at most {} are read", pickle_bytes.size(),
                            kMaxPickleBytes)};
  }
  Unpickler pickle(pickle_bytes);
  const Value value = pickle.load();
  // One storage may be spoken of for every tensor; its checksum is verified once.
  std::map<std::string, std::span<const std::byte>> seen;
  return collect(pickle, value, file.size(), [&](const StorageRef& storage) {
    const std::string name = root + "data/" + std::string(storage.key);
    auto found = seen.find(name);
    if (found == seen.end()) {
      if (!zip.entries().contains(name)) {
        throw Fault{fmt::format("its zip archive has no storage '{}'", printable(storage.key))};
      }
      found = seen.emplace(name, zip.find(name)).first;
    }
    check_storage_bytes(storage, found->second.size());
    return found->second;
  });
}

bool is_torch_legacy(std::span<const std::byte> file) {
  // Protocol 2 and its number, then the magic.
  return file.size() >= 2 + kLegacyMagic.size() && file[0] == std::byte{0x80} &&
         std::memcmp(file.data() + 2, kLegacyMagic.data(), kLegacyMagic.size()) == 0;
}

WeightsFile parse_torch_legacy(std::span<const std::byte> file) {
  Unpickler pickle(file.first(std::min(file.size(), kMaxPickleBytes)));
  pickle.load();  // the magic number, compared above
  const Value version = pickle.load();
  constexpr std::int64_t kVersion = 1001;
  if (version.kind != Kind::kInt || version.payload != kVersion) {
    throw Fault{"it is of an unknown version of torch.save's older format"};
  }
  const Value system = pickle.load();
  if (system.kind == Kind::kDict) {
    const auto& facts = pickle.items(system);
    for (std::size_t i = 0; i + 1 < facts.size(); i += 2) {
      if (facts[i].kind == Kind::kString && pickle.string(facts[i]) == "little_endian" &&
          facts[i + 1].payload == 0) {
        throw Fault{"it was written on a big-endian machine", "save it again on another"};
      }
    }
  }
  const Value root = pickle.load();
  const Value keys = pickle.load();
  if (keys.kind != Kind::kList) throw Fault{"its list of storages is missing"};

  // Storages follow in the list's order, each preceded by its number of elements, whose type the
  // root pickle tells.
  std::map<std::string_view, std::size_t> widths;
  for (const StorageRef& storage : pickle.storages()) {
    widths[storage.key] = bytes_per_element(storage.dtype);
  }
  std::map<std::string_view, std::span<const std::byte>> storages;
  std::size_t at = pickle.position();
  for (const Value& key : pickle.items(keys)) {
    if (key.kind != Kind::kString) throw Fault{"a storage's name is no string"};
    const auto width = widths.find(pickle.string(key));
    if (width == widths.end()) {
      throw Fault{fmt::format("storage '{}' belongs to no tensor", printable(pickle.string(key)))};
    }
    if (file.size() - at < 8) throw Fault{"the file is cut short before its last storage"};
    const std::uint64_t elements = little_endian(file.data() + at, 8);
    at += 8;
    if (elements > (file.size() - at) / width->second) {
      throw Fault{fmt::format("the file is cut short: storage '{}' should have {} elements",
                              printable(pickle.string(key)), elements)};
    }
    const std::size_t bytes = elements * width->second;
    if (!storages.emplace(pickle.string(key), file.subspan(at, bytes)).second) {
      throw Fault{fmt::format("storage '{}' comes twice", printable(pickle.string(key)))};
    }
    at += bytes;
  }
  if (at != file.size()) {
    throw Fault{fmt::format("{} bytes follow its last storage", file.size() - at)};
  }
  return collect(pickle, root, file.size(), [&](const StorageRef& storage) {
    const auto found = storages.find(storage.key);
    if (found == storages.end()) {
      throw Fault{fmt::format("it has no storage '{}'", printable(storage.key))};
    }
    check_storage_bytes(storage, found->second.size());
    return found->second;
  });
}

namespace {

/// Writes the pickle of a state dict, protocol 2, as torch.save would without its memo.
class Pickler {
 public:
  std::string text = "\x80\x02";

  void global(std::string_view module, std::string_view name) {
    text += fmt::format("c{}\n{}\n", module, name);
  }
  void number(std::int64_t value) {
    text += "\x8a\x08";
    little(static_cast<std::uint64_t>(value), 8);
  }
  void string(std::string_view value) {
    text += 'X';
    little(value.size(), 4);
    text += value;
  }
  void numbers(std::span<const std::int64_t> values) {
    text += '(';
    for (const std::int64_t value : values) number(value);
    text += 't';
  }
  void empty_ordered_dict() {
    global("collections", "OrderedDict");
    text += ")R";
  }

 private:
  void little(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  }
};

std::string pickle_state_dict(const WeightsFile& weights) {
  Pickler pickle;
  pickle.empty_ordered_dict();
  pickle.text += '(';
  for (std::size_t i = 0; i < weights.tensors.size(); ++i) {
    const StoredTensor& tensor = weights.tensors[i];
    std::vector<std::int64_t> strides(tensor.shape.size(), 1);
    for (std::size_t d = strides.size(); d-- > 1;) {
      strides[d - 1] = strides[d] * std::max<std::int64_t>(tensor.shape[d], 1);
    }
    pickle.string(tensor.name);
    pickle.global("torch._utils", "_rebuild_tensor_v2");
    pickle.text += "((";
    pickle.string("storage");
    pickle.global("torch", storage_class(tensor.dtype));
    pickle.string(std::to_string(i));
    pickle.string("cpu");
    pickle.number(tensor.elements());
    pickle.text += "tQ";
    pickle.number(0);
    pickle.numbers(tensor.shape);
    pickle.numbers(strides);
    pickle.text += '\x89';
    pickle.empty_ordered_dict();
    pickle.text += "tR";
  }
  pickle.text += "u.";
  return pickle.text;
}

}  // namespace

}  // namespace quadrat::weights

namespace quadrat {

Bytes to_torch_zip(const WeightsFile& weights) {
  try {
    const auto bytes = [](std::string_view text) { return std::as_bytes(std::span(text)); };
    weights::ZipWriter zip;
    zip.add("archive/data.pkl", bytes(weights::pickle_state_dict(weights)));
    zip.add("archive/byteorder", bytes("little"));
    for (std::size_t i = 0; i < weights.tensors.size(); ++i) {
      const StoredTensor& tensor = weights.tensors[i];
      const auto expected = weights::byte_count(tensor.name, tensor.shape, tensor.dtype, INT64_MAX);
      if (tensor.data.size() != expected) {
        throw weights::Fault{fmt::format("tensor '{}' has {} bytes, and its shape needs {}",
                                         printable(tensor.name), tensor.data.size(), expected)};
      }
      zip.add("archive/data/" + std::to_string(i), tensor.data);
    }
    zip.add("archive/version", bytes("3\n"));
    return zip.finish();
  } catch (const weights::Fault& fault) {
    throw InputError("write weights", "", fault.finding, fault.remedy);
  }
}

void write_torch_zip(const Path& path, const WeightsFile& weights) {
  write_file(path, to_torch_zip(weights));
}

}  // namespace quadrat
