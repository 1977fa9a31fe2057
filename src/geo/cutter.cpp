#include "cutter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <span>

#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/image/png.h"
#include "quadrat/mpi/unit_dealer.h"

namespace quadrat::geo {

namespace {

/// A strip holds at most this many tiles: 224 x 57,344 pixels, 39 MB.
constexpr std::int64_t kMaxStripTiles = 256;

/// Where a row of blocks outgrows GDAL's cache, a unit's rows are cut this many columns at a time,
/// so that the blocks they share are still there for the next row: with blocks of 1024 x 1024
/// pixels in three bands 24 of them, 75 MB. 32 tiles are 7,168 pixels, a multiple of what blocks
/// are wide.
constexpr std::int64_t kChunkTiles = 32;

/// A tile's file on its way from nothing to whole: never half under its own name, whenever the
/// process is killed. Not fsynced one by one, which would halve the speed; a restart compares sizes
/// with the journal's, and all is flushed before tiles.json says that the set is complete.
void write_tile(const Path& path, const Path& temporary, std::span<const std::byte> content) {
  int descriptor = -1;
  do descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) throw IoError::from_errno("create", temporary.native());
  try {
    write_all(descriptor, content, "write tile", path);
  } catch (...) {
    ::close(descriptor);
    ::unlink(temporary.c_str());
    throw;
  }
  if (::close(descriptor) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const IoError error = IoError::from_errno("write tile", path.native());
    ::unlink(temporary.c_str());
    throw error;
  }
}

/// Copies a tile out of a row of tiles. @return how many of its pixels are black
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

/// Calls `use(column, tile, black pixels)` for each wanted tile of a row of the grid, reading as
/// few strips as it can. @param wanted per column, from `first` on
void for_tiles_in_row(
    Raster& raster, std::int64_t row, std::int64_t first, const std::vector<bool>& wanted,
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
    const Window window{(first + begin) * kTilePx, row * kTilePx, (end - begin) * kTilePx, kTilePx};
    strip.resize(static_cast<std::size_t>(3 * window.width_px * window.height_px));
    raster.read_rgb(window, strip);
    for (std::int64_t column = begin; column < end; ++column) {
      if (!is_wanted(column)) continue;
      const std::int64_t black =
          copy_tile(strip, window.width_px, (column - begin) * kTilePx, tile);
      use(first + column, tile, black);
    }
    begin = end;
  }
}

/// Where each unit of the rows to be dealt begins: runs of neighbours, which share blocks of the
/// image, shorter towards the end, so that the ranks end together.
std::vector<std::size_t> unit_begins(std::size_t rows, std::size_t ranks) {
  constexpr std::size_t kMaxRun = 8;
  std::vector<std::size_t> begins;
  for (std::size_t at = 0; at < rows;
       at += std::clamp<std::size_t>((rows - at) / (4 * ranks), 1, kMaxRun)) {
    begins.push_back(at);
  }
  return begins;
}

}  // namespace

Cutter::Cutter(const CutOptions& options, const mpi::Communicator& ranks,
               std::vector<SurveyedImage> images, CutPlan plan)
    : options_(options), ranks_(ranks), images_(std::move(images)), plan_(std::move(plan)) {
  for (const auto& tiles : plan_.images) file_bytes_.emplace_back(tiles.size());
}

std::string Cutter::class_of(const PlannedTile& tile) const {
  return tile.label == ClassTable::kNoClass ? ""
                                            : plan_.classes[static_cast<std::size_t>(tile.label)];
}

std::string Cutter::set_of(std::size_t image) const {
  return plan_.has_sets ? kSetNames[plan_.set_of_image[image]] : "";
}

std::string Cutter::folder_of(std::size_t image, const PlannedTile& tile) const {
  std::string folder = set_of(image);
  if (!folder.empty()) folder += '/';
  const std::string label = class_of(tile);
  return label.empty() ? folder : folder + label + '/';
}

std::string Cutter::file_name(std::size_t image, std::int64_t index) const {
  return fmt::format("{}_{}.png", images_[image].name, index);
}

CutPlan Cutter::chosen() const { return options_.balance ? even_out(plan_, options_.seed) : plan_; }

void Cutter::learn(std::string_view lines) {
  for_each_cut_tile(
      lines, images_, [&](std::size_t image, std::int64_t row, const CutTile& cut_tile) {
        const auto index = static_cast<std::size_t>(row * images_[image].columns + cut_tile.column);
        Fate& fate = plan_.images[image][index].fate;
        if (fate > Fate::kKept && fate != Fate::kBlack) return;
        fate = cut_tile.fate;
        file_bytes_[image][index] = cut_tile.file_bytes;
      });
}

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

bool Cutter::is_on_disk(std::size_t image, std::int64_t index) const {
  const auto at = static_cast<std::size_t>(index);
  const Path path =
      options_.output / folder_of(image, plan_.images[image][at]) / file_name(image, index);
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && status.st_size == file_bytes_[image][at];
}

std::vector<Cutter::Row> Cutter::rows_to_cut(const CutPlan& plan, bool check_kept) const {
  std::vector<Row> rows;
  for (std::size_t i = 0; i < images_.size(); ++i) {
    for (std::int64_t row = 0; row < images_[i].rows; ++row) {
      const auto begin = plan.images[i].begin() + row * images_[i].columns;
      if (std::any_of(begin, begin + images_[i].columns, [&](const PlannedTile& tile) {
            return tile.fate == Fate::kWanted || (check_kept && tile.fate == Fate::kKept);
          })) {
        rows.push_back({i, row});
      }
    }
  }
  return rows;
}

