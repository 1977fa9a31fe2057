#include "quadrat/report/county.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/record/tile_summaries.h"

namespace quadrat::report {

namespace {

constexpr std::uint64_t kMaxCells =
    400'000'000;  ///< the contiguous United States in tiles, with room to spare

bool is_place(const TileCorners& c) {
  return std::isfinite(c.llcrnrlat) && std::isfinite(c.llcrnrlon) && std::isfinite(c.urcrnrlat) &&
         std::isfinite(c.urcrnrlon) && std::abs(c.llcrnrlat) <= 90 && std::abs(c.urcrnrlat) <= 90 &&
         std::abs(c.llcrnrlon) <= 180 && std::abs(c.urcrnrlon) <= 180;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Sums and quotients of such coordinates stay whole numbers of 64 bits.
bool is_on_map(const geo::Point& point) {
  constexpr double kFarthest_m = 1e9;
  return std::abs(point.x) < kFarthest_m && std::abs(point.y) < kFarthest_m;
}

constexpr double kMinSide_m = 0.01;

/// Corners in a projection. Where one of them has no place in it, `side` and `tilt` are unknown.
struct Projected {
  std::string crs;
  std::vector<geo::Point> lower_left;
  std::vector<geo::Point> upper_right;
  double side = 0;
  double tilt =
      std::numeric_limits<double>::infinity();  ///< how far from upright and square, in radians
};

Projected project(const std::vector<TileCorners>& corners, const std::string& crs) {
  Projected result;
  result.crs = crs;
  for (const TileCorners& c : corners) {
    result.lower_left.push_back({c.llcrnrlon, c.llcrnrlat});
    result.upper_right.push_back({c.urcrnrlon, c.urcrnrlat});
  }
  const geo::Projector projector(geo::kLonLat, crs);
  projector.transform(result.lower_left);
  projector.transform(result.upper_right);
  std::vector<double> sides;
  std::vector<double> tilts;
  for (std::size_t i = 0; i < corners.size(); ++i) {
    const double dx = result.upper_right[i].x - result.lower_left[i].x;
    const double dy = result.upper_right[i].y - result.lower_left[i].y;
    if (!std::isfinite(dx) || !std::isfinite(dy)) return result;
    sides.push_back(0.5 * (dx + dy));
    // An upright square's diagonal rises at 45 degrees.
    tilts.push_back(std::abs(std::atan2(dy, dx) - std::atan(1.0)));
  }
  result.side = median(std::move(sides));
  result.tilt = median(std::move(tilts));
  return result;
}

/// UTM on NAD 83 where the imagery's own zones are (1 to 23 north), on WGS 84 elsewhere.
std::string utm(int zone, bool north) {
  if (north && zone >= 1 && zone <= 23) return fmt::format("EPSG:{}", 26900 + zone);
  return fmt::format("EPSG:{}", (north ? 32600 : 32700) + zone);
}

std::vector<TileCorners> some_of(const std::vector<TileCorners>& corners) {
  constexpr std::size_t kEnough = 500;
  std::vector<TileCorners> chosen;
  const std::size_t step = std::max<std::size_t>(corners.size() / kEnough, 1);
  for (std::size_t i = 0; i < corners.size(); i += step) chosen.push_back(corners[i]);
  return chosen;
}

/// Where most tiles' edges lie within a side, so that the grid follows the largest image exactly.
double common_offset(const std::vector<geo::Point>& points, double geo::Point::*axis, double side) {
  // A circular mean would lie between two images' grids; the median of what lies around the fullest
  // of 64 slots does not.
  constexpr std::size_t kSlots = 64;
  std::vector<std::size_t> counts(kSlots);
  const auto phase = [&](const geo::Point& point) {
    const double share = point.*axis / side;
    return share - std::floor(share);
  };
  for (const geo::Point& point : points)
    ++counts[std::min<std::size_t>(static_cast<std::size_t>(phase(point) * kSlots), kSlots - 1)];
  const auto fullest =
      static_cast<double>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  const double centre = (fullest + 0.5) / kSlots;
  std::vector<double> near;
  for (const geo::Point& point : points) {
    double away = phase(point) - centre;
    away -= std::round(away);
    if (std::abs(away) <= 1.5 / kSlots) near.push_back(away);
  }
  return (centre + median(std::move(near))) * side;
}

}  // namespace

TileGrid find_grid(const std::vector<TileCorners>& corners) {
  const auto refuse = [](const std::string& finding) -> InputError {
    return InputError("draw a map", "", finding, "are these the corners of tiles, in degrees?");
  };
  if (corners.empty()) throw refuse("no tile has corners");
  for (std::size_t i = 0; i < corners.size(); ++i) {
    if (!is_place(corners[i]))
      throw refuse(fmt::format("the corners of tile {} are no place on earth", i));
  }
  const std::vector<TileCorners> sample = some_of(corners);
  std::vector<double> lons;
  std::vector<double> lats;
  for (const TileCorners& c : sample) {
    lons.push_back(c.llcrnrlon);
    lats.push_back(c.llcrnrlat);
  }
  const double lon = median(lons);
  const double lat = median(lats);
  const int zone = std::clamp(static_cast<int>(std::floor((lon + 180) / 6)) + 1, 1, 60);
  std::vector<std::string> candidates;
  for (const int near : {zone, zone - 1, zone + 1}) {
    if (near >= 1 && near <= 60) candidates.push_back(utm(near, lat >= 0));
  }
  if (lat > 22 && lat < 52 && lon > -130 && lon < -64) candidates.emplace_back("EPSG:5070");
  Projected best;
  for (const std::string& crs : candidates) {
    Projected projected = project(sample, crs);
    // Another projection must be clearly straighter than the zone the tiles lie in: 0.2
    // milliradians are 5 cm a tile.
    if (projected.tilt < best.tilt - 2e-4) best = std::move(projected);
  }
  constexpr double kMaxTilt = 0.05;
  if (!(best.tilt < kMaxTilt) || !(best.side >= kMinSide_m))
    throw refuse("they are not squares that stand upright in any projection tried");
  const Projected all = project(corners, best.crs);
  for (std::size_t i = 0; i < corners.size(); ++i) {
    if (!is_on_map(all.lower_left[i]) || !is_on_map(all.upper_right[i]))
      throw refuse(fmt::format("tile {} lies too far from the others to share a map", i));
  }
  // The sample may have been of other tiles than most.
  if (!(all.side >= kMinSide_m)) throw refuse("most of them have no size");

  TileGrid grid;
  grid.crs = best.crs;
  // Corners carry rounding; a whole number of metres is what tiles are cut by.
  grid.side_m = std::abs(all.side - std::round(all.side)) < 0.05 ? std::round(all.side) : all.side;
  const double x0 = common_offset(all.lower_left, &geo::Point::x, grid.side_m);
  const double y0 = common_offset(all.lower_left, &geo::Point::y, grid.side_m);
  std::vector<std::array<std::int64_t, 2>> places;
  std::int64_t min_x = std::numeric_limits<std::int64_t>::max();
  std::int64_t max_x = std::numeric_limits<std::int64_t>::min();
  std::int64_t min_y = min_x;
  std::int64_t max_y = max_x;
  for (const geo::Point& point : all.lower_left) {
    const std::int64_t x = std::llround((point.x - x0) / grid.side_m);
    const std::int64_t y = std::llround((point.y - y0) / grid.side_m);
    places.push_back({x, y});
    min_x = std::min(min_x, x);
    max_x = std::max(max_x, x);
    min_y = std::min(min_y, y);
    max_y = std::max(max_y, y);
  }
  const auto width = static_cast<std::uint64_t>(max_x - min_x + 1);
  const auto height = static_cast<std::uint64_t>(max_y - min_y + 1);
  if (width > kMaxCells || height > kMaxCells || width * height > kMaxCells) {
    throw refuse(fmt::format("the tiles lie {} x {} tiles apart", width, height));
  }
  grid.width = static_cast<std::uint32_t>(width);
  grid.height = static_cast<std::uint32_t>(height);
  // The edge from the tiles themselves: the median takes the corners' rounding out.
  std::vector<double> lefts;
  std::vector<double> bottoms;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const double left =
        all.lower_left[i].x - static_cast<double>(places[i][0] - min_x) * grid.side_m;
    const double bottom =
        all.lower_left[i].y - static_cast<double>(places[i][1] - min_y) * grid.side_m;
    if (std::abs(left - (x0 + static_cast<double>(min_x) * grid.side_m)) < 0.05 * grid.side_m)
      lefts.push_back(left);
    if (std::abs(bottom - (y0 + static_cast<double>(min_y) * grid.side_m)) < 0.05 * grid.side_m) {
      bottoms.push_back(bottom);
    }
  }
  grid.left =
      lefts.empty() ? x0 + static_cast<double>(min_x) * grid.side_m : median(std::move(lefts));
  const double bottom =
      bottoms.empty() ? y0 + static_cast<double>(min_y) * grid.side_m : median(std::move(bottoms));
  grid.top = bottom + static_cast<double>(height) * grid.side_m;
  grid.tile_at.assign(width * height, TileGrid::kNoTile);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto cell =
        static_cast<std::uint32_t>(static_cast<std::uint64_t>(max_y - places[i][1]) * width +
                                   static_cast<std::uint64_t>(places[i][0] - min_x));
    grid.cell_of.push_back(cell);
    if (grid.tile_at[cell] != TileGrid::kNoTile) {
      ++grid.covered;
    } else {
      grid.tile_at[cell] = static_cast<std::int32_t>(i);
    }
  }
  return grid;
}

