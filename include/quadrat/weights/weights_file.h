#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

std::size_t bytes_per_element(DType dtype);
std::string_view to_string(DType dtype);  ///< safetensors' names: "F32", "BF16"

/// A tensor as a file holds it: contiguous, row-major, little-endian.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  Bytes data;  ///< product(shape) * bytes_per_element(dtype)

  std::int64_t elements() const;
};

/// What a weights file holds, in the file's order.
struct WeightsFile {
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;  ///< safetensors' __metadata__; empty for .pth

  /// The tensor of that name or nullptr.
  const StoredTensor* find(std::string_view name) const;
};

/// Reads what the content is, whatever the name: safetensors; torch.save's zip format and the older
/// one, holding a state dict (dict or OrderedDict of tensors). The pickle inside a .pth is read by
/// an interpreter that knows only what a state dict needs, so it can never run code.
/// @throws InputError naming the file and what is wrong with it: cut short, another format, a
/// refused opcode; IoError where it cannot be read
WeightsFile read_weights(const Path& path);

/// As read_weights, from memory: what the fuzzers drive. The message does not name a file.
WeightsFile parse_weights(std::span<const std::byte> file);

/// Likewise, giving the memory of a safetensors file back as its tensors are read: a large model is
/// in memory once, not twice. What is left of `file` is of no use.
WeightsFile parse_weights(Bytes&& file);

/// A safetensors file: tensors aligned to their element size, the header naming them in the order
/// given.
/// @throws InputError where a tensor's bytes do not fit its shape, a name comes twice or is not
/// UTF-8
Bytes to_safetensors(const WeightsFile& weights);

/// torch.save's zip format, which torch.load(weights_only=True) reads; it has no place for the
/// metadata.
/// @throws InputError as to_safetensors, and over 4 GB
Bytes to_torch_zip(const WeightsFile& weights);

/// Replaces `path` atomically by such a file. @throws IoError, and as above
void write_safetensors(const Path& path, const WeightsFile& weights);
void write_torch_zip(const Path& path, const WeightsFile& weights);

}  // namespace quadrat
