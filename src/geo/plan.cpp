#include "plan.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"

namespace quadrat::geo {

using nlohmann::json;

Bytes CutPlan::serialize() const {
  json all;
  all["classes"] = classes;
  all["has_sets"] = has_sets;
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

CutPlan CutPlan::deserialize(std::span<const std::byte> bytes,
                             const std::vector<SurveyedImage>& images) {
  const auto wrong = [] {
    return InputError("go on with the plan", "", "it is damaged, or of other images",
                      "remove the output folder and begin again");
  };
  CutPlan plan;
  try {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    const json all = json::from_cbor(begin, begin + bytes.size());
    plan.classes = all.at("classes").get<std::vector<std::string>>();
    plan.has_sets = all.at("has_sets");
    plan.set_of_image = all.at("sets").get<std::vector<std::uint8_t>>();
    plan.codes_without_class = all.at("codes").get<std::map<std::int32_t, std::uint64_t>>();
    for (const json& packed : all.at("tiles")) {
      const auto& content = packed.get_binary();
      std::vector<PlannedTile> tiles(content.size() / 2);
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i] = {static_cast<Fate>(content[2 * i]),
                    static_cast<std::int8_t>(content[2 * i + 1])};
        if (tiles[i].fate > Fate::kNotListed || tiles[i].label < ClassTable::kNoClass ||
            tiles[i].label >= std::ssize(plan.classes)) {
          throw wrong();
        }
      }
      plan.images.push_back(std::move(tiles));
    }
  } catch (const json::exception&) {
    throw wrong();
  }
  bool fits = plan.images.size() == images.size() && plan.set_of_image.size() == images.size();
  for (std::size_t i = 0; fits && i < images.size(); ++i) {
    fits =
        std::ssize(plan.images[i]) == images[i].tiles() && plan.set_of_image[i] < kSetNames.size();
  }
  if (!fits) throw wrong();
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
    for (std::int64_t row = 0; row < image.rows; ++row) {
      if (number++ % static_cast<std::uint64_t>(ranks.size()) !=
          static_cast<std::uint64_t>(ranks.rank()))
        continue;
      bar.update(number);
      if (!land_cover) land_cover = std::make_unique<LandCover>(options.nlcd, image.crs_wkt);
      std::vector<std::uint8_t> packed;
      for (const TileLabel& label : label_row(image, row, *land_cover, table)) {
        packed.push_back(static_cast<std::uint8_t>(label.fate));
        packed.push_back(static_cast<std::uint8_t>(label.label));
        if (label.fate == Fate::kNoClass) ++codes[label.code];
      }
      rows.push_back({i, row, json::binary(std::move(packed))});
    }
  }
  return {{"rows", rows}, {"codes", codes}};
}

}  // namespace

CutPlan make_plan(const CutOptions& options, const std::vector<SurveyedImage>& images,
                  const mpi::Communicator& ranks) {
  CutPlan plan;
  for (const SurveyedImage& image : images)
    plan.images.emplace_back(static_cast<std::size_t>(image.tiles()));
  plan.has_sets = options.has_sets();
  plan.set_of_image.assign(images.size(), 0);

  if (!options.manifest.empty()) {
    mpi::together(ranks, [&] {
      const Bytes content = read_file(options.manifest);
      plan = read_manifest({reinterpret_cast<const char*>(content.data()), content.size()},
                           options.manifest.native(), images);
    });
    return plan;
  }
  mpi::together(ranks, [&] { check_sets(options, images); });
  if (!options.nlcd.empty()) {
    json mine;
    mpi::together(ranks, [&] {
      const ClassTable table =
          options.class_table.empty() ? ClassTable::nlcd() : ClassTable::read(options.class_table);
      plan.classes = table.classes();
      mine = label_my_rows(options, table, images, ranks);
    });
    for (const json& part : share(mine, ranks)) {
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
    if (plan.has_sets) clear_border(images, plan);
  });
  return plan;
}

}  // namespace quadrat::geo
