#pragma once

#include "cuda_runtime.h"
#include "quadrat/base/bf16.h"

/// CUDA's bfloat16, as far as our kernels use it.

struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float value) : bits(quadrat::bf16::narrow(value)) {}
  operator float() const { return quadrat::bf16::widen(bits); }
};

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__nv_bfloat16(low), __nv_bfloat16(high)};
}
