#include "quadrat/image/png.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "image/layout.h"
#include "png_maker.h"
#include "quadrat/base/error.h"

namespace quadrat {
namespace {

using test::RawPng;
using testing::HasSubstr;

std::string refusal(const std::function<void()>& decode) {
  try {
    decode();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

/// The pixels by libpng alone; none where it refuses.
std::optional<std::vector<std::uint8_t>> by_libpng(std::span<const std::byte> file) {
  try {
    png::Layout layout;
    png::read_layout(file, {}, layout);
    std::vector<std::uint8_t> rgb(layout.pixels() * 3);
    png::decode_with_libpng(file, {}, layout, rgb);
    return rgb;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

std::optional<std::vector<std::uint8_t>> by_decode_png(std::span<const std::byte> file) {
  try {
    return decode_png(file).rgb;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

bool takes_the_quick_way(std::span<const std::byte> file) {
  png::Layout layout;
  png::read_layout(file, {}, layout);
  std::vector<std::uint8_t> rgb(layout.pixels() * 3);
  return png::decode_quickly(layout, rgb);
}

TEST(PngSuite, valid_images_decode_by_the_written_rule) {
  int valid = 0;
  for (const auto& path : test::pngs_in(test::shared_data() / "png/suite")) {
    if (path.filename().string().starts_with("x")) continue;
    SCOPED_TRACE(path.string());
    const Bytes file = read_file(path);
    const test::Pixels expected = test::pixels_by_the_rule(path);
    const Image image = decode_png(file);
    EXPECT_EQ(image.width_px, expected.width);
    EXPECT_EQ(image.height_px, expected.height);
    EXPECT_TRUE(image.rgb == expected.rgb);
    EXPECT_EQ(read_png_size(file).width_px, expected.width);
    EXPECT_EQ(read_png_size(file).height_px, expected.height);
    ++valid;
  }
  EXPECT_EQ(valid, 161);
}

TEST(PngSuite, bad_images_and_crashers_are_refused) {
  int refused = 0;
  for (const char* folder : {"png/suite", "png/crashers"}) {
    for (const auto& path : test::pngs_in(test::shared_data() / folder)) {
      if (folder == std::string("png/suite") && !path.filename().string().starts_with("x"))
        continue;
      SCOPED_TRACE(path.string());
      const std::string message = refusal([&] { decode_png(read_file(path)); });
      EXPECT_THAT(message, testing::StartsWith("cannot decode PNG: "));
      EXPECT_THAT(message, testing::Not(HasSubstr("\n")));
      ++refused;
    }
  }
  EXPECT_EQ(refused, 14 + 27);
}

TEST(QuickDecoding, real_tiles_equal_libpng) {
  int tiles = 0;
  std::vector<std::uint8_t> rgb(224 * 224 * 3);
  for (const auto& path : test::pngs_in(test::shared_data() / "tiles")) {
    const Bytes file = read_file(path);
    decode_png_tile(file, 224, rgb);
    EXPECT_TRUE(takes_the_quick_way(file)) << path;
    EXPECT_EQ(by_libpng(file), rgb) << path;
    ++tiles;
  }
  EXPECT_EQ(tiles, 361);
}

TEST(QuickDecoding, every_filter_and_width_equals_libpng) {
  std::mt19937 random(1);
  for (std::uint32_t width = 1; width < 40; ++width) {
    const std::uint32_t height = 12;
    std::vector<std::uint8_t> coded((1 + 3 * width) * height);
    for (auto& byte : coded) byte = static_cast<std::uint8_t>(random());
    for (std::uint32_t y = 0; y < height; ++y) {
      coded[y * (1 + 3 * width)] = static_cast<std::uint8_t>((y + width) % 5);
    }
    RawPng png = test::rgb_png(width, height, coded);
    if (width % 2) png.split_data(100);
    const Bytes file = png.file();
    ASSERT_TRUE(takes_the_quick_way(file));
    EXPECT_EQ(by_decode_png(file), by_libpng(file)) << width;
  }
}

struct Damage {
  const char* name;
  std::function<Bytes(RawPng)> apply;
  bool accepted;
};

Bytes without_end(RawPng png) {
  png.chunks.pop_back();
  return png.file();
}

const std::uint32_t kSide = 24;

std::vector<std::uint8_t> coded_rows(std::uint8_t filter) {
  auto rows = test::noisy_pixels(kSide, kSide + 10, 3);
  rows.resize(kSide * (1 + 3 * kSide));
  for (std::uint32_t y = 0; y < kSide; ++y) rows[y * (1 + 3 * kSide)] = filter;
  return rows;
}

const std::vector<Damage>& damages() {
  static const std::vector<Damage> list = {
      {"none", [](RawPng png) { return png.file(); }, true},
      {"bytes after the end",
       [](RawPng png) {
         Bytes file = png.file();
         file.resize(file.size() + 7, std::byte{1});
         return file;
       },
       true},
      {"an empty data chunk",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"IDAT", {}});
         return png.file();
       },
       true},
      {"a text chunk",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"tEXt", Bytes(9, std::byte{'a'})});
         return png.file();
       },
       true},
      {"an unknown ancillary chunk",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"quAd", Bytes(9)});
         return png.file();
       },
       true},
      {"a suggested palette",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"PLTE", Bytes(9)});
         return png.file();
       },
       true},
      {"an unknown critical chunk",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"QUAD", Bytes(9)});
         return png.file();
       },
       false},
      {"wrong CRC of the header",
       [](RawPng png) {
         png.first("IHDR").crc_is_right = false;
         return png.file();
       },
       false},
      {"wrong CRC of the data",
       [](RawPng png) {
         png.first("IDAT").crc_is_right = false;
         return png.file();
       },
       false},
      {"wrong CRC of the end",
       [](RawPng png) {
         png.first("IEND").crc_is_right = false;
         return png.file();
       },
       false},
      {"wrong CRC of a text chunk",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"tEXt", Bytes(9, std::byte{'a'}), false});
         return png.file();
       },
       false},
      {"wrong Adler-32",
       [](RawPng png) {
         png.first("IDAT").content.back() ^= std::byte{1};
         return png.file();
       },
       false},
      {"no end", without_end, false},
      {"an end with content",
       [](RawPng png) {
         png.first("IEND").content.resize(1);
         return png.file();
       },
       false},
      {"no data",
       [](RawPng png) {
         png.chunks.erase(png.chunks.begin() + 1);
         return png.file();
       },
       false},
      {"two headers",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin(), png.chunks.front());
         return png.file();
       },
       false},
      {"data before the header",
       [](RawPng png) {
         std::swap(png.chunks[0], png.chunks[1]);
         return png.file();
       },
       false},
      {"a chunk between data chunks",
       [](RawPng png) {
         png.split_data(300);
         png.chunks.insert(png.chunks.begin() + 2, {"tEXt", Bytes(9, std::byte{'a'})});
         return png.file();
       },
       false},
      {"bytes after the stream",
       [](RawPng png) {
         png.first("IDAT").content.resize(png.first("IDAT").content.size() + 3);
         return png.file();
       },
       false},
      {"a data chunk after the stream",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 2, {"IDAT", Bytes(5)});
         return png.file();
       },
       true},
      {"a stream that is cut short",
       [](RawPng png) {
         png.first("IDAT").content.resize(png.first("IDAT").content.size() / 2);
         return png.file();
       },
       false},
      {"a stream without its last byte",
       [](RawPng png) {
         png.first("IDAT").content.pop_back();
         return png.file();
       },
       false},
      {"too many rows",
       [](RawPng png) {
         auto rows = coded_rows(4);
         rows.resize(rows.size() + 1 + 3 * kSide);
         png.first("IDAT").content = test::zlib_stream(rows);
         return png.file();
       },
       false},
      {"one byte too many",
       [](RawPng png) {
         auto rows = coded_rows(4);
         rows.resize(rows.size() + 1);
         png.first("IDAT").content = test::zlib_stream(rows);
         return png.file();
       },
       false},
      {"a row missing",
       [](RawPng png) {
         auto rows = coded_rows(4);
         rows.resize(rows.size() - 1 - 3 * kSide);
         png.first("IDAT").content = test::zlib_stream(rows);
         return png.file();
       },
       false},
      {"an unknown filter",
       [](RawPng png) {
         auto rows = coded_rows(4);
         rows[7 * (1 + 3 * kSide)] = 5;
         png.first("IDAT").content = test::zlib_stream(rows);
         return png.file();
       },
       false},
      {"another compression method",
       [](RawPng png) {
         png.first("IHDR").content[10] = std::byte{1};
         return png.file();
       },
       false},
      {"an unknown interlace method",
       [](RawPng png) {
         png.first("IHDR").content[12] = std::byte{2};
         return png.file();
       },
       false},
      {"a preset dictionary",
       [](RawPng png) {
         png.first("IDAT").content[1] = std::byte{0xbb};
         return png.file();
       },
       false},
      {"a header one byte longer",
       [](RawPng png) {
         png.first("IHDR").content.resize(14);
         return png.file();
       },
       false},
      {"bad gamma",
       [](RawPng png) {
         png.chunks.insert(png.chunks.begin() + 1, {"gAMA", Bytes(3)});
         return png.file();
       },
       false},
  };
  return list;
}

