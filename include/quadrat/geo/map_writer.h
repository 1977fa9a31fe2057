#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/geo/raster.h"

namespace quadrat::geo {

/// A layer of polygons with attributes, one a tile.
struct PolygonLayer {
  enum class FieldType { kText, kInteger, kReal };
  struct Field {
    std::string name;
    FieldType type;
  };
  using Value =
      std::variant<std::monostate, std::string, std::int64_t, double>;  ///< monostate: null
  struct Style {
    std::string value;  ///< of `style_field`
    std::array<std::uint8_t, 3> rgb;
  };

  std::string name;
  std::string description;
  std::string crs;  ///< WKT or "EPSG:26918"
  std::vector<Field> fields;
  std::uint64_t count = 0;
  /// Fills polygon i: four corners in order around it, and one value a field.
  std::function<void(std::uint64_t i, std::array<Point, 4>& corners, std::vector<Value>& values)>
      fill;
  std::string style_field;  ///< what QGIS colours by when the layer is opened; empty for no style
  std::vector<Style> styles;
};

/// Writes a GeoPackage, made in memory and put in place whole (see replace_file): SQLite's locks
/// are not needed where it ends up. QGIS opens it in the style's colours. @throws IoError
void write_geopackage(const Path& path, const PolygonLayer& layer);

/// Names of the pixel values of a raster of classes, where GDAL and QGIS look for them:
/// PATH.aux.xml.
void write_category_names(const Path& raster, const std::vector<std::string>& names);

}  // namespace quadrat::geo
