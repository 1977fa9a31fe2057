#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "quadrat/weights/weights_file.h"

namespace quadrat::weights {

/// What is wrong with a file's content; read_weights and parse_weights make an InputError of it.
struct Fault {
  std::string finding;
  std::string remedy = {};
};

using Release = std::function<void(std::span<const std::byte>)>;

bool is_safetensors(std::span<const std::byte> file);
/// @param release told of bytes that are not looked at again
WeightsFile parse_safetensors(std::span<const std::byte> file, const Release& release = {});

/// torch.save since PyTorch 1.6: a zip archive of stored entries.
bool is_torch_zip(std::span<const std::byte> file);
WeightsFile parse_torch_zip(std::span<const std::byte> file);

/// torch.save before PyTorch 1.6: pickles one after the other, then the storages.
bool is_torch_legacy(std::span<const std::byte> file);
WeightsFile parse_torch_legacy(std::span<const std::byte> file);

/// product(shape) * bytes_per_element. @throws Fault where a side is negative, or the product
/// exceeds `limit`, or INT64_MAX even without its sides of zero
std::uint64_t byte_count(std::string_view name, std::span<const std::int64_t> shape, DType dtype,
                         std::uint64_t limit);

inline std::uint64_t little_endian(const std::byte* at, int bytes) {
  std::uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = (value << 8) | std::to_integer<std::uint64_t>(at[i]);
  return value;
}

}  // namespace quadrat::weights
