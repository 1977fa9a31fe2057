#include "layout.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "quadrat/base/error.h"

namespace quadrat::png {

namespace {

constexpr std::array<unsigned char, 8> kSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr std::size_t kChunkFrame = 12;  // length, type and CRC around the content
constexpr std::size_t kHeaderBytes = 13;
constexpr std::uint32_t kMaxLength = 0x7fffffff;

constexpr std::uint32_t type(const char (&name)[5]) {
  return (static_cast<std::uint32_t>(name[0]) << 24) | (static_cast<std::uint32_t>(name[1]) << 16) |
         (static_cast<std::uint32_t>(name[2]) << 8) | static_cast<std::uint32_t>(name[3]);
}

std::uint32_t big_endian(const std::byte* at) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = (value << 8) | std::to_integer<std::uint32_t>(at[i]);
  return value;
}

[[noreturn]] void refuse(std::string_view finding, std::string_view remedy = {}) {
  throw InputError("decode PNG", "", finding, remedy);
}

struct Chunk {
  std::uint32_t type = 0;
  std::span<const std::byte> content;
  const std::byte* at = nullptr;

  bool crc_is_right() const {
    return libdeflate_crc32(0, at + 4, 4 + content.size()) == big_endian(at + 8 + content.size());
  }
  bool is_ancillary() const { return (type >> 24) & 0x20; }
  bool is_colourless() const {
    return std::any_of(std::begin(kColourless), std::end(kColourless),
                       [&](const auto& name) { return type == png::type(name); });
  }
};

/// The chunk at the front of `rest`, which is moved past it. @return false where no whole chunk is
/// left
bool next_chunk(std::span<const std::byte>& rest, Chunk& chunk) {
  if (rest.size() < kChunkFrame) return false;
  const std::uint32_t length = big_endian(rest.data());
  if (length > kMaxLength || length > rest.size() - kChunkFrame) return false;
  chunk = {big_endian(rest.data() + 4), rest.subspan(8, length), rest.data()};
  rest = rest.subspan(kChunkFrame + length);
  return true;
}

/// Checks signature and header chunk. @return what follows them
std::span<const std::byte> read_header(std::span<const std::byte> file, Layout& layout) {
  if (file.empty()) refuse("the file is empty");
  if (file.size() < kSignature.size() ||
      std::memcmp(file.data(), kSignature.data(), kSignature.size()) != 0) {
    refuse("it does not start with the PNG signature, so it is another kind of file or damaged");
  }
  std::span<const std::byte> rest = file.subspan(kSignature.size());
  Chunk header;
  if (!next_chunk(rest, header)) refuse("the file is cut short in its header");
  if (header.type != type("IHDR") || header.content.size() != kHeaderBytes) {
    refuse("the first chunk is no image header (IHDR)");
  }
  if (!header.crc_is_right()) refuse("IHDR: CRC error");
  const std::byte* at = header.content.data();
  layout.width_px = big_endian(at);
  layout.height_px = big_endian(at + 4);
  layout.bit_depth = std::to_integer<std::uint8_t>(at[8]);
  layout.colour_type = std::to_integer<std::uint8_t>(at[9]);
  const bool plain_methods =
      at[10] == std::byte{0} && at[11] == std::byte{0} && at[12] == std::byte{0};
  layout.is_plain_rgb = layout.bit_depth == 8 && layout.colour_type == 2 && plain_methods;
  if (layout.width_px == 0 || layout.height_px == 0) {
    refuse(fmt::format("its header says {}x{} px", layout.width_px, layout.height_px));
  }
  return rest;
}

std::uint64_t channels_of(std::uint8_t colour_type) {
  switch (colour_type) {
    case 2:
      return 3;
    case 4:
      return 2;
    case 6:
      return 4;
    default:
      return 1;
  }
}

}  // namespace

void read_layout(std::span<const std::byte> file, const PngLimits& limits, Layout& layout) {
  layout.data.clear();
  std::span<const std::byte> rest = read_header(file, layout);
  if (layout.width_px > limits.max_side_px || layout.height_px > limits.max_side_px ||
      layout.pixels() > limits.max_pixels) {
    refuse(
        fmt::format("its header says {}x{} px, and at most {} px a side and {} pixels are decoded",
                    layout.width_px, layout.height_px, limits.max_side_px, limits.max_pixels));
  }
  std::uint64_t data_bytes = 0;
  std::uint32_t ancillary = 0;
  bool ended = false, data_ended = false;
  Chunk chunk;
  while (!ended && next_chunk(rest, chunk)) {
    if (chunk.content.size() > limits.max_chunk_bytes) {
      refuse(fmt::format("a chunk of {} bytes, and at most {} are read", chunk.content.size(),
                         limits.max_chunk_bytes));
    }
    if (chunk.type == type("IDAT")) {
      if (data_ended) layout.is_plain_rgb = false;
      layout.data.push_back(chunk.content);
      data_bytes += chunk.content.size();
    } else if (chunk.type == type("IEND")) {
      ended = true;
      if (!chunk.content.empty()) layout.is_plain_rgb = false;
    } else {
      data_ended = !layout.data.empty();
      if (!chunk.is_colourless()) layout.is_plain_rgb = false;
      if (chunk.is_ancillary() && ++ancillary > limits.max_chunks) {
        refuse(fmt::format("more than {} chunks beside the image", limits.max_chunks));
      }
    }
    if (layout.is_plain_rgb && !chunk.crc_is_right()) layout.is_plain_rgb = false;
  }
  if (!ended || layout.data.empty()) layout.is_plain_rgb = false;

  // Deflate's shortest code, 2 bits, stands for at most 258 bytes: 1032 times itself. A small file
  // that claims a large image is refused here, before memory for it is asked for.
  constexpr std::uint64_t kMaxExpansion = 1032;
  const std::uint64_t image_bytes =
      layout.pixels() * channels_of(layout.colour_type) * layout.bit_depth / 8;
  if (ended && image_bytes / kMaxExpansion > data_bytes) {
    refuse(fmt::format("its {} bytes of image data are too few for {}x{} px", data_bytes,
                       layout.width_px, layout.height_px));
  }
  if (!ended && image_bytes / kMaxExpansion > file.size()) {
    refuse(fmt::format("the file is cut short: {} bytes are too few for {}x{} px", file.size(),
                       layout.width_px, layout.height_px));
  }
}

}  // namespace quadrat::png

namespace quadrat {

PngSize read_png_size(std::span<const std::byte> file) {
  png::Layout layout;
  png::read_header(file, layout);
  return {layout.width_px, layout.height_px};
}

}  // namespace quadrat
