#include "trial.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "judge.h"
#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/record/run_record.h"
#include "quadrat/score/cpu_abilities.h"

namespace quadrat::score {

namespace {

constexpr std::int64_t kAtOnce = Plan::kTilesAtOnce;
/// More than are used, since some may not be readable.
constexpr std::size_t kCalibrationTiles = 128;
constexpr std::size_t kCalibrationGroups = 12;
/// 0.3 points are three of them.
constexpr std::size_t kValidationTiles = 1024;

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

/// The folder that a run's record names; empty where it was moved away.
Catalog find_tiles(const Settings& config, std::string_view option) {
  const std::string folder = setting(config, option);
  if (folder.empty()) return {};
  try {
    return list_labelled_tiles(folder);
  } catch (const Error&) {
    return {};
  }
}

/// A group of kAtOnce tiles is one rank's. Tiles that cannot be read are left out of their group,
/// and a group with gaps out of the calibration.
Calibration calibrate(Plan& plan, const Catalog& tiles, const mpi::Communicator& ranks) {
  TileLoader loader(tiles, plan.card().tile_px);
  std::vector<std::uint8_t> pixels(loader.bytes() * kAtOnce);
  const std::size_t groups = tiles.tiles.size() / kAtOnce;
  Bytes mine;
  for (auto group = static_cast<std::size_t>(ranks.rank()); group < groups;
       group += static_cast<std::size_t>(ranks.size())) {
    bool whole = true;
    for (std::size_t i = 0; i < kAtOnce; ++i) {
      whole =
          whole && loader.load(group * kAtOnce + i, std::span(pixels).subspan(i * loader.bytes()));
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
          Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(at + sizeof number),
                bytes.begin() + static_cast<std::ptrdiff_t>(at + record)));
    }
  }
  Calibration all;
  for (const auto& [number, one] : found) {
    if (all.groups == static_cast<std::int64_t>(kCalibrationGroups)) break;
    all.layers.resize(one.layers.size());
    ++all.groups;
    for (std::size_t i = 0; i < all.layers.size(); ++i) {
      all.layers[i].low = std::min(all.layers[i].low, one.layers[i].low);
      all.layers[i].high +=
          (one.layers[i].high - all.layers[i].high) / static_cast<float>(all.groups);
    }
  }
  return deserialize_calibration(ranks.broadcast(ranks.is_root() ? serialize(all) : Bytes()));
}

/// While a plan is made, weights are held in several forms, each for a moment: 100 MB more at the
/// peak if what is freed stayed with the process. Afterwards the same few buffers are taken and
/// freed again and again, and stay.
class FreedMemoryGoesBack {
 public:
  FreedMemoryGoesBack() {
    constexpr int kLargestKept = 1 << 20;
    ::mallopt(M_MMAP_THRESHOLD, kLargestKept);
    ::malloc_trim(0);
  }
  ~FreedMemoryGoesBack() {
    ::malloc_trim(0);
    keep_freed_memory();
  }
  FreedMemoryGoesBack(const FreedMemoryGoesBack&) = delete;
  FreedMemoryGoesBack& operator=(const FreedMemoryGoesBack&) = delete;
};

/// Sides of middles that are worth a look: multiples of ResNet18's stride.
constexpr std::array<std::uint32_t, 3> kLookSides_px{96, 128, 160};

}  // namespace

Plan compile(const ModelFile& model, Precision precision, std::int64_t batch, std::uint32_t side_px,
             const Calibration& calibration, const mpi::Communicator& ranks, torch::Device device,
             bool may_use_amx) {
  const bool amx = may_use_amx && CpuAbilities::of(ranks).has_amx;
  const FreedMemoryGoesBack meanwhile;
  std::optional<Plan> plan;
  WeightsFile weights = model.fetch();
  mpi::together(ranks, [&] {
    ModelCard card = read_model_card(weights, model.path);
    if (side_px > 0) card.tile_px = side_px;
    if (batch == 0) batch = Plan::suitable_batch(card.architecture);
    plan.emplace(fuse_network(std::move(weights), std::move(card), model.path), precision, batch,
                 &calibration, device, amx);
  });
  return std::move(*plan);
}

Precision Trial::best(double most_cost) const {
  const Outcome* chosen = nullptr;
  for (const Outcome& outcome : outcomes) {
    const double cost =
        (static_cast<double>(outcome.wrong) - static_cast<double>(outcomes.front().wrong)) /
        static_cast<double>(std::max<std::uint64_t>(tiles, 1));
    if (cost <= most_cost && (chosen == nullptr || outcome.tiles_per_s > chosen->tiles_per_s))
      chosen = &outcome;
  }
  return chosen == nullptr ? Precision::kFp32 : chosen->precision;
}

