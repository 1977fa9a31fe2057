#pragma once

#include <libdeflate.h>
#include <png.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat::test {

/// A PNG taken to pieces, so that tests can put it together wrongly.
struct RawPng {
  struct Chunk {
    std::string type;
    Bytes content;
    bool crc_is_right = true;
  };
  std::vector<Chunk> chunks;

  static std::uint32_t big_endian(const std::byte* at) {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = (value << 8) | std::to_integer<std::uint32_t>(at[i]);
    return value;
  }
  static void append(Bytes& bytes, std::uint32_t value) {
    for (int i = 3; i >= 0; --i) bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
  }

  static RawPng parse(std::span<const std::byte> file) {
    RawPng png;
    for (std::size_t at = 8; at + 12 <= file.size();) {
      const std::size_t length = big_endian(file.data() + at);
      const auto content = file.subspan(at + 8, length);
      png.chunks.push_back({std::string(reinterpret_cast<const char*>(file.data() + at + 4), 4),
                            Bytes(content.begin(), content.end())});
      at += 12 + length;
    }
    return png;
  }

  Bytes file() const {
    Bytes bytes;
    for (const int c : {0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a})
      bytes.push_back(std::byte(c));
    for (const Chunk& chunk : chunks) {
      append(bytes, static_cast<std::uint32_t>(chunk.content.size()));
      const std::size_t from = bytes.size();
      for (const char c : chunk.type) bytes.push_back(static_cast<std::byte>(c));
      bytes.insert(bytes.end(), chunk.content.begin(), chunk.content.end());
      std::uint32_t crc = libdeflate_crc32(0, bytes.data() + from, bytes.size() - from);
      append(bytes, chunk.crc_is_right ? crc : ~crc);
    }
    return bytes;
  }

  Chunk& first(std::string_view type) {
    for (Chunk& chunk : chunks) {
      if (chunk.type == type) return chunk;
    }
    throw std::logic_error("no such chunk");
  }

  /// Cuts the one IDAT chunk in pieces of at most `bytes`.
  void split_data(std::size_t bytes) {
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (chunks[i].type != "IDAT" || chunks[i].content.size() <= bytes) continue;
      Chunk tail{"IDAT", Bytes(chunks[i].content.begin() + static_cast<std::ptrdiff_t>(bytes),
                               chunks[i].content.end())};
      chunks[i].content.resize(bytes);
      chunks.insert(chunks.begin() + static_cast<std::ptrdiff_t>(i) + 1, std::move(tail));
    }
  }
};

inline Bytes zlib_stream(std::span<const std::uint8_t> content) {
  libdeflate_compressor* deflate = libdeflate_alloc_compressor(1);
  Bytes stream(libdeflate_zlib_compress_bound(deflate, content.size()));
  stream.resize(libdeflate_zlib_compress(deflate, content.data(), content.size(), stream.data(),
                                         stream.size()));
  libdeflate_free_compressor(deflate);
  return stream;
}

/// 8-bit RGB from filtered rows, [height, 1 + 3 * width], whatever they hold.
inline RawPng rgb_png(std::uint32_t width, std::uint32_t height,
                      std::span<const std::uint8_t> coded) {
  RawPng png;
  Bytes header;
  RawPng::append(header, width);
  RawPng::append(header, height);
  for (const int c : {8, 2, 0, 0, 0}) header.push_back(std::byte(c));
  png.chunks = {{"IHDR", header}, {"IDAT", zlib_stream(coded)}, {"IEND", {}}};
  return png;
}

/// Noise over a slope: rows for which no filter is always best.
inline std::vector<std::uint8_t> noisy_pixels(std::size_t width, std::size_t height,
                                              unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> rgb(width * height * 3);
  const unsigned noise = 1 + random() % 255;
  for (std::size_t i = 0; i < rgb.size(); ++i) {
    rgb[i] = static_cast<std::uint8_t>(i % (3 * width) / 7 + i / (3 * width) + random() % noise);
  }
  return rgb;
}

/// What libpng reads when it converts nothing, and the written rule of image/png.h applied by hand:
/// a second way to the same pixels that shares only libpng's inflating and filters.
struct Pixels {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<std::uint8_t> rgb;
};

inline Pixels pixels_by_the_rule(const std::filesystem::path& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw std::runtime_error("cannot open " + path.string());
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  if (setjmp(png_jmpbuf(png))) std::abort();  // only valid files are given
  constexpr long kDepthAt = 24;               // libpng tells the depth after unpacking instead
  std::fseek(file, kDepthAt, SEEK_SET);
  const int depth = std::fgetc(file);
  std::rewind(file);
  png_init_io(png, file);
  png_read_png(png, info, PNG_TRANSFORM_PACKING, nullptr);
  Pixels pixels;
  pixels.width = png_get_image_width(png, info);
  pixels.height = png_get_image_height(png, info);
  const int colour = png_get_color_type(png, info);
  const std::size_t channels = png_get_channels(png, info);
  png_colorp palette = nullptr;
  int palette_size = 0;
  png_get_PLTE(png, info, &palette, &palette_size);
  const std::size_t sample_bytes = depth == 16 ? 2 : 1;  // PACKING: at least a byte a sample
  png_bytepp rows = png_get_rows(png, info);
  for (std::uint32_t y = 0; y < pixels.height; ++y) {
    for (std::uint32_t x = 0; x < pixels.width; ++x) {
      const auto sample = [&](std::size_t channel) {  // of 16 bits the high byte
        return rows[y][(x * channels + channel) * sample_bytes];
      };
      for (std::size_t c = 0; c < 3; ++c) {
        int value = 0;
        if (colour == PNG_COLOR_TYPE_PALETTE) {
          const png_color& entry = palette[sample(0)];
          value = c == 0 ? entry.red : c == 1 ? entry.green : entry.blue;
        } else if (colour & PNG_COLOR_MASK_COLOR) {
          value = sample(c);
        } else {
          value = depth < 8 ? sample(0) * 255 / ((1 << depth) - 1) : sample(0);
        }
        pixels.rgb.push_back(static_cast<std::uint8_t>(value));
      }
    }
  }
  png_destroy_read_struct(&png, &info, nullptr);
  std::fclose(file);
  return pixels;
}

/// ${QUADRAT_SHARED}/data; a missing folder is a failure, never a skip.
inline std::filesystem::path shared_data() {
  const char* shared = std::getenv("QUADRAT_SHARED");
  const std::filesystem::path data = std::filesystem::path(shared ? shared : "../shared") / "data";
  if (!std::filesystem::is_directory(data)) {
    throw std::runtime_error("no folder '" + data.string() + "'; set QUADRAT_SHARED");
  }
  return data;
}

inline std::vector<std::filesystem::path> pngs_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".png") paths.push_back(entry.path());
  }
  return paths;
}

}  // namespace quadrat::test
