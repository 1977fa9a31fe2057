#include "quadrat/score/units.h"

#include <algorithm>

namespace quadrat::score {

namespace {
constexpr std::size_t kLargestUnit = 1024;
constexpr std::size_t kWantedUnits = 64;  // enough that the last ones end at about the same time on a few ranks
}  // namespace

std::size_t unit_size(std::size_t tiles, std::size_t batch) {
  const std::size_t wanted = std::clamp<std::size_t>(tiles / kWantedUnits, 1, kLargestUnit);
  return (wanted + batch - 1) / batch * batch;
}

}  // namespace quadrat::score
