#include "pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "formats.h"
#include "quadrat/base/text.h"

// Opcodes: Python's Lib/pickletools.py.

namespace quadrat::weights {

enum class Unpickler::Global : std::int64_t {
  kOrderedDict,
  kRebuildTensor,
  kRebuildTensorV2,
  kRebuildParameter,
  kFirstStorage,  // then one for each DType
};

namespace {

constexpr const char* kRemedy = "save the state dict alone: torch.save(model.state_dict(), FILE)";

struct StorageClass {
  std::string_view name;
  DType dtype;
};
constexpr std::array<StorageClass, 10> kStorageClasses = {{{"DoubleStorage", DType::kF64},
                                                           {"FloatStorage", DType::kF32},
                                                           {"HalfStorage", DType::kF16},
                                                           {"BFloat16Storage", DType::kBF16},
                                                           {"LongStorage", DType::kI64},
                                                           {"IntStorage", DType::kI32},
                                                           {"ShortStorage", DType::kI16},
                                                           {"CharStorage", DType::kI8},
                                                           {"ByteStorage", DType::kU8},
                                                           {"BoolStorage", DType::kBool}}};

std::string opcode_name(std::uint8_t opcode) {
  static constexpr std::pair<std::uint8_t, std::string_view> kNames[] = {{'0', "POP"},
                                                                         {'1', "POP_MARK"},
                                                                         {'2', "DUP"},
                                                                         {'F', "FLOAT"},
                                                                         {'I', "INT"},
                                                                         {'L', "LONG"},
                                                                         {'P', "PERSID"},
                                                                         {'S', "STRING"},
                                                                         {'V', "UNICODE"},
                                                                         {'g', "GET"},
                                                                         {'i', "INST"},
                                                                         {'l', "LIST"},
                                                                         {'o', "OBJ"},
                                                                         {'p', "PUT"},
                                                                         {'d', "DICT"},
                                                                         {'B', "BINBYTES"},
                                                                         {'C', "SHORT_BINBYTES"},
                                                                         {0x81, "NEWOBJ"},
                                                                         {0x82, "EXT1"},
                                                                         {0x83, "EXT2"},
                                                                         {0x84, "EXT4"},
                                                                         {0x8b, "LONG4"},
                                                                         {0x8e, "BINBYTES8"},
                                                                         {0x8f, "EMPTY_SET"},
                                                                         {0x90, "ADDITEMS"},
                                                                         {0x91, "FROZENSET"},
                                                                         {0x92, "NEWOBJ_EX"},
                                                                         {0x96, "BYTEARRAY8"},
                                                                         {0x97, "NEXT_BUFFER"},
                                                                         {0x98, "READONLY_BUFFER"}};
  for (const auto& [code, name] : kNames) {
    if (code == opcode) return fmt::format("{} (0x{:02x})", name, opcode);
  }
  return fmt::format("0x{:02x}", opcode);
}

[[noreturn]] void damaged(std::string_view what) {
  throw Fault{fmt::format("its pickle is damaged: {}", what), kRemedy};
}

}  // namespace

std::string_view storage_class(DType dtype) {
  return std::find_if(kStorageClasses.begin(), kStorageClasses.end(),
                      [&](const StorageClass& storage) { return storage.dtype == dtype; })
      ->name;
}

std::span<const std::byte> Unpickler::take(std::uint64_t bytes) {
  if (bytes > bytes_.size() - at_) throw Fault{"its pickle is cut short"};
  const auto taken = bytes_.subspan(at_, bytes);
  at_ += bytes;
  return taken;
}

std::uint64_t Unpickler::take_number(int bytes) {
  return little_endian(take(static_cast<std::uint64_t>(bytes)).data(), bytes);
}

std::string_view Unpickler::take_text(std::uint64_t bytes) {
  const auto taken = take(bytes);
  return {reinterpret_cast<const char*>(taken.data()), taken.size()};
}

std::string_view Unpickler::take_line() {
  const std::size_t from = at_;
  while (take(1)[0] != std::byte{'\n'}) {
  }
  return {reinterpret_cast<const char*>(bytes_.data()) + from, at_ - from - 1};
}

Unpickler::Value Unpickler::pop() {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) damaged("an opcode finds no value");
  const Value value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<Unpickler::Value> Unpickler::pop_to_mark() {
  if (marks_.empty()) damaged("an opcode finds no mark");
  const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Value> items(from, stack_.end());
  stack_.erase(from, stack_.end());
  marks_.pop_back();
  return items;
}

Unpickler::Value Unpickler::make_string(std::string_view text) {
  strings_.push_back(text);
  return {Kind::kString, static_cast<std::int64_t>(strings_.size() - 1)};
}

Unpickler::Value Unpickler::make_sequence(Kind kind, std::vector<Value> items) {
  sequences_.push_back(std::move(items));
  return {kind, static_cast<std::int64_t>(sequences_.size() - 1)};
}

Unpickler::Value Unpickler::make_global(std::string_view module, std::string_view name) const {
  const auto value = [](Global global) {
    return Value{Kind::kGlobal, static_cast<std::int64_t>(global)};
  };
  if (module == "collections" && name == "OrderedDict") return value(Global::kOrderedDict);
  if (module == "torch._utils") {
    if (name == "_rebuild_tensor") return value(Global::kRebuildTensor);
    if (name == "_rebuild_tensor_v2") return value(Global::kRebuildTensorV2);
    if (name == "_rebuild_parameter") return value(Global::kRebuildParameter);
  }
  if (module == "torch") {
    for (std::size_t i = 0; i < kStorageClasses.size(); ++i) {
      if (kStorageClasses[i].name == name) {
        return {Kind::kGlobal,
                static_cast<std::int64_t>(Global::kFirstStorage) + static_cast<std::int64_t>(i)};
      }
    }
  }
  throw Fault{fmt::format("its pickle asks for '{}.{}', which no state dict needs and which is "
                          "therefore refused",
                          printable(module), printable(name)),
              kRemedy};
}

Unpickler::Value Unpickler::make_storage(Value description) {
  // ("storage", class, key, device, elements), in legacy files followed by None or (key, offset,
  // elements) of a view.
  if (description.kind != Kind::kTuple) damaged("a storage is not described by a tuple");
  const std::vector<Value>& items = sequences_[index(description)];
  const bool is_storage = (items.size() == 5 || items.size() == 6) &&
                          items[0].kind == Kind::kString && string(items[0]) == "storage" &&
                          items[1].kind == Kind::kGlobal && items[2].kind == Kind::kString &&
                          items[4].kind == Kind::kInt && items[4].payload >= 0;
  const std::int64_t which =
      is_storage ? items[1].payload - static_cast<std::int64_t>(Global::kFirstStorage) : -1;
  if (which < 0) damaged("a storage is described in an unknown way");
  StorageRef storage;
  storage.dtype = kStorageClasses[static_cast<std::size_t>(which)].dtype;
  storage.key = string(items[2]);
  storage.elements = static_cast<std::uint64_t>(items[4].payload);
  if (items.size() == 6 && items[5].kind != Kind::kNone) {
    if (items[5].kind != Kind::kTuple) damaged("a storage's view is described in an unknown way");
    const std::vector<Value>& view = sequences_[index(items[5])];
    if (view.size() != 3 || view[1].kind != Kind::kInt || view[2].kind != Kind::kInt ||
        view[1].payload < 0 || view[2].payload < 0) {
      damaged("a storage's view is described in an unknown way");
    }
    const auto offset = static_cast<std::uint64_t>(view[1].payload);
    const auto elements = static_cast<std::uint64_t>(view[2].payload);
    if (offset > storage.elements || elements > storage.elements - offset) {
      damaged("a storage's view reaches past its end");
    }
    storage.offset = offset;
    storage.elements = elements;
  }
  storages_.push_back(storage);
  return {Kind::kStorage, static_cast<std::int64_t>(storages_.size() - 1)};
}

std::vector<std::int64_t> Unpickler::integers(Value tuple) const {
  constexpr std::size_t kMaxDimensions = 32;
  if (tuple.kind != Kind::kTuple || sequences_[index(tuple)].size() > kMaxDimensions) {
    damaged("a tensor's shape is no tuple of numbers");
  }
  std::vector<std::int64_t> numbers;
  for (const Value& item : sequences_[index(tuple)]) {
    if (item.kind != Kind::kInt) damaged("a tensor's shape is no tuple of numbers");
    numbers.push_back(item.payload);
  }
  return numbers;
}

Unpickler::Value Unpickler::make_tensor(const std::vector<Value>& arguments) {
  if (arguments.size() < 4 || arguments[0].kind != Kind::kStorage ||
      arguments[1].kind != Kind::kInt) {
    damaged("a tensor is described in an unknown way");
  }
  TensorRef tensor;
  tensor.storage = index(arguments[0]);
  tensor.offset = arguments[1].payload;
  tensor.shape = integers(arguments[2]);
  tensor.strides = integers(arguments[3]);
  tensors_.push_back(std::move(tensor));
  return {Kind::kTensor, static_cast<std::int64_t>(tensors_.size() - 1)};
}

/// OrderedDict([[key, value], ...]): how Python 2 wrote one.
Unpickler::Value Unpickler::make_dict_of_pairs(Value list) {
  if (list.kind != Kind::kList) damaged("an OrderedDict is made of something that is no list");
  copied_ += sequences_[index(list)].size();
  if (copied_ > bytes_.size()) damaged("it repeats itself");
  std::vector<Value> flat;
  for (const Value& pair : sequences_[index(list)]) {
    if ((pair.kind != Kind::kList && pair.kind != Kind::kTuple) ||
        sequences_[index(pair)].size() != 2) {
      damaged("an OrderedDict is made of something that is no list of pairs");
    }
    flat.push_back(sequences_[index(pair)][0]);
    flat.push_back(sequences_[index(pair)][1]);
  }
  return make_sequence(Kind::kDict, std::move(flat));
}

Unpickler::Value Unpickler::call(Global function, const std::vector<Value>& arguments) {
  switch (function) {
    case Global::kOrderedDict:
      if (arguments.empty()) return make_sequence(Kind::kDict);
      if (arguments.size() == 1) return make_dict_of_pairs(arguments[0]);
      damaged("an OrderedDict is made of more than one value");
    case Global::kRebuildTensor:
    case Global::kRebuildTensorV2:
      return make_tensor(arguments);
    case Global::kRebuildParameter:
      if (arguments.empty() || arguments[0].kind != Kind::kTensor) {
        damaged("a parameter is made of something that is no tensor");
      }
      return arguments[0];
    default:
      damaged("a storage class is called");
  }
}

/// Attributes of an OrderedDict, such as a state dict's _metadata (versions of the modules): not
/// needed.
void Unpickler::build(Value state) {
  if (state.kind != Kind::kDict) damaged("attributes are given that are no dict");
  const Value object = pop();
  if (object.kind != Kind::kDict) damaged("attributes are given to something that is no dict");
  stack_.push_back(object);
}

void Unpickler::append(std::vector<Value> items, Kind to) {
  const Value target = pop();
  if (target.kind != to) damaged("items are added to something that holds none");
  if (to == Kind::kDict && items.size() % 2 != 0) damaged("a dict gets a key without a value");
  auto& sequence = sequences_[index(target)];
  sequence.insert(sequence.end(), items.begin(), items.end());
  stack_.push_back(target);
}

void Unpickler::tuple_of(std::size_t count) {
  std::vector<Value> items(count);
  for (std::size_t i = count; i-- > 0;) items[i] = pop();
  stack_.push_back(make_sequence(Kind::kTuple, std::move(items)));
}

void Unpickler::recall(std::uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) damaged("it recalls what was never memorised");
  stack_.push_back(found->second);
}

