#pragma once

#include <cstdint>
#include <cstring>

#include "quadrat/base/host_device.h"

/// bfloat16 is the upper half of a float32.
namespace quadrat::bf16 {

QUADRAT_HOST_DEVICE inline float widen(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value = 0;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// To nearest, ties to even.
QUADRAT_HOST_DEVICE inline std::uint16_t narrow(float value) {
  std::uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace quadrat::bf16