TEST(QuickDecoding, accepts_and_refuses_as_libpng_does) {
  const RawPng good = test::rgb_png(kSide, kSide, coded_rows(4));
  for (const Damage& damage : damages()) {
    SCOPED_TRACE(damage.name);
    const Bytes file = damage.apply(good);
    EXPECT_EQ(by_libpng(file).has_value(), damage.accepted);
    EXPECT_EQ(by_decode_png(file), by_libpng(file));
  }
}

TEST(QuickDecoding, takes_tiles_with_chunks_that_say_nothing_of_colours) {
  const RawPng plain = test::rgb_png(kSide, kSide, coded_rows(4));
  for (const char* name : png::kColourless) {
    for (const std::ptrdiff_t place : {1, 2}) {
      SCOPED_TRACE(fmt::format("{} as chunk {}", name, place));
      RawPng png = plain;
      png.chunks.insert(png.chunks.begin() + place, {name, Bytes(7, std::byte{'a'})});
      const Bytes file = png.file();
      EXPECT_TRUE(takes_the_quick_way(file));
      EXPECT_EQ(by_decode_png(file), by_decode_png(plain.file()));
      EXPECT_EQ(by_libpng(file), by_decode_png(file));
    }
  }
  for (const char* name : {"tRNS", "PLTE", "gAMA", "prVt"}) {
    RawPng png = plain;
    png.chunks.insert(png.chunks.begin() + 1, {name, Bytes(6)});
    EXPECT_FALSE(takes_the_quick_way(png.file())) << name;
    EXPECT_EQ(by_decode_png(png.file()), by_libpng(png.file())) << name;
  }
}

