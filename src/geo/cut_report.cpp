#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "cutter.h"
#include "quadrat/base/error.h"
#include "quadrat/base/folder_lock.h"
#include "quadrat/base/log.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"

namespace quadrat::geo {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const char* reason(Fate fate) {
  switch (fate) {
    case Fate::kWanted:
      return "wanted";
    case Fate::kKept:
      return "kept";
    case Fate::kMixed:
      return "mixed_classes";
    case Fate::kNoClass:
      return "code_without_class";
    case Fate::kNotCovered:
      return "no_land_cover";
    case Fate::kBlack:
      return "black_pixels";
    case Fate::kUnbalanced:
      return "removed_to_balance";
    case Fate::kBorder:
      return "beside_validation";
    case Fate::kNotListed:
      return "not_in_manifest";
  }
  return "unknown";
}

/// Everything written so far on the output's file system goes to its disk.
void flush_file_system(const Path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw IoError::from_errno("flush", folder.native());
  const int failed = ::syncfs(descriptor);
  const IoError error = IoError::from_errno("flush", folder.native());
  ::close(descriptor);
  if (failed != 0) throw error;
}

/// The corners of a row's tiles, as in tile_summaries.csv: llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon.
std::vector<std::string> row_corners(const SurveyedImage& image, const Projector& to_lon_lat,
                                     std::int64_t row) {
  std::vector<Point> points;
  for (std::int64_t column = 0; column < image.columns; ++column) {
    const auto left = static_cast<double>(column * kTilePx);
    const auto top = static_cast<double>(row * kTilePx);
    points.push_back(image.pixel_to_map.at(left, top + kTilePx));
    points.push_back(image.pixel_to_map.at(left + kTilePx, top));
  }
  to_lon_lat.transform(points);
  std::vector<std::string> corners;
  for (std::size_t i = 0; i < points.size(); i += 2) {
    // A tenth of a millionth of a degree is a centimetre.
    corners.push_back(fmt::format("{:.8f},{:.8f},{:.8f},{:.8f}", points[i].y, points[i].x,
                                  points[i + 1].y, points[i + 1].x));
  }
  return corners;
}

json parse_report(std::string_view text, const std::string& name) {
  // Ours is four deep; what is much deeper could be taken apart only by as deep a recursion.
  constexpr int kMaxDepth = 16;
  bool is_deep = false;
  const auto watch = [&](int depth, json::parse_event_t, json&) {
    is_deep = is_deep || depth > kMaxDepth;
    return !is_deep;
  };
  json known = json::parse(text.begin(), text.end(), watch, false);
  if (is_deep || !known.is_object() || !known.contains("asked")) {
    throw InputError("cut into the folder of", name, "it is not quadrat-cut's tiles.json",
                     "name another --output");
  }
  return known;
}

/// What somebody who expected tiles should know of those that are not there.
void warn_of_gaps(const CutSummary& summary, const CutPlan& plan) {
  if (!plan.codes_without_class.empty()) {
    constexpr std::size_t kNamed = 8;
    std::vector<std::pair<std::int32_t, std::uint64_t>> codes(plan.codes_without_class.begin(),
                                                              plan.codes_without_class.end());
    std::stable_sort(codes.begin(), codes.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    std::vector<std::string> named;
    for (std::size_t i = 0; i < std::min(kNamed, codes.size()); ++i)
      named.push_back(fmt::format("{} ({} tiles)", codes[i].first, codes[i].second));
    if (codes.size() > kNamed) named.emplace_back("others, which tiles.json lists");
    log::line("land cover codes without a class discarded tiles: {}; --class_table gives classes",
              enumerate(named));
  }
  std::vector<std::string> sets{""};
  if (plan.has_sets) sets.assign(std::begin(kSetNames), std::end(kSetNames));
  for (const std::string& set : sets) {
    const std::string where = set.empty() ? "" : fmt::format(" for {}", set);
    std::vector<std::string> without;
    for (const std::string& label : plan.classes) {
      if (summary.counts.count({set, label}) == 0) without.push_back(label);
    }
    const bool is_empty = std::none_of(summary.counts.begin(), summary.counts.end(),
                                       [&](const auto& entry) { return entry.first.first == set; });
    if (is_empty) {
      log::warn("no tile was left{}", where);
    } else if (!without.empty()) {
      log::warn("no tile of {} was left{}", enumerate(without), where);
    }
  }
}

}  // namespace

CutSummary Cutter::finish(double seconds) {
  const CutPlan final_plan = chosen();
  CutSummary summary;
  summary.seconds = seconds;
  std::map<std::string, std::string> summaries;  // by set
  std::map<std::string, Projector> projectors;   // by coordinate system: images share theirs
  std::string manifest = "image,i,label,set\n";
  json per_image = json::array();
  for (std::size_t i = 0; i < images_.size(); ++i) {
    const SurveyedImage& image = images_[i];
    const std::string set = set_of(i);
    const auto projector = projectors.try_emplace(image.crs_wkt, image.crs_wkt, kLonLat).first;
    std::uint64_t kept = 0;
    if (image.past_edge() > 0)
      summary.discarded["past_edge"] += static_cast<std::uint64_t>(image.past_edge());
    for (std::int64_t row = 0; row < image.rows; ++row) {
      std::vector<std::string> corners;
      for (std::int64_t column = 0; column < image.columns; ++column) {
        const std::int64_t index = row * image.columns + column;
        const PlannedTile& tile = final_plan.images[i][static_cast<std::size_t>(index)];
        const bool is_listed =
            tile.fate == Fate::kKept || (options_.labels_only && tile.fate == Fate::kWanted);
        if (!is_listed) {
          ++summary.discarded[reason(tile.fate)];
          if (plan_.images[i][static_cast<std::size_t>(index)].fate == Fate::kKept) {
            std::error_code gone_already;
            fs::remove(options_.output / folder_of(i, tile) / file_name(i, index), gone_already);
          }
          continue;
        }
        const std::string label = class_of(tile);
        manifest += fmt::format("{},{},{},{}\n", image.name, index, label, set);
        ++summary.counts[{set, label}];
        ++kept;
        if (options_.labels_only) continue;
        if (corners.empty()) corners = row_corners(image, projector->second, row);
        summaries[set] +=
            fmt::format("{}{},{}\n", label.empty() ? "" : label + "/", file_name(i, index),
                        corners[static_cast<std::size_t>(column)]);
      }
    }
    summary.kept += kept;
    per_image.push_back({{"image", image.name},
                         {"file", image.fingerprint},
                         {"columns", image.columns},
                         {"rows", image.rows},
                         {"kept", kept},
                         {"resampled", image.resampled},
                         {"set", set}});
  }
  // A class all of whose tiles were black has a folder and no tile, which training would refuse.
  for (std::size_t i = 0; i < images_.size(); ++i) {
    for (const PlannedTile& tile : final_plan.images[i]) {
      if (tile.fate != Fate::kBlack || summary.counts.count({set_of(i), class_of(tile)}) != 0)
        continue;
      const std::string folder = folder_of(i, tile);
      std::error_code not_empty;
      if (!folder.empty()) fs::remove(options_.output / folder, not_empty);
    }
  }

  json counts = json::object();
  for (const auto& [key, count] : summary.counts) {
    json& of_set = key.first.empty() ? counts : counts[key.first];
    of_set[key.second.empty() ? "unlabelled" : key.second] = count;
  }
  json codes = json::object();
  for (const auto& [code, count] : plan_.codes_without_class) codes[std::to_string(code)] = count;
  const json report{{"schema", "quadrat-tiles"},
                    {"schema_version", 1},
                    {"created", utc_now()},
                    {"program", fmt::format("quadrat-cut {}", version())},
                    {"git_commit", git_commit()},
                    {"asked", json::parse(options_.fingerprint())},
                    {"tile_px", kTilePx},
                    {"classes", plan_.classes},
                    {"kept", summary.kept},
                    {"counts", counts},
                    {"discarded", summary.discarded},
                    {"codes_without_class", codes},
                    {"seconds", seconds},
                    {"images", per_image}};
  const std::string header = "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon\n";
  if (!options_.labels_only) {
    for (const auto& [set, lines] : summaries) {
      write_file(options_.output / set / tile_folder::kSummaries, header + lines);
    }
    flush_file_system(options_.output);
  }
  write_file(options_.output / tile_folder::kManifest, manifest);
  write_file(options_.output / tile_folder::kReport, report.dump(2) + "\n");
  remove_leftovers(options_.output);
  warn_of_gaps(summary, plan_);
  return summary;
}

void remove_leftovers(const Path& output) noexcept {
  std::error_code ignored;
  fs::remove_all(output / tile_folder::kUnfinished, ignored);
  fs::remove(output / FolderLock::kName, ignored);
  remove_stale_temporaries(output);
  for (const char* set : kSetNames) remove_stale_temporaries(output / set);
}

std::string asked_in_report(std::string_view text, const std::string& name) {
  return parse_report(text, name)["asked"].dump();
}

void warn_of_other_images(std::string_view text, const std::string& name,
                          const std::vector<std::string>& images) {
  const json known = parse_report(text, name);
  std::map<std::string, std::string> cut_from;
  for (const json& image : known.value("images", json::array())) {
    const auto text_of = [&](const char* key) {
      return image.is_object() && image.contains(key) && image[key].is_string()
                 ? image[key].get<std::string>()
                 : std::string();
    };
    if (!text_of("file").empty()) cut_from[text_of("image")] = text_of("file");
  }
  for (const std::string& path : images) {
    const auto was = cut_from.find(tile_prefix(path));
    const std::string is = file_fingerprint(path);
    if (was == cut_from.end() || is == "-" || was->second == is) continue;
    log::warn("'{}' has changed since it was cut: name another --output to cut it anew", path);
  }
}

CutSummary read_report(std::string_view text, const std::string& name) {
  const json known = parse_report(text, name);
  CutSummary summary;
  summary.was_complete = true;
  try {
    summary.kept = known.at("kept");
    summary.seconds = known.at("seconds");
    summary.discarded = known.at("discarded").get<std::map<std::string, std::uint64_t>>();
    for (const auto& [key, value] : known.at("counts").items()) {
      if (value.is_number()) {
        summary.counts[{"", key == "unlabelled" ? "" : key}] = value;
      } else {
        for (const auto& [label, count] : value.items())
          summary.counts[{key, label == "unlabelled" ? "" : label}] = count;
      }
    }
  } catch (const json::exception& error) {
    throw InputError("read", name, error.what(), "cut the tiles again, into another folder");
  }
  return summary;
}

}  // namespace quadrat::geo
