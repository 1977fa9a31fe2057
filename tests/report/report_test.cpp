#include "quadrat/report/report.h"

#include <gdal_priv.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <ogrsf_frmts.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "made_records.h"
#include "placed_records.h"
#include "quadrat/base/error.h"
#include "quadrat/report/analysis.h"
#include "quadrat/report/county.h"
#include "test_folder.h"

namespace quadrat::report {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class ReportTest : public test::InFolder {
 protected:
  void SetUp() override {
    InFolder::SetUp();
    options_.runs = folder_ / "runs";
    options_.scores_folder = folder_ / "scores";
    options_.output = folder_ / "report";
  }

  void keep(RunRecord run, const std::string& name) {
    make_folder(options_.runs / name);
    write_run_record(options_.runs / name / "run.h5", run);
    options_.run = name;
  }
  void keep(ScoreRecord scores, const std::string& name) {
    make_folder(options_.scores_folder / name);
    write_score_record(options_.scores_folder / name / "scores.h5", scores);
    options_.scores = name;
  }
  std::string page() {
    const Bytes bytes = read_file(options_.output / "index.html");
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  ReportOptions options_;
};

ScoreRecord placed(std::uint64_t year, std::uint32_t across, const std::string& crs = "EPSG:26919",
                   double left = 280123.25, double top = 4710321.5, double side_m = 224) {
  ScoreRecord scores = test::made_scores(year, across, 0.11 + 0.05 * static_cast<double>(year));
  test::place(scores, across, crs, left, top, side_m);
  return scores;
}

/// The tiles of two images as one county.
void append(ScoreRecord& record, const ScoreRecord& more) {
  const auto add = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (const std::string& tile : more.predictions.tiles)
    record.predictions.tiles.push_back("b" + tile);
  add(record.predictions.predicted, more.predictions.predicted);
  add(record.predictions.probabilities, more.predictions.probabilities);
  add(record.corners, more.corners);
}

TEST(Analysis, sample_classes_merge_into_three) {
  const std::vector<std::string> classes{"Barren", "Cultivated", "Developed",
                                         "Forest", "Herbaceous", "Shrub"};
  std::vector<std::int64_t> confusion(36);
  for (std::size_t i = 0; i < 36; ++i) confusion[i] = static_cast<std::int64_t>(i + 1);
  const auto merged = merge_as_sample(confusion, classes);
  ASSERT_TRUE(merged);
  EXPECT_THAT(merged->classes, ElementsAre("Developed", "Cultivated", "Undeveloped"));
  // By hand: rows and columns 2; 1; and 0, 3, 4, 5.
  EXPECT_THAT(merged->confusion, ElementsAre(15, 14, 13 + 16 + 17 + 18, 9, 8, 7 + 10 + 11 + 12,
                                             3 + 21 + 27 + 33, 2 + 20 + 26 + 32,
                                             1 + 4 + 5 + 6 + 19 + 22 + 23 + 24 + 25 + 28 + 29 + 30 +
                                                 31 + 34 + 35 + 36));
  EXPECT_FALSE(merge_as_sample(std::vector<std::int64_t>(4), {"a", "b"}));
}

Predictions four_tiles() {
  Predictions p;
  p.tiles = {"a", "b", "c", "d"};
  p.labels = {0, 0, 1, 1};
  p.predicted = {0, 1, 1, 0};
  p.probabilities = {0.92F, 0.08F, 0.05F, 0.95F, 0.35F, 0.65F, 0.62F, 0.38F};
  return p;
}

TEST(Analysis, calibration_by_hand) {
  const Calibration result = calibrate(four_tiles(), 2);
  // 0.6..0.7 holds c (right, 0.65) and d (wrong, 0.62); 0.9..1 holds a (right, 0.92) and b (wrong,
  // 0.95).
  EXPECT_EQ(result.bins[6].tiles, 2);
  EXPECT_NEAR(result.bins[6].confidence, 0.635, 1e-6);
  EXPECT_EQ(result.bins[6].accuracy, 0.5);
  EXPECT_EQ(result.bins[9].tiles, 2);
  EXPECT_NEAR(result.expected_error, 0.5 * 0.135 + 0.5 * 0.435, 1e-6);
}

TEST(Analysis, mistakes_come_surest_first) {
  EXPECT_THAT(confident_mistakes(four_tiles(), 2, 10), ElementsAre(1U, 3U));
  EXPECT_THAT(confident_mistakes(four_tiles(), 2, 1), ElementsAre(1U));
}

TEST(Analysis, probabilities_that_are_none_do_no_harm) {
  Predictions p = four_tiles();
  p.probabilities[0] = std::nanf("");
  p.probabilities[3] = INFINITY;
  EXPECT_EQ(confidence(p, 2, 0), 0);
  EXPECT_TRUE(std::isfinite(calibrate(p, 2).expected_error));
  EXPECT_EQ(confident_mistakes(p, 2, 10).size(), 2U);
}

struct Place {
  const char* crs;
  double left, top, side_m;
};
class GridTest : public ::testing::TestWithParam<Place> {};

TEST_P(GridTest, is_found_to_the_decimetre) {
  const auto& [crs, left, top, side_m] = GetParam();
  const ScoreRecord scores = placed(1, 40, crs, left, top, side_m);
  ASSERT_FALSE(scores.rejected.empty());  // so that there are holes
  const TileGrid grid = find_grid(scores.corners);
  EXPECT_EQ(grid.crs, crs);
  EXPECT_EQ(grid.width, 40U);
  EXPECT_EQ(grid.height, 40U);
  EXPECT_EQ(grid.side_m, side_m);
  EXPECT_NEAR(grid.left, left, 0.1);
  EXPECT_NEAR(grid.top, top, 0.1);
  EXPECT_EQ(grid.covered, 0U);
  for (std::size_t i = 0; i < scores.predictions.tiles.size(); ++i) {
    const auto number =
        static_cast<std::uint32_t>(std::stoi(scores.predictions.tiles[i].substr(7)));
    ASSERT_EQ(grid.cell_of[i], number);
    ASSERT_EQ(grid.tile_at[number], static_cast<std::int32_t>(i));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Places, GridTest,
    ::testing::Values(Place{"EPSG:26919", 280123.25, 4710321.5, 224},
                      // A zone's tiles that lie in the next one, and a grid across its middle.
                      Place{"EPSG:26918", 780000, 4710000, 224},
                      Place{"EPSG:26919", 498000, 4710000, 224},
                      Place{"EPSG:5070", 1900000, 2300000, 224},
                      Place{"EPSG:32734", 300000, 6300000, 120}));

TEST(Grid, two_images_each_with_its_own_offset) {
  ScoreRecord first = placed(1, 20);
  const ScoreRecord second =
      placed(2, 20, "EPSG:26919", 280123.25 + 22 * 224 + 30, 4710321.5 - 57, 224);
  first.corners.insert(first.corners.end(), second.corners.begin(), second.corners.end());
  const TileGrid grid = find_grid(first.corners);
  EXPECT_EQ(grid.width, 42U);
  EXPECT_EQ(grid.height, 20U);
  EXPECT_EQ(grid.covered, 0U);
  EXPECT_EQ(grid.cell_of.size(), first.corners.size());
}

TEST(Grid, refuses_a_tile_that_its_sample_missed_and_that_has_no_place_beside_the_others) {
  // Of 1,600 tiles every third is looked at first.
  std::vector<TileCorners> corners;
  for (int i = 0; i < 1600; ++i) {
    const double lat = 40 + 0.002 * (i / 40), lon = 117 + 0.0026 * (i % 40);
    corners.push_back({lat, lon, lat + 0.002, lon + 0.0026});
  }
  EXPECT_NO_THROW(find_grid(corners));
  const TileCorners usual = corners[1000];
  for (const double lon : {27.0, 28.5, 204.0 - 360}) {
    corners[1000] = {0, lon, 0.002, lon + 0.0026};
    try {
      find_grid(corners);
      ADD_FAILURE() << lon;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), testing::AnyOf(testing::HasSubstr("tile 1000 lies too far"),
                                               testing::HasSubstr("tiles apart")))
          << lon;
    }
  }
  corners[1000] = usual;
  for (std::size_t i = 0; i < corners.size(); ++i) {
    if (i % 3 != 0) corners[i] = {40, 117, 40, 117};
  }
  EXPECT_THROW(find_grid(corners), InputError);
}

TEST(Grid, refuses_what_is_no_place) {
  const auto grid_of = [](const TileCorners& corners) { find_grid({corners, corners}); };
  EXPECT_THROW(find_grid({}), InputError);
  EXPECT_THROW(grid_of({91, 0, 92, 1}), InputError);
  EXPECT_THROW(grid_of({std::nan(""), 0, 1, 1}), InputError);
  EXPECT_THROW(grid_of({42, -71, 42, -71}), InputError);            // no size
  EXPECT_THROW(grid_of({42.01, -71.01, 42.0, -71.0}), InputError);  // upside down
  EXPECT_THROW(find_grid({{42, -71, 42.000001, -70.9999985}, {-42, 100, -41.999999, 100.0000015}}),
               InputError);
}

TEST(Smooth, plurality_of_nine_with_ties_for_the_tile_itself) {
  TileGrid grid;
  grid.width = grid.height = 3;
  for (std::uint32_t i = 0; i < 9; ++i) {
    grid.tile_at.push_back(static_cast<std::int32_t>(i));
    grid.cell_of.push_back(i);
  }
  EXPECT_EQ(smooth(grid, {0, 0, 0, 0, 1, 0, 0, 0, 0}, 2)[4], 0);
  // A corner sees four cells: two of each class leave it as it is.
  EXPECT_EQ(smooth(grid, {1, 0, 0, 1, 0, 0, 0, 0, 0}, 2)[0], 1);
  EXPECT_EQ(smooth(grid, {0, 1, 0, 1, 0, 0, 0, 0, 0}, 2)[0], 0);
  // Three classes, the tile's own in the minority: the first of those that tie.
  EXPECT_EQ(smooth(grid, {2, 2, 1, 1, 0, 2, 2, 1, 1}, 3)[4], 1);
  // Holes have no say.
  grid.tile_at[1] = grid.tile_at[2] = grid.tile_at[5] = TileGrid::kNoTile;
  EXPECT_EQ(smooth(grid, {0, 1, 1, 0, 0, 1, 1, 1, 1}, 2)[4], 0);
}

TEST(Match, by_place_and_by_name) {
  const ScoreRecord before = placed(1, 30);
  ScoreRecord after = placed(2, 30, "EPSG:26919", 280123.25 + 2 * 224, 4710321.5, 224);
  TileGrid grid = find_grid(after.corners);
  const std::vector<Pair> pairs = match(before, after, &grid);
  // Two columns of each have no partner, and each rejected tile costs one.
  EXPECT_GE(pairs.size(), 28U * 30U - 2U);
  for (const Pair& pair : pairs) {
    ASSERT_NEAR(before.corners[pair.before].llcrnrlat, after.corners[pair.after].llcrnrlat, 1e-6);
    ASSERT_NEAR(before.corners[pair.before].llcrnrlon, after.corners[pair.after].llcrnrlon, 1e-6);
  }
  EXPECT_EQ(match(before, after, nullptr).size(), before.predictions.tiles.size());
  after.classes[0] = "Other";
  EXPECT_THROW(match(before, after, nullptr), InputError);
}

TEST_F(ReportTest, everything_at_once) {
  keep(test::made_run("made"), "made");
  keep(placed(1, 40), "year1");
  keep(placed(2, 40), "year2");
  options_.versus = "year1";
  const ReportResult result = write_report(options_);
  EXPECT_EQ(result.files.size(), 5U);
  for (const Path& file : result.files) EXPECT_TRUE(std::filesystem::exists(file)) << file;
  const std::string html = page();
  for (const char* part : {"id=\"map\"", "id=\"change\"", "id=\"training\"", "id=\"confusion\"",
                           "id=\"classes\"", "id=\"calibration\"", "id=\"mistakes\"",
                           "id=\"settings\"", "Undeveloped", "layer-settled", "id=\"map-data\""}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  EXPECT_THAT(html,
              AllOf(Not(HasSubstr("http:")), Not(HasSubstr("https:")), Not(HasSubstr("@import"))));
}

TEST_F(ReportTest, map_is_read_back_by_gdal) {
  const ScoreRecord scores = placed(2, 40);
  keep(scores, "county");
  write_report(options_);
  GDALAllRegister();
  const GDALDatasetUniquePtr map(
      GDALDataset::Open((options_.output / "map.tif").c_str(), GDAL_OF_RASTER));
  ASSERT_TRUE(map);
  double k[6];
  ASSERT_EQ(map->GetGeoTransform(k), CE_None);
  EXPECT_NEAR(k[0], 280123.25, 0.1);
  EXPECT_EQ(k[1], 224);
  EXPECT_NEAR(k[3], 4710321.5, 0.1);
  EXPECT_EQ(k[5], -224);
  EXPECT_STREQ(map->GetSpatialRef()->GetAuthorityCode(nullptr), "26919");
  GDALRasterBand* band = map->GetRasterBand(1);
  EXPECT_EQ(band->GetNoDataValue(), 255);
  ASSERT_NE(band->GetColorTable(), nullptr);
  EXPECT_EQ(band->GetColorTable()->GetColorEntry(2)->c1, 0xDF);
  std::vector<std::uint8_t> pixels(1600);
  ASSERT_EQ(band->RasterIO(GF_Read, 0, 0, 40, 40, pixels.data(), 40, 40, GDT_Byte, 0, 0), CE_None);
  std::size_t holes = 1600;
  for (std::size_t i = 0; i < scores.predictions.tiles.size(); ++i, --holes) {
    const auto number = static_cast<std::size_t>(std::stoi(scores.predictions.tiles[i].substr(7)));
    ASSERT_EQ(pixels[number], scores.predictions.predicted[i]);
  }
  EXPECT_EQ(static_cast<std::size_t>(std::count(pixels.begin(), pixels.end(), 255)), holes);

  const GDALDatasetUniquePtr tiles(
      GDALDataset::Open((options_.output / "tiles.gpkg").c_str(), GDAL_OF_VECTOR));
  ASSERT_TRUE(tiles);
  OGRLayer* layer = tiles->GetLayerByName("tiles");
  ASSERT_NE(layer, nullptr);
  EXPECT_EQ(layer->GetFeatureCount(), static_cast<GIntBig>(scores.predictions.tiles.size()));
  OGREnvelope extent;
  ASSERT_EQ(layer->GetExtent(&extent), OGRERR_NONE);
  EXPECT_NEAR(extent.MinX, 280123.25, 0.5);
  EXPECT_NEAR(extent.MaxX, 280123.25 + 40 * 224, 0.5);
  EXPECT_NEAR(extent.MinY, 4710321.5 - 40 * 224, 0.5);
  EXPECT_NEAR(extent.MaxY, 4710321.5, 0.5);
  std::size_t i = 0;
  for (const auto& feature : *layer) {
    ASSERT_STREQ(feature->GetFieldAsString("tile"), scores.predictions.tiles[i].c_str());
    ASSERT_STREQ(feature->GetFieldAsString("class"),
                 scores.classes[scores.predictions.predicted[i]].c_str());
    ASSERT_NEAR(feature->GetFieldAsDouble("p_Forest"), scores.predictions.probabilities[i * 6 + 3],
                1e-6);
    // The square lies where the tile's corners say.
    OGREnvelope square;
    feature->GetGeometryRef()->getEnvelope(&square);
    std::vector<geo::Point> corner{{scores.corners[i].llcrnrlon, scores.corners[i].llcrnrlat}};
    if (i % 100 == 0) {
      geo::Projector(geo::kLonLat, "EPSG:26919").transform(corner);
      ASSERT_NEAR(square.MinX, corner[0].x, 0.5);
      ASSERT_NEAR(square.MinY, corner[0].y, 0.5);
    }
    ++i;
  }
  EXPECT_NE(tiles->GetLayerByName("layer_styles"), nullptr);
}

TEST_F(ReportTest, ground_that_two_images_show_counts_once) {
  // 20 x 20 tiles, and as many again three columns of which lie where the first ones do.
  ScoreRecord scores = placed(1, 20);
  append(scores, placed(2, 20, "EPSG:26919", 280123.25 + 17 * 224 + 40, 4710321.5, 224));
  const auto has_tile = [](std::uint8_t pixel) { return pixel != 255; };
  ScoreRecord before = scores;
  before.corners.clear();  // then the two are matched by name
  keep(before, "before");
  keep(scores, "county");
  options_.versus = "before";
  write_report(options_);
  GDALAllRegister();
  const GDALDatasetUniquePtr map(
      GDALDataset::Open((options_.output / "map.tif").c_str(), GDAL_OF_RASTER));
  ASSERT_TRUE(map);
  ASSERT_EQ(map->GetRasterXSize(), 37);
  std::vector<std::uint8_t> pixels(37 * 20);
  ASSERT_EQ(
      map->GetRasterBand(1)->RasterIO(GF_Read, 0, 0, 37, 20, pixels.data(), 37, 20, GDT_Byte, 0, 0),
      CE_None);
  const auto on_map = std::count_if(pixels.begin(), pixels.end(), has_tile);
  ASSERT_LT(on_map, static_cast<std::ptrdiff_t>(scores.corners.size()));
  const double km2 = static_cast<double>(on_map) * 0.224 * 0.224;
  const std::string html = page();
  EXPECT_THAT(html, HasSubstr("<dd>" + std::to_string(std::lround(km2)) + " km\u00B2</dd>"));
  char total[32];
  std::snprintf(total, sizeof total, "%.1f", km2);
  EXPECT_THAT(html, HasSubstr("all</th><td class=\"bar-cell\">" + std::string(total) + "</td>"));
  EXPECT_THAT(html, HasSubstr("Of " + std::string(total) + " km\u00B2 (" + std::to_string(on_map) +
                              " tiles) that both have"));
  EXPECT_THAT(html, Not(HasSubstr("are not in before")));
  // Shares are of what is on the map: the class of the first row by its pixels.
  std::snprintf(total, sizeof total, "%.1f\u00A0%%",
                100.0 * static_cast<double>(std::count(pixels.begin(), pixels.end(), 0)) /
                    static_cast<double>(on_map));
  EXPECT_THAT(html, HasSubstr("</td><td>" + std::string(total) + "</td>"));
}

/// Two images, the second of which has a grid of its own, 100 m off the first one's, or is of
/// another zone.
TEST_F(ReportTest, polygons_lie_where_tiles_are_and_not_where_cells_are) {
  ScoreRecord scores = placed(1, 12);
  const std::size_t first = scores.corners.size();
  std::vector<geo::Point> elsewhere{{280123.25, 4690000}};
  geo::Projector("EPSG:26919", "EPSG:26918").transform(elsewhere);
  append(scores, placed(2, 5, "EPSG:26919", 280123.25 + 14 * 224 + 100, 4710321.5 + 90, 224));
  append(scores, placed(2, 5, "EPSG:26918", elsewhere[0].x, elsewhere[0].y, 224));
  keep(scores, "county");
  write_report(options_);
  GDALAllRegister();
  const GDALDatasetUniquePtr tiles(
      GDALDataset::Open((options_.output / "tiles.gpkg").c_str(), GDAL_OF_VECTOR));
  ASSERT_TRUE(tiles);
  const geo::Projector projector(geo::kLonLat, "EPSG:26919");
  std::size_t i = 0;
  for (const auto& feature : *tiles->GetLayerByName("tiles")) {
    const TileCorners& c = scores.corners[i];
    std::vector<geo::Point> ends{{c.llcrnrlon, c.llcrnrlat}, {c.urcrnrlon, c.urcrnrlat}};
    projector.transform(ends);
    const OGRPolygon* square = feature->GetGeometryRef()->toPolygon();
    const OGRLinearRing* ring = square->getExteriorRing();
    ASSERT_EQ(ring->getNumPoints(), 5);
    ASSERT_NEAR(ring->getX(0), ends[0].x, 0.05) << i;
    ASSERT_NEAR(ring->getY(0), ends[0].y, 0.05) << i;
    ASSERT_NEAR(ring->getX(2), ends[1].x, 0.05) << i;
    ASSERT_NEAR(ring->getY(2), ends[1].y, 0.05) << i;
    ASSERT_NEAR(square->get_Area(), 224 * 224, i < first ? 30 : 60) << i;
    ASSERT_TRUE(square->IsValid());
    ++i;
  }
  EXPECT_EQ(i, scores.corners.size());
}

TEST_F(ReportTest, corners_from_tile_summaries) {
  ScoreRecord scores = placed(1, 12);
  std::string csv = "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon\n";
  for (std::size_t i = 0; i < scores.corners.size(); ++i) {
    const TileCorners& c = scores.corners[i];
    csv += scores.predictions.tiles[i] + "," + std::to_string(c.llcrnrlat) + "," +
           std::to_string(c.llcrnrlon) + "," + std::to_string(c.urcrnrlat) + "," +
           std::to_string(c.urcrnrlon) + "\r\n";
  }
  scores.corners.clear();
  keep(scores, "county");
  EXPECT_THAT(write_report(options_).notes, ElementsAre(HasSubstr("--tile_summaries")));
  options_.tile_summaries = folder_ / "tile_summaries.csv";
  write_file(options_.tile_summaries, csv);
  // Six decimals are 10 cm: enough for the grid.
  EXPECT_EQ(write_report(options_).files.size(), 4U);
  const auto fails_with = [&](const std::string& content, const std::string& what) {
    write_file(options_.tile_summaries, content);
    try {
      write_report(options_);
      FAIL() << what;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), HasSubstr(what));
    }
  };
  fails_with("file,lat\n", "first line");
  fails_with(csv + "x.png,1,2,3\n", "line");
  fails_with(csv.substr(0, csv.size() / 2).substr(0, csv.rfind('\n', csv.size() / 2) + 1),
             "none of them");
}

