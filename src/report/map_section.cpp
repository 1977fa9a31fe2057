#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "html.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/geo/map_writer.h"
#include "quadrat/report/analysis.h"
#include "sections.h"

namespace quadrat::report {

namespace {

constexpr Rgb kNothing{0xFF, 0xFF, 0xFF};  ///< where there is no tile
constexpr Rgb kUnchanged{0xD8, 0xD8, 0xD4};
constexpr std::uint32_t kMaxMapSide = 2048;          ///< pixels of the page's pictures
constexpr std::size_t kMaxTilesToPointAt = 300'000;  ///< more make the page heavy: 15 bytes each
constexpr std::size_t kListedChanges = 20;
constexpr std::size_t kMaxPolygons = 5'000'000;  ///< the file is made in memory
constexpr std::uint8_t kNoData = 255;

/// One dot a tile, or every n-th where there are too many.
std::string layer_image(const TileGrid& grid, const std::string& id, const std::string& alt,
                        const std::function<Rgb(std::size_t tile)>& colour) {
  const std::uint32_t step =
      std::max(1U, (std::max(grid.width, grid.height) + kMaxMapSide - 1) / kMaxMapSide);
  const std::uint32_t width = (grid.width + step - 1) / step;
  const std::uint32_t height = (grid.height + step - 1) / step;
  std::vector<std::uint8_t> rgb;
  rgb.reserve(std::size_t{3} * width * height);
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      const std::int32_t tile =
          grid.tile_at[std::size_t{y} * step * grid.width + std::size_t{x} * step];
      const Rgb dot = tile == TileGrid::kNoTile ? kNothing : colour(static_cast<std::size_t>(tile));
      rgb.insert(rgb.end(), dot.begin(), dot.end());
    }
  }
  return fmt::format(R"(<img class="layer layer-{}" src="{}" width="{}" height="{}" alt="{}">)", id,
                     png_uri(rgb, width, height), width, height, escape(alt));
}

std::string legend(const std::vector<std::string>& classes, const std::vector<Rgb>& colours,
                   const std::string& first, const std::string& id) {
  std::string html = fmt::format("<ul class=\"legend legend-{}\">", id);
  if (!first.empty())
    html += fmt::format(R"(<li><i class="swatch" style="background:{}"></i>{}</li>)",
                        hex(kUnchanged), first);
  for (std::size_t c = 0; c < classes.size(); ++c) {
    html += fmt::format(R"(<li><i class="swatch" style="background:{}"></i>{}</li>)",
                        hex(colours[c]), escape(classes[c]));
  }
  return html + "</ul>";
}

/// Tiles of each class; where there is a grid only those on the map, so that ground which two
/// images show counts once.
std::vector<std::int64_t> counts_of(const std::vector<std::uint16_t>& classes_of_tiles,
                                    std::size_t classes, const TileGrid* grid) {
  std::vector<std::int64_t> counts(classes);
  for (std::size_t i = 0; i < classes_of_tiles.size(); ++i) {
    if (grid == nullptr || grid->shows(i)) ++counts[classes_of_tiles[i]];
  }
  return counts;
}

/// Tile names, each as how much it shares with the one before and what is new: a third of the
/// bytes.
std::string packed_names(const std::vector<std::string>& names) {
  std::string packed;
  std::string previous;
  for (const std::string& raw : names) {
    const std::string name = printable(raw, 200);
    std::size_t shared = 0;
    while (shared < std::min({name.size(), previous.size(), std::size_t{70}}) &&
           name[shared] == previous[shared])
      ++shared;
    if (!packed.empty()) packed += '\n';
    packed += static_cast<char>('0' + shared);
    packed += name.substr(shared);
    previous = name;
  }
  return packed;
}

template <typename T>
std::string packed(const std::vector<T>& values) {
  return base64(std::as_bytes(std::span(values)));
}

