#include "placed_records.h"

#include <cmath>
#include <cstdlib>

namespace quadrat::test {

void place(ScoreRecord& record, std::uint32_t across, const std::string& crs, double left,
           double top, double side_m) {
  const geo::Projector projector(crs, geo::kLonLat);
  const auto rounded = [](double degrees) { return std::round(degrees * 1e7) / 1e7; };
  record.corners.clear();
  for (const std::string& tile : record.predictions.tiles) {
    const auto number = static_cast<std::uint32_t>(std::atoi(tile.c_str() + tile.rfind('_') + 1));
    const double x = left + number % across * side_m;
    const double y = top - number / across * side_m;
    std::vector<geo::Point> points{{x, y - side_m}, {x + side_m, y}};
    projector.transform(points);
    record.corners.push_back(
        {rounded(points[0].y), rounded(points[0].x), rounded(points[1].y), rounded(points[1].x)});
  }
}

}  // namespace quadrat::test
