#pragma once

namespace quadrat::tile_folder {

/// What quadrat-cut writes beside the tiles, by which other programs know them (DESIGN, section 6).
inline constexpr const char* kReport = "tiles.json";      ///< what was asked and kept: written last
inline constexpr const char* kManifest = "manifest.csv";  ///< every tile, to cut the same again
inline constexpr const char* kSummaries = "tile_summaries.csv";  ///< where tiles lie
/// A folder, there while tiles are still to be cut: what was asked, the plan, what is done of it.
inline constexpr const char* kUnfinished = ".quadrat_cut";

}  // namespace quadrat::tile_folder