/// What the script needs to say which tile is under the pointer.
std::string map_data(const County& county) {
  const TileGrid& grid = *county.grid;
  const Predictions& predictions = county.record.predictions;
  const std::size_t classes = county.record.classes.size();
  const std::size_t tiles = predictions.tiles.size();
  std::vector<std::uint8_t> now, sure, smoothed, then(tiles, kNoData);
  for (std::size_t i = 0; i < tiles; ++i) {
    now.push_back(static_cast<std::uint8_t>(predictions.predicted[i]));
    sure.push_back(
        static_cast<std::uint8_t>(std::lround(200 * confidence(predictions, classes, i))));
    smoothed.push_back(static_cast<std::uint8_t>(county.smoothed[i]));
  }
  if (county.before) {
    for (const Pair& pair : county.pairs)
      then[pair.after] =
          static_cast<std::uint8_t>(county.before->predictions.predicted[pair.before]);
  }
  // Latitude and longitude between the map's corners are near enough straight.
  const double right = grid.left + grid.width * grid.side_m;
  const double bottom = grid.top - grid.height * grid.side_m;
  std::vector<geo::Point> corners{
      {grid.left, grid.top}, {right, grid.top}, {grid.left, bottom}, {right, bottom}};
  geo::Projector(grid.crs, geo::kLonLat).transform(corners);
  std::string places;
  for (const geo::Point& corner : corners)
    places += fmt::format("{}[{:.6f},{:.6f}]", places.empty() ? "" : ",", corner.y, corner.x);
  std::string names;
  for (const std::string& name : county.record.classes)
    names += fmt::format("{}{}", names.empty() ? "" : ",", json_text(name));
  std::string json = fmt::format(
      R"({{"width":{},"height":{},"classes":[{}],"corners":[{}],"tiles":"{}","now":"{}","sure":"{}","smoothed":"{}")",
      grid.width, grid.height, names, places, packed(grid.tile_at), packed(now), packed(sure),
      packed(smoothed));
  if (county.before)
    json += fmt::format(R"(,"then":"{}","thenName":{},"nowName":{})", packed(then),
                        json_text(county.before_name), json_text(county.name));
  return json + R"(,"names":)" + json_text(packed_names(predictions.tiles)) + "}";
}

/// A bar of a round length, at most a quarter of the map's width. page.js makes it anew when the
/// map is enlarged.
std::string ruler(const TileGrid& grid) {
  const double metres = grid.width * grid.side_m;
  const double most = metres / 4;
  double length = std::pow(10, std::floor(std::log10(most)));
  length *= most >= 5 * length ? 5 : most >= 2 * length ? 2 : 1;
  return fmt::format(
      R"(<p class="ruler"><i id="ruler" data-metres="{}" style="width:{:.2f}%"></i><span>{}</span></p>)",
      metres, 100 * length / metres,
      length >= 1000 ? fmt::format("{:g} km", length / 1000) : fmt::format("{:g} m", length));
}

struct Layer {
  std::string id;
  std::string title;
  std::string image;
  std::string legend;  ///< empty where the table of areas beside it is one
};

std::string areas_table(const County& county) {
  const TileGrid& grid = *county.grid;
  const std::size_t classes = county.record.classes.size();
  const double km2 = grid.tile_area_km2();
  const std::vector<Rgb> colours = class_colours(county.record.classes);
  const std::vector<std::int64_t> raw =
      counts_of(county.record.predictions.predicted, classes, &grid);
  const std::vector<std::int64_t> smoothed = counts_of(county.smoothed, classes, &grid);
  const std::int64_t most = std::max<std::int64_t>(1, *std::max_element(raw.begin(), raw.end()));
  const auto all = static_cast<double>(std::max<std::size_t>(grid.shown(), 1));
  std::string rows;
  for (std::size_t c = 0; c < classes; ++c) {
    rows += fmt::format(
        R"(<tr><th scope="row"><i class="swatch" style="background:{}"></i>{}</th><td class="bar-cell"><span class="meter" style="--w:{:.1f}%;--c:{}"></span>{:.1f}</td><td>{}</td><td>{:.1f}</td></tr>)",
        hex(colours[c]), escape(county.record.classes[c]),
        100.0 * static_cast<double>(raw[c]) / static_cast<double>(most), hex(colours[c]),
        static_cast<double>(raw[c]) * km2, percent(static_cast<double>(raw[c]) / all),
        static_cast<double>(smoothed[c]) * km2);
  }
  rows += fmt::format(
      R"(<tr class="total"><th scope="row">all</th><td class="bar-cell">{:.1f}</td><td></td><td>{:.1f}</td></tr>)",
      all * km2, all * km2);
  return "<table class=\"metrics areas\"><caption>Areas in km\u00B2</caption><thead><tr><th "
         "scope=\"col\">class</th><th scope=\"col\">km\u00B2</th>"
         "<th scope=\"col\">share</th><th scope=\"col\">smoothed</th></tr></thead><tbody>" +
         rows + "</tbody></table>";
}

