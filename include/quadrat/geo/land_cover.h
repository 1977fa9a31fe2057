#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/geo/raster.h"

namespace quadrat::geo {

/// Which land cover code counts as which class. Classes are indexed in the order of their names.
class ClassTable {
 public:
  static constexpr int kNoClass = -1;
  static constexpr std::size_t kMaxClasses = 127;

  /// NLCD codes as the sample groups them: 21-24 Developed; 31 Barren; 41, 42, 43, 90 Forest; 51,
  /// 52 Shrub; 71-74, 95 Herbaceous; 81, 82 Cultivated. All others (water 11, ice 12) have no
  /// class.
  static ClassTable nlcd();

  /// Lines of `code,class`, a header line and # comments allowed. @throws InputError naming the
  /// line
  static ClassTable read(const Path& path);
  /// The same of a file's content. @param name of the file, for errors
  static ClassTable parse(std::string_view text, const std::string& name);

  const std::vector<std::string>& classes() const { return classes_; }
  int class_of(std::int32_t code) const;

 private:
  explicit ClassTable(const std::map<std::int32_t, std::string>& names);

  std::vector<std::string> classes_;
  std::map<std::int32_t, int> class_of_;
};

/// Where in a tile its land cover is looked up: the nine points (1/6, 3/6, 5/6) x (1/6, 3/6, 5/6)
/// of its sides.
inline constexpr std::array<double, 3> kSampleFractions{1.0 / 6, 3.0 / 6, 5.0 / 6};
inline constexpr std::size_t kSamplesPerTile = 9;

/// A raster of land cover codes, in a projection and resolution of its own.
class LandCover {
 public:
  static constexpr std::int32_t kNoCode = -1;  ///< outside the raster, or nodata

  /// @param crs of the points that will be asked for
  LandCover(const Path& path, const std::string& crs);

  /// The code of the pixel each point lies in. Points that lie together cost one read.
  std::vector<std::int32_t> codes_at(std::span<const Point> points);

 private:
  Raster raster_;
  Projector projector_;
  std::int32_t nodata_;
};

/// Why a tile of the grid is no tile of the set, in the words of tiles.json.
enum class Fate : std::uint8_t {
  kWanted,      ///< to be cut
  kKept,        ///< cut
  kMixed,       ///< its nine points lie in several classes
  kNoClass,     ///< one lies in a land cover without a class, such as water
  kNotCovered,  ///< one lies where the land cover raster has nothing
  kBlack,       ///< more than max_black_px pixels are (0, 0, 0)
  kUnbalanced,  ///< removed at random so that classes are even
  kBorder,      ///< a training tile less than 112 m away from a validation tile
  kNotListed,   ///< not in the manifest given
};

/// What the nine-point rule says of a tile.
struct TileLabel {
  Fate fate = Fate::kMixed;          ///< kWanted where all nine are of one class
  int label = ClassTable::kNoClass;  ///< that class
  std::int32_t code = 0;             ///< the first code without a class, where that is the fate
};

/// @param codes of the tile's nine points
TileLabel label_tile(std::span<const std::int32_t> codes, const ClassTable& table);

}  // namespace quadrat::geo
