#include <fmt/format.h>

#include "layout.h"
#include "quadrat/base/error.h"
#include "quadrat/image/png.h"

namespace quadrat {

namespace {

void decode_into(std::span<const std::byte> file, const PngLimits& limits,
                 const png::Layout& layout, std::span<std::uint8_t> rgb) {
  if (!png::decode_quickly(layout, rgb)) png::decode_with_libpng(file, limits, layout, rgb);
}

}  // namespace

Image decode_png(std::span<const std::byte> file, const PngLimits& limits) {
  png::Layout layout;
  png::read_layout(file, limits, layout);
  Image image;
  image.width_px = layout.width_px;
  image.height_px = layout.height_px;
  image.rgb.resize(layout.pixels() * 3);
  decode_into(file, limits, layout, image.rgb);
  return image;
}

void decode_png_tile(std::span<const std::byte> file, std::uint32_t side_px,
                     std::span<std::uint8_t> rgb) {
  const std::uint64_t expected_bytes = std::uint64_t{side_px} * side_px * 3;
  if (rgb.size() != expected_bytes) {
    throw InputError("decode PNG", "",
                     fmt::format("its place has {} bytes, and {}x{} px need {}", rgb.size(),
                                 side_px, side_px, expected_bytes));
  }
  thread_local png::Layout layout;
  PngLimits limits;
  read_layout(file, limits, layout);
  if (layout.width_px != side_px || layout.height_px != side_px) {
    throw InputError("decode PNG", "",
                     fmt::format("it is {}x{} px, and {}x{} are expected", layout.width_px,
                                 layout.height_px, side_px, side_px));
  }
  decode_into(file, limits, layout, rgb);
}

}  // namespace quadrat
