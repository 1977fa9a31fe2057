#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/geo/cut.h"
#include "quadrat/geo/land_cover.h"
#include "quadrat/mpi/communicator.h"
#include "survey.h"

namespace quadrat::geo {

/// A tile's place in the plan.
struct PlannedTile {
  Fate fate = Fate::kWanted;
  std::int8_t label = ClassTable::kNoClass;
};

/// What becomes of every tile of the grid.
struct CutPlan {
  std::vector<std::string> classes;              ///< empty without labels
  std::vector<std::vector<PlannedTile>> images;  ///< [image][row * columns + column]
  bool has_sets = false;                         ///< whether tiles go into train/ and validation/
  std::vector<std::uint8_t> set_of_image;  ///< 0 train, 1 validation; all 0 where there are no sets
  std::map<std::int32_t, std::uint64_t>
      codes_without_class;  ///< land cover code: tiles it discarded

  Bytes serialize() const;
  /// @throws InputError for what serialize() did not write, or not of these images
  static CutPlan deserialize(std::span<const std::byte> bytes,
                             const std::vector<SurveyedImage>& images);
};

inline constexpr std::array<const char*, 2> kSetNames{"train", "validation"};

/// Labels and splits. Collective; the same on all ranks. Classes are not evened out yet: which
/// tiles are too black to count is known once they are read.
CutPlan make_plan(const CutOptions& options, const std::vector<SurveyedImage>& images,
                  const mpi::Communicator& ranks);

/// Whether the images can be split as asked, which is known before any is labelled. @throws
/// UsageError
void check_sets(const CutOptions& options, const std::vector<SurveyedImage>& images);

/// Which images are for validation: [image] 1, else 0. @throws UsageError as check_sets
std::vector<std::uint8_t> split(const CutOptions& options, const std::vector<SurveyedImage>& images,
                                const CutPlan& plan);

/// Drops training tiles less than half a tile away from a validation tile, or under one where
/// images overlap.
void clear_border(const std::vector<SurveyedImage>& images, CutPlan& plan);

/// The plan with the classes of each set as even as what is known allows: of each class the first
/// tiles, in an order drawn from the seed, that are not known to be black; as many as the rarest
/// class has. The rest become kUnbalanced. Where a tile of it is still kWanted it must be cut and
/// its black pixels counted, and this asked again; where none is, this is the choice, and it is the
/// same whichever tiles were looked at before.
CutPlan even_out(const CutPlan& plan, std::int64_t seed);

/// The tiles that a manifest lists, with its labels and sets. @param name of the file, for errors
/// @throws InputError naming the line that is wrong
CutPlan read_manifest(std::string_view text, const std::string& name,
                      const std::vector<SurveyedImage>& images);

}  // namespace quadrat::geo
