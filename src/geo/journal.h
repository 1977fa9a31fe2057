#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/files.h"
#include "survey.h"

namespace quadrat::geo {

/// What was done with one tile: kKept, or kBlack.
struct CutTile {
  std::int64_t column = 0;
  Fate fate = Fate::kKept;
  std::uint32_t file_bytes = 0;  ///< of its PNG; 0 for a black one
};

/// A journal's line: what was done in one row of an image's grid, or in part of it. The image is
/// named with its fingerprint, so that nothing is believed of another file under its name.
std::string journal_line(std::size_t image, const SurveyedImage& surveyed, std::int64_t row,
                         std::span<const CutTile> tiles);

/// Calls `use(image, row, tile)` for every tile in the whole lines about these images as they are
/// now, in their order. What else there is does not count: a line that a kill cut short, or of
/// images that have changed.
void for_each_cut_tile(
    std::string_view lines, const std::vector<SurveyedImage>& images,
    const std::function<void(std::size_t image, std::int64_t row, const CutTile& tile)>& use);

/// A file of each rank's own that lines are added to.
class JournalWriter {
 public:
  explicit JournalWriter(const Path& path);
  ~JournalWriter();
  JournalWriter(const JournalWriter&) = delete;
  JournalWriter& operator=(const JournalWriter&) = delete;

  void append(std::string_view line);

 private:
  Path path_;
  int descriptor_ = -1;
};

/// The whole lines of all journals in `folder`, the oldest attempt first.
std::string read_journals(const Path& folder);

/// The name of a rank's next journal: attempts are counted so that order is kept.
Path journal_path(const Path& folder, int attempt, int rank);
int next_attempt(const Path& folder);

}  // namespace quadrat::geo
