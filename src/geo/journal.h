#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "quadrat/base/files.h"
#include "survey.h"

namespace quadrat::geo {

/// What was done with one tile.
struct CutTile {
  std::int64_t column = 0;
  Fate fate = Fate::kKept;
  std::uint64_t file_bytes = 0;
  /// Lower left and upper right latitude and longitude as tile_summaries.csv has them, "a,b,c,d".
  std::string corners;
};

/// What was done with the wanted tiles of one row of an image's grid.
struct CutRow {
  std::size_t image = 0;
  std::int64_t row = 0;
  std::string fingerprint;  ///< of the image it was cut from
  std::vector<CutTile> tiles;
};

/// Rows done, one line each, in a file of each rank's own. A line that a kill cut short does not
/// count.
class JournalWriter {
 public:
  explicit JournalWriter(const Path& path);
  ~JournalWriter();
  JournalWriter(const JournalWriter&) = delete;
  JournalWriter& operator=(const JournalWriter&) = delete;

  void append(const CutRow& row);

 private:
  Path path_;
  int descriptor_ = -1;
};

/// All rows that the journals in `folder` have of these images; of one done twice, the last.
std::map<std::pair<std::size_t, std::int64_t>, CutRow> read_journals(
    const Path& folder, const std::vector<SurveyedImage>& images);

/// The name of a rank's next journal: attempts are counted so that order is kept.
Path journal_path(const Path& folder, int attempt, int rank);
int next_attempt(const Path& folder);

}  // namespace quadrat::geo
