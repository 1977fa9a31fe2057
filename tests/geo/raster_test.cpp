#include "quadrat/geo/raster.h"

#include <gdal_priv.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <memory>

#include "files.h"
#include "geo/gdal.h"
#include "quadrat/image/png.h"

namespace quadrat::geo {
namespace {

using test::TemporaryFolder;
using test::write_image;
using ::testing::HasSubstr;

std::array<std::uint8_t, 3> pattern(std::int64_t x, std::int64_t y) {
  return {static_cast<std::uint8_t>(1 + (x * 7 + y) % 250),
          static_cast<std::uint8_t>(1 + (x + 3 * y) % 250),
          static_cast<std::uint8_t>(1 + (x ^ y) % 250)};
}

TEST(Raster, reads_back_what_the_writer_wrote) {
  const TemporaryFolder folder;
  write_image(folder.path() / "a.tif", 300, 270, pattern);
  Raster raster = Raster::open_imagery(folder.path() / "a.tif");
  EXPECT_FALSE(raster.is_resampled());
  EXPECT_EQ(raster.width_px(), 300);
  EXPECT_EQ(raster.height_px(), 270);
  std::vector<std::uint8_t> rgb(3 * 20 * 11);
  raster.read_rgb({250, 255, 20, 11}, rgb);
  for (std::int64_t y = 0; y < 11; ++y) {
    for (std::int64_t x = 0; x < 20; ++x) {
      const auto expected = pattern(250 + x, 255 + y);
      for (std::size_t c = 0; c < 3; ++c) {
        ASSERT_EQ(rgb[static_cast<std::size_t>(3 * (y * 20 + x)) + c], expected[c])
            << x << ' ' << y;
      }
    }
  }
}

TEST(Raster, leaves_nothing_behind_where_writing_is_given_up) {
  const TemporaryFolder folder;
  {
    RasterLayout layout;
    layout.width_px = layout.height_px = 100;
    layout.crs = "EPSG:26918";
    RasterWriter writer(folder.path() / "a.tif", layout);
    writer.write_rows(1, std::vector<std::uint8_t>(100));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Raster, resamples_other_pixel_sizes_to_a_metre) {
  const TemporaryFolder folder;
  // 0.6 m, as newer NAIP: a ramp of one grey level a metre eastward.
  write_image(folder.path() / "fine.tif", 400, 400,
              [](std::int64_t x, std::int64_t) {
                const auto level =
                    static_cast<std::uint8_t>(std::lround(0.6 * (static_cast<double>(x) + 0.5)));
                return std::array<std::uint8_t, 3>{level, 100, 200};
              },
              {{300000, 0.6, 0, 4500000, 0, -0.6}});
  Raster raster = Raster::open_imagery(folder.path() / "fine.tif");
  EXPECT_TRUE(raster.is_resampled());
  EXPECT_EQ(raster.width_px(), 240);
  EXPECT_EQ(raster.height_px(), 240);
  EXPECT_NEAR(raster.pixel_to_map().k[1], 1, 1e-9);
  std::vector<std::uint8_t> rgb(3 * 200);
  raster.read_rgb({10, 100, 200, 1}, rgb);
  for (std::size_t x = 0; x < 200; ++x) {
    EXPECT_NEAR(rgb[3 * x], 10.5 + static_cast<double>(x), 1.01) << x;
    EXPECT_EQ(rgb[3 * x + 1], 100);
    EXPECT_EQ(rgb[3 * x + 2], 200);
  }
}

TEST(Raster, brings_degrees_to_the_utm_zone_in_metres) {
  const TemporaryFolder folder;
  RasterLayout layout;
  layout.width_px = layout.height_px = 300;
  layout.bands = 3;
  layout.pixel_to_map = {{-76.5, 1e-5, 0, 40.0, 0, -1e-5}};
  layout.crs = kLonLat;
  {
    RasterWriter writer(folder.path() / "degrees.tif", layout);
    writer.write_rows(300, std::vector<std::uint8_t>(3 * 300 * 300, 77));
    writer.close();
  }
  Raster raster = Raster::open_imagery(folder.path() / "degrees.tif");
  EXPECT_TRUE(raster.is_resampled());
  EXPECT_THAT(raster.crs_wkt(), HasSubstr("UTM zone 18N"));
  EXPECT_NEAR(static_cast<double>(raster.width_px()), 256, 8);  // 0.003 degrees at 40 north
  EXPECT_NEAR(static_cast<double>(raster.height_px()), 333, 8);
  std::vector<std::uint8_t> rgb(3);
  raster.read_rgb({128, 160, 1, 1}, rgb);
  EXPECT_EQ(rgb[0], 77);
}

/// Web Mercator calls metres what at 42 north are 0.744 of one; Albers' metres are of use though
/// they are 1 % off at 49 north.
TEST(Raster, measures_metres_on_the_ground_and_not_on_the_map) {
  const TemporaryFolder folder;
  const auto opened = [&](const std::string& crs, Point place) {
    std::vector<Point> corner{place};
    Projector(kLonLat, crs).transform(corner);
    RasterLayout layout;
    layout.width_px = layout.height_px = 1000;
    layout.bands = 3;
    layout.pixel_to_map = {{corner[0].x, 1, 0, corner[0].y, 0, -1}};
    layout.crs = crs;
    const Path path = folder.path() / (crs.substr(5) + ".tif");
    RasterWriter writer(path, layout);
    writer.write_rows(1000, std::vector<std::uint8_t>(3 * 1000 * 1000, 77));
    writer.close();
    return Raster::open_imagery(path);
  };
  Raster web = opened("EPSG:3857", {-71, 42});
  EXPECT_TRUE(web.is_resampled());
  EXPECT_THAT(web.crs_wkt(), HasSubstr("UTM zone 19N"));
  // 744 m east, 742 m north (PROJ's geod), turned by the zone's convergence of 1.3 degrees.
  EXPECT_NEAR(static_cast<double>(web.width_px()), 744 + 742 * 0.0234, 4);
  EXPECT_NEAR(static_cast<double>(web.height_px()), 742 + 744 * 0.0234, 4);
  std::vector<std::uint8_t> rgb(3);
  web.read_rgb({380, 380, 1, 1}, rgb);
  EXPECT_EQ(rgb[0], 77);
  EXPECT_FALSE(opened("EPSG:5070", {-100, 48.9}).is_resampled());
  EXPECT_FALSE(opened("EPSG:26919", {-72.9, 42}).is_resampled()) << "beyond its zone";
  EXPECT_FALSE(opened("EPSG:32734", {18, -33}).is_resampled());
}

TEST(Raster, clamps_nodata_and_pixels_to_int32_alike) {
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "wide.tif").native();
  for (const double nodata : {-3.4028234663852886e38, 3.4028234663852886e38}) {
    {
      GDALAllRegister();
      std::unique_ptr<GDALDataset> file(GetGDALDriverManager()->GetDriverByName("GTiff")->Create(
          path.c_str(), 2, 1, 1, GDT_Float32, nullptr));
      std::array<double, 6> place{300000, 30, 0, 4500000, 0, -30};
      file->SetGeoTransform(place.data());
      OGRSpatialReference crs;
      crs.importFromEPSG(26918);
      file->SetSpatialRef(&crs);
      file->GetRasterBand(1)->SetNoDataValue(nodata);
      std::array<float, 2> values{static_cast<float>(nodata), 41};
      ASSERT_EQ(file->GetRasterBand(1)->RasterIO(GF_Write, 0, 0, 2, 1, values.data(), 2, 1,
                                                 GDT_Float32, 0, 0, nullptr),
                CE_None);
    }
    Raster raster(path);
    std::vector<std::int32_t> values(2);
    raster.read_band(1, {0, 0, 2, 1}, values);
    EXPECT_EQ(values[0], raster.nodata(1, 7));
    EXPECT_EQ(values[1], 41);
  }
}

TEST(Raster, that_cannot_be_written_leaves_nothing) {
  const TemporaryFolder folder;
  RasterLayout layout;
  layout.width_px = layout.height_px = 4;
  layout.crs = "EPSG:26918";
  layout.pixel_to_map = {{300000, 1, 0, 4500000, 0, -1}};
  {
    const RasterWriter begun(folder.path() / "begun.tif", layout);
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  layout.crs = "no such system";
  EXPECT_THROW(RasterWriter(folder.path() / "begun.tif", layout), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Raster, turns_declared_nodata_black) {
  const TemporaryFolder folder;
  write_image(
      folder.path() / "a.tif", 4, 1,
      [](std::int64_t x, std::int64_t) {
        return x < 2 ? std::array<std::uint8_t, 3>{255, 255, 255}
                     : std::array<std::uint8_t, 3>{255, 255, 7};
      },
      {{300000, 1, 0, 4500000, 0, -1}}, 255);
  Raster raster = Raster::open_imagery(folder.path() / "a.tif");
  std::vector<std::uint8_t> rgb(12);
  raster.read_rgb({0, 0, 4, 1}, rgb);
  EXPECT_THAT(rgb, ::testing::ElementsAre(0, 0, 0, 0, 0, 0, 255, 255, 7, 255, 255, 7));
}

TEST(Raster, believes_a_sidecar_and_leaves_it_as_it_is) {
  const TemporaryFolder folder;
  const Path path = folder.path() / "plain.png";
  write_file(path, encode_png(std::vector<std::uint8_t>{7, 7, 7, 1, 2, 3}, 2, 1, 3));
  std::string sidecar =
      "<PAMDataset>\n  <SRS>EPSG:26918</SRS>\n"
      "  <GeoTransform>300000, 1, 0, 4500000, 0, -1</GeoTransform>\n";
  for (const char* band : {"1", "2", "3"})
    sidecar += std::string("  <PAMRasterBand band=\"") + band +
               "\"><NoDataValue>7</NoDataValue></PAMRasterBand>\n";
  sidecar += "</PAMDataset>\n";
  const Path beside = folder.path() / "plain.png.aux.xml";
  write_file(beside, sidecar);
  {
    Raster raster = Raster::open_imagery(path);
    EXPECT_FALSE(raster.is_resampled());
    EXPECT_EQ(raster.pixel_to_map().k[3], 4500000);
    EXPECT_THAT(raster.crs_wkt(), HasSubstr("UTM zone 18N"));
    std::vector<std::uint8_t> rgb(6);
    raster.read_rgb({0, 0, 2, 1}, rgb);
    EXPECT_THAT(rgb, ::testing::ElementsAre(0, 0, 0, 1, 2, 3));
  }
  EXPECT_EQ(test::text_of(beside), sidecar);
}

/// GDAL keeps what a GeoTIFF cannot hold, such as statistics, in a sidecar when it closes the file.
TEST(Raster, never_writes_a_sidecar) {
  const TemporaryFolder folder;
  const Path path = folder.path() / "a.tif";
  write_image(path, 30, 30, pattern);
  start_gdal();
  for (const bool kept_out : {false, true}) {
    GDALDatasetUniquePtr dataset(GDALDataset::Open(path.c_str(), GDAL_OF_RASTER));
    ASSERT_TRUE(dataset);
    if (kept_out) write_no_sidecar(*dataset);
    dataset->GetRasterBand(1)->SetStatistics(1, 2, 1.5, 0.5);
    dataset.reset();
    EXPECT_EQ(std::filesystem::remove(folder.path() / "a.tif.aux.xml"), !kept_out);
  }
}

TEST(Raster, says_what_is_wrong_with_a_file) {
  const TemporaryFolder folder;
  const auto refusal = [&](const Path& path) {
    return test::message_of([&] { Raster::open_imagery(path); });
  };

  EXPECT_THAT(refusal(folder.path() / "missing.tif"), HasSubstr("missing.tif"));
  write_file(folder.path() / "text.tif", std::string_view("hello"));
  EXPECT_THAT(refusal(folder.path() / "text.tif"), HasSubstr("cannot open raster"));

  // A PNG has no place on the map. Written by hand: a black pixel.
  write_file(folder.path() / "plain.pgm", std::string_view("P6\n1 1\n255\n\1\2\3"));
  EXPECT_THAT(refusal(folder.path() / "plain.pgm"), HasSubstr("no coordinate system"));

  test::write_codes(folder.path() / "one_band.tif", 8, 8,
                    [](auto, auto) { return std::uint8_t{41}; });
  EXPECT_THAT(refusal(folder.path() / "one_band.tif"),
              HasSubstr("it has 1 band, red, green and blue are wanted"));
}

TEST(Raster, names_the_rows_of_a_file_cut_short) {
  const TemporaryFolder folder;
  const Path path = folder.path() / "short.tif";
  write_image(path, 600, 600, pattern);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  const std::string message = test::message_of([&] {
    Raster raster = Raster::open_imagery(path);
    std::vector<std::uint8_t> rgb(3 * 600 * 10);
    raster.read_rgb({0, 580, 600, 10}, rgb);
  });
  EXPECT_THAT(message, HasSubstr("short.tif"));
}

TEST(Projector, agrees_with_published_coordinates) {
  // The Washington Monument's top: 38.889484 N, 77.035278 W; UTM 18S 323481 E 4306483 N (National
  // Geodetic Survey).
  std::vector<Point> points{{-77.035278, 38.889484}};
  Projector(kLonLat, "EPSG:26918").transform(points);
  EXPECT_NEAR(points[0].x, 323481, 3);
  EXPECT_NEAR(points[0].y, 4306483, 3);
}

}  // namespace
}  // namespace quadrat::geo
