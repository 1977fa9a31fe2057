#pragma once

#include <bit>
#include <cstdint>

namespace quadrat::comm {

/// bfloat16 is the upper half of a float32.
inline float widen(std::uint16_t half) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

/// To nearest, ties to even.
inline std::uint16_t narrow(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace quadrat::comm