/// @return false at the end of a pickle
bool Unpickler::step(std::uint8_t opcode) {
  const auto push_int = [this](std::int64_t value) { stack_.push_back({Kind::kInt, value}); };
  const auto memorise = [this](std::uint64_t key) {
    const Value value = pop();
    stack_.push_back(value);
    memo_[key] = value;
  };
  switch (opcode) {
    case 0x80: {  // PROTO
      const std::uint64_t protocol = take_number(1);
      if (protocol < 2 || protocol > 5) {
        throw Fault{fmt::format("its pickle is of protocol {}; 2 to 5 are read", protocol)};
      }
      return true;
    }
    case 0x95:  // FRAME: how much to read at once, which matters to nobody who has it all
      take(8);
      return true;
    case '.':  // STOP
      return false;
    case '(':  // MARK
      marks_.push_back(stack_.size());
      return true;
    case 'N':
      stack_.push_back({});
      return true;
    case 0x88:  // NEWTRUE
      stack_.push_back({Kind::kBool, 1});
      return true;
    case 0x89:  // NEWFALSE
      stack_.push_back({Kind::kBool, 0});
      return true;
    case 'K':  // BININT1
      push_int(static_cast<std::int64_t>(take_number(1)));
      return true;
    case 'M':  // BININT2
      push_int(static_cast<std::int64_t>(take_number(2)));
      return true;
    case 'J':  // BININT
      push_int(static_cast<std::int32_t>(take_number(4)));
      return true;
    case 0x8a: {  // LONG1: two's complement of any length
      const auto bytes = take_number(1);
      if (bytes > 8) {
        const std::string_view digits = take_text(bytes);
        stack_.push_back({Kind::kBigInt, make_string(digits).payload});
        return true;
      }
      std::uint64_t value = take_number(static_cast<int>(bytes));
      const bool negative = bytes > 0 && ((value >> (8 * bytes - 1)) & 1) != 0;
      if (negative && bytes < 8) value |= ~std::uint64_t{0} << (8 * bytes);
      push_int(static_cast<std::int64_t>(value));
      return true;
    }
    case 'G':  // BINFLOAT: numbers beside the tensors, such as a loss, which nobody asks for
      take(8);
      stack_.push_back({Kind::kFloat, 0});
      return true;
    case 'X':  // BINUNICODE
    case 'T':  // BINSTRING
      stack_.push_back(make_string(take_text(take_number(4))));
      return true;
    case 0x8c:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING
      stack_.push_back(make_string(take_text(take_number(1))));
      return true;
    case 0x8d:  // BINUNICODE8
      stack_.push_back(make_string(take_text(take_number(8))));
      return true;
    case ')':
      stack_.push_back(make_sequence(Kind::kTuple));
      return true;
    case ']':
      stack_.push_back(make_sequence(Kind::kList));
      return true;
    case '}':
      stack_.push_back(make_sequence(Kind::kDict));
      return true;
    case 't':
      stack_.push_back(make_sequence(Kind::kTuple, pop_to_mark()));
      return true;
    case 0x85:
    case 0x86:
    case 0x87:
      tuple_of(opcode - 0x84u);
      return true;
    case 'a':
      append({pop()}, Kind::kList);
      return true;
    case 'e':
      append(pop_to_mark(), Kind::kList);
      return true;
    case 's': {
      const Value value = pop();
      const Value key = pop();
      append({key, value}, Kind::kDict);
      return true;
    }
    case 'u':
      append(pop_to_mark(), Kind::kDict);
      return true;
    case 'q':
      memorise(take_number(1));
      return true;
    case 'r':
      memorise(take_number(4));
      return true;
    case 0x94:  // MEMOIZE
      memorise(memo_.size());
      return true;
    case 'h':
      recall(take_number(1));
      return true;
    case 'j':
      recall(take_number(4));
      return true;
    case 'c': {  // GLOBAL
      const std::string_view module = take_line();
      const std::string_view name = take_line();
      stack_.push_back(make_global(module, name));
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const Value name = pop();
      const Value module = pop();
      if (name.kind != Kind::kString || module.kind != Kind::kString) {
        damaged("a global's name is no string");
      }
      stack_.push_back(make_global(string(module), string(name)));
      return true;
    }
    case 'R': {  // REDUCE
      const Value arguments = pop();
      const Value function = pop();
      if (function.kind != Kind::kGlobal || arguments.kind != Kind::kTuple) {
        damaged("something is called that is no function");
      }
      constexpr std::size_t kMaxArguments = 16;
      const std::vector<Value>& items = sequences_[index(arguments)];
      if (items.size() > kMaxArguments) damaged("a function is given too many arguments");
      const std::vector<Value> copy = items;  // what is made may move the original
      stack_.push_back(call(static_cast<Global>(function.payload), copy));
      return true;
    }
    case 'b':  // BUILD
      build(pop());
      return true;
    case 'Q':  // BINPERSID
      stack_.push_back(make_storage(pop()));
      return true;
    default:
      throw Fault{fmt::format("its pickle uses the opcode {} at byte {}, which no state dict needs "
                              "and which is therefore refused",
                              opcode_name(opcode), at_ - 1),
                  kRemedy};
  }
}

Unpickler::Value Unpickler::load() {
  stack_.clear();
  marks_.clear();
  memo_.clear();
  while (step(static_cast<std::uint8_t>(take_number(1)))) {
  }
  return pop();
}

}  // namespace quadrat::weights