std::vector<std::uint16_t> smooth(const TileGrid& grid,
                                  const std::vector<std::uint16_t>& classes_of_tiles,
                                  std::size_t classes) {
  std::vector<std::uint16_t> result(classes_of_tiles.size());
  std::vector<int> votes(classes);
  for (std::size_t i = 0; i < classes_of_tiles.size(); ++i) {
    std::fill(votes.begin(), votes.end(), 0);
    const std::int64_t column = grid.cell_of[i] % grid.width;
    const std::int64_t row = grid.cell_of[i] / grid.width;
    const std::uint16_t own = classes_of_tiles[i];
    for (std::int64_t y = std::max<std::int64_t>(row - 1, 0);
         y <= std::min<std::int64_t>(row + 1, grid.height - 1); ++y) {
      for (std::int64_t x = std::max<std::int64_t>(column - 1, 0);
           x <= std::min<std::int64_t>(column + 1, grid.width - 1); ++x) {
        const std::int32_t tile = grid.tile_at[static_cast<std::size_t>(y * grid.width + x)];
        if (tile != TileGrid::kNoTile) ++votes[classes_of_tiles[static_cast<std::size_t>(tile)]];
      }
    }
    const auto most = std::max_element(votes.begin(), votes.end());
    result[i] = votes[own] == *most ? own : static_cast<std::uint16_t>(most - votes.begin());
  }
  return result;
}

