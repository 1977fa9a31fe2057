#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <unordered_map>

#include "plan.h"
#include "quadrat/base/error.h"
#include "quadrat/base/random.h"

namespace quadrat::geo {

namespace {

const std::string& group_of(const CutOptions& options, const SurveyedImage& image) {
  return options.split_by == "folder" ? image.folder : image.name;
}

std::set<std::string> named_groups(const CutOptions& options,
                                   const std::vector<SurveyedImage>& images) {
  std::set<std::string> named;
  for (const std::string& listed : options.validation_images) {
    bool found = false;
    for (const SurveyedImage& image : images) {
      if (image.path == listed || Path(image.path).filename() == listed || image.name == listed) {
        named.insert(group_of(options, image));
        found = true;
      }
    }
    if (!found) {
      throw UsageError(fmt::format(
          "--validation_images names '{}', which is not among the images given", listed));
    }
  }
  return named;
}

}  // namespace

void check_sets(const CutOptions& options, const std::vector<SurveyedImage>& images) {
  if (!options.has_sets()) return;
  std::set<std::string> groups;
  for (const SurveyedImage& image : images) groups.insert(group_of(options, image));
  if (!options.validation_images.empty()) {
    if (named_groups(options, images).size() == groups.size())
      throw UsageError("--validation_images leaves no image for training");
  } else if (groups.size() < 2) {
    throw UsageError(
        fmt::format("--validation_fraction needs at least two {}s to split by, and there is one; "
                    "name another image, or cut two sets",
                    options.split_by));
  }
}

std::vector<std::uint8_t> split(const CutOptions& options, const std::vector<SurveyedImage>& images,
                                const CutPlan& plan) {
  check_sets(options, images);
  std::vector<std::uint8_t> sets(images.size(), 0);
  if (!options.has_sets()) return sets;
  std::set<std::string> chosen = named_groups(options, images);
  if (options.validation_images.empty()) {
    std::map<std::string, std::uint64_t> size;
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto wanted = static_cast<std::uint64_t>(
          std::count_if(plan.images[i].begin(), plan.images[i].end(),
                        [](const PlannedTile& t) { return t.fate == Fate::kWanted; }));
      size[group_of(options, images[i])] += wanted;
      total += wanted;
    }
    std::vector<std::string> groups;
    for (const auto& [name, count] : size) groups.push_back(name);
    KeyedRandom random{static_cast<std::uint64_t>(options.seed), kStreamSplit, 0};
    shuffle(groups, random);
    // Groups in random order, each taken where it brings the share nearer to what is asked.
    const double aim = options.validation_fraction * static_cast<double>(total);
    double have = 0;
    for (const std::string& group : groups) {
      const auto with = have + static_cast<double>(size[group]);
      if (chosen.size() + 1 < size.size() && std::abs(with - aim) < std::abs(have - aim)) {
        chosen.insert(group);
        have = with;
      }
    }
    if (chosen.empty()) chosen.insert(groups.front());
  }
  for (std::size_t i = 0; i < images.size(); ++i)
    sets[i] = chosen.count(group_of(options, images[i])) != 0 ? 1 : 0;
  return sets;
}

void clear_border(const std::vector<SurveyedImage>& images, CutPlan& plan) {
  // Flat metres around the images' mean latitude: good to a few per mille where it matters, between
  // neighbours.
  constexpr double kMetresPerDegree = 111320;
  constexpr double kReach = 1.5 * kTilePx;  // from centre to centre: half a tile between edges
  struct Place {
    std::size_t image;
    std::size_t tile;
    Point at;
  };
  std::vector<Place> training;
  std::vector<Place> validation;
  for (std::size_t i = 0; i < images.size(); ++i) {
    std::vector<Point> centres;
    std::vector<std::size_t> tiles;
    for (std::size_t t = 0; t < plan.images[i].size(); ++t) {
      if (plan.images[i][t].fate != Fate::kWanted) continue;
      const auto column = static_cast<double>(t % static_cast<std::size_t>(images[i].columns));
      const auto row = static_cast<double>(t / static_cast<std::size_t>(images[i].columns));
      centres.push_back(images[i].pixel_to_map.at((column + 0.5) * kTilePx, (row + 0.5) * kTilePx));
      tiles.push_back(t);
    }
    Projector(images[i].crs_wkt, kLonLat).transform(centres);
    auto& places = plan.set_of_image[i] == 1 ? validation : training;
    for (std::size_t k = 0; k < centres.size(); ++k) places.push_back({i, tiles[k], centres[k]});
  }
  if (validation.empty()) return;
  double latitude = 0;
  for (const Place& place : validation)
    latitude += place.at.y / static_cast<double>(validation.size());
  const double shrink = std::cos(latitude * 3.14159265358979 / 180);
  const auto metres = [&](Point p) {
    return Point{p.x * kMetresPerDegree * shrink, p.y * kMetresPerDegree};
  };
  const auto cell = [](double m) { return static_cast<std::int64_t>(std::floor(m / kReach)); };
  const auto key = [](std::int64_t x, std::int64_t y) { return (x << 32) ^ (y & 0xffffffff); };
  std::unordered_map<std::int64_t, std::vector<Point>> cells;
  for (const Place& place : validation) {
    const Point at = metres(place.at);
    cells[key(cell(at.x), cell(at.y))].push_back(at);
  }
  for (const Place& place : training) {
    const Point at = metres(place.at);
    bool beside = false;
    for (std::int64_t dx = -1; dx <= 1 && !beside; ++dx) {
      for (std::int64_t dy = -1; dy <= 1 && !beside; ++dy) {
        const auto it = cells.find(key(cell(at.x) + dx, cell(at.y) + dy));
        if (it == cells.end()) continue;
        for (const Point& other : it->second) {
          beside =
              beside || (std::abs(other.x - at.x) < kReach && std::abs(other.y - at.y) < kReach);
        }
      }
    }
    if (beside) plan.images[place.image][place.tile].fate = Fate::kBorder;
  }
}

CutPlan even_out(const CutPlan& plan, std::int64_t seed) {
  CutPlan result = plan;
  for (std::uint8_t set = 0; set < kSetNames.size(); ++set) {
    // What has been cut stays in the list, so that the order does not depend on it.
    std::map<int, std::vector<PlannedTile*>> members;
    for (std::size_t i = 0; i < result.images.size(); ++i) {
      if (result.set_of_image[i] != set) continue;
      for (PlannedTile& tile : result.images[i]) {
        if (tile.fate == Fate::kWanted || tile.fate == Fate::kKept || tile.fate == Fate::kBlack) {
          members[tile.label].push_back(&tile);
        }
      }
    }
    const auto is_left = [](const PlannedTile* tile) { return tile->fate != Fate::kBlack; };
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (const auto& [label, tiles] : members) {
      const std::int64_t left = std::count_if(tiles.begin(), tiles.end(), is_left);
      if (left > 0) least = std::min(least, left);
    }
    for (auto& [label, tiles] : members) {
      KeyedRandom random{static_cast<std::uint64_t>(seed), kStreamSplit, 1, set,
                         static_cast<std::uint64_t>(label)};
      shuffle(tiles, random);
      std::int64_t chosen = 0;
      for (PlannedTile* tile : tiles) {
        if (chosen == least) {
          tile->fate = Fate::kUnbalanced;
        } else if (is_left(tile)) {
          ++chosen;
        }
      }
    }
  }
  return result;
}

}  // namespace quadrat::geo