TEST_F(ReportTest, hostile_names_stay_text) {
  RunRecord run = test::made_run("made", 0, 60);
  const std::string attack = "</script><script>alert(1)</script>\"'&\xFF";
  run.name = attack;
  run.config.emplace_back(attack, attack);
  run.classes[2] = "<b>Developed";
  for (std::string& tile : run.validation.tiles) tile = "../../" + attack;
  keep(run, "made");
  ScoreRecord scores = placed(1, 12);
  for (std::size_t i = 0; i < scores.predictions.tiles.size(); ++i)
    scores.predictions.tiles[i] += attack;
  scores.rejected.push_back({attack, attack});
  keep(scores, "county");
  write_report(options_);
  const std::string html = page();
  EXPECT_THAT(html, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(html, Not(HasSubstr("<b>Developed")));
  EXPECT_THAT(html, HasSubstr("&lt;b&gt;Developed"));
}

TEST_F(ReportTest, runs_that_have_only_begun) {
  RunRecord run = test::made_run("made", 0, 0, 0);
  run.status = RunStatus::kRunning;
  keep(run, "made");
  ScoreRecord scores;
  scores.classes = run.classes;
  keep(scores, "county");
  write_report(options_);
  EXPECT_THAT(page(), AllOf(HasSubstr("is running"), HasSubstr("no classified tile yet")));
}

TEST_F(ReportTest, a_first_loss_far_above_the_others_leaves_them_the_chart) {
  RunRecord run = test::made_run("made");
  run.epochs[0].validation_loss = 51.5;
  keep(run, "made");
  keep(placed(1, 1), "county");
  write_report(options_);
  EXPECT_THAT(page(), AllOf(HasSubstr("51.5 \u2191"), HasSubstr(">1.5</text>")));
}

TEST_F(ReportTest, leaves_nothing_of_an_earlier_report_and_all_that_is_not_one) {
  const auto names = [&] {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(options_.output))
      found.insert(entry.path().filename().string());
    return found;
  };
  keep(test::made_run("made"), "made");
  keep(placed(1, 12), "year1");
  keep(placed(2, 12), "year2");
  options_.versus = "year1";
  write_report(options_);
  EXPECT_THAT(names(), ElementsAre("changes.csv", "index.html", "map.tif", "map.tif.aux.xml",
                                   "map_smoothed.tif", "map_smoothed.tif.aux.xml", "tiles.gpkg"));
  write_file(options_.output / "notes.txt", std::string_view("mine"));
  options_.versus.clear();
  write_report(options_);
  EXPECT_EQ(names().count("changes.csv"), 0U);
  EXPECT_EQ(names().count("map.tif"), 1U);
  options_.scores.clear();
  write_report(options_);
  EXPECT_THAT(names(), ElementsAre("index.html", "notes.txt"));

  // Where no page of ours speaks of them, they are the user's: at the first report and at the next.
  options_.output = folder_ / "home";
  make_folder(options_.output);
  for (const char* name : {"map.tif", "map.tif.aux.xml", "changes.csv"})
    write_file(options_.output / name, std::string_view("mine"));
  for (int i = 0; i < 2; ++i) {
    write_report(options_);
    EXPECT_THAT(names(), ElementsAre("changes.csv", "index.html", "map.tif", "map.tif.aux.xml"));
  }
}

TEST_F(ReportTest, one_epoch_and_one_tile) {
  keep(test::made_run("made", 0, 6, 1), "made");
  keep(placed(1, 1), "county");
  EXPECT_EQ(write_report(options_).files.size(), 4U);
}

TEST_F(ReportTest, usage_and_missing_names) {
  EXPECT_THROW(write_report(options_), UsageError);
  options_.versus = "year1";
  options_.run = "made";
  EXPECT_THROW(write_report(options_), UsageError);
  options_.versus.clear();
  keep(test::made_run("made", 0, 60), "made");
  options_.run = "mode";
  try {
    write_report(options_);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'made'"));
  }
  EXPECT_FALSE(std::filesystem::exists(options_.output));
}

TEST_F(ReportTest, a_path_does_for_a_name) {
  keep(test::made_run("made", 0, 60), "made");
  options_.run = options_.runs / "made";
  options_.runs = "elsewhere";
  write_report(options_);
  EXPECT_THAT(page(), HasSubstr("Training run made"));
}

}  // namespace
}  // namespace quadrat::report
