#include "quadrat/geo/land_cover.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

namespace {

/// Points further apart than this are read separately, so that memory stays bounded by it.
constexpr std::int64_t kMaxWindowPixels = std::int64_t{1} << 22;

}  // namespace

ClassTable::ClassTable(const std::map<std::int32_t, std::string>& names) {
  for (const auto& [code, name] : names) classes_.push_back(name);
  std::sort(classes_.begin(), classes_.end());
  classes_.erase(std::unique(classes_.begin(), classes_.end()), classes_.end());
  for (const auto& [code, name] : names) {
    class_of_[code] = static_cast<int>(std::lower_bound(classes_.begin(), classes_.end(), name) -
                                       classes_.begin());
  }
}

ClassTable ClassTable::nlcd() {
  return ClassTable({{21, "Developed"},
                     {22, "Developed"},
                     {23, "Developed"},
                     {24, "Developed"},
                     {31, "Barren"},
                     {41, "Forest"},
                     {42, "Forest"},
                     {43, "Forest"},
                     {90, "Forest"},
                     {51, "Shrub"},
                     {52, "Shrub"},
                     {71, "Herbaceous"},
                     {72, "Herbaceous"},
                     {73, "Herbaceous"},
                     {74, "Herbaceous"},
                     {95, "Herbaceous"},
                     {81, "Cultivated"},
                     {82, "Cultivated"}});
}

ClassTable ClassTable::read(const Path& path) {
  const Bytes content = read_file(path, std::uint64_t{1} << 20);
  return parse({reinterpret_cast<const char*>(content.data()), content.size()}, path.native());
}

ClassTable ClassTable::parse(std::string_view text, const std::string& name_of_file) {
  std::map<std::int32_t, std::string> names;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = trimmed(take_until(text, '\n'));
    if (line.empty() || line.front() == '#') continue;
    const auto wrong = [&](const std::string& finding) {
      return InputError("use class table", name_of_file,
                        fmt::format("line {}, '{}': {}", number, printable(line), finding),
                        "write one `code,class` a line, such as 41,Forest");
    };
    const auto comma = line.find(',');
    const std::string_view name =
        comma == std::string_view::npos ? std::string_view{} : trimmed(line.substr(comma + 1));
    std::int32_t code = 0;
    if (!parse_number(trimmed(line.substr(0, comma)), code)) {
      if (number == 1 && comma != std::string_view::npos) continue;  // the header
      throw wrong("it does not begin with a whole number and a comma");
    }
    if (!is_plain_name(name))
      throw wrong("a class name has letters, digits, '-' and '_', at least one");
    const auto [it, added] = names.emplace(code, name);
    if (!added && it->second != name)
      throw wrong(fmt::format("code {} is {} already", code, it->second));
  }
  if (names.empty()) {
    throw InputError("use class table", name_of_file, "it has no line",
                     "write one `code,class` a line");
  }
  ClassTable table(names);
  if (table.classes_.size() > kMaxClasses) {
    throw InputError(
        "use class table", name_of_file,
        fmt::format("it has {} classes, there may be {}", table.classes_.size(), kMaxClasses),
        "group more codes into one class");
  }
  return table;
}

int ClassTable::class_of(std::int32_t code) const {
  const auto it = class_of_.find(code);
  return it == class_of_.end() ? kNoClass : it->second;
}

LandCover::LandCover(const Path& path, const std::string& crs)
    : raster_(path), projector_(crs, raster_.crs_wkt()), nodata_(raster_.nodata(1, kNoCode)) {
  if (raster_.bands() == 1) return;
  throw InputError("label tiles from", path.native(),
                   fmt::format("it has {} bands, and land cover has one", raster_.bands()),
                   "give the imagery to --image and the land cover to --nlcd");
}

std::vector<std::int32_t> LandCover::codes_at(std::span<const Point> points) {
  std::vector<Point> places(points.begin(), points.end());
  projector_.transform(places);
  struct Pixel {
    std::int64_t column;
    std::int64_t row;
  };
  constexpr Pixel kOutside{-1, -1};
  std::vector<Pixel> pixels(places.size(), kOutside);
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (!std::isfinite(places[i].x)) continue;
    const Point at = raster_.pixel_to_map().inverse(places[i]);
    const double column = std::floor(at.x);
    const double row = std::floor(at.y);
    if (column >= 0 && row >= 0 && column < static_cast<double>(raster_.width_px()) &&
        row < static_cast<double>(raster_.height_px())) {
      pixels[i] = {static_cast<std::int64_t>(column), static_cast<std::int64_t>(row)};
    }
  }

  std::vector<std::int32_t> codes(points.size(), kNoCode);
  std::vector<std::int32_t> values;
  // As many consecutive points at once as lie within one window of bounded size.
  for (std::size_t begin = 0; begin < pixels.size();) {
    Window window;
    std::int64_t left = std::numeric_limits<std::int64_t>::max();
    std::int64_t top = left;
    std::int64_t right = -1;
    std::int64_t bottom = -1;
    std::size_t end = begin;
    for (; end < pixels.size(); ++end) {
      const Pixel& pixel = pixels[end];
      if (pixel.row < 0) continue;
      const std::int64_t new_left = std::min(left, pixel.column);
      const std::int64_t new_top = std::min(top, pixel.row);
      const std::int64_t new_right = std::max(right, pixel.column);
      const std::int64_t new_bottom = std::max(bottom, pixel.row);
      if (right >= 0 && (new_right - new_left + 1) * (new_bottom - new_top + 1) > kMaxWindowPixels)
        break;
      left = new_left;
      top = new_top;
      right = new_right;
      bottom = new_bottom;
    }
    if (right >= 0) {
      window = {left, top, right - left + 1, bottom - top + 1};
      values.resize(static_cast<std::size_t>(window.width_px * window.height_px));
      raster_.read_band(1, window, values);
      for (std::size_t i = begin; i < end; ++i) {
        if (pixels[i].row < 0) continue;
        const std::int32_t code = values[static_cast<std::size_t>(
            (pixels[i].row - top) * window.width_px + (pixels[i].column - left))];
        if (code != nodata_) codes[i] = code;
      }
    }
    begin = end;
  }
  return codes;
}

TileLabel label_tile(std::span<const std::int32_t> codes, const ClassTable& table) {
  if (std::find(codes.begin(), codes.end(), LandCover::kNoCode) != codes.end())
    return {Fate::kNotCovered, ClassTable::kNoClass, 0};
  for (const std::int32_t code : codes) {
    if (table.class_of(code) == ClassTable::kNoClass)
      return {Fate::kNoClass, ClassTable::kNoClass, code};
  }
  const int label = table.class_of(codes.front());
  const bool is_pure = std::all_of(
      codes.begin(), codes.end(), [&](std::int32_t code) { return table.class_of(code) == label; });
  return is_pure ? TileLabel{Fate::kWanted, label, 0} : TileLabel{};
}

}  // namespace quadrat::geo
