#include "quadrat/geo/cut.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "journal.h"
#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/image/png.h"
#include "survey.h"

namespace quadrat::geo {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* kStateFolder = ".quadrat_cut";
constexpr const char* kPlanName = "plan.cbor";
constexpr const char* kReportName = "tiles.json";

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

/// A tile's file on its way from nothing to whole: never half under its own name, whenever the
/// process is killed. Not fsynced one by one, which would halve the speed; a restart compares sizes
/// with the journal's, and all is flushed before tiles.json says that the set is complete.
void write_tile(const Path& path, const Path& temporary, std::span<const std::byte> content) {
  int descriptor = -1;
  do descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) throw IoError::from_errno("create", temporary.native());
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::write(descriptor, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const IoError error = IoError::from_errno("write tile", path.native());
      ::close(descriptor);
      ::unlink(temporary.c_str());
      throw error;
    }
    done += static_cast<std::size_t>(n);
  }
  if (::close(descriptor) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const IoError error = IoError::from_errno("write tile", path.native());
    ::unlink(temporary.c_str());
    throw error;
  }
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

/// One call of cut_tiles, between the plan and the report.
class Cutter {
 public:
  Cutter(const CutOptions& options, const mpi::Communicator& ranks,
         std::vector<SurveyedImage> images, CutPlan plan)
      : options_(options), ranks_(ranks), images_(std::move(images)), plan_(std::move(plan)) {}

  /// The folder of a tile's set and class below the output folder, with '/' at its end where it is
  /// not that itself.
  std::string folder_of(std::size_t image, const PlannedTile& tile) const {
    std::string folder;
    if (has_sets()) folder += fmt::format("{}/", kSetNames[plan_.set_of_image[image]]);
    if (tile.label != ClassTable::kNoClass)
      folder += plan_.classes[static_cast<std::size_t>(tile.label)] + "/";
    return folder;
  }

  std::string file_name(std::size_t image, std::int64_t index) const {
    return fmt::format("{}_{}.png", images_[image].name, index);
  }

  bool has_sets() const {
    return options_.has_sets() || std::any_of(plan_.set_of_image.begin(), plan_.set_of_image.end(),
                                              [](std::uint8_t s) { return s != 0; });
  }

  const CutPlan& plan() const { return plan_; }

  void make_folders() const;
  /// @return tiles cut now; stops early where a signal came
  std::uint64_t cut(int attempt);
  CutSummary finish(double seconds);

 private:
  struct Row {
    std::size_t image;
    std::int64_t row;
  };
  std::vector<Row> my_rows() const;
  bool is_done(const CutRow& row) const;

  const CutOptions& options_;
  const mpi::Communicator& ranks_;
  std::vector<SurveyedImage> images_;
  CutPlan plan_;
};

void Cutter::make_folders() const {
  std::set<std::string> folders;
  for (std::size_t i = 0; i < images_.size(); ++i) {
    for (const PlannedTile& tile : plan_.images[i]) {
      if (tile.fate == Fate::kWanted) folders.insert(folder_of(i, tile));
    }
  }
  for (const std::string& folder : folders) {
    make_folder(options_.output / folder);
    // What a killed process left half written.
    remove_stale_temporaries(options_.output / folder);
  }
}

/// Rows with something to cut, in runs of neighbours, which share blocks of the image; runs are
/// dealt in turn.
std::vector<Cutter::Row> Cutter::my_rows() const {
  constexpr std::size_t kMaxRun = 8;
  std::vector<Row> all;
  for (std::size_t i = 0; i < images_.size(); ++i) {
    for (std::int64_t row = 0; row < images_[i].rows; ++row) {
      const auto begin = plan_.images[i].begin() + row * images_[i].columns;
      if (std::any_of(begin, begin + images_[i].columns,
                      [](const PlannedTile& t) { return t.fate == Fate::kWanted; })) {
        all.push_back({i, row});
      }
    }
  }
  const auto size = static_cast<std::size_t>(ranks_.size());
  const std::size_t run = std::clamp<std::size_t>(all.size() / (8 * size), 1, kMaxRun);
  std::vector<Row> mine;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i / run % size == static_cast<std::size_t>(ranks_.rank())) mine.push_back(all[i]);
  }
  return mine;
}

