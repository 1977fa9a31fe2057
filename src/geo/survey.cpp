#include "survey.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_map>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

using nlohmann::json;

namespace {

/// A strip holds at most this many tiles: 224 x 57,344 pixels, 39 MB.
constexpr std::int64_t kMaxStripTiles = 256;

/// An image's name as its tiles carry it: what is not plain becomes '_'.
std::string tile_prefix(const Path& path) {
  std::string name = path.stem().string();
  for (char& c : name) {
    if (!is_plain_name(std::string_view(&c, 1))) c = '_';
  }
  return name;
}

std::string file_fingerprint(const std::string& path) {
  struct stat status {};
  // What GDAL opens need not be a file: /vsizip/..., /vsicurl/...
  if (::stat(path.c_str(), &status) != 0) return "-";
  return fmt::format("{}.{}.{}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

SurveyedImage survey(const std::string& path) {
  const Raster raster = Raster::open_imagery(path);
  SurveyedImage image;
  image.path = path;
  image.name = tile_prefix(path);
  image.folder = std::filesystem::absolute(path).parent_path().filename().string();
  image.fingerprint = file_fingerprint(path);
  image.width_px = raster.width_px();
  image.height_px = raster.height_px();
  image.columns = image.width_px / kTilePx;
  image.rows = image.height_px / kTilePx;
  image.resampled = raster.is_resampled();
  image.pixel_to_map = raster.pixel_to_map();
  image.crs_wkt = raster.crs_wkt();
  if (image.tiles() == 0) {
    throw InputError("cut image", path,
                     fmt::format("it covers {} x {} m, a tile is {} x {} m", image.width_px,
                                 image.height_px, kTilePx, kTilePx),
                     "leave it out, or use a larger one");
  }
  return image;
}

/// What each rank has to say to all, as JSON. Collective.
std::vector<json> say_to_all(const json& mine, const mpi::Communicator& ranks) {
  const std::vector<std::uint8_t> bytes = json::to_cbor(mine);
  const std::vector<Bytes> all = ranks.gather(std::as_bytes(std::span(bytes)));
  json list = json::array();
  for (const Bytes& part : all) {
    list.push_back(
        json::from_cbor(reinterpret_cast<const std::uint8_t*>(part.data()),
                        reinterpret_cast<const std::uint8_t*>(part.data() + part.size())));
  }
  const std::vector<std::uint8_t> packed =
      ranks.is_root() ? json::to_cbor(list) : std::vector<std::uint8_t>{};
  const auto view = std::as_bytes(std::span(packed));
  const Bytes sent = ranks.broadcast(Bytes(view.begin(), view.end()));
  const json result =
      json::from_cbor(reinterpret_cast<const std::uint8_t*>(sent.data()),
                      reinterpret_cast<const std::uint8_t*>(sent.data() + sent.size()));
  return {result.begin(), result.end()};
}

}  // namespace

std::int64_t SurveyedImage::past_edge() const {
  const auto whole_and_part = [](std::int64_t px) { return (px + kTilePx - 1) / kTilePx; };
  return whole_and_part(width_px) * whole_and_part(height_px) - tiles();
}

std::vector<SurveyedImage> survey_images(const std::vector<std::string>& paths,
                                         const mpi::Communicator& ranks) {
  json mine = json::array();
  mpi::together(ranks, [&] {
    const auto size = static_cast<std::size_t>(ranks.size());
    for (std::size_t i = static_cast<std::size_t>(ranks.rank()); i < paths.size(); i += size) {
      const SurveyedImage image = survey(paths[i]);
      mine.push_back({image.path, image.name, image.folder, image.fingerprint, image.width_px,
                      image.height_px, image.resampled, image.pixel_to_map.k, image.crs_wkt});
    }
  });
  std::vector<SurveyedImage> images;
  for (const json& part : say_to_all(mine, ranks)) {
    for (const json& fields : part) {
      SurveyedImage image;
      image.path = fields[0];
      image.name = fields[1];
      image.folder = fields[2];
      image.fingerprint = fields[3];
      image.width_px = fields[4];
      image.height_px = fields[5];
      image.resampled = fields[6];
      image.pixel_to_map.k = fields[7];
      image.crs_wkt = fields[8];
      image.columns = image.width_px / kTilePx;
      image.rows = image.height_px / kTilePx;
      images.push_back(std::move(image));
    }
  }
  std::sort(images.begin(), images.end(),
            [](const SurveyedImage& a, const SurveyedImage& b) { return a.name < b.name; });
  mpi::together(ranks, [&] {
    for (std::size_t i = 1; i < images.size(); ++i) {
      if (images[i].name != images[i - 1].name) continue;
      throw UsageError(fmt::format(
          "--image has '{}' and '{}', whose tiles would both be called {}_0.png: rename one",
          images[i - 1].path, images[i].path, images[i].name));
    }
  });
  return images;
}

std::int64_t copy_tile(std::span<const std::uint8_t> strip, std::int64_t strip_width_px,
                       std::int64_t column_px, std::span<std::uint8_t> tile) {
  std::int64_t black = 0;
  for (std::int64_t y = 0; y < kTilePx; ++y) {
    const std::uint8_t* from = strip.data() + 3 * (y * strip_width_px + column_px);
    std::memcpy(tile.data() + 3 * y * kTilePx, from, 3 * kTilePx);
    for (std::int64_t x = 0; x < kTilePx; ++x) {
      black += (from[3 * x] | from[3 * x + 1] | from[3 * x + 2]) == 0 ? 1 : 0;
    }
  }
  return black;
}

void for_tiles_in_row(
    Raster& raster, std::int64_t row, const std::vector<bool>& wanted,
    const std::function<void(std::int64_t, std::span<const std::uint8_t>, std::int64_t)>& use) {
  const auto columns = static_cast<std::int64_t>(wanted.size());
  const auto is_wanted = [&](std::int64_t column) {
    return wanted[static_cast<std::size_t>(column)];
  };
  std::vector<std::uint8_t> strip;
  std::vector<std::uint8_t> tile(3 * kTilePx * kTilePx);
  for (std::int64_t begin = 0; begin < columns;) {
    if (!is_wanted(begin)) {
      ++begin;
      continue;
    }
    // A gap of one tile is read along: it costs less than another read.
    std::int64_t end = begin + 1;
    while (end < columns && end - begin < kMaxStripTiles &&
           (is_wanted(end) || (end + 1 < columns && is_wanted(end + 1)))) {
      ++end;
    }
    const Window window{begin * kTilePx, row * kTilePx, (end - begin) * kTilePx, kTilePx};
    strip.resize(static_cast<std::size_t>(3 * window.width_px * window.height_px));
    raster.read_rgb(window, strip);
    for (std::int64_t column = begin; column < end; ++column) {
      if (!is_wanted(column)) continue;
      const std::int64_t black =
          copy_tile(strip, window.width_px, (column - begin) * kTilePx, tile);
      use(column, tile, black);
    }
    begin = end;
  }
}

Bytes CutPlan::serialize() const {
  json all;
  all["classes"] = classes;
  all["sets"] = set_of_image;
  all["codes"] = codes_without_class;
  all["tiles"] = json::array();
  for (const auto& tiles : images) {
    std::vector<std::uint8_t> packed;
    packed.reserve(2 * tiles.size());
    for (const PlannedTile& tile : tiles) {
      packed.push_back(static_cast<std::uint8_t>(tile.fate));
      packed.push_back(static_cast<std::uint8_t>(tile.label));
    }
    all["tiles"].push_back(json::binary(std::move(packed)));
  }
  const std::vector<std::uint8_t> bytes = json::to_cbor(all);
  const auto view = std::as_bytes(std::span(bytes));
  return {view.begin(), view.end()};
}

CutPlan CutPlan::deserialize(std::span<const std::byte> bytes) {
  const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const json all = json::from_cbor(begin, begin + bytes.size());
  CutPlan plan;
  plan.classes = all["classes"].get<std::vector<std::string>>();
  plan.set_of_image = all["sets"].get<std::vector<std::uint8_t>>();
  plan.codes_without_class = all["codes"].get<std::map<std::int32_t, std::uint64_t>>();
  for (const json& packed : all["tiles"]) {
    const auto& content = packed.get_binary();
    std::vector<PlannedTile> tiles(content.size() / 2);
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      tiles[i] = {static_cast<Fate>(content[2 * i]), static_cast<std::int8_t>(content[2 * i + 1])};
    }
    plan.images.push_back(std::move(tiles));
  }
  return plan;
}

namespace {

/// Labels one row of an image's grid.
std::vector<TileLabel> label_row(const SurveyedImage& image, std::int64_t row,
                                 LandCover& land_cover, const ClassTable& table) {
  std::vector<Point> points;
  points.reserve(static_cast<std::size_t>(image.columns) * kSamplesPerTile);
  for (std::int64_t column = 0; column < image.columns; ++column) {
    for (const double down : kSampleFractions) {
      for (const double right : kSampleFractions) {
        points.push_back(image.pixel_to_map.at((static_cast<double>(column) + right) * kTilePx,
                                               (static_cast<double>(row) + down) * kTilePx));
      }
    }
  }
  const std::vector<std::int32_t> codes = land_cover.codes_at(points);
  std::vector<TileLabel> labels;
  for (std::size_t i = 0; i < codes.size(); i += kSamplesPerTile) {
    labels.push_back(label_tile(std::span(codes).subspan(i, kSamplesPerTile), table));
  }
  return labels;
}

Fate fate_of(TileLabel::Verdict verdict) {
  switch (verdict) {
    case TileLabel::kPure:
      return Fate::kWanted;
    case TileLabel::kMixed:
      return Fate::kMixed;
    case TileLabel::kNoClass:
      return Fate::kNoClass;
    case TileLabel::kNotCovered:
      return Fate::kNotCovered;
  }
  return Fate::kMixed;
}

/// This rank's part of the labelling: {image, row, [[fate, label] per column]}.
json label_my_rows(const CutOptions& options, const ClassTable& table,
                   const std::vector<SurveyedImage>& images, const mpi::Communicator& ranks) {
  json rows = json::array();
  std::map<std::int32_t, std::uint64_t> codes;
  std::uint64_t number = 0;
  std::uint64_t total = 0;
  for (const SurveyedImage& image : images) total += static_cast<std::uint64_t>(image.rows);
  Progress bar("labelling", "rows", total, ranks.is_root());
  for (std::size_t i = 0; i < images.size(); ++i) {
    const SurveyedImage& image = images[i];
    std::unique_ptr<LandCover> land_cover;
    std::unique_ptr<Raster> raster;
    for (std::int64_t row = 0; row < image.rows; ++row) {
      if (number++ % static_cast<std::uint64_t>(ranks.size()) !=
          static_cast<std::uint64_t>(ranks.rank()))
        continue;
      bar.update(number);
      if (!land_cover) land_cover = std::make_unique<LandCover>(options.nlcd, image.crs_wkt);
      std::vector<std::uint8_t> packed;
      std::vector<bool> wanted;
      for (const TileLabel& label : label_row(image, row, *land_cover, table)) {
        packed.push_back(static_cast<std::uint8_t>(fate_of(label.verdict)));
        packed.push_back(static_cast<std::uint8_t>(label.label));
        wanted.push_back(label.verdict == TileLabel::kPure);
        if (label.verdict == TileLabel::kNoClass) ++codes[label.code];
      }
      if (options.balance && !options.labels_only) {
        // Only what can be cut may count when classes are made even.
        if (!raster) raster = std::make_unique<Raster>(Raster::open_imagery(image.path));
        for_tiles_in_row(
            *raster, row, wanted,
            [&](std::int64_t column, std::span<const std::uint8_t>, std::int64_t black) {
              if (black > options.max_black_px) {
                packed[static_cast<std::size_t>(2 * column)] =
                    static_cast<std::uint8_t>(Fate::kBlack);
              }
            });
      }
      rows.push_back({i, row, json::binary(std::move(packed))});
    }
  }
  return {{"rows", rows}, {"codes", codes}};
}

/// Which images are for validation.
std::vector<std::uint8_t> split(const CutOptions& options, const std::vector<SurveyedImage>& images,
                                const CutPlan& plan) {
  std::vector<std::uint8_t> sets(images.size(), 0);
  if (!options.has_sets()) return sets;
  const auto group_of = [&](const SurveyedImage& image) {
    return options.split_by == "folder" ? image.folder : image.name;
  };
  std::set<std::string> chosen;
  if (!options.validation_images.empty()) {
    for (const std::string& listed : options.validation_images) {
      bool found = false;
      for (const SurveyedImage& image : images) {
        if (image.path == listed || Path(image.path).filename() == listed || image.name == listed) {
          chosen.insert(group_of(image));
          found = true;
        }
      }
      if (!found) {
        throw UsageError(fmt::format(
            "--validation_images names '{}', which is not among the images given", listed));
      }
    }
  } else {
    std::map<std::string, std::uint64_t> size;
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto wanted = static_cast<std::uint64_t>(
          std::count_if(plan.images[i].begin(), plan.images[i].end(),
                        [](const PlannedTile& t) { return t.fate == Fate::kWanted; }));
      size[group_of(images[i])] += wanted;
      total += wanted;
    }
    if (size.size() < 2) {
      throw UsageError(fmt::format(
          "--validation_fraction needs at least two {}s to split by, and there is one; name "
          "another image, or cut two sets",
          options.split_by));
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
  bool any_left = false;
  for (std::size_t i = 0; i < images.size(); ++i) {
    sets[i] = chosen.count(group_of(images[i])) != 0 ? 1 : 0;
    any_left = any_left || sets[i] == 0;
  }
  if (!any_left) throw UsageError("--validation_images leaves no image for training");
  return sets;
}

/// Drops training tiles that lie beside a validation tile, or under one where images overlap.
void clear_border(const std::vector<SurveyedImage>& images, CutPlan& plan) {
  // Flat metres around the images' mean latitude: good to a few per mille where it matters, between
  // neighbours.
  constexpr double kMetresPerDegree = 111320;
  constexpr double kReach = 1.5 * kTilePx;  // closer than this, centre to centre, on both axes
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

/// Evens out the classes of each set to its rarest one.
void balance(const CutOptions& options, CutPlan& plan) {
  for (std::uint8_t set = 0; set < 2; ++set) {
    std::map<int, std::vector<PlannedTile*>> members;
    for (std::size_t i = 0; i < plan.images.size(); ++i) {
      if (plan.set_of_image[i] != set) continue;
      for (PlannedTile& tile : plan.images[i]) {
        if (tile.fate == Fate::kWanted) members[tile.label].push_back(&tile);
      }
    }
    if (members.empty()) continue;
    std::size_t least = members.begin()->second.size();
    for (const auto& [label, tiles] : members) least = std::min(least, tiles.size());
    for (auto& [label, tiles] : members) {
      KeyedRandom random{static_cast<std::uint64_t>(options.seed), kStreamSplit, 1, set,
                         static_cast<std::uint64_t>(label)};
      shuffle(tiles, random);
      for (std::size_t i = least; i < tiles.size(); ++i) tiles[i]->fate = Fate::kUnbalanced;
    }
  }
}

/// Keeps what the manifest lists, with its labels and sets.
void follow_manifest(const CutOptions& options, const std::vector<SurveyedImage>& images,
                     CutPlan& plan) {
  const Bytes content = read_file(options.manifest);
  std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
  std::map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < images.size(); ++i) index[images[i].name] = i;
  struct Line {
    std::size_t image;
    std::size_t tile;
    std::string label;
  };
  std::vector<Line> lines;
  std::set<std::string> classes;
  std::vector<int> set_of(images.size(), -1);
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto wrong = [&](const std::string& finding) {
      return InputError("use manifest", options.manifest.native(),
                        fmt::format("line {}, '{}': {}", number, printable(line), finding),
                        "use a manifest.csv that quadrat-cut wrote, with the same images");
    };
    std::array<std::string_view, 4> fields;
    std::string_view rest = line;
    for (std::size_t f = 0; f < 4; ++f) {
      const auto comma = rest.find(',');
      if ((comma == std::string_view::npos) != (f == 3)) throw wrong("it has not four fields");
      fields[f] = rest.substr(0, comma);
      rest.remove_prefix(f == 3 ? rest.size() : comma + 1);
    }
    if (number == 1) {
      if (line != "image,i,label,set") throw wrong("the header is not image,i,label,set");
      continue;
    }
    const auto found = index.find(fields[0]);
    if (found == index.end()) throw wrong("no such image was given");
    const std::size_t image = found->second;
    std::size_t tile = 0;
    const auto [stop, error] =
        std::from_chars(fields[1].data(), fields[1].data() + fields[1].size(), tile);
    if (error != std::errc{} || stop != fields[1].data() + fields[1].size() ||
        tile >= static_cast<std::size_t>(images[image].tiles())) {
      throw wrong(fmt::format("the image has tiles 0 to {}", images[image].tiles() - 1));
    }
    const int set = fields[3] == kSetNames[1] ? 1 : 0;
    if (set_of[image] >= 0 && set_of[image] != set) throw wrong("the image is in both sets");
    set_of[image] = set;
    if (!fields[2].empty() && !is_plain_name(fields[2])) throw wrong("that is no class name");
    if (!lines.empty() && lines.back().label.empty() != fields[2].empty())
      throw wrong("only some tiles have a class");
    if (!fields[2].empty()) classes.emplace(fields[2]);
    lines.push_back({image, tile, std::string(fields[2])});
  }
  plan.classes.assign(classes.begin(), classes.end());
  if (plan.classes.size() > 127) {
    throw InputError("use manifest", options.manifest.native(), "it has more than 127 classes");
  }
  for (auto& tiles : plan.images) {
    for (PlannedTile& tile : tiles) tile = {Fate::kNotListed, ClassTable::kNoClass};
  }
  for (const Line& line : lines) {
    PlannedTile& tile = plan.images[line.image][line.tile];
    tile.fate = Fate::kWanted;
    if (!line.label.empty()) {
      tile.label = static_cast<std::int8_t>(
          std::lower_bound(plan.classes.begin(), plan.classes.end(), line.label) -
          plan.classes.begin());
    }
  }
  for (std::size_t i = 0; i < images.size(); ++i) plan.set_of_image[i] = set_of[i] == 1 ? 1 : 0;
}

}  // namespace

CutPlan make_plan(const CutOptions& options, const std::vector<SurveyedImage>& images,
                  const mpi::Communicator& ranks) {
  CutPlan plan;
  for (const SurveyedImage& image : images)
    plan.images.emplace_back(static_cast<std::size_t>(image.tiles()));
  plan.set_of_image.assign(images.size(), 0);

  if (!options.manifest.empty()) {
    mpi::together(ranks, [&] { follow_manifest(options, images, plan); });
    return plan;
  }
  if (!options.nlcd.empty()) {
    json mine;
    mpi::together(ranks, [&] {
      const ClassTable table =
          options.class_table.empty() ? ClassTable::nlcd() : ClassTable::read(options.class_table);
      plan.classes = table.classes();
      mine = label_my_rows(options, table, images, ranks);
    });
    for (const json& part : say_to_all(mine, ranks)) {
      for (const json& entry : part["rows"]) {
        const std::size_t image = entry[0];
        const std::int64_t row = entry[1];
        const auto& packed = entry[2].get_binary();
        PlannedTile* tiles = plan.images[image].data() + row * images[image].columns;
        for (std::size_t c = 0; c < packed.size() / 2; ++c) {
          tiles[c] = {static_cast<Fate>(packed[2 * c]),
                      static_cast<std::int8_t>(packed[2 * c + 1])};
        }
      }
      for (const auto& [code, count] : part["codes"].get<std::map<std::int32_t, std::uint64_t>>()) {
        plan.codes_without_class[code] += count;
      }
    }
  }
  mpi::together(ranks, [&] {
    if (!options.nlcd.empty()) {
      bool covered = false;
      for (std::size_t i = 0; i < images.size(); ++i) {
        const bool here =
            std::any_of(plan.images[i].begin(), plan.images[i].end(),
                        [](const PlannedTile& tile) { return tile.fate != Fate::kNotCovered; });
        if (!here && ranks.is_root()) {
          log::warn("'{}' covers nothing of image '{}': no tile of it is kept",
                    options.nlcd.native(), images[i].path);
        }
        covered = covered || here;
      }
      if (!covered) {
        throw InputError("label tiles from", options.nlcd.native(),
                         "it covers nothing of the images given",
                         "check that both are of the same place, with gdalinfo");
      }
    }
    plan.set_of_image = split(options, images, plan);
    if (options.has_sets()) clear_border(images, plan);
    if (options.balance) balance(options, plan);
  });
  return plan;
}

}  // namespace quadrat::geo
