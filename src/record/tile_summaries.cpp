#include "quadrat/record/tile_summaries.h"

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

/// Takes the last field, a number, off a line; only the name before the numbers can hold a comma.
std::optional<double> take_last(std::string_view& line) {
  const std::size_t comma = line.rfind(',');
  if (comma == std::string_view::npos) return std::nullopt;
  const std::string_view field = line.substr(comma + 1);
  line = line.substr(0, comma);
  double value = 0;
  if (!parse_number(field, value)) return std::nullopt;
  return value;
}

/// The other way round than csv_field.
std::string unquoted(std::string_view field) {
  if (field.size() < 2 || field.front() != '"' || field.back() != '"') return std::string(field);
  field = field.substr(1, field.size() - 2);
  std::string text;
  while (!field.empty()) {
    text += field.front();
    field.remove_prefix(field.starts_with("\"\"") ? 2 : 1);
  }
  return text;
}

}  // namespace

TileSummaries::TileSummaries(const Path& path) {
  const auto wrong = [&](const std::string& finding) {
    return InputError("read tile corners", path.native(), finding,
                      "remove the file, or write it again with quadrat-cut");
  };
  const Bytes bytes = read_file(path);
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  constexpr std::string_view kHeader = "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon";
  for (std::size_t number = 1; !rest.empty(); ++number) {
    std::string_view line = take_until(rest, '\n');
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (number == 1 && line != kHeader)
      throw wrong(fmt::format("its first line is '{}', not '{}'", printable(line), kHeader));
    if (number == 1 || line.empty()) continue;
    const std::string_view whole = line;
    const auto urcrnrlon = take_last(line);
    const auto urcrnrlat = take_last(line);
    const auto llcrnrlon = take_last(line);
    const auto llcrnrlat = take_last(line);
    if (!urcrnrlon || !urcrnrlat || !llcrnrlon || !llcrnrlat) {
      throw wrong(
          fmt::format("line {}, '{}', is not a name and four numbers", number, printable(whole)));
    }
    corners_.emplace(unquoted(line), TileCorners{*llcrnrlat, *llcrnrlon, *urcrnrlat, *urcrnrlon});
  }
}

const TileCorners* TileSummaries::find(const std::string& tile) const {
  auto found = corners_.find(tile);
  if (found == corners_.end()) found = corners_.find(Path(tile).filename().string());
  return found == corners_.end() ? nullptr : &found->second;
}

}  // namespace quadrat
