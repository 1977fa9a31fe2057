#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>

#include "quadrat/base/files.h"
#include "quadrat/record/score_record.h"

namespace quadrat {

/// Where tiles lie, from a tile_summaries.csv as quadrat-cut writes it:
/// filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon.
class TileSummaries {
 public:
  /// @throws InputError naming the line that is none; IoError
  explicit TileSummaries(const Path& path);

  /// By the tile's path below its folder, else by its file name alone; nullptr where no line has
  /// it.
  const TileCorners* find(const std::string& tile) const;
  std::size_t size() const { return corners_.size(); }

 private:
  std::unordered_map<std::string, TileCorners> corners_;
};

}  // namespace quadrat
