#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/geo/land_cover.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::geo {

/// What quadrat-cut was asked; see its --help for what each means.
struct CutOptions {
  std::vector<std::string> images;
  Path nlcd;         ///< empty: scoring mode, every whole tile, no labels
  Path class_table;  ///< empty: ClassTable::nlcd()
  Path output;
  Path manifest;  ///< empty: all tiles that the rules keep
  double validation_fraction = 0;
  std::vector<std::string> validation_images;  ///< file names or stems
  std::string split_by = "image";              ///< image, folder
  bool balance = false;
  bool labels_only = false;
  std::int64_t seed = 0;
  std::int64_t max_black_px = 10;
  /// Level 6 makes files 0.5 % smaller than 3 on NAIP, and takes half as long again.
  std::int64_t png_level = 3;

  /// What is asked, in a form that a restart is compared by.
  std::string fingerprint() const;
  bool has_sets() const { return validation_fraction > 0 || !validation_images.empty(); }
};

inline constexpr std::int64_t kTilePx = 224;  ///< = metres, at 1 m a pixel

struct CutSummary {
  bool interrupted = false;   ///< a signal came: the same command goes on from here
  bool was_complete = false;  ///< nothing was left to do
  std::uint64_t kept = 0;     ///< tiles in the output folder
  std::uint64_t cut_now = 0;  ///< of these, cut by this call
  double seconds = 0;
  /// Tiles of each set and class: {{"train", "Forest"}, 812}; "" where there are no sets or labels.
  std::map<std::pair<std::string, std::string>, std::uint64_t> counts;
  std::map<std::string, std::uint64_t> discarded;  ///< by reason
};

/// Cuts images into tiles of 224 m; rows of the grid are dealt to the ranks as they get free. Files
/// are as DESIGN section 6 has them:
///
///     OUTPUT/[SET/][CLASS/]IMAGE_i.png    i counts the grid row by row from the north-west corner
///     OUTPUT/[SET/]tile_summaries.csv     the tiles' corners, WGS 84
///     OUTPUT/manifest.csv                 image,i,label,set of every tile kept, to cut them again
///     OUTPUT/tiles.json                   what was asked, kept and discarded; there once all is
///
/// While it runs, OUTPUT/.quadrat_cut holds the plan and what is done: a restart goes on from
/// there. With `balance`, tiles are cut in an order drawn from the seed until every class has as
/// many as the rarest, so that none is read which is not needed. Collective.
/// @throws InputError, IoError, UsageError
CutSummary cut_tiles(const CutOptions& options, const mpi::Communicator& ranks);

}  // namespace quadrat::geo