Section map(const County& county, std::vector<std::string>& notes) {
  const TileGrid& grid = *county.grid;
  const Predictions& predictions = county.record.predictions;
  const std::size_t classes = county.record.classes.size();
  const std::vector<Rgb> colours = class_colours(county.record.classes);
  std::vector<Layer> layers;
  layers.push_back({"class", "Land use",
                    layer_image(grid, "class", "Map of land use, one dot a tile",
                                [&](std::size_t i) { return colours[predictions.predicted[i]]; }),
                    ""});
  layers.push_back(
      {"smooth", "Smoothed",
       layer_image(grid, "smooth", "The same map, each tile as most of the nine around it",
                   [&](std::size_t i) { return colours[county.smoothed[i]]; }),
       ""});
  // From an even guess to certainty.
  const double even = 1.0 / static_cast<double>(std::max<std::size_t>(classes, 2));
  std::string scale;
  for (int i = 0; i <= 10; ++i)
    scale += fmt::format("{}{}", i == 0 ? "" : ",", hex(sequential_colour(i / 10.0)));
  layers.push_back(
      {"sure", "Confidence",
       layer_image(grid, "sure",
                   "Map of the probability of the class shown, dark where the model is unsure",
                   [&](std::size_t i) {
                     return sequential_colour((confidence(predictions, classes, i) - even) /
                                              (1 - even));
                   }),
       fmt::format(
           R"~(<p class="legend legend-sure"><span>{}</span><i class="scale" style="background:linear-gradient(90deg,{})"></i><span>100 % sure</span></p>)~",
           percent(even, 0), scale)});
  if (county.before) {
    constexpr std::uint16_t kNone = 0xFFFF;
    const auto change_layer = [&](const char* id, const char* title, const char* alt,
                                  const std::vector<std::uint16_t>& before,
                                  const std::vector<std::uint16_t>& after) {
      std::vector<std::uint16_t> then(predictions.tiles.size(), kNone);
      for (const Pair& pair : county.pairs) then[pair.after] = before[pair.before];
      layers.push_back(
          {id, title,
           layer_image(grid, id, alt,
                       [&](std::size_t i) {
                         if (then[i] == kNone) return kNothing;
                         return then[i] == after[i] ? kUnchanged : colours[after[i]];
                       }),
           legend(county.record.classes, colours, "unchanged; else what it became:", id)});
    };
    change_layer("change", "Change",
                 "Map of the tiles whose class changed, coloured by what they became",
                 county.before->predictions.predicted, predictions.predicted);
    if (!county.smoothed_before.empty()) {
      change_layer("settled", "Change, smoothed", "The same between the two smoothed maps",
                   county.smoothed_before, county.smoothed);
    }
  }
  std::string inputs, labels, images, legends;
  for (const Layer& layer : layers) {
    inputs +=
        fmt::format(R"(<input type="radio" name="layer" id="show-{0}" class="pick pick-{0}"{1}>)",
                    layer.id, &layer == &layers[0] ? " checked" : "");
    labels += fmt::format(R"(<label for="show-{0}" class="tab tab-{0}">{1}</label>)", layer.id,
                          layer.title);
    images += layer.image;
    legends += layer.legend;
  }
  Section section{"map", "Map", "Map", ""};
  section.html = fmt::format(
      R"(<div class="map" role="group" aria-label="Map, with a choice of layers">{}<div class="tabs">{}</div><div class="map-body"><div class="map-left"><div class="stage" id="stage" tabindex="0" role="application" aria-label="Map of tiles; arrow keys move from tile to tile"><div class="sheet" id="sheet">{}<span class="cursor" id="cursor" hidden></span></div></div>{}<div class="under"><p class="readout" id="readout" aria-live="polite">{} &times; {} tiles of {:.0f} m, {}</p><p class="zoom" id="zoom" hidden><button type="button" id="zoom-out" aria-label="Smaller">&minus;</button><button type="button" id="zoom-in" aria-label="Larger">+</button></p></div>{}</div><div class="map-right">{}</div></div></div>)",
      inputs, labels, images, ruler(grid), grid.width, grid.height, grid.side_m, escape(grid.crs),
      legends, areas_table(county));
  section.html +=
      "<p class=\"intro\">Smoothed: every tile takes the class that most of the 3 \u00D7 3 tiles "
      "around it have.</p>";
  if (predictions.tiles.size() <= kMaxTilesToPointAt &&
      grid.tile_at.size() <= 4 * kMaxTilesToPointAt && classes < kNoData) {
    section.html +=
        "<script type=\"application/json\" id=\"map-data\">" + map_data(county) + "</script>";
  } else {
    notes.push_back(
        fmt::format("{} tiles are too many for the page's map to name the one under the pointer",
                    predictions.tiles.size()));
  }
  if (grid.covered > 0)
    notes.push_back(fmt::format(
        "{} tiles lie where another one does: neither the map nor areas have them", grid.covered));
  return section;
}

