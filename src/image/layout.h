#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quadrat/image/png.h"

namespace quadrat::png {

/// Known chunks that say nothing of colours: only their checksums matter here.
inline constexpr char kColourless[][5] = {"tEXt", "zTXt", "iTXt", "sPLT", "hIST", "pHYs",
                                          "tIME", "oFFs", "pCAL", "sCAL", "eXIf"};

/// What a walk over the chunks of a PNG tells before anything is decoded.
struct Layout {
  std::uint32_t width_px = 0;
  std::uint32_t height_px = 0;
  std::uint8_t bit_depth = 0;
  std::uint8_t colour_type = 0;
  /// 8-bit RGB, not interlaced, IHDR IDAT... IEND and beside them only kColourless, all checksums
  /// right: the quick way may try it.
  bool is_plain_rgb = false;
  /// The contents of the IDAT chunks, in order.
  std::vector<std::span<const std::byte>> data;

  std::uint64_t pixels() const { return std::uint64_t{width_px} * height_px; }
};

/// Reads the header and the chunks' lengths into `layout`, whose memory is reused.
/// @throws InputError where there is no header, or a limit is exceeded, or the data chunks are too
///   short for any image of that size. Other faults are left to libpng, whose decision counts.
void read_layout(std::span<const std::byte> file, const PngLimits& limits, Layout& layout);

/// The common tile through libdeflate and our own filters. @param rgb [height_px, width_px, 3]
/// @return false where libpng must decide: the content of `rgb` then means nothing
bool decode_quickly(const Layout& layout, std::span<std::uint8_t> rgb);

/// Any PNG through libpng. @throws InputError with libpng's words
void decode_with_libpng(std::span<const std::byte> file, const PngLimits& limits,
                        const Layout& layout, std::span<std::uint8_t> rgb);

}  // namespace quadrat::png
