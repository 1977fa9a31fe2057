#include "judge.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/signals.h"
#include "quadrat/image/png.h"
#include "quick_look.h"

namespace quadrat::score {

TileLoader::TileLoader(const Catalog& catalog, std::uint32_t tile_px)
    : reader_(catalog), side_px_(tile_px), bytes_(std::size_t{3} * tile_px * tile_px) {}

bool TileLoader::load(std::size_t tile, std::span<std::uint8_t> pixels) {
  try {
    reader_.read(tile, png_);
    decode_png_tile(png_, side_px_, pixels.first(bytes_));
    return true;
  } catch (const IoError& error) {
    if (error.is_of_storage()) throw;
    return false;
  } catch (const Error&) {
    return false;
  }
}

std::uint64_t Verdicts::seen() const {
  return static_cast<std::uint64_t>(
      std::count_if(tiles.begin(), tiles.end(), [](const Verdict& v) { return v.was_seen; }));
}

std::uint64_t Verdicts::wrong() const {
  return static_cast<std::uint64_t>(std::count_if(
      tiles.begin(), tiles.end(), [](const Verdict& v) { return v.was_seen && !v.is_right; }));
}

Verdicts judge(Plan& plan, const Catalog& tiles, std::uint32_t tile_px,
               const mpi::Communicator& ranks) {
  struct Numbered {
    std::uint64_t tile;
    Verdicts::Verdict verdict;
  };
  TileLoader loader(tiles, tile_px);
  const auto batch = static_cast<std::size_t>(plan.batch());
  const auto classes = static_cast<std::ptrdiff_t>(plan.card().classes.size());
  const auto bytes = static_cast<std::size_t>(plan.bytes_per_tile());
  std::vector<std::uint8_t> tile_pixels(loader.bytes());
  std::vector<std::uint8_t> pixels(bytes * batch);
  std::vector<Numbered> mine;
  double seconds = 0;
  const auto step = static_cast<std::size_t>(ranks.size()) * batch;
  for (std::size_t first = static_cast<std::size_t>(ranks.rank()) * batch;
       first < tiles.tiles.size() && stop_signal() == 0; first += step) {
    std::vector<std::size_t> here;
    for (std::size_t i = first; i < std::min(first + batch, tiles.tiles.size()); ++i) {
      if (!loader.load(i, tile_pixels)) continue;
      copy_middle(tile_pixels.data(), tile_px, plan.card().tile_px,
                  pixels.data() + here.size() * bytes);
      here.push_back(i);
    }
    if (here.empty()) continue;
    const auto start = Clock::now();
    const auto logits = plan.infer(std::span(pixels).first(here.size() * bytes)).logits;
    seconds += seconds_since(start);
    const std::vector<float> all = probabilities(logits);
    auto row = all.begin();
    for (const std::size_t tile : here) {
      const auto likeliest = std::max_element(row, row + classes);
      mine.push_back({tile, {*likeliest, likeliest - row == tiles.tiles[tile].label, true}});
      row += classes;
    }
  }
  Verdicts verdicts;
  verdicts.tiles.resize(tiles.tiles.size());
  for (const Bytes& part : ranks.gather(std::as_bytes(std::span(mine)))) {
    for (std::size_t at = 0; at < part.size(); at += sizeof(Numbered)) {
      Numbered one{};
      std::memcpy(&one, part.data() + at, sizeof one);
      verdicts.tiles[one.tile] = one.verdict;
    }
  }
  std::array<double, 2> sums{static_cast<double>(mine.size()), seconds};
  ranks.sum(sums);
  verdicts.tiles_per_s = sums[1] > 0 ? sums[0] / sums[1] : 0;
  return verdicts;
}

}  // namespace quadrat::score
