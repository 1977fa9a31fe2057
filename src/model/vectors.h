#pragma once

// For sources that are compiled once for each generation of vector registers, with QUADRAT_VECTORS
// as the name of their namespace. They use no function of the standard library: a copy compiled for
// one file's registers could be the one that the linker keeps for all.
#include <cstdint>
#include <type_traits>

#define QUADRAT_INLINE inline __attribute__((always_inline))

namespace quadrat::vectors::QUADRAT_VECTORS {

namespace {

/// Of floats in a register: a vector wider than registers goes through memory wherever it is
/// compared.
#if defined(__AVX512F__)
constexpr std::int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr std::int64_t kLanes = 8;
#else
constexpr std::int64_t kLanes = 4;
#endif

template <typename A>
struct VectorOf {
  typedef A Type __attribute__((vector_size(kLanes * sizeof(A))));
};
template <typename A>
using Vector = typename VectorOf<A>::Type;

/// The same at any address.
template <typename V>
struct Unaligned {
  typedef V Type __attribute__((aligned(1), may_alias));
};

template <typename V>
QUADRAT_INLINE V read(const void* from) {
  return *static_cast<const typename Unaligned<V>::Type*>(from);
}

template <typename V>
QUADRAT_INLINE void write(void* to, V values) {
  *static_cast<typename Unaligned<V>::Type*>(to) = values;
}

/// As they are, or float32 of bf16's bits.
template <typename T>
QUADRAT_INLINE auto load(const T* from) {
  if constexpr (std::is_same_v<T, std::uint16_t>) {
    using Words = Vector<std::uint32_t>;
    const Words words = __builtin_convertvector(read<Vector<T>>(from), Words) << 16;
    return __builtin_bit_cast(Vector<float>, words);
  } else {
    return read<Vector<T>>(from);
  }
}

/// As they are, or to the nearest bf16, ties to even. What is no number stays none.
template <typename T, typename V>
QUADRAT_INLINE void store(T* to, V values) {
  if constexpr (std::is_same_v<T, std::uint16_t>) {
    using Words = Vector<std::uint32_t>;
    using Halves = Vector<T>;
    const auto words = __builtin_bit_cast(Words, values);
    const Words rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
    const Words kept = values == values ? rounded : (words >> 16 | 0x40);
    write(to, __builtin_convertvector(kept, Halves));
  } else {
    write(to, values);
  }
}

/// Without what is negative. What is no number stays none.
template <typename V>
QUADRAT_INLINE V rectified(V values) {
  return values < 0 ? V{} : values;
}

}  // namespace

}  // namespace quadrat::vectors::QUADRAT_VECTORS
