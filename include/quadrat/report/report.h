#pragma once

#include <string>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat::report {

struct ReportOptions {
  Path runs = "runs";
  Path scores_folder = "scores";
  std::string run;  ///< name of a training run, or a path to its folder or record; empty for none
  std::string scores;   ///< name of a scored set, or a path; empty for none
  std::string versus;   ///< an earlier scored set of the same place; empty for none
  Path tile_summaries;  ///< corners of the tiles of `scores`, where its record has none
  Path validation;      ///< where the run's validation tiles are; empty: where its record says
  Path output;
};

struct ReportResult {
  std::vector<Path> files;         ///< written, the page first
  std::vector<std::string> notes;  ///< what could not be shown and why
};

/// Writes OUTPUT/index.html, one page that needs nothing else and no network, and for a scored set
/// with known corners map.tif and map_smoothed.tif (one pixel a tile) and tiles.gpkg; with `versus`
/// changes.csv too. What an earlier page in OUTPUT says lies beside it and this report does not
/// write is removed.
/// @throws UsageError, InputError, IoError
ReportResult write_report(const ReportOptions& options);

}  // namespace quadrat::report
