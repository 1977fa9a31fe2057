#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "journal.h"
#include "plan.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/geo/cut.h"
#include "quadrat/mpi/communicator.h"
#include "survey.h"

namespace quadrat::geo {

/// One call of cut_tiles, between the plan and the end.
class Cutter {
 public:
  /// @param options, ranks must outlive it
  Cutter(const CutOptions& options, const mpi::Communicator& ranks,
         std::vector<SurveyedImage> images, CutPlan plan);

  const CutPlan& plan() const { return plan_; }

  /// Folders for the tiles, with nothing half written in them. On one rank.
  void make_folders() const;

  /// Cuts what the plan wants and earlier attempts have not done; stops early where a signal came.
  /// Collective. @return tiles cut by this rank
  std::uint64_t cut(int attempt);

  /// Removes the tiles that turned out to be too many, then writes the lists and the report. On
  /// rank 0, once all is cut.
  CutSummary finish(double seconds);

 private:
  struct Row {
    std::size_t image;
    std::int64_t row;
  };

  /// The plan as far as what has been learnt decides it.
  CutPlan chosen() const;
  /// Takes over what journals' lines say of tiles.
  void learn(std::string_view lines);
  std::vector<Row> rows_to_cut(const CutPlan& plan, bool check_kept) const;
  std::string cut_rows(const CutPlan& plan, const std::vector<Row>& rows, bool check_kept,
                       JournalWriter& journal, std::uint64_t& cut_now);
  bool is_on_disk(std::size_t image, std::int64_t index) const;

  /// The folder of a tile's set and class below the output folder, with '/' at its end where it is
  /// not that itself.
  std::string folder_of(std::size_t image, const PlannedTile& tile) const;
  std::string file_name(std::size_t image, std::int64_t index) const;
  std::string class_of(const PlannedTile& tile) const;
  std::string set_of(std::size_t image) const;

  const CutOptions& options_;
  const mpi::Communicator& ranks_;
  std::vector<SurveyedImage> images_;
  CutPlan plan_;
  std::vector<std::vector<std::uint32_t>> file_bytes_;  // as plan_.images; of tiles that are kept
};

/// Removes what a process killed at its very end leaves in a complete output folder. Never throws.
void remove_leftovers(const Path& output) noexcept;

/// What a tiles.json says. @param name of the file, for errors @throws InputError where it is not
/// quadrat-cut's
CutSummary read_report(std::string_view text, const std::string& name);
/// What was asked for the tiles it speaks of, as CutOptions::fingerprint() has it.
std::string asked_in_report(std::string_view text, const std::string& name);
/// Warns of those images that are no longer the files it was cut from.
void warn_of_other_images(std::string_view text, const std::string& name,
                          const std::vector<std::string>& images);

}  // namespace quadrat::geo
