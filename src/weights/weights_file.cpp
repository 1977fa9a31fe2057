#include "quadrat/weights/weights_file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "formats.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

std::size_t bytes_per_element(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  return 1;
}

std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  return "";
}

std::int64_t StoredTensor::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t side : shape) product *= side;
  return product;
}

const StoredTensor* WeightsFile::find(std::string_view name) const {
  const auto at = std::find_if(tensors.begin(), tensors.end(),
                               [&](const StoredTensor& tensor) { return tensor.name == name; });
  return at == tensors.end() ? nullptr : &*at;
}

namespace weights {

std::uint64_t byte_count(std::string_view name, std::span<const std::int64_t> shape, DType dtype,
                         std::uint64_t limit) {
  std::uint64_t bytes = bytes_per_element(dtype);
  bool empty = false;
  for (const std::int64_t side : shape) {
    if (side < 0) {
      throw Fault{fmt::format("tensor '{}' has a side of {}", printable(name), side)};
    }
    if (side == 0) empty = true;
    // A tensor with a side of zero has no bytes, but what else is computed of its shape must not
    // overflow.
    if (side > 0 && __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(side), &bytes)) {
      bytes = UINT64_MAX;
    }
  }
  if (bytes > INT64_MAX || (!empty && bytes > limit)) {
    throw Fault{
        fmt::format("tensor '{}' would take more bytes than the file can hold", printable(name))};
  }
  return empty ? 0 : bytes;
}

namespace {

WeightsFile parse(std::span<const std::byte> file, const Release& release) {
  if (file.empty()) throw Fault{"the file is empty"};
  if (is_torch_zip(file)) return parse_torch_zip(file);
  if (is_torch_legacy(file)) return parse_torch_legacy(file);
  if (is_safetensors(file)) return parse_safetensors(file, release);
  throw Fault{"it is neither a safetensors file nor one that torch.save writes",
              "give a .safetensors or .pth file that holds a state dict"};
}

/// The whole pages of a buffer that its owner will only free.
void release_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(bytes.data()) + bytes.size()) / page * page;
  // Refused, it costs memory and nothing else.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

/// @param path named in the message; empty for bytes in memory
WeightsFile parse_or_explain(std::span<const std::byte> file, const Release& release,
                             const std::string& path) {
  try {
    return parse(file, release);
  } catch (const Fault& fault) {
    throw InputError("read weights", path, fault.finding, fault.remedy);
  }
}

}  // namespace
}  // namespace weights

WeightsFile parse_weights(std::span<const std::byte> file) {
  return weights::parse_or_explain(file, {}, "");
}

WeightsFile parse_weights(Bytes&& file) {
  const Bytes consumed = std::move(file);
  return weights::parse_or_explain(consumed, weights::release_pages, "");
}

WeightsFile read_weights(const Path& path) {
  const Bytes file = read_file(path);
  return weights::parse_or_explain(file, weights::release_pages, path.string());
}

}  // namespace quadrat
