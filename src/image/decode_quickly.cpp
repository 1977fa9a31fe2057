#include <libdeflate.h>

#include <memory>
#include <new>

#include "filters.h"
#include "layout.h"

namespace quadrat::png {

namespace {

struct FreeDecompressor {
  void operator()(libdeflate_decompressor* handle) const { libdeflate_free_decompressor(handle); }
};

/// What decoding needs beside its input and output; kept by each thread up to the size of a usual
/// tile.
struct Scratch {
  std::unique_ptr<libdeflate_decompressor, FreeDecompressor> inflate{
      libdeflate_alloc_decompressor()};
  std::vector<std::byte>
      joined;  ///< several IDAT chunks, which are one stream, one after the other
  std::vector<std::uint8_t> coded;   ///< [height, 1 + 3 * width] filtered rows
  std::vector<std::uint8_t> no_row;  ///< zeros: what is above the first row

  void trim() {
    constexpr std::size_t kKeptBytes = std::size_t{4} << 20;
    if (joined.capacity() > kKeptBytes) joined = {};
    if (coded.capacity() > kKeptBytes) coded = {};
  }
};

std::span<const std::byte> join(const Layout& layout, std::vector<std::byte>& joined) {
  if (layout.data.size() == 1) return layout.data.front();
  joined.clear();
  for (const auto& part : layout.data) joined.insert(joined.end(), part.begin(), part.end());
  return joined;
}

bool decode(const Layout& layout, std::span<std::uint8_t> rgb, Scratch& scratch) {
  const std::span<const std::byte> stream = join(layout, scratch.joined);
  // A window smaller than 32 kB limits how far back matches may reach, which zlib checks and
  // libdeflate does not.
  if (stream.size() < 2 || stream[0] != std::byte{0x78}) return false;

  const std::size_t row_bytes = std::size_t{layout.width_px} * 3;
  const std::size_t coded_bytes = (row_bytes + 1) * layout.height_px;
  if (scratch.coded.size() < coded_bytes + kPadding) scratch.coded.resize(coded_bytes + kPadding);
  std::size_t read = 0;
  std::size_t written = 0;
  // Verifies the Adler-32 too.
  const auto result =
      libdeflate_zlib_decompress_ex(scratch.inflate.get(), stream.data(), stream.size(),
                                    scratch.coded.data(), coded_bytes, &read, &written);
  if (result != LIBDEFLATE_SUCCESS || read != stream.size() || written != coded_bytes) return false;

  scratch.no_row.assign(row_bytes + 1, 0);
  const std::uint8_t* above = scratch.no_row.data();
  const std::uint8_t* coded = scratch.coded.data();
  std::uint8_t* row = rgb.data();
  for (std::uint32_t y = 0; y < layout.height_px; ++y) {
    if (coded[0] > kPaeth) return false;
    unfilter_row(coded[0], coded + 1, above, row, layout.width_px);
    above = row;
    row += row_bytes;
    coded += row_bytes + 1;
  }
  return true;
}

}  // namespace

// One difference to zlib remains: libdeflate reads a few Huffman codes that zlib refuses as
// incomplete. No encoder writes them, and the checksums still hold, so such a file decodes here to
// what its maker meant.
bool decode_quickly(const Layout& layout, std::span<std::uint8_t> rgb) {
  if (!layout.is_plain_rgb) return false;
  thread_local Scratch scratch;
  if (!scratch.inflate) throw std::bad_alloc();
  const bool decoded = decode(layout, rgb, scratch);
  scratch.trim();
  return decoded;
}

}  // namespace quadrat::png
