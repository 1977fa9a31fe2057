#include "engine.h"

#include <fmt/format.h>

#include <tuple>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"

namespace quadrat::score {

namespace {

/// The largest share of tiles that a quicker precision may get wrong beyond fp32's.
constexpr double kMostCost = 0.003;

std::string name_of(const ModelFile& model) { return model.path.parent_path().filename().native(); }

/// Which of the questions about a model the ranks have to answer; rank 0 decides.
class Questions {
 public:
  Questions(const EngineWish& wish, const ModelFile& model, const Catalog& to_score,
            const CpuAbilities& cpu, const mpi::Communicator& ranks)
      : wish_(wish),
        model_(model),
        to_score_(to_score),
        cpu_(cpu),
        ranks_(ranks),
        folder_(model.path.parent_path()) {}

  std::optional<Engine> answer() {
    mpi::together(ranks_, [&] {
      if (!ranks_.is_root()) return;
      trial_ = read_trial(folder_, model_.crc32, cpu_.name());
      if (!is_possible(trial_.cascade.look, model_.card.tile_px)) trial_.cascade = {};
    });
    if (!measure_precisions()) return std::nullopt;
    mpi::together(ranks_, [&] {
      if (ranks_.is_root()) choose_precision();
    });
    if (!measure_cascade()) return std::nullopt;
    return engine_;
  }

 private:
  void find_tiles();          // rank 0
  bool measure_precisions();  // false where a rank was asked to stop
  void choose_precision();    // rank 0
  bool measure_cascade();     // likewise
  void keep();                // rank 0
  /// Beside fp32. Where there is AMX, the others are several times as fast as int16.
  std::vector<Precision> candidates() const;
  bool any(bool mine) const { return ranks_.sum(static_cast<std::int64_t>(mine ? 1 : 0)) > 0; }

  const EngineWish& wish_;
  const ModelFile& model_;
  const Catalog& to_score_;
  const CpuAbilities& cpu_;
  const mpi::Communicator& ranks_;
  Path folder_;
  Trial trial_;
  TrialTiles tiles_;
  bool has_tiles_ = false;
  Engine engine_;
};

std::vector<Precision> Questions::candidates() const {
  std::vector<Precision> found;
  if (cpu_.has_bf16) found.push_back(Precision::kBf16);
  if (cpu_.has_int8) found.push_back(Precision::kInt8);
  if (cpu_.has_int16 && !cpu_.has_amx) found.push_back(Precision::kInt16);
  return found;
}

void Questions::find_tiles() {
  if (!has_tiles_) tiles_ = TrialTiles::find(folder_, model_.card, to_score_);
  has_tiles_ = true;
}

void Questions::keep() {
  trial_.model_crc32 = model_.crc32;
  trial_.cpu = cpu_.name();
  // Ranges of the tiles to score, for int8, are this run's own.
  if (tiles_.has_training_tiles || !cpu_.has_int8) write_trial(folder_, trial_);
}

bool Questions::measure_precisions() {
  bool calibrates = false;
  bool measures = false;
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    const bool is_known =
        wish_.precision ? *wish_.precision != Precision::kInt8 || trial_.calibration.groups > 0
                        : trial_.tiles > 0 || candidates().empty();
    if (is_known) return;
    find_tiles();
    calibrates = wish_.precision.has_value();
    measures = !calibrates && !tiles_.validation.tiles.empty();
    if (calibrates && !tiles_.has_training_tiles) {
      log::warn(
          "the tiles the model was trained on are not there: int8 is calibrated on the tiles to "
          "score");
    }
    if (measures) {
      log::line("measuring once what each precision costs '{}' in error, on {} validation tiles",
                name_of(model_), tiles_.validation.tiles.size());
    }
  });
  measures = any(measures);
  if (!measures && !any(calibrates)) return true;
  tiles_.broadcast(ranks_);
  auto found =
      try_precisions(model_, tiles_, measures ? candidates() : std::vector<Precision>(), ranks_);
  if (!found) return false;
  trial_.calibration = std::move(found->calibration);
  trial_.calibrated_on = std::move(found->calibrated_on);
  if (measures) {
    trial_.tiles = found->tiles;
    trial_.validated_on = std::move(found->validated_on);
    trial_.outcomes = std::move(found->outcomes);
  }
  if (ranks_.is_root()) keep();
  return true;
}

void Questions::choose_precision() {
  if (wish_.precision) {
    engine_.precision = *wish_.precision;
    engine_.precision_reason = wish_.precision_reason;
  } else if (candidates().empty()) {
    engine_.precision = Precision::kFp32;
    engine_.precision_reason = "auto: all that every rank's CPU computes, without AVX2";
  } else if (trial_.tiles > 0) {
    engine_.precision = trial_.best(kMostCost);
    engine_.precision_reason =
        fmt::format("auto: the quickest within {:.1f} points of fp32's error on {} tiles of {}: {}",
                    100 * kMostCost, trial_.tiles, trial_.validated_on, trial_.description());
  } else {
    engine_.precision = cpu_.accelerates_bf16 ? Precision::kBf16 : Precision::kFp32;
    engine_.precision_reason = fmt::format(
        "auto: the model's validation tiles are not to be found, so costs in error are unknown; {}",
        cpu_.accelerates_bf16 ? "every rank's CPU computes bf16 in hardware"
                              : "not every rank's CPU computes bf16 in hardware");
    log::line(
        "--precision auto takes {}: the validation tiles of '{}' are not to be found, so what "
        "others would cost in error is unknown",
        to_string(engine_.precision), name_of(model_));
  }
  if (engine_.precision == Precision::kInt8) {
    engine_.calibration = trial_.calibration;
    engine_.calibrated_on = trial_.calibrated_on;
  }
}

bool Questions::measure_cascade() {
  bool measures = false;
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root() || !wish_.cascade || wish_.look) return;
    const CascadeTrial& known = trial_.cascade;
    if (known.tiles > 0 && known.precision == engine_.precision &&
        known.most_cost == wish_.most_cost)
      return;
    find_tiles();
    if (tiles_.validation.tiles.empty()) {
      throw InputError("set the threshold of --cascade for", model_.path.native(),
                       "the tiles it was validated on, by its record run.h5, are not to be found",
                       "put them back, or leave out --cascade");
    }
    measures = true;
    log::line("measuring what a quick look costs '{}' in error, on {} validation tiles",
              name_of(model_), tiles_.validation.tiles.size());
  });
  if (any(measures)) {
    tiles_.broadcast(ranks_);
    const auto precision =
        parse_precision(ranks_.broadcast(std::string(to_string(engine_.precision))));
    const Calibration calibration = deserialize_calibration(
        ranks_.broadcast(ranks_.is_root() ? serialize(engine_.calibration) : Bytes()));
    const auto found =
        try_cascade(model_, tiles_.validation, precision, calibration, wish_.most_cost, ranks_);
    if (!found) return false;
    trial_.cascade = *found;
    if (ranks_.is_root()) keep();
  }
  if (!ranks_.is_root() || !wish_.cascade) return true;
  if (wish_.look) {
    std::tie(engine_.look, engine_.look_reason) = *wish_.look;
    return true;
  }
  engine_.look = trial_.cascade.look;
  engine_.look_reason = trial_.cascade.description();
  log::line("{}", engine_.look_reason);
  return true;
}

}  // namespace

std::optional<Engine> choose_engine(const EngineWish& wish, const ModelFile& model,
                                    const Catalog& to_score, const CpuAbilities& cpu,
                                    const mpi::Communicator& ranks) {
  return Questions(wish, model, to_score, cpu, ranks).answer();
}

}  // namespace quadrat::score
