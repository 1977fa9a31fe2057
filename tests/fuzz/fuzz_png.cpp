// Any bytes as a PNG: refused with an InputError or decoded, and where the quick way decodes them,
// as libpng does.
#include <libdeflate.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "image/layout.h"
#include "quadrat/base/error.h"
#include "quadrat/image/png.h"

namespace {

using namespace quadrat;

/// Small, so that the fuzzer tries many files and not a few large images.
PngLimits small_limits() {
  PngLimits limits;
  limits.max_side_px = 512;
  limits.max_pixels = 1 << 16;
  limits.max_chunk_bytes = 1 << 18;
  limits.max_chunks = 50;
  return limits;
}

std::optional<std::vector<std::uint8_t>> by_libpng(std::span<const std::byte> file) {
  try {
    png::Layout layout;
    png::read_layout(file, small_limits(), layout);
    std::vector<std::uint8_t> rgb(layout.pixels() * 3);
    png::decode_with_libpng(file, small_limits(), layout, rgb);
    return rgb;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "fuzz_png: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  std::optional<Image> image;
  try {
    image = decode_png(file, small_limits());
  } catch (const InputError&) {
  }
  const auto expected = by_libpng(file);
  if (image.has_value() != expected.has_value()) fail("libpng decides otherwise");
  if (!image) return 0;
  if (image->rgb != *expected) fail("libpng decodes to other pixels");
  const PngSize png_size = read_png_size(file);
  if (png_size.width_px != image->width_px || png_size.height_px != image->height_px)
    fail("two sizes");
  if (image->width_px == image->height_px) {
    std::vector<std::uint8_t> tile(image->rgb.size());
    decode_png_tile(file, image->width_px, tile);
    if (tile != image->rgb) fail("a tile decodes to other pixels");
  }
  return 0;
}

/// Makes the chunks' checksums right, so that changes reach what comes after them.
void repair(std::vector<std::uint8_t>& input) {
  for (std::size_t at = 8; at + 12 <= input.size();) {
    const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(input[at + i]); };
    const std::size_t length = (byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3);
    if (length > input.size() - at - 12) return;
    const std::uint32_t crc = libdeflate_crc32(0, input.data() + at + 4, 4 + length);
    for (std::size_t i = 0; i < 4; ++i) {
      input[at + 8 + length + i] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    }
    at += 12 + length;
  }
}
