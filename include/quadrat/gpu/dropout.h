#pragma once

#include <cstdint>

#include "quadrat/gpu/element.h"

namespace quadrat::gpu {

/// out = 2 * values where the row's mask says so, else 0: Network's dropout, and its gradient's.
/// The mask of a row is the bits of KeyedRandom({kStreamDropout, key, layer}), the lowest first.
/// @param values, out [rows, columns] in the GPU's memory, columns a multiple of 64; out may be
/// values @param keys [rows], there too @throws DeviceError where the kernel cannot be launched
void dropout(const void* values, Element element, std::int64_t rows, std::int64_t columns,
             const std::int64_t* keys, std::uint64_t layer, void* out, CUstream_st* stream);

}  // namespace quadrat::gpu
