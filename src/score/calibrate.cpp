#include "calibrate.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/image/png.h"
#include "quadrat/record/run_record.h"
#include "quadrat/tiles/reader.h"

namespace quadrat::score {

namespace {
constexpr std::size_t kCalibrationTiles = 96;
}

Calibration calibrate(WeightsFile weights, const ModelCard& card, const Path& model, const Catalog& tiles) {
  std::vector<std::size_t> order(tiles.tiles.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  KeyedRandom random({0, kStreamSample});
  shuffle(order, random);

  Plan plan(fuse_network(std::move(weights), card, model), Precision::kFp32, Plan::kTilesAtOnce);
  const auto bytes = static_cast<std::size_t>(plan.bytes_per_tile());
  std::vector<std::uint8_t> pixels(bytes * Plan::kTilesAtOnce);
  Calibration calibration;
  TileReader reader(tiles);
  Bytes png;
  std::size_t filled = 0;
  std::size_t used = 0;
  for (const std::size_t i : order) {
    if (used == kCalibrationTiles) break;
    try {
      reader.read(i, png);
      decode_png_tile(png, card.tile_px, std::span(pixels).subspan(filled * bytes, bytes));
    } catch (const Error&) {
      continue;
    }
    ++used;
    if (++filled == Plan::kTilesAtOnce) {
      plan.observe(pixels, calibration);
      filled = 0;
    }
  }
  if (calibration.groups == 0) {
    throw InputError("calibrate int8 on tiles in", tiles.root.native(),
                     "fewer than 8 of them can be read and have the model's size", "give --precision bf16 or fp32");
  }
  return calibration;
}

Catalog find_training_tiles(const Path& run_folder) {
  try {
    const RunRecord record = read_run_summary(run_folder / "run.h5");
    for (const auto& [name, value] : record.config) {
      if (name == "train") return list_labelled_tiles(value);
    }
  } catch (const Error&) {
    // A model that was copied here without its record, or whose training tiles are elsewhere.
  }
  return {};
}

Bytes serialize(const Calibration& calibration) {
  Bytes bytes(sizeof calibration.groups + calibration.layers.size() * sizeof(Calibration::Range));
  std::memcpy(bytes.data(), &calibration.groups, sizeof calibration.groups);
  if (!calibration.layers.empty()) {
    std::memcpy(bytes.data() + sizeof calibration.groups, calibration.layers.data(),
                calibration.layers.size() * sizeof(Calibration::Range));
  }
  return bytes;
}

Calibration deserialize_calibration(const Bytes& bytes) {
  Calibration calibration;
  if (bytes.size() < sizeof calibration.groups) return calibration;
  std::memcpy(&calibration.groups, bytes.data(), sizeof calibration.groups);
  calibration.layers.resize((bytes.size() - sizeof calibration.groups) / sizeof(Calibration::Range));
  if (!calibration.layers.empty()) {
    std::memcpy(calibration.layers.data(), bytes.data() + sizeof calibration.groups,
                calibration.layers.size() * sizeof(Calibration::Range));
  }
  return calibration;
}

}  // namespace quadrat::score