std::uint64_t Cutter::cut(int attempt) {
  const Path state = options_.output / tile_folder::kUnfinished;
  std::string known;
  mpi::together(ranks_, [&] {
    if (attempt > 0 && ranks_.is_root()) known = read_journals(state);
  });
  learn(ranks_.broadcast(std::move(known)));
  JournalWriter journal(journal_path(state, attempt, ranks_.rank()));
  std::uint64_t cut_now = 0;
  // Once around, and with --balance again for as long as black tiles want replacing.
  for (bool is_first = true;; is_first = false) {
    const CutPlan plan = chosen();
    const std::vector<Row> rows = rows_to_cut(plan, is_first);
    if (rows.empty()) return cut_now;
    const std::string mine = cut_rows(plan, rows, is_first, journal, cut_now);
    // By message: another node's fresh files may not be seen yet on a file server.
    std::string all;
    for (const Bytes& part : ranks_.gather(std::as_bytes(std::span(mine)))) {
      all.append(reinterpret_cast<const char*>(part.data()), part.size());
    }
    if (options_.balance) all = ranks_.broadcast(std::move(all));
    learn(all);
    if (mpi::any_asked_to_stop(ranks_) || !options_.balance) return cut_now;
  }
}

/// Cuts the rows that this rank is dealt. @return what was done, as the journal has it
std::string Cutter::cut_rows(const CutPlan& plan, const std::vector<Row>& rows, bool check_kept,
                             JournalWriter& journal, std::uint64_t& cut_now) {
  std::uint64_t total = 0;
  for (const auto& tiles : plan.images) {
    total += static_cast<std::uint64_t>(
        std::count_if(tiles.begin(), tiles.end(), [&](const PlannedTile& tile) {
          return tile.fate == Fate::kWanted || (check_kept && tile.fate == Fate::kKept);
        }));
  }
  const std::vector<std::size_t> begins =
      unit_begins(rows.size(), static_cast<std::size_t>(ranks_.size()));
  mpi::UnitDealer dealer(ranks_, begins.size());
  Progress bar("cutting", "tiles", total, ranks_.is_root());
  std::uint64_t in_part = 0;
  const auto show = [&] {
    if (ranks_.is_root()) bar.update(dealer.done() + in_part);
  };

  std::string lines;
  std::size_t open_image = images_.size();
  std::optional<Raster> raster;
  const auto cut_part = [&](const Row& row, std::int64_t first, std::int64_t end) {
    const SurveyedImage& image = images_[row.image];
    const PlannedTile* planned = plan.images[row.image].data() + row.row * image.columns;
    std::vector<bool> wanted;
    std::uint64_t kept = 0;
    for (std::int64_t column = first; column < end; ++column) {
      const Fate fate = planned[column].fate;
      const bool check = check_kept && fate == Fate::kKept;
      const bool is_there = check && is_on_disk(row.image, row.row * image.columns + column);
      wanted.push_back(fate == Fate::kWanted || (check && !is_there));
      kept += is_there ? 1 : 0;
    }
    in_part = kept;
    std::vector<CutTile> done;
    if (std::find(wanted.begin(), wanted.end(), true) != wanted.end()) {
      if (open_image != row.image) raster.emplace(Raster::open_imagery(image.path));
      open_image = row.image;
      for_tiles_in_row(
          *raster, row.row, first, wanted,
          [&](std::int64_t column, std::span<const std::uint8_t> tile, std::int64_t black) {
            CutTile result{column, Fate::kBlack, 0};
            if (black <= options_.max_black_px) {
              const Bytes png =
                  encode_png(tile, kTilePx, kTilePx, static_cast<int>(options_.png_level));
              const Path folder = options_.output / folder_of(row.image, planned[column]);
              const std::string name = file_name(row.image, row.row * image.columns + column);
              write_tile(folder / name,
                         folder / fmt::format(".{}.tmp.{}.{}", name, ranks_.rank(), ::getpid()),
                         png);
              result = {column, Fate::kKept, static_cast<std::uint32_t>(png.size())};
              ++cut_now;
            }
            done.push_back(result);
            ++in_part;
            dealer.poll();
            show();
          });
      const std::string line = journal_line(row.image, image, row.row, done);
      journal.append(line);
      lines += line;
    }
    dealer.add_done(in_part);
    in_part = 0;
  };
  // Rows of one image.
  const auto cut_run = [&](std::span<const Row> run) {
    const SurveyedImage& image = images_[run.front().image];
    const std::int64_t step = image.outgrows_cache ? kChunkTiles : image.columns;
    for (std::int64_t first = 0; first < image.columns; first += step) {
      for (const Row& row : run) {
        if (stop_signal() != 0) return;
        cut_part(row, first, std::min(first + step, image.columns));
      }
    }
  };

  const auto work = [&] {
    while (const auto unit = dealer.next()) {
      const std::size_t end = *unit + 1 < begins.size() ? begins[*unit + 1] : rows.size();
      for (std::size_t at = begins[*unit]; at < end;) {
        const std::size_t first = at;
        while (at < end && rows[at].image == rows[first].image) ++at;
        cut_run(std::span(rows).subspan(first, at - first));
      }
      if (stop_signal() != 0) break;
    }
  };
  dealer.run(work, show);
  return lines;
}

}  // namespace quadrat::geo
