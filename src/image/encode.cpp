#include <fmt/format.h>
#include <libdeflate.h>

#include <array>
#include <cstring>
#include <memory>
#include <new>

#include "filters.h"
#include "quadrat/base/error.h"
#include "quadrat/image/png.h"

namespace quadrat {

namespace {

constexpr int kMinLevel = 0;
constexpr int kMaxLevel = 12;

struct FreeCompressor {
  void operator()(libdeflate_compressor* handle) const { libdeflate_free_compressor(handle); }
};

/// Kept by each thread: making a compressor costs as much as a tile's filters.
struct Scratch {
  std::unique_ptr<libdeflate_compressor, FreeCompressor> deflate;
  int level = -1;
  std::vector<std::uint8_t> candidates;
  std::vector<std::uint8_t> coded;
  std::vector<std::uint8_t> no_row;

  libdeflate_compressor* at(int wanted) {
    if (level != wanted) {
      deflate.reset(libdeflate_alloc_compressor(wanted));
      if (!deflate) throw std::bad_alloc();
      level = wanted;
    }
    return deflate.get();
  }
};

void put_big_endian(std::byte* at, std::uint32_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<std::byte>(value >> (24 - 8 * i));
}

/// Completes a chunk whose content is in place, 8 bytes after `at`. @return its end
std::byte* close_chunk(std::byte* at, const char (&type)[5], std::size_t content_bytes) {
  put_big_endian(at, static_cast<std::uint32_t>(content_bytes));
  std::memcpy(at + 4, type, 4);
  put_big_endian(at + 8 + content_bytes, libdeflate_crc32(0, at + 4, 4 + content_bytes));
  return at + 12 + content_bytes;
}

}  // namespace

Bytes encode_png(std::span<const std::uint8_t> rgb, std::uint32_t width_px, std::uint32_t height_px,
                 int level) {
  constexpr std::uint32_t kMaxSide = 0x7fffffff;
  const std::uint64_t pixels = std::uint64_t{width_px} * height_px;
  if (pixels == 0 || width_px > kMaxSide || height_px > kMaxSide || rgb.size() != pixels * 3) {
    throw InputError(
        "encode PNG", "",
        fmt::format("{} bytes were given for {}x{} px", rgb.size(), width_px, height_px));
  }
  if (level < kMinLevel || level > kMaxLevel) {
    throw InputError("encode PNG", "",
                     fmt::format("level {} was asked for, and there are 0 to 12", level));
  }

  thread_local Scratch scratch;
  libdeflate_compressor* const deflate = scratch.at(level);
  const std::size_t row_bytes = std::size_t{width_px} * 3;
  scratch.candidates.resize(row_bytes * 5);
  scratch.no_row.assign(row_bytes, 0);
  scratch.coded.resize((row_bytes + 1) * height_px);
  const std::uint8_t* above = scratch.no_row.data();
  for (std::uint32_t y = 0; y < height_px; ++y) {
    const std::uint8_t* row = rgb.data() + y * row_bytes;
    png::filter_row(row, above, width_px, scratch.candidates.data(),
                    scratch.coded.data() + y * (row_bytes + 1));
    above = row;
  }

  static constexpr std::array<unsigned char, 8> kSignature = {0x89, 'P',  'N',  'G',
                                                              '\r', '\n', 0x1a, '\n'};
  const std::size_t bound = libdeflate_zlib_compress_bound(deflate, scratch.coded.size());
  if (bound > kMaxSide) {
    throw InputError("encode PNG", "",
                     fmt::format("{}x{} px do not fit into one chunk", width_px, height_px));
  }
  Bytes file(kSignature.size() + 12 + 13 + 12 + bound + 12);
  std::byte* at = file.data();
  std::memcpy(at, kSignature.data(), kSignature.size());
  at += kSignature.size();

  std::byte* header = at + 8;
  put_big_endian(header, width_px);
  put_big_endian(header + 4, height_px);
  header[8] = std::byte{8};                             // bits a channel
  header[9] = std::byte{2};                             // RGB
  header[10] = header[11] = header[12] = std::byte{0};  // deflate, the five filters, not interlaced
  at = close_chunk(at, "IHDR", 13);

  const std::size_t compressed =
      libdeflate_zlib_compress(deflate, scratch.coded.data(), scratch.coded.size(), at + 8, bound);
  at = close_chunk(at, "IDAT", compressed);
  at = close_chunk(at, "IEND", 0);
  file.resize(static_cast<std::size_t>(at - file.data()));
  return file;
}

}  // namespace quadrat