TEST(QuickDecoding, every_length_cut_short_is_refused) {
  const Bytes file = test::rgb_png(kSide, kSide, coded_rows(1)).file();
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    const auto part = std::span(file).first(bytes);
    EXPECT_NE(refusal([&] { decode_png(part); }), "") << bytes;
  }
}

TEST(DecodePngTile, says_what_size_it_found) {
  const Bytes file = encode_png(test::noisy_pixels(20, 30, 1), 20, 30);
  std::vector<std::uint8_t> rgb(224 * 224 * 3);
  EXPECT_EQ(refusal([&] { decode_png_tile(file, 224, rgb); }),
            "cannot decode PNG: it is 20x30 px, and 224x224 are expected");
}

TEST(DecodePngTile, refuses_a_place_of_the_wrong_size) {
  const Bytes file = encode_png(test::noisy_pixels(8, 8, 1), 8, 8);
  std::vector<std::uint8_t> rgb(8 * 8 * 3 - 1);
  EXPECT_THAT(refusal([&] { decode_png_tile(file, 8, rgb); }), HasSubstr("191 bytes"));
}

TEST(DecodePng, limits_are_checked_before_memory_is_asked_for) {
  PngLimits limits;
  limits.max_side_px = 100;
  const auto wide = encode_png(test::noisy_pixels(101, 3, 1), 101, 3);
  EXPECT_THAT(refusal([&] { decode_png(wide, limits); }),
              HasSubstr("101x3 px, and at most 100 px"));
  limits.max_side_px = 200;
  limits.max_pixels = 302;
  EXPECT_THAT(refusal([&] { decode_png(wide, limits); }), HasSubstr("302 pixels"));
  limits.max_pixels = 303;
  EXPECT_EQ(decode_png(wide, limits).width_px, 101u);
  limits.max_chunk_bytes = 500;
  EXPECT_THAT(refusal([&] { decode_png(wide, limits); }), HasSubstr("at most 500 are read"));

  RawPng chatty = test::rgb_png(kSide, kSide, coded_rows(0));
  chatty.chunks.insert(chatty.chunks.begin() + 1, 1001, {"quAd", {}});
  EXPECT_THAT(refusal([&] { decode_png(chatty.file()); }), HasSubstr("more than 1000 chunks"));

  // 8,000 x 8,000 px promised by a file of a few hundred bytes.
  RawPng boaster = test::rgb_png(kSide, kSide, coded_rows(0));
  for (const std::size_t at : {2u, 6u}) boaster.first("IHDR").content[at] = std::byte{0x1f};
  EXPECT_THAT(refusal([&] { decode_png(boaster.file()); }), HasSubstr("too few for 7960x7960 px"));
}

