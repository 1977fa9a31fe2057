#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quadrat/record/run_record.h"
#include "quadrat/record/score_record.h"
#include "quadrat/report/county.h"

// The parts of the report's page. Private to the room.
namespace quadrat::report {

struct Section {
  std::string id;
  std::string short_title;  ///< in the list of parts
  std::string title;
  std::string html;
};

/// A big number of the page's head.
struct Figure {
  std::string value;
  std::string label;
};

/// Everything of a scored place that the page and the files beside it are made of.
struct County {
  ScoreRecord record;
  std::string name;
  std::optional<TileGrid> grid;         ///< where corners are known
  std::vector<std::uint16_t> smoothed;  ///< one a tile; empty without a grid
  std::optional<ScoreRecord> before;    ///< the earlier year
  std::string before_name;
  std::vector<Pair> pairs;  ///< tiles both years have
  std::vector<std::uint16_t> smoothed_before;
};

/// A tile whose class changed.
struct Change {
  Pair pair;
  double certainty = 0;  ///< P(class then) x P(class now)
  bool settled = false;  ///< whether smoothing leaves both classes as they are
};
/// The surest first.
std::vector<Change> changes_of(const County& county);

std::vector<Section> run_sections(const RunRecord& run, const Path& tiles,
                                  std::vector<std::string>& notes);
std::vector<Figure> run_figures(const RunRecord& run);

std::vector<Section> county_sections(const County& county, std::vector<std::string>& notes);
/// Where there are any.
Section rejected_section(const ScoreRecord& record);
std::vector<Figure> county_figures(const County& county);
/// map.tif and the like. @return what was written
std::vector<Path> write_county_files(const County& county, const Path& folder,
                                     std::vector<std::string>& notes);

std::string settings_section(const std::string& title, const Settings& config,
                             const Settings& environment);

}  // namespace quadrat::report
