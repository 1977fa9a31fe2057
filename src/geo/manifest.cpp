#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "plan.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

CutPlan read_manifest(std::string_view text, const std::string& name,
                      const std::vector<SurveyedImage>& images) {
  CutPlan plan;
  std::map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < images.size(); ++i) {
    index[images[i].name] = i;
    plan.images.emplace_back(static_cast<std::size_t>(images[i].tiles()),
                             PlannedTile{Fate::kNotListed, ClassTable::kNoClass});
  }
  struct Line {
    std::size_t image;
    std::size_t tile;
    std::string label;
  };
  std::vector<Line> lines;
  std::set<std::string> classes;
  std::vector<int> set_of(images.size(), -1);
  for (std::size_t number = 1; !text.empty(); ++number) {
    std::string_view line = take_until(text, '\n');
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto wrong = [&](const std::string& finding) {
      return InputError("use manifest", name,
                        fmt::format("line {}, '{}': {}", number, printable(line), finding),
                        "use a manifest.csv that quadrat-cut wrote, with the same images");
    };
    std::array<std::string_view, 4> fields;
    std::string_view rest = line;
    for (std::size_t f = 0; f < 4; ++f) {
      const auto comma = rest.find(',');
      if ((comma == std::string_view::npos) != (f == 3)) throw wrong("it has not four fields");
      fields[f] = rest.substr(0, comma);
      rest.remove_prefix(f == 3 ? rest.size() : comma + 1);
    }
    if (number == 1) {
      if (line != "image,i,label,set") throw wrong("the header is not image,i,label,set");
      continue;
    }
    const auto found = index.find(fields[0]);
    if (found == index.end()) throw wrong("no such image was given");
    const std::size_t image = found->second;
    std::size_t tile = 0;
    if (!parse_number(fields[1], tile) || tile >= static_cast<std::size_t>(images[image].tiles())) {
      throw wrong(fmt::format("the image has tiles 0 to {}", images[image].tiles() - 1));
    }
    Fate& fate = plan.images[image][tile].fate;
    if (fate == Fate::kWanted) throw wrong("the tile is listed twice");
    fate = Fate::kWanted;
    if (!fields[3].empty() && fields[3] != kSetNames[0] && fields[3] != kSetNames[1]) {
      throw wrong("the set is neither train nor validation");
    }
    if (!lines.empty() && plan.has_sets == fields[3].empty())
      throw wrong("only some tiles have a set");
    plan.has_sets = !fields[3].empty();
    const int set = fields[3] == kSetNames[1] ? 1 : 0;
    if (set_of[image] >= 0 && set_of[image] != set) throw wrong("the image is in both sets");
    set_of[image] = set;
    if (!fields[2].empty() && !is_plain_name(fields[2])) throw wrong("that is no class name");
    if (!lines.empty() && lines.back().label.empty() != fields[2].empty())
      throw wrong("only some tiles have a class");
    if (!fields[2].empty()) classes.emplace(fields[2]);
    lines.push_back({image, tile, std::string(fields[2])});
  }
  if (lines.empty()) {
    throw InputError("use manifest", name, "it lists no tile", "use one that quadrat-cut wrote");
  }
  plan.classes.assign(classes.begin(), classes.end());
  if (plan.classes.size() > ClassTable::kMaxClasses) {
    throw InputError("use manifest", name,
                     fmt::format("it has {} classes, there may be {}", plan.classes.size(),
                                 ClassTable::kMaxClasses));
  }
  for (const Line& line : lines) {
    if (line.label.empty()) continue;
    plan.images[line.image][line.tile].label = static_cast<std::int8_t>(
        std::lower_bound(plan.classes.begin(), plan.classes.end(), line.label) -
        plan.classes.begin());
  }
  for (const int set : set_of) plan.set_of_image.push_back(set == 1 ? 1 : 0);
  return plan;
}

}  // namespace quadrat::geo