bool Cutter::is_done(const CutRow& row) const {
  const SurveyedImage& image = images_[row.image];
  const PlannedTile* planned = plan_.images[row.image].data() + row.row * image.columns;
  std::int64_t wanted = 0;
  for (std::int64_t c = 0; c < image.columns; ++c)
    wanted += planned[c].fate == Fate::kWanted ? 1 : 0;
  if (wanted != static_cast<std::int64_t>(row.tiles.size())) return false;
  for (const CutTile& tile : row.tiles) {
    if (tile.fate != Fate::kKept) continue;
    const Path path = options_.output / folder_of(row.image, planned[tile.column]) /
                      file_name(row.image, row.row * image.columns + tile.column);
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 ||
        static_cast<std::uint64_t>(status.st_size) != tile.file_bytes) {
      return false;
    }
  }
  return true;
}

std::uint64_t Cutter::cut(int attempt) {
  const Path state = options_.output / kStateFolder;
  const auto done = attempt == 0 ? std::map<std::pair<std::size_t, std::int64_t>, CutRow>{}
                                 : read_journals(state, images_);
  JournalWriter journal(journal_path(state, attempt, ranks_.rank()));
  const std::vector<Row> rows = my_rows();
  std::uint64_t total = 0;
  for (const Row& row : rows) {
    const auto begin = plan_.images[row.image].begin() + row.row * images_[row.image].columns;
    total += static_cast<std::uint64_t>(
        std::count_if(begin, begin + images_[row.image].columns,
                      [](const PlannedTile& t) { return t.fate == Fate::kWanted; }));
  }

  std::uint64_t seen = 0;
  std::uint64_t cut_now = 0;
  // One bar, of rank 0's share; the others have as much.
  Progress bar(ranks_.size() > 1 ? "cutting (rank 0's share)" : "cutting", "tiles", total,
               ranks_.is_root());
  std::size_t open_image = images_.size();
  std::optional<Raster> raster;
  std::optional<Projector> to_lon_lat;
  for (const Row& row : rows) {
    if (stop_signal() != 0) break;
    const SurveyedImage& image = images_[row.image];
    const PlannedTile* planned = plan_.images[row.image].data() + row.row * image.columns;
    const auto found = done.find({row.image, row.row});
    if (found != done.end() && is_done(found->second)) {
      seen += found->second.tiles.size();
      bar.update(seen);
      continue;
    }
    if (open_image != row.image) {
      raster.emplace(Raster::open_imagery(image.path));
      to_lon_lat.emplace(image.crs_wkt, kLonLat);
      open_image = row.image;
    }
    const std::vector<std::string> corners = row_corners(image, *to_lon_lat, row.row);
    std::vector<bool> wanted(static_cast<std::size_t>(image.columns));
    for (std::size_t c = 0; c < wanted.size(); ++c) wanted[c] = planned[c].fate == Fate::kWanted;
    CutRow record{row.image, row.row, image.fingerprint, {}};
    for_tiles_in_row(
        *raster, row.row, wanted,
        [&](std::int64_t column, std::span<const std::uint8_t> tile, std::int64_t black) {
          CutTile result;
          result.column = column;
          if (black > options_.max_black_px) {
            result.fate = Fate::kBlack;
          } else {
            const Bytes png =
                encode_png(tile, kTilePx, kTilePx, static_cast<int>(options_.png_level));
            const Path folder = options_.output / folder_of(row.image, planned[column]);
            const std::string name = file_name(row.image, row.row * image.columns + column);
            write_tile(folder / name,
                       folder / fmt::format(".{}.tmp.{}.{}", name, ranks_.rank(), ::getpid()), png);
            result.file_bytes = png.size();
            result.corners = corners[static_cast<std::size_t>(column)];
            ++cut_now;
          }
          record.tiles.push_back(std::move(result));
          bar.update(++seen);
        });
    journal.append(record);
  }
  bar.finish();
  return cut_now;
}