TEST(DecodePng, unpacked_text_is_not_kept) {
  // 900 chunks that would unpack to 8 MB each.
  RawPng png = test::rgb_png(kSide, kSide, coded_rows(0));
  const std::vector<std::uint8_t> zeros(8 << 20);
  Bytes text = {std::byte{'a'}, std::byte{0}, std::byte{0}};
  const Bytes stream = test::zlib_stream(zeros);
  text.insert(text.end(), stream.begin(), stream.end());
  png.chunks.insert(png.chunks.begin() + 1, 900, {"zTXt", text});
  EXPECT_EQ(decode_png(png.file()).width_px, kSide);
}

TEST(EncodePng, is_read_back_by_libpng_alone) {
  const std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) / "quadrat_encode_png.png";
  const std::vector<std::pair<std::uint32_t, std::uint32_t>> sizes = {
      {1, 1}, {1, 40}, {40, 1}, {2, 3}, {3, 2}, {31, 33}, {224, 224}, {1000, 7}};
  unsigned seed = 0;
  for (const auto& [width, height] : sizes) {
    for (const int level : {0, 1, 6, 12}) {
      const auto rgb = test::noisy_pixels(width, height, ++seed);
      write_file(path, encode_png(rgb, width, height, level));
      const test::Pixels back = test::pixels_by_the_rule(path);
      EXPECT_EQ(back.width, width);
      EXPECT_EQ(back.height, height);
      EXPECT_TRUE(back.rgb == rgb) << width << 'x' << height << " level " << level;
    }
  }
  std::filesystem::remove(path);
}

TEST(EncodePng, refuses_what_does_not_fit) {
  const std::vector<std::uint8_t> rgb(300);
  EXPECT_THAT(refusal([&] { encode_png(rgb, 10, 11); }),
              HasSubstr("300 bytes were given for 10x11"));
  EXPECT_THAT(refusal([&] { encode_png(rgb, 0, 0); }), HasSubstr("0x0 px"));
  EXPECT_THAT(refusal([&] { encode_png(rgb, 10, 10, 13); }), HasSubstr("level 13"));
}

}  // namespace
}  // namespace quadrat
