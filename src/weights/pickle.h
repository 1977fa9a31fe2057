#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "quadrat/weights/weights_file.h"

namespace quadrat::weights {

/// PyTorch's name of a storage of that type: "FloatStorage".
std::string_view storage_class(DType dtype);

/// A storage a pickle speaks of: the bytes lie elsewhere in the file, under `key`.
struct StorageRef {
  DType dtype = DType::kF32;
  std::string_view key;
  std::uint64_t elements = 0;
  std::uint64_t offset =
      0;  ///< in elements: where a view begins in the storage of that key (legacy files)
};

/// A strided view of a storage, in elements. Nothing about it has been checked yet.
struct TensorRef {
  std::size_t storage = 0;  ///< index into Unpickler::storages
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
};

/// Reads pickles as torch.save writes them for a state dict, and nothing else: it knows only the
/// opcodes, classes and functions a state dict needs, builds plain values and calls nothing. What
/// does not belong is refused by name.
///
/// Values refer to the bytes given, which must outlive it. Memory is proportional to the pickle's
/// length: values are handles, so a value repeated through the memo costs no more than the opcode
/// that repeats it.
class Unpickler {
 public:
  enum class Kind : std::uint8_t {
    kNone,
    kBool,
    kInt,
    kFloat,
    kBigInt,
    kString,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kStorage,
    kTensor
  };
  struct Value {
    Kind kind = Kind::kNone;
    std::int64_t payload = 0;  ///< the number itself, or an index
  };

  explicit Unpickler(std::span<const std::byte> bytes) : bytes_(bytes) {}

  /// The next pickle. @throws Fault
  Value load();

  /// Bytes taken so far: what follows the last pickle starts here.
  std::size_t position() const { return at_; }

  std::string_view string(Value value) const { return strings_[index(value)]; }
  /// Of a tuple or list its items, of a dict key, value, key, value...
  const std::vector<Value>& items(Value value) const { return sequences_[index(value)]; }
  const TensorRef& tensor(Value value) const { return tensors_[index(value)]; }
  const std::vector<StorageRef>& storages() const { return storages_; }

 private:
  enum class Global : std::int64_t;

  static std::size_t index(Value value) { return static_cast<std::size_t>(value.payload); }
  std::span<const std::byte> take(std::uint64_t bytes);
  std::uint64_t take_number(int bytes);
  std::string_view take_text(std::uint64_t bytes);
  std::string_view take_line();
  Value pop();
  std::vector<Value> pop_to_mark();
  Value make_string(std::string_view text);
  Value make_sequence(Kind kind, std::vector<Value> items = {});
  Value make_global(std::string_view module, std::string_view name) const;
  Value make_storage(Value description);
  Value call(Global function, const std::vector<Value>& arguments);
  Value make_dict_of_pairs(Value list);
  Value make_tensor(const std::vector<Value>& arguments);
  std::vector<std::int64_t> integers(Value tuple) const;
  void build(Value state);
  void append(std::vector<Value> items, Kind to);
  void tuple_of(std::size_t count);
  void recall(std::uint64_t key);
  bool step(std::uint8_t opcode);

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint64_t, Value> memo_;
  std::vector<std::string_view> strings_;
  std::vector<std::vector<Value>> sequences_;
  std::vector<StorageRef> storages_;
  std::vector<TensorRef> tensors_;
  std::size_t copied_ =
      0;  ///< items copied from list to dict, which the memo could repeat without end
};

}  // namespace quadrat::weights