std::string Trial::description() const {
  std::vector<std::string> parts;
  for (const Outcome& outcome : outcomes) {
    parts.push_back(fmt::format("{} {:.2f} % wrong at {:.0f} tiles/s", to_string(outcome.precision),
                                100.0 * static_cast<double>(outcome.wrong) /
                                    static_cast<double>(std::max<std::uint64_t>(tiles, 1)),
                                outcome.tiles_per_s));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

TrialTiles TrialTiles::find(const Path& run_folder, const ModelCard& card,
                            const Catalog& otherwise) {
  Settings config;
  try {
    config = read_run_summary(run_folder / "run.h5").config;
  } catch (const Error&) {
    // A model that was copied here without its record.
  }
  TrialTiles tiles;
  tiles.calibration = find_tiles(config, "train");
  tiles.has_training_tiles = !tiles.calibration.tiles.empty();
  if (!tiles.has_training_tiles) tiles.calibration = otherwise;
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

std::optional<Trial> try_precisions(const ModelFile& model, const TrialTiles& tiles,
                                    std::vector<Precision> candidates,
                                    const mpi::Communicator& ranks) {
  Trial trial;
  if (candidates.empty() || std::ranges::find(candidates, Precision::kInt8) != candidates.end()) {
    Plan plan = compile(model, Precision::kFp32, kAtOnce, 0, trial.calibration, ranks);
    trial.calibration = calibrate(plan, tiles.calibration, ranks);
  }
  if (trial.calibration.groups == 0 && candidates.empty()) {
    throw Error::shared(
        ErrorKind::kInput,
        fmt::format(
            "calibrate int8 on tiles in '{}': no {} of them can be read and have the model's size; "
            "give --precision bf16 or fp32",
            tiles.calibration.root.native(), kAtOnce));
  }
  if (trial.calibration.groups == 0) std::erase(candidates, Precision::kInt8);
  if (trial.calibration.groups > 0) {
    trial.calibrated_on = fmt::format("{} tiles of {}", trial.calibration.groups * kAtOnce,
                                      tiles.calibration.root.native());
  }
  trial.validated_on = tiles.validation.root.native();
  if (!candidates.empty()) candidates.insert(candidates.begin(), Precision::kFp32);
  for (const Precision precision : candidates) {
    if (mpi::any_asked_to_stop(ranks)) return std::nullopt;
    Plan plan = compile(model, precision, 0, 0, trial.calibration, ranks);
    const Verdicts verdicts = judge(plan, tiles.validation, plan.card().tile_px, ranks);
    trial.tiles = verdicts.seen();
    trial.outcomes.push_back({precision, verdicts.wrong(), verdicts.tiles_per_s});
  }
  if (mpi::any_asked_to_stop(ranks)) return std::nullopt;
  return trial;
}

std::optional<CascadeTrial> try_cascade(const ModelFile& model, const Catalog& validation,
                                        Precision precision, const Calibration& calibration,
                                        double most_cost, const mpi::Communicator& ranks) {
  CascadeTrial trial;
  trial.precision = precision;
  trial.most_cost = most_cost;
  Verdicts whole;
  std::uint32_t tile_px = 0;
  {
    Plan plan = compile(model, precision, 0, 0, calibration, ranks);
    tile_px = plan.card().tile_px;
    whole = judge(plan, validation, tile_px, ranks);
  }
  trial.tiles = whole.seen();
  trial.wrong = trial.wrong_whole = whole.wrong();
  trial.tiles_per_s = trial.tiles_per_s_whole = whole.tiles_per_s;
  const auto most_more_wrong =
      static_cast<std::int64_t>(most_cost * static_cast<double>(trial.tiles));
  for (const std::uint32_t side_px : kLookSides_px) {
    if (side_px >= tile_px) break;
    if (mpi::any_asked_to_stop(ranks)) return std::nullopt;
    Plan plan = compile(model, precision, 0, side_px, calibration, ranks);
    const Verdicts looks = judge(plan, validation, tile_px, ranks);
    std::vector<Compared> compared;
    for (std::size_t i = 0; i < looks.tiles.size(); ++i) {
      if (!looks.tiles[i].was_seen || !whole.tiles[i].was_seen) continue;
      compared.push_back(
          {looks.tiles[i].confidence, looks.tiles[i].is_right, whole.tiles[i].is_right});
    }
    const Settlement settlement = lowest_threshold(std::move(compared), most_more_wrong);
    if (settlement.settled == 0) continue;
    const double left =
        1 - static_cast<double>(settlement.settled) / static_cast<double>(trial.tiles);
    const double tiles_per_s = 1 / (1 / looks.tiles_per_s + left / whole.tiles_per_s);
    if (tiles_per_s <= trial.tiles_per_s) continue;
    trial.look = {side_px, settlement.threshold};
    trial.settled = settlement.settled;
    trial.wrong = static_cast<std::uint64_t>(static_cast<std::int64_t>(trial.wrong_whole) +
                                             settlement.more_wrong);
    trial.tiles_per_s = tiles_per_s;
  }
  if (mpi::any_asked_to_stop(ranks)) return std::nullopt;
  ::malloc_trim(0);
  return trial;
}

std::string CascadeTrial::description() const {
  const auto percent = [&](std::uint64_t part) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(tiles);
  };
  if (!look) {
    return fmt::format(
        "a look at the middle is not worth while: none settles enough of {} validation tiles "
        "within {} points",
        tiles, 100 * most_cost);
  }
  return fmt::format(
      "a look at the middle {}x{} px settles {:.0f} % of {} validation tiles at a probability of "
      "{:.4f} or more: {:.2f} % wrong at {:.0f} tiles/s, whole {:.2f} % at {:.0f}",
      look.side_px, look.side_px, percent(settled), tiles, look.threshold, percent(wrong),
      tiles_per_s, percent(wrong_whole), tiles_per_s_whole);
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
  calibration.layers.resize((bytes.size() - sizeof calibration.groups) /
                            sizeof(Calibration::Range));
  if (!calibration.layers.empty()) {
    std::memcpy(calibration.layers.data(), bytes.data() + sizeof calibration.groups,
                calibration.layers.size() * sizeof(Calibration::Range));
  }
  return calibration;
}

}  // namespace quadrat::score