std::vector<Pair> match(const ScoreRecord& before, const ScoreRecord& after, const TileGrid* grid) {
  if (before.classes != after.classes) {
    throw InputError("compare two years", "",
                     fmt::format("one has the classes {}, the other {}", enumerate(before.classes),
                                 enumerate(after.classes)),
                     "score both with the same model");
  }
  std::vector<Pair> pairs;
  if (grid != nullptr && !before.corners.empty()) {
    // On the later map's grid, by the middle of the earlier tile: a metre of rounding does not
    // matter.
    std::vector<geo::Point> middles;
    for (const TileCorners& c : before.corners) {
      middles.push_back({0.5 * (c.llcrnrlon + c.urcrnrlon), 0.5 * (c.llcrnrlat + c.urcrnrlat)});
    }
    geo::Projector(geo::kLonLat, grid->crs).transform(middles);
    for (std::size_t i = 0; i < middles.size(); ++i) {
      const double x = std::floor((middles[i].x - grid->left) / grid->side_m);
      const double y = std::floor((grid->top - middles[i].y) / grid->side_m);
      if (!(x >= 0 && y >= 0 && x < grid->width && y < grid->height)) continue;
      const std::int32_t tile =
          grid->tile_at[static_cast<std::size_t>(y) * grid->width + static_cast<std::size_t>(x)];
      if (tile != TileGrid::kNoTile) pairs.push_back({i, static_cast<std::size_t>(tile)});
    }
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const Pair& a, const Pair& b) { return a.after < b.after; });
    pairs.erase(std::unique(pairs.begin(), pairs.end(),
                            [](const Pair& a, const Pair& b) { return a.after == b.after; }),
                pairs.end());
  } else {
    std::unordered_map<std::string_view, std::size_t> named;
    for (std::size_t i = 0; i < before.predictions.tiles.size(); ++i)
      named.emplace(before.predictions.tiles[i], i);
    for (std::size_t i = 0; i < after.predictions.tiles.size(); ++i) {
      if (grid != nullptr && !grid->shows(i)) continue;
      const auto found = named.find(after.predictions.tiles[i]);
      if (found != named.end()) pairs.push_back({found->second, i});
    }
  }
  if (pairs.empty()) {
    throw InputError("compare two years", "", "they have no tile in common",
                     "are both of the same county?");
  }
  return pairs;
}

std::vector<std::int64_t> transitions(const std::vector<Pair>& pairs,
                                      const std::vector<std::uint16_t>& before,
                                      const std::vector<std::uint16_t>& after,
                                      std::size_t classes) {
  std::vector<std::int64_t> counts(classes * classes);
  for (const Pair& pair : pairs) ++counts[before[pair.before] * classes + after[pair.after]];
  return counts;
}

void add_corners(ScoreRecord& record, const Path& tile_summaries) {
  const TileSummaries summaries(tile_summaries);
  record.corners.clear();
  for (const std::string& tile : record.predictions.tiles) {
    const TileCorners* corners = summaries.find(tile);
    if (corners == nullptr) {
      throw InputError("find the corners of tile", printable(tile, 200),
                       fmt::format("'{}' has {} tiles, this is none of them",
                                   tile_summaries.native(), summaries.size()),
                       "name the tile_summaries.csv that quadrat-cut wrote beside these tiles");
    }
    record.corners.push_back(*corners);
  }
}

}  // namespace quadrat::report