CutSummary Cutter::finish(double seconds) {
  const auto done = read_journals(options_.output / kStateFolder, images_);
  CutSummary summary;
  summary.seconds = seconds;
  std::map<std::string, std::string> summaries;  // by set
  std::string manifest = "image,i,label,set\n";
  std::map<std::string, std::uint64_t> discarded;
  json per_image = json::array();
  for (std::size_t i = 0; i < images_.size(); ++i) {
    const SurveyedImage& image = images_[i];
    auto& tiles = plan_.images[i];
    const std::string set = has_sets() ? kSetNames[plan_.set_of_image[i]] : "";
    std::uint64_t kept = 0;
    if (image.past_edge() > 0)
      discarded["past_edge"] += static_cast<std::uint64_t>(image.past_edge());
    for (std::int64_t row = 0; row < image.rows; ++row) {
      const auto found = done.find({i, row});
      if (found != done.end()) {
        for (const CutTile& tile : found->second.tiles) {
          const std::int64_t index = row * image.columns + tile.column;
          PlannedTile& planned = tiles[static_cast<std::size_t>(index)];
          if (planned.fate != Fate::kWanted) continue;
          planned.fate = tile.fate;
          if (tile.fate != Fate::kKept) continue;
          const std::string label = planned.label == ClassTable::kNoClass
                                        ? ""
                                        : plan_.classes[static_cast<std::size_t>(planned.label)];
          summaries[set] += fmt::format("{}{},{}\n", label.empty() ? "" : label + "/",
                                        file_name(i, index), tile.corners);
          manifest += fmt::format("{},{},{},{}\n", image.name, index, label, set);
          ++summary.counts[{set, label}];
          ++kept;
        }
      }
      for (std::int64_t c = 0; c < image.columns; ++c) {
        const PlannedTile& tile = tiles[static_cast<std::size_t>(row * image.columns + c)];
        if (tile.fate == Fate::kKept) continue;
        if (tile.fate == Fate::kWanted && options_.labels_only) {
          const std::string label =
              plan_.classes.empty() ? "" : plan_.classes[static_cast<std::size_t>(tile.label)];
          manifest += fmt::format("{},{},{},{}\n", image.name, row * image.columns + c, label, set);
          ++summary.counts[{set, label}];
          ++kept;
          continue;
        }
        ++discarded[reason(tile.fate)];
      }
    }
    summary.kept += kept;
    per_image.push_back({{"image", image.name},
                         {"columns", image.columns},
                         {"rows", image.rows},
                         {"kept", kept},
                         {"resampled", image.resampled},
                         {"set", set}});
  }
  summary.discarded = discarded;

  json counts = json::object();
  for (const auto& [key, count] : summary.counts) {
    json& of_set = key.first.empty() ? counts : counts[key.first];
    of_set[key.second.empty() ? "unlabelled" : key.second] = count;
  }
  json codes = json::object();
  for (const auto& [code, count] : plan_.codes_without_class) codes[std::to_string(code)] = count;
  const json asked = json::parse(options_.fingerprint());
  const json report{
      {"schema", "quadrat-tiles"},  {"schema_version", 1},
      {"created", utc_now()},       {"program", fmt::format("quadrat-cut {}", version())},
      {"git_commit", git_commit()}, {"asked", asked},
      {"tile_px", kTilePx},         {"classes", plan_.classes},
      {"kept", summary.kept},       {"counts", counts},
      {"discarded", discarded},     {"codes_without_class", codes},
      {"seconds", seconds},         {"images", per_image}};
  const std::string header = "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon\n";
  if (!options_.labels_only) {
    for (const auto& [set, lines] : summaries) {
      write_file(options_.output / set / "tile_summaries.csv", header + lines);
    }
    flush_file_system(options_.output);
  }
  write_file(options_.output / "manifest.csv", manifest);
  write_file(options_.output / kReportName, report.dump(2) + "\n");
  std::error_code ignored;
  fs::remove_all(options_.output / kStateFolder, ignored);
  return summary;
}

enum class Start { kFresh, kResume, kComplete };

/// Looks at what the output folder holds. On one rank.
Start inspect(const CutOptions& options) {
  const Path report = options.output / kReportName;
  const Path settings = options.output / kStateFolder / "settings.json";
  std::error_code error;
  if (!fs::exists(options.output, error)) return Start::kFresh;
  if (!fs::is_directory(options.output, error)) {
    throw InputError("cut into", options.output.native(), "it is not a folder", "name a new one");
  }
  const auto same = [&](const std::string& asked) {
    if (asked == options.fingerprint()) return true;
    throw InputError("cut into", options.output.native(),
                     "it holds tiles cut with other settings or images",
                     "name another --output, or remove that folder");
  };
  // Without a plan nothing was cut: what was asked may change, say after an error in it.
  if (fs::exists(settings, error) && fs::exists(options.output / kStateFolder / kPlanName, error)) {
    const Bytes content = read_file(settings);
    same(std::string(reinterpret_cast<const char*>(content.data()), content.size()));
    // Killed between writing the report and removing the state: all is there.
    return Start::kResume;
  }
  if (fs::exists(report, error)) {
    const Bytes content = read_file(report);
    const auto* begin = reinterpret_cast<const char*>(content.data());
    const json known = json::parse(begin, begin + content.size(), nullptr, false);
    if (!known.is_object() || !known.contains("asked")) {
      throw InputError("cut into", options.output.native(), "its tiles.json is not quadrat-cut's",
                       "name another --output");
    }
    same(known["asked"].dump());
    return Start::kComplete;
  }
  for (const auto& entry : fs::directory_iterator(options.output)) {
    if (entry.path().filename() == kStateFolder) continue;
    throw InputError(
        "cut into", options.output.native(),
        fmt::format("it is not empty: it holds '{}'", printable(entry.path().filename().native())),
        "name a new folder");
  }
  return Start::kFresh;
}