std::string from_to(const std::vector<std::int64_t>& counts,
                    const std::vector<std::string>& classes, double km2,
                    const std::string& caption) {
  const std::size_t size = classes.size();
  std::int64_t most = 1;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (i / size != i % size) most = std::max(most, counts[i]);
  }
  std::string html = fmt::format(
      R"(<div class="scroll" tabindex="0" role="group" aria-label="{0}"><table class="matrix"><caption>{0}</caption><thead><tr><th scope="col">from \ to</th>)",
      escape(caption));
  for (const std::string& name : classes)
    html += fmt::format(R"(<th scope="col"><span>{}</span></th>)", escape(name));
  html += "</tr></thead><tbody>";
  for (std::size_t row = 0; row < size; ++row) {
    html += fmt::format(R"(<tr><th scope="row">{}</th>)", escape(classes[row]));
    for (std::size_t column = 0; column < size; ++column) {
      const std::int64_t count = counts[row * size + column];
      const double share =
          row == column ? 0 : static_cast<double>(count) / static_cast<double>(most);
      const double area = static_cast<double>(count) * km2;
      const std::string shown = count == 0 ? "0"
                                : km2 > 0  ? fmt::format("{:.{}f}", area, area < 10 ? 2 : 1)
                                           : grouped(count);
      html += fmt::format(R"(<td class="{}{}{}" style="--v:{:.3f}">{}</td>)",
                          row == column ? "same" : "wrong", share > 0.5 ? " strong" : "",
                          count == 0 ? " none" : "", share, shown);
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

Section change(const County& county) {
  const std::vector<std::string>& classes = county.record.classes;
  const double km2 = county.grid ? county.grid->tile_area_km2() : 0;
  const std::string unit = km2 > 0 ? "km\u00B2" : "tiles";
  Section section{"change", "Change", fmt::format("Change since {}", county.before_name), ""};
  const std::vector<Change> changes = changes_of(county);
  const bool has_smoothed = !county.smoothed_before.empty();
  const auto smoothed_changes = static_cast<std::size_t>(
      std::count_if(county.pairs.begin(), county.pairs.end(), [&](const Pair& pair) {
        return has_smoothed && county.smoothed_before[pair.before] != county.smoothed[pair.after];
      }));
  const auto amount = [&](std::size_t tiles) {
    return km2 > 0 ? fmt::format("{:.1f} km\u00B2 ({} tiles)", static_cast<double>(tiles) * km2,
                                 grouped(static_cast<std::int64_t>(tiles)))
                   : fmt::format("{} tiles", grouped(static_cast<std::int64_t>(tiles)));
  };
  section.html =
      fmt::format("<p class=\"intro\">Of {} that both have, <strong>{}</strong> changed class",
                  amount(county.pairs.size()), amount(changes.size()));
  if (has_smoothed) {
    section.html += fmt::format(
        ", <strong>{}</strong> after smoothing. Two maps that err here and there differ here and "
        "there: "
        "the smoothed figure is the safer one",
        amount(smoothed_changes));
  }
  section.html += ".</p><div class=\"tables\">";
  if (has_smoothed) {
    section.html +=
        from_to(transitions(county.pairs, county.smoothed_before, county.smoothed, classes.size()),
                classes, km2, fmt::format("After smoothing, {}", unit));
  }
  section.html += from_to(transitions(county.pairs, county.before->predictions.predicted,
                                      county.record.predictions.predicted, classes.size()),
                          classes, km2, fmt::format("As classified, {}", unit)) +
                  "</div>";
  std::vector<Change> listed;
  for (const Change& one : changes) {
    if (listed.size() < kListedChanges && (one.settled || !has_smoothed)) listed.push_back(one);
  }
  if (!listed.empty()) {
    std::string rows;
    for (const auto& [pair, certainty, settled] : listed) {
      std::string place = "\u2013";
      if (!county.record.corners.empty()) {
        const TileCorners& c = county.record.corners[pair.after];
        place = fmt::format("{:.5f}, {:.5f}", 0.5 * (c.llcrnrlat + c.urcrnrlat),
                            0.5 * (c.llcrnrlon + c.urcrnrlon));
      }
      rows += fmt::format(
          "<tr><td>{} \u2192 <b>{}</b></td><td>{}</td><td class=\"place\">{}</td><td "
          "class=\"file\">{}</td></tr>",
          escape(classes[county.before->predictions.predicted[pair.before]]),
          escape(classes[county.record.predictions.predicted[pair.after]]), percent(certainty, 0),
          place, escape(county.record.predictions.tiles[pair.after]));
    }
    section.html += fmt::format(
        "<h3>The surest changes</h3><p class=\"intro\">Certainty is the probability of the class "
        "then times that of the class now.{} All are in changes.csv.</p>"
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"The surest "
        "changes\"><table class=\"numbers list\"><thead><tr><th scope=\"col\">change</th><th "
        "scope=\"col\">certainty</th>"
        "<th scope=\"col\">latitude, longitude</th><th "
        "scope=\"col\">tile</th></tr></thead><tbody>{}</tbody></table></div>",
        has_smoothed ? " Listed are those that smoothing leaves as they are." : "", rows);
  }
  return section;
}

/// Without corners there is no map, but there are shares.
Section shares(const County& county) {
  const std::size_t classes = county.record.classes.size();
  const std::vector<std::int64_t> counts =
      counts_of(county.record.predictions.predicted, classes, nullptr);
  const std::vector<Rgb> colours = class_colours(county.record.classes);
  const auto all =
      static_cast<double>(std::max<std::size_t>(county.record.predictions.tiles.size(), 1));
  std::string rows;
  for (std::size_t c = 0; c < classes; ++c) {
    rows += fmt::format(
        R"(<tr><th scope="row"><i class="swatch" style="background:{}"></i>{}</th><td>{}</td><td class="bar-cell"><span class="meter" style="--w:{:.1f}%"></span>{}</td></tr>)",
        hex(colours[c]), escape(county.record.classes[c]), grouped(counts[c]),
        100 * static_cast<double>(counts[c]) / all, percent(static_cast<double>(counts[c]) / all));
  }
  return {"shares", "Shares", "What was found",
          "<table class=\"metrics\"><thead><tr><th scope=\"col\">class</th><th "
          "scope=\"col\">tiles</th><th scope=\"col\">share</th></tr></thead><tbody>" +
              rows + "</tbody></table>"};
}

}  // namespace

Section rejected_section(const ScoreRecord& record) {
  constexpr std::size_t kShown = 50;
  std::string rows;
  for (std::size_t i = 0; i < std::min(record.rejected.size(), kShown); ++i) {
    rows += fmt::format("<tr><td class=\"file\">{}</td><td>{}</td></tr>",
                        escape(record.rejected[i].tile), escape(record.rejected[i].reason));
  }
  return {
      "rejected", "Rejected tiles", "Tiles that could not be classified",
      fmt::format("<p class=\"intro\">{}{}</p><div class=\"scroll\" tabindex=\"0\" role=\"group\" "
                  "aria-label=\"Rejected tiles\"><table class=\"numbers list\"><thead><tr><th "
                  "scope=\"col\">tile</th><th "
                  "scope=\"col\">reason</th></tr></thead><tbody>{}</tbody></table></div>",
                  grouped(static_cast<std::int64_t>(record.rejected.size())),
                  record.rejected.size() > kShown ? " in all; the first are" : " in all.", rows)};
}

namespace {

void write_raster(const County& county, const Path& path,
                  const std::vector<std::uint16_t>& classes_of_tiles) {
  const TileGrid& grid = *county.grid;
  geo::RasterLayout layout;
  layout.width_px = grid.width;
  layout.height_px = grid.height;
  layout.pixel_to_map = grid.pixel_to_map();
  layout.crs = grid.crs;
  layout.compression = "deflate";
  layout.nodata = kNoData;
  layout.palette.assign(256, {0, 0, 0, 0});
  const std::vector<Rgb> colours = class_colours(county.record.classes);
  for (std::size_t c = 0; c < colours.size(); ++c)
    layout.palette[c] = {colours[c][0], colours[c][1], colours[c][2], 255};
  geo::RasterWriter writer(path, layout);
  std::vector<std::uint8_t> row(grid.width);
  for (std::uint32_t y = 0; y < grid.height; ++y) {
    for (std::uint32_t x = 0; x < grid.width; ++x) {
      const std::int32_t tile = grid.tile_at[std::size_t{y} * grid.width + x];
      row[x] = tile == TileGrid::kNoTile
                   ? kNoData
                   : static_cast<std::uint8_t>(classes_of_tiles[static_cast<std::size_t>(tile)]);
    }
    writer.write_rows(1, row);
  }
  writer.close();
  geo::write_category_names(path, county.record.classes);
}

void write_polygons(const County& county, const Path& path) {
  using Polygons = geo::PolygonLayer;
  const TileGrid& grid = *county.grid;
  const ScoreRecord& record = county.record;
  const std::size_t classes = record.classes.size();
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  std::vector<std::size_t> then(county.before ? record.predictions.tiles.size() : 0, kNone);
  for (const Pair& pair : county.pairs) then[pair.after] = pair.before;
  Polygons layer;
  layer.name = "tiles";
  layer.description = fmt::format("Land use of {}, one square a tile", county.name);
  layer.crs = grid.crs;
  layer.fields = {{"tile", Polygons::FieldType::kText},
                  {"class", Polygons::FieldType::kText},
                  {"confidence", Polygons::FieldType::kReal},
                  {"smoothed", Polygons::FieldType::kText}};
  for (const std::string& name : record.classes)
    layer.fields.push_back({"p_" + name, Polygons::FieldType::kReal});
  if (county.before) {
    layer.fields.push_back({"class_before", Polygons::FieldType::kText});
    layer.fields.push_back({"smoothed_before", Polygons::FieldType::kText});
    layer.fields.push_back({"changed", Polygons::FieldType::kInteger});
  }
  layer.count = record.predictions.tiles.size();
  const geo::Projector projector(geo::kLonLat, grid.crs);
  layer.fill = [&](std::uint64_t i, std::array<geo::Point, 4>& corners,
                   std::vector<Polygons::Value>& values) {
    // Where the tile is, not its cell of the grid: another image's tiles lie between cells, and
    // tilted where it was cut in another zone. Two corners are the diagonal of a square.
    const TileCorners& at = record.corners[i];
    std::array<geo::Point, 2> ends{{{at.llcrnrlon, at.llcrnrlat}, {at.urcrnrlon, at.urcrnrlat}}};
    projector.transform(ends);
    const geo::Point middle{0.5 * (ends[0].x + ends[1].x), 0.5 * (ends[0].y + ends[1].y)};
    const double x = ends[1].x - middle.x;
    const double y = ends[1].y - middle.y;
    corners = {{ends[0], {middle.x + y, middle.y - x}, ends[1], {middle.x - y, middle.y + x}}};
    std::size_t field = 0;
    const std::uint16_t now = record.predictions.predicted[i];
    values[field++] = printable(record.predictions.tiles[i], 4096);
    values[field++] = record.classes[now];
    values[field++] = static_cast<double>(confidence(record.predictions, classes, i));
    values[field++] = record.classes[county.smoothed[i]];
    for (std::size_t c = 0; c < classes; ++c)
      values[field++] = static_cast<double>(record.predictions.probabilities[i * classes + c]);
    if (!county.before || then[i] == kNone) return;
    const std::uint16_t before = county.before->predictions.predicted[then[i]];
    values[field++] = record.classes[before];
    if (!county.smoothed_before.empty())
      values[field] = record.classes[county.smoothed_before[then[i]]];
    ++field;
    values[field++] = std::int64_t{before != now};
  };
  layer.style_field = "class";
  const std::vector<Rgb> colours = class_colours(record.classes);
  for (std::size_t c = 0; c < classes; ++c) layer.styles.push_back({record.classes[c], colours[c]});
  geo::write_geopackage(path, layer);
}

std::string changes_csv(const County& county) {
  std::string text = "tile,from,to,certainty,settled,lat,lon\n";
  const std::vector<std::string>& classes = county.record.classes;
  for (const auto& [pair, certainty, settled] : changes_of(county)) {
    const std::uint16_t from = county.before->predictions.predicted[pair.before];
    const std::uint16_t to = county.record.predictions.predicted[pair.after];
    text +=
        fmt::format("{},{},{},{:.4f},{},", csv_field(county.record.predictions.tiles[pair.after]),
                    csv_field(classes[from]), csv_field(classes[to]), certainty,
                    county.smoothed_before.empty() ? ""
                    : settled                      ? "1"
                                                   : "0");
    if (county.record.corners.empty()) {
      text += ",\n";
    } else {
      const TileCorners& c = county.record.corners[pair.after];
      text += fmt::format("{:.6f},{:.6f}\n", 0.5 * (c.llcrnrlat + c.urcrnrlat),
                          0.5 * (c.llcrnrlon + c.urcrnrlon));
    }
  }
  return text;
}

}  // namespace

std::vector<Change> changes_of(const County& county) {
  std::vector<Change> changes;
  if (!county.before) return changes;
  const std::size_t classes = county.record.classes.size();
  for (const Pair& pair : county.pairs) {
    const std::uint16_t from = county.before->predictions.predicted[pair.before];
    const std::uint16_t to = county.record.predictions.predicted[pair.after];
    if (from == to) continue;
    const bool settled = !county.smoothed_before.empty() &&
                         county.smoothed_before[pair.before] == from &&
                         county.smoothed[pair.after] == to;
    changes.push_back(
        {pair,
         static_cast<double>(confidence(county.before->predictions, classes, pair.before)) *
             confidence(county.record.predictions, classes, pair.after),
         settled});
  }
  std::stable_sort(changes.begin(), changes.end(),
                   [](const Change& a, const Change& b) { return a.certainty > b.certainty; });
  return changes;
}

std::vector<Figure> county_figures(const County& county) {
  std::vector<Figure> figures;
  const std::size_t tiles = county.record.predictions.tiles.size();
  figures.push_back({grouped(static_cast<std::int64_t>(tiles)),
                     fmt::format("tiles of {} classified", county.name)});
  if (county.grid)
    figures.push_back(
        {fmt::format("{} km\u00B2", grouped(std::llround(static_cast<double>(county.grid->shown()) *
                                                         county.grid->tile_area_km2()))),
         "mapped"});
  if (county.record.seconds > 0)
    figures.push_back({grouped(std::llround(static_cast<double>(tiles) / county.record.seconds)),
                       "tiles a second"});
  return figures;
}

std::vector<Section> county_sections(const County& county, std::vector<std::string>& notes) {
  std::vector<Section> sections;
  if (county.record.predictions.tiles.empty()) {
    notes.push_back(fmt::format("{} has no classified tile yet", county.name));
  } else if (county.grid) {
    sections.push_back(map(county, notes));
  } else {
    sections.push_back(shares(county));
    notes.push_back(
        fmt::format("there is no map of {}, since its record has no corners of tiles; "
                    "--tile_summaries gives them",
                    county.name));
  }
  if (county.before) sections.push_back(change(county));
  return sections;
}

std::vector<Path> write_county_files(const County& county, const Path& folder,
                                     std::vector<std::string>& notes) {
  std::vector<Path> files;
  if (county.grid && county.record.classes.size() <= kNoData) {
    write_raster(county, folder / "map.tif", county.record.predictions.predicted);
    write_raster(county, folder / "map_smoothed.tif", county.smoothed);
    files.push_back(folder / "map.tif");
    files.push_back(folder / "map_smoothed.tif");
  } else if (county.grid) {
    notes.emplace_back("map.tif is left out: its pixels have room for 255 classes");
  }
  if (county.grid && county.record.predictions.tiles.size() <= kMaxPolygons) {
    write_polygons(county, folder / "tiles.gpkg");
    files.push_back(folder / "tiles.gpkg");
  } else if (county.grid) {
    notes.push_back(fmt::format(
        "tiles.gpkg is left out: more than {} polygons; map.tif has them all", kMaxPolygons));
  }
  if (county.before) {
    write_file(folder / "changes.csv", changes_csv(county));
    files.push_back(folder / "changes.csv");
  }
  return files;
}

}  // namespace quadrat::report
