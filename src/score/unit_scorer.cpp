#include "unit_scorer.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <span>

#include "quadrat/base/error.h"
#include "quadrat/image/png.h"

namespace quadrat::score {

UnitScorer::UnitScorer(Plan& plan, TileFeed& feed)
    : plan_(plan), feed_(feed), pixels_(static_cast<std::size_t>(plan.batch() * plan.bytes_per_tile())) {}

std::string UnitScorer::decode(const TileFeed::Item& item, std::uint32_t side_px, std::span<std::uint8_t> pixels) {
  if (!item.error.empty()) return item.error;
  try {
    decode_png_tile(item.png, side_px, pixels);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

std::optional<UnitResult> UnitScorer::score(std::uint64_t unit, std::size_t tiles,
                                            const std::function<bool(std::size_t)>& between) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto batch = static_cast<std::size_t>(plan_.batch());
  const auto bytes = static_cast<std::size_t>(plan_.bytes_per_tile());
  const std::size_t classes = plan_.card().classes.size();
  UnitResult result;
  result.unit = unit;
  result.probabilities.reserve(tiles * classes);
  for (std::size_t first = 0; first < tiles; first += batch) {
    const std::size_t here = std::min(batch, tiles - first);
    std::vector<std::size_t> rejected;
    for (std::size_t i = 0; i < here; ++i) {
      const std::span<std::uint8_t> pixels(pixels_.data() + i * bytes, bytes);
      std::string reason = decode(feed_.next(), plan_.card().tile_px, pixels);
      if (reason.empty()) continue;
      // It keeps its place, so that the other tiles' company is the same whatever happens to this one.
      std::fill(pixels.begin(), pixels.end(), std::uint8_t{0});
      rejected.push_back(i);
      result.rejected.push_back({static_cast<std::uint32_t>(first + i), std::move(reason)});
    }
    std::vector<float> rows = probabilities(plan_.infer(std::span(pixels_).first(here * bytes)).logits);
    for (const std::size_t i : rejected) std::fill_n(rows.begin() + static_cast<std::ptrdiff_t>(i * classes), classes, 0.0F);
    result.probabilities.insert(result.probabilities.end(), rows.begin(), rows.end());
    if (!between(here)) return std::nullopt;
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

}  // namespace quadrat::score