CutSummary read_report(const Path& path) {
  const Bytes content = read_file(path);
  const auto* begin = reinterpret_cast<const char*>(content.data());
  const json known = json::parse(begin, begin + content.size());
  CutSummary summary;
  summary.was_complete = true;
  summary.kept = known["kept"];
  summary.seconds = known["seconds"];
  summary.discarded = known["discarded"].get<std::map<std::string, std::uint64_t>>();
  for (const auto& [key, value] : known["counts"].items()) {
    if (value.is_number()) {
      summary.counts[{"", key == "unlabelled" ? "" : key}] = value;
    } else {
      for (const auto& [label, count] : value.items())
        summary.counts[{key, label == "unlabelled" ? "" : label}] = count;
    }
  }
  return summary;
}

}  // namespace

std::string CutOptions::fingerprint() const {
  std::vector<std::string> sorted = images;
  std::sort(sorted.begin(), sorted.end());
  const json asked{{"images", sorted},
                   {"nlcd", nlcd.native()},
                   {"class_table", class_table.native()},
                   {"manifest", manifest.native()},
                   {"validation_fraction", validation_fraction},
                   {"validation_images", validation_images},
                   {"split_by", split_by},
                   {"balance", balance},
                   {"labels_only", labels_only},
                   {"seed", seed},
                   {"max_black_px", max_black_px},
                   {"png_level", png_level}};
  return asked.dump();
}

CutSummary cut_tiles(const CutOptions& options, const mpi::Communicator& ranks) {
  const auto began = std::chrono::steady_clock::now();
  const Path state = options.output / kStateFolder;
  auto start = Start::kFresh;
  int attempt = 0;
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    start = inspect(options);
    if (start == Start::kComplete) return;
    make_folder(state);
    if (start == Start::kFresh) {
      fs::remove_all(state);
      make_folder(state);
      write_file(state / "settings.json", options.fingerprint());
    }
    attempt = next_attempt(state);
  });
  const std::string told = ranks.broadcast(fmt::format("{} {}", static_cast<int>(start), attempt));
  start = static_cast<Start>(told.at(0) - '0');
  attempt = std::stoi(told.substr(2));
  if (start == Start::kComplete) {
    CutSummary summary;
    mpi::together(ranks, [&] { summary = read_report(options.output / kReportName); });
    return summary;
  }

  std::vector<SurveyedImage> images = survey_images(options.images, ranks);
  // The plan is made once: a restart follows it, on however many ranks.
  const Path plan_path = state / kPlanName;
  Bytes stored;
  mpi::together(ranks, [&] {
    std::error_code error;
    if (ranks.is_root() && fs::exists(plan_path, error))
      stored = read_file(plan_path, std::uint64_t{1} << 40);
  });
  stored = ranks.broadcast(std::move(stored));
  CutPlan plan = stored.empty() ? make_plan(options, images, ranks) : CutPlan::deserialize(stored);
  Cutter cutter(options, ranks, images, std::move(plan));
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    if (stored.empty()) write_file(plan_path, cutter.plan().serialize());
    if (!options.labels_only) cutter.make_folders();
  });

  // From here on an error of one rank ends all: what the others have done is in their journals.
  const std::uint64_t cut_here = options.labels_only ? 0 : cutter.cut(attempt);
  const bool interrupted = ranks.max(stop_signal() != 0 ? 1 : 0) > 0;
  const std::int64_t cut_now = ranks.sum(static_cast<std::int64_t>(cut_here));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  CutSummary summary;
  if (!interrupted) {
    mpi::together(ranks, [&] {
      if (ranks.is_root()) summary = cutter.finish(seconds);
    });
  }
  summary.interrupted = interrupted;
  summary.cut_now = static_cast<std::uint64_t>(cut_now);
  summary.seconds = seconds;
  return summary;
}

}  // namespace quadrat::geo
