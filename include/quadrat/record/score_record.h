#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"

namespace quadrat {

/// A tile's corners in degrees, WGS 84.
struct TileCorners {
  double llcrnrlat = 0;
  double llcrnrlon = 0;
  double urcrnrlat = 0;
  double urcrnrlon = 0;
};

struct RejectedTile {
  std::string tile;
  std::string reason;
};

/// scores/NAME/scores.h5: what a model said of a set of tiles. Schema "quadrat-scores" version 1.
struct ScoreRecord {
  RunStatus status = RunStatus::kRunning;
  std::string created;
  std::string updated;
  double seconds = 0;  ///< wall time of scoring, start-up left out
  Settings config;
  Settings environment;
  std::vector<std::string> classes;
  Predictions predictions;           ///< labels only where the tiles came in class folders
  std::vector<TileCorners> corners;  ///< one a prediction, or empty where unknown
  std::vector<RejectedTile> rejected;
};

/// Replaces `path` atomically. Sets `updated`, and `created` where empty. The attribute `tiles`
/// counts predictions; `tiles_per_s` is that over `seconds`, 0 while either is 0.
/// @pre sizes agree, as for write_run_record; corners one a prediction or none @throws IoError
void write_score_record(const Path& path, ScoreRecord& record);

/// Replaces `path` atomically by a file with `/tiles` (the tile names of the record's predictions)
/// and `/features`, f4 [tiles, width]: what the network's last layer saw of each. Schema
/// "quadrat-score-features" version 1; the record's settings go along. @throws IoError
void write_score_features(const Path& path, const ScoreRecord& record,
                          std::span<const float> features, std::size_t width);

/// @throws InputError as read_run_record
ScoreRecord read_score_record(const Path& path);

}  // namespace quadrat
