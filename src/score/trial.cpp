#include "trial.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/random.h"
#include "quadrat/image/png.h"
#include "quadrat/record/run_record.h"
#include "quadrat/tiles/reader.h"

namespace quadrat::score {

namespace {

constexpr std::int64_t kAtOnce = Plan::kTilesAtOnce;
/// More than are used, since some may not be readable.
constexpr std::size_t kCalibrationTiles = 128;
constexpr std::size_t kCalibrationGroups = 12;
/// 0.3 points are three of them.
constexpr std::size_t kValidationTiles = 1024;
constexpr const char* kFileName = "score_trial.json";

/// Keeps `count` seeded tiles, in shuffled order.
void keep_some(Catalog& catalog, std::size_t count) {
  std::vector<std::size_t> order(catalog.tiles.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  KeyedRandom random({0, kStreamSample});
  shuffle(order, random);
  order.resize(std::min(order.size(), count));
  std::vector<Tile> kept;
  for (const std::size_t i : order) kept.push_back(catalog.tiles[i]);
  catalog.tiles = std::move(kept);
}

Catalog find_tiles(const Settings& config, const char* option) {
  for (const auto& [name, value] : config) {
    if (name != option) continue;
    try {
      return list_labelled_tiles(value);
    } catch (const Error&) {
      return {};  // the tiles were moved away
    }
  }
  return {};
}

/// Decodes tiles into a buffer, leaving out those that cannot be.
class Loader {
 public:
  Loader(const Catalog& catalog, const Plan& plan)
      : reader_(catalog), side_px_(plan.card().tile_px), bytes_(static_cast<std::size_t>(plan.bytes_per_tile())) {}

  bool load(std::size_t tile, std::span<std::uint8_t> pixels) {
    try {
      reader_.read(tile, png_);
      decode_png_tile(png_, side_px_, pixels.first(bytes_));
      return true;
    } catch (const Error&) {
      return false;
    }
  }
  std::size_t bytes() const { return bytes_; }

 private:
  TileReader reader_;
  std::uint32_t side_px_;
  std::size_t bytes_;
  Bytes png_;
};

/// A group of kAtOnce tiles is one rank's. Tiles that cannot be read are left out of their group, and a group with
/// gaps out of the calibration.
Calibration calibrate(Plan& plan, const Catalog& tiles, const mpi::Communicator& ranks) {
  Loader loader(tiles, plan);
  std::vector<std::uint8_t> pixels(loader.bytes() * kAtOnce);
  const std::size_t groups = tiles.tiles.size() / kAtOnce;
  Bytes mine;
  for (auto group = static_cast<std::size_t>(ranks.rank()); group < groups; group += static_cast<std::size_t>(ranks.size())) {
    bool whole = true;
    for (std::size_t i = 0; i < kAtOnce; ++i) {
      whole = whole && loader.load(group * kAtOnce + i, std::span(pixels).subspan(i * loader.bytes()));
    }
    if (!whole) continue;
    Calibration one;
    plan.observe(pixels, one);
    const Bytes bytes = serialize(one);
    const auto number = static_cast<std::uint64_t>(group);
    const auto* raw = reinterpret_cast<const std::byte*>(&number);
    mine.insert(mine.end(), raw, raw + sizeof number);
    mine.insert(mine.end(), bytes.begin(), bytes.end());
  }
  const std::uint64_t layers = plan.layers();
  const std::size_t record = 2 * sizeof(std::uint64_t) + layers * sizeof(Calibration::Range);
  std::map<std::uint64_t, Calibration> found;
  for (const Bytes& bytes : ranks.gather(mine)) {
    for (std::size_t at = 0; at + record <= bytes.size(); at += record) {
      std::uint64_t number = 0;
      std::memcpy(&number, bytes.data() + at, sizeof number);
      found[number] = deserialize_calibration(
          Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(at + sizeof number), bytes.begin() + static_cast<std::ptrdiff_t>(at + record)));
    }
  }
  Calibration all;
  for (const auto& [number, one] : found) {
    if (all.groups == static_cast<std::int64_t>(kCalibrationGroups)) break;
    all.layers.resize(one.layers.size());
    ++all.groups;
    for (std::size_t i = 0; i < all.layers.size(); ++i) {
      all.layers[i].low = std::min(all.layers[i].low, one.layers[i].low);
      all.layers[i].high += (one.layers[i].high - all.layers[i].high) / static_cast<float>(all.groups);
    }
  }
  return deserialize_calibration(ranks.broadcast(ranks.is_root() ? serialize(all) : Bytes()));
}

Trial::Outcome evaluate(Plan& plan, const Catalog& tiles, const mpi::Communicator& ranks, std::uint64_t& seen) {
  using Clock = std::chrono::steady_clock;
  Loader loader(tiles, plan);
  const auto batch = static_cast<std::size_t>(plan.batch());
  const auto classes = static_cast<std::int64_t>(plan.card().classes.size());
  std::vector<std::uint8_t> pixels(loader.bytes() * batch);
  const auto step = static_cast<std::size_t>(ranks.size()) * batch;
  double right = 0, wrong = 0, seconds = 0;
  for (std::size_t first = static_cast<std::size_t>(ranks.rank()) * batch; first < tiles.tiles.size(); first += step) {
    std::vector<std::int32_t> labels;
    for (std::size_t i = first; i < std::min(first + batch, tiles.tiles.size()); ++i) {
      if (loader.load(i, std::span(pixels).subspan(labels.size() * loader.bytes()))) labels.push_back(tiles.tiles[i].label);
    }
    if (labels.empty()) continue;
    const auto start = Clock::now();
    const auto logits = plan.infer(std::span(pixels).first(labels.size() * loader.bytes())).logits;
    seconds += std::chrono::duration<double>(Clock::now() - start).count();
    const float* row = logits.const_data_ptr<float>();
    for (const std::int32_t label : labels) {
      (std::max_element(row, row + classes) - row == label ? right : wrong) += 1;
      row += classes;
    }
  }
  std::array<double, 3> sums{right, wrong, seconds};
  ranks.sum(sums);
  seen = static_cast<std::uint64_t>(sums[0] + sums[1]);
  return {plan.precision(), static_cast<std::uint64_t>(sums[1]),
          sums[2] > 0 ? static_cast<double>(seen) / sums[2] : 0};
}

}  // namespace

Precision Trial::best(double most_cost) const {
  const Outcome* chosen = nullptr;
  for (const Outcome& outcome : outcomes) {
    const double cost = (static_cast<double>(outcome.wrong) - static_cast<double>(outcomes.front().wrong)) /
                        static_cast<double>(std::max<std::uint64_t>(tiles, 1));
    if (cost <= most_cost && (chosen == nullptr || outcome.tiles_per_s > chosen->tiles_per_s)) chosen = &outcome;
  }
  return chosen == nullptr ? Precision::kFp32 : chosen->precision;
}

std::string Trial::description() const {
  std::vector<std::string> parts;
  for (const Outcome& outcome : outcomes) {
    parts.push_back(fmt::format("{} {:.2f} % wrong at {:.0f} tiles/s", to_string(outcome.precision),
                                100.0 * static_cast<double>(outcome.wrong) / static_cast<double>(std::max<std::uint64_t>(tiles, 1)),
                                outcome.tiles_per_s));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

TrialTiles TrialTiles::find(const Path& run_folder, const ModelCard& card, const Catalog& otherwise) {
  Settings config;
  try {
    config = read_run_summary(run_folder / "run.h5").config;
  } catch (const Error&) {
    // A model that was copied here without its record.
  }
  TrialTiles tiles;
  tiles.calibration = find_tiles(config, "train");
  if (tiles.calibration.tiles.empty()) tiles.calibration = otherwise;
  keep_some(tiles.calibration, kCalibrationTiles);
  tiles.validation = find_tiles(config, "validation");
  if (tiles.validation.classes != card.classes) tiles.validation = {};
  keep_some(tiles.validation, kValidationTiles);
  return tiles;
}

void TrialTiles::broadcast(const mpi::Communicator& ranks) {
  for (Catalog* catalog : {&calibration, &validation}) {
    const Bytes listed = ranks.broadcast(ranks.is_root() ? catalog->serialize() : Bytes());
    if (!ranks.is_root()) *catalog = Catalog::deserialize(listed);
  }
}

Trial try_precisions(const std::function<WeightsFile()>& fetch, const Path& model, const TrialTiles& tiles,
                     std::vector<Precision> candidates, const mpi::Communicator& ranks) {
  Trial trial;
  const auto compile = [&](Precision precision, std::int64_t batch) {
    std::optional<Plan> plan;
    WeightsFile weights = fetch();
    mpi::together(ranks, [&] {
      ModelCard card = read_model_card(weights, model);
      const std::int64_t suitable = Plan::suitable_batch(card.architecture);
      plan.emplace(fuse_network(std::move(weights), std::move(card), model), precision, batch > 0 ? batch : suitable,
                   &trial.calibration);
    });
    return std::move(*plan);
  };
  {
    Plan plan = compile(Precision::kFp32, kAtOnce);
    trial.calibration = calibrate(plan, tiles.calibration, ranks);
    if (!candidates.empty()) {
      trial.outcomes.push_back(evaluate(plan, tiles.validation, ranks, trial.tiles));
    }
  }
  if (trial.calibration.groups == 0 && candidates.empty()) {
    throw Error::shared(ErrorKind::kInput,
                        fmt::format("calibrate int8 on tiles in '{}': no {} of them can be read and have the model's size; "
                                    "give --precision bf16 or fp32",
                                    tiles.calibration.root.native(), kAtOnce));
  }
  if (trial.calibration.groups == 0) std::erase(candidates, Precision::kInt8);
  trial.calibrated_on = fmt::format("{} tiles of {}", trial.calibration.groups * kAtOnce, tiles.calibration.root.native());
  trial.validated_on = tiles.validation.root.native();
  for (const Precision precision : candidates) {
    Plan plan = compile(precision, 0);
    std::uint64_t seen = 0;
    trial.outcomes.push_back(evaluate(plan, tiles.validation, ranks, seen));
  }
  ::malloc_trim(0);  // what was freed piece by piece goes back to the system before the model is read again
  return trial;
}

Trial read_trial(const Path& run_folder, std::uint32_t model_crc32, const std::string& cpu) {
  try {
    const Bytes bytes = read_file(run_folder / kFileName, std::uint64_t{1} << 20);
    const auto json = nlohmann::json::parse(reinterpret_cast<const char*>(bytes.data()),
                                            reinterpret_cast<const char*>(bytes.data()) + bytes.size());
    if (json.at("schema") != "quadrat-score-trial" || json.at("model_crc32") != model_crc32 || json.at("cpu") != cpu) return {};
    Trial trial;
    trial.model_crc32 = model_crc32;
    trial.cpu = cpu;
    trial.calibration.groups = json.at("calibration_groups");
    trial.calibrated_on = json.at("calibrated_on");
    for (const auto& range : json.at("ranges")) trial.calibration.layers.push_back({range.at(0), range.at(1)});
    trial.tiles = json.at("tiles");
    trial.validated_on = json.at("validated_on");
    for (const auto& outcome : json.at("outcomes")) {
      const std::string name = outcome.at("precision");
      const Precision precision =
          name == "int8" ? Precision::kInt8 : name == "bf16" ? Precision::kBf16 : Precision::kFp32;
      trial.outcomes.push_back({precision, outcome.at("wrong"), outcome.at("tiles_per_s")});
    }
    return trial;
  } catch (const Error&) {
  } catch (const nlohmann::json::exception&) {
  }
  return {};
}

void write_trial(const Path& run_folder, const Trial& trial) {
  nlohmann::json json = {{"schema", "quadrat-score-trial"},
                         {"model_crc32", trial.model_crc32},
                         {"cpu", trial.cpu},
                         {"calibration_groups", trial.calibration.groups},
                         {"calibrated_on", trial.calibrated_on},
                         {"tiles", trial.tiles},
                         {"validated_on", trial.validated_on}};
  json["ranges"] = nlohmann::json::array();
  for (const Calibration::Range& range : trial.calibration.layers) json["ranges"].push_back({range.low, range.high});
  json["outcomes"] = nlohmann::json::array();
  for (const Trial::Outcome& outcome : trial.outcomes) {
    json["outcomes"].push_back(
        {{"precision", to_string(outcome.precision)}, {"wrong", outcome.wrong}, {"tiles_per_s", outcome.tiles_per_s}});
  }
  try {
    write_file(run_folder / kFileName, json.dump(1) + "\n");
  } catch (const IoError& error) {
    log::warn("what was found out about the model is not kept: {}", error.what());
  }
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
