#include "quadrat/fit/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <opencv2/core/version.hpp>
#include <optional>

#include "kept_features.h"
#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/fit/features.h"
#include "quadrat/fit/logistic_regression.h"
#include "quadrat/fit/random_forest.h"
#include "quadrat/model/forest.h"
#include "quadrat/model/network.h"
#include "quadrat/model/weights.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/mpi/watchdog.h"
#include "quadrat/record/feature_file.h"
#include "quadrat/record/run_folder.h"
#include "quadrat/score/cpu_abilities.h"
#include "quadrat/score/network.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/training_sets.h"

namespace quadrat::fit {

namespace {

/// One rank's share of a run.
class Fitter {
 public:
  Fitter(const FitOptions& options, const Settings& config, const mpi::Communicator& ranks,
         RunFolder& folder)
      : options_(options),
        ranks_(ranks),
        folder_(folder),
        seed_(static_cast<std::uint64_t>(options.seed)),
        sets_(list_training_sets(options.train, options.validation, kTileSide_px,
                                 options.sample_frac, seed_, ranks)) {
    card_.architecture = parse_architecture(options.pretrained_model_type);
    card_.classes = sets_.train.classes;
    card_.retraining = Retraining::kLastOnly;
    card_.classifier = options.classifier;
    mpi::together(ranks_, [&] {
      if (ranks_.is_root()) load_network();
    });
    choose_precision();
    describe(config);
  }

  int run();

 private:
  struct Set {
    const Catalog* tiles;
    const char* name;
    torch::Tensor labels;              ///< [rows] int64, of this rank's share
    torch::Tensor features;            ///< [rows, width] float32, of this rank's share
    std::vector<float> probabilities;  ///< rank 0: [tiles, classes]
    double loss = 0;
    double error = 0;
  };

  void load_network();  // rank 0
  void choose_precision();
  void describe(const Settings& config);
  void make_features();
  void read_features();
  void classify();
  void evaluate(Set& set) const;
  int classify_features(bool features_are_kept, Clock::time_point start);
  int end_interrupted();
  void write_record(RunStatus status);       // rank 0
  void write_model();                        // rank 0
  void print_summary(double seconds) const;  // rank 0

  std::int64_t classes() const { return std::ssize(card_.classes); }
  std::int64_t width() const { return score::feature_count(card_.architecture); }

  const FitOptions& options_;
  const mpi::Communicator& ranks_;
  RunFolder& folder_;
  std::uint64_t seed_;
  TrainingSets sets_;
  ModelCard card_;
  std::shared_ptr<Network> network_;  ///< rank 0
  WeightsFile weights_;               ///< rank 0: of the network
  Settings made_of_;                  ///< rank 0: what kept features depend on
  score::Precision precision_ = score::Precision::kFp32;
  bool has_amx_ = false;  ///< every rank's CPU
  Set train_{&sets_.train, "train", {}, {}, {}, 0, 0};
  Set validation_{&sets_.validation, "validation", {}, {}, {}, 0, 0};
  std::optional<Forest> forest_;
  torch::Tensor weight_, bias_;  ///< float32, of logistic regression
  RunRecord record_;             ///< rank 0
  EpochRow row_;
};

void Fitter::load_network() {
  network_ = Network::create(card_.architecture, classes(), seed_);
  if (options_.pretrained_weights != "none") {
    const Path path = options_.pretrained_weights;
    load_weights(*network_, read_weights(path), path);
  }
  // Of the last layer nothing is used; zeros keep the fingerprint of the rest its own.
  const torch::NoGradGuard no_gradients;
  for (auto& parameter : network_->last_layer()->parameters()) parameter.zero_();
  ModelCard trunk = card_;
  trunk.classifier.clear();
  weights_ = to_weights_file(*network_, trunk);
}

void Fitter::choose_precision() {
  const auto cpu = score::CpuAbilities::of(ranks_);
  has_amx_ = cpu.has_amx;
  if (options_.precision == "auto") {
    precision_ = cpu.accelerates_bf16 ? score::Precision::kBf16 : score::Precision::kFp32;
    return;
  }
  precision_ = score::parse_precision(options_.precision);
  mpi::together(ranks_, [&] { cpu.require(precision_); });
}

void Fitter::describe(const Settings& config) {
  record_.name = options_.output_model_name;
  record_.program = "quadrat-fit";
  record_.git_commit = git_commit();
  record_.created = utc_now();
  record_.config = config;
  record_.classes = card_.classes;
  const int hosts = ranks_.hosts();
  record_.environment = {
      {"ranks", ranks_.size()},
      {"hosts", hosts},
      {"device", "cpu"},
      {"threads_per_rank", 1},
      {"precision", score::to_string(precision_)},
      {"initial_weights",
       options_.pretrained_weights == "none" ? "random" : options_.pretrained_weights},
      {"quadrat", std::string(quadrat::version())},
      {"libtorch", TORCH_VERSION},
      {"opencv", CV_VERSION},
      {"hdf5", hdf5_version()},
      {"mpi", mpi::library()}};
  for (const Tile& tile : sets_.validation.tiles) {
    record_.validation.tiles.push_back(tile.name);
    record_.validation.labels.push_back(static_cast<std::uint16_t>(tile.label));
  }
}

void Fitter::make_features() {
  Bytes model;
  if (ranks_.is_root() && ranks_.size() > 1) model = to_safetensors(weights_);
  model = ranks_.broadcast(std::move(model));
  std::optional<score::Plan> plan;
  mpi::together(ranks_, [&] {
    const Path from = options_.pretrained_weights;
    ModelCard trunk = card_;
    trunk.classifier.clear();
    WeightsFile weights = ranks_.size() > 1 ? parse_weights(std::move(model)) : weights_;
    plan.emplace(score::fuse_network(std::move(weights), trunk, from), precision_,
                 score::Plan::suitable_batch(card_.architecture), nullptr, torch::kCPU, has_amx_);
  });
  for (Set* set : {&train_, &validation_}) {
    mpi::together(ranks_, [&] {
      set->features = compute_features(*plan, *set->tiles, ranks_,
                                       fmt::format("features of the {} tiles", set->name));
    });
  }
}

void Fitter::read_features() {
  for (Set* set : {&train_, &validation_}) {
    mpi::together(ranks_, [&] {
      const auto [first, last] = ranks_.share_of(set->tiles->tiles.size());
      const auto rows = read_feature_rows(options_.features, set->name,
                                          static_cast<std::uint64_t>(width()), first, last);
      set->features =
          torch::empty({static_cast<std::int64_t>(last - first), width()}, torch::kFloat);
      std::copy(rows.begin(), rows.end(), set->features.mutable_data_ptr<float>());
    });
  }
}

void Fitter::classify() {
  if (options_.classifier == kRandomForest) {
    const torch::Tensor all = broadcast_rows(gather_rows(train_.features, ranks_), width(), ranks_);
    std::vector<std::int32_t> labels;
    for (const Tile& tile : sets_.train.tiles) labels.push_back(tile.label);
    forest_ = fit_random_forest(values_of(all), labels, static_cast<std::int32_t>(width()),
                                static_cast<std::int32_t>(classes()),
                                {options_.trees, options_.depth, seed_}, ranks_);
    return;
  }
  const LogisticRegression found = fit_logistic_regression(
      train_.features, train_.labels, classes(), options_.l2, options_.max_iterations, ranks_);
  weight_ = found.weight.to(torch::kFloat);
  bias_ = found.bias.to(torch::kFloat);
  record_.environment.emplace_back("iterations", found.iterations);
  record_.environment.emplace_back("objective", found.objective);
  if (!ranks_.is_root()) return;
  log::line("logistic regression: objective {:.6f} after {} iterations", found.objective,
            found.iterations);
  if (!found.has_converged) log::warn("that is not the optimum; raise --max_iterations for it");
}

void Fitter::evaluate(Set& set) const {
  auto logits = torch::empty({set.features.size(0), classes()}, torch::kFloat);
  if (forest_) {
    forest_->log_probabilities(set.features.const_data_ptr<float>(), set.features.size(0),
                               logits.mutable_data_ptr<float>());
  } else {
    logits = torch::addmm(bias_, set.features, weight_.t());
  }
  std::array<double, 2> sums{
      torch::cross_entropy_loss(logits.to(torch::kDouble), set.labels, {}, at::Reduction::Sum)
          .item<double>(),
      logits.argmax(1).ne(set.labels).sum().item<double>()};
  ranks_.sum(sums);
  const auto tiles = static_cast<double>(set.tiles->tiles.size());
  set.loss = sums[0] / tiles;
  set.error = sums[1] / tiles;
  set.probabilities = ranks_.gather_values(score::probabilities(logits));
}

void Fitter::write_record(RunStatus status) {
  record_.status = status;
  RunRecord record = record_;
  if (status == RunStatus::kComplete) {
    record.epochs = {row_};
    record.kept_epoch = row_.epoch;
    record.validation.probabilities = validation_.probabilities;
    choose_most_probable(record.validation, card_.classes.size());
    folder_.write_predictions(record.validation, record.classes);
  } else {
    record.validation = {};
  }
  write_run_record(folder_.record(), record);
}

void Fitter::write_model() {
  const std::string last = network_->last_layer_name();
  WeightsFile model = std::move(weights_);
  if (forest_) {
    std::erase_if(model.tensors,
                  [&](const StoredTensor& tensor) { return tensor.name.starts_with(last + "."); });
    forest_->add_to(model);
  } else {
    for (StoredTensor& tensor : model.tensors) {
      if (tensor.name == last + ".weight") tensor = to_stored(tensor.name, weight_);
      if (tensor.name == last + ".bias") tensor = to_stored(tensor.name, bias_);
    }
  }
  model.metadata["classifier"] = card_.classifier;
  write_safetensors(folder_.model(), model);
  folder_.write_labels_and_info(record_.classes,
                                {{"output_model_name", options_.output_model_name},
                                 {"model_source", "fit"},
                                 {"pretrained_model_type", options_.pretrained_model_type},
                                 {"classifier", options_.classifier}});
}

void Fitter::print_summary(double seconds) const {
  fmt::print("run                {}\n", folder_.path().native());
  fmt::print("classifier         {} on {} features of {}, {} weights\n", options_.classifier,
             width(), options_.pretrained_model_type,
             options_.pretrained_weights == "none" ? "randomly initialised" : "pretrained");
  fmt::print("tiles              {} to learn from, {} to validate, {} classes\n",
             sets_.train.tiles.size(), sets_.validation.tiles.size(), classes());
  fmt::print("training error     {:.2f} %\n", 100 * train_.error);
  fmt::print("validation error   {:.2f} %\n", 100 * validation_.error);
  fmt::print("time               {} on {} rank{}, {}\n", format_duration(seconds), ranks_.size(),
             ranks_.size() == 1 ? "" : "s", score::to_string(precision_));
  std::fflush(stdout);
}

int Fitter::run() {
  const torch::NoGradGuard no_gradients;
  const auto start = Clock::now();
  std::int64_t found = 0;
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    if (!options_.features.empty()) {
      made_of_ = features_depend_on(options_.pretrained_model_type, weights_,
                                    score::to_string(precision_), sets_);
      found = are_kept(options_.features, made_of_) ? 1 : 0;
    }
    folder_.prepare();
    write_record(RunStatus::kRunning);
  });
  found = ranks_.sum(found);
  return or_mark_failed([&] { return classify_features(found != 0, start); },
                        [&] {
                          if (ranks_.is_root()) write_record(RunStatus::kFailed);
                        });
}

int Fitter::end_interrupted() {
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) write_record(RunStatus::kInterrupted);
  });
  if (ranks_.is_root()) log::line("stopped by a signal; the same command starts again");
  return kExitInterrupted;
}

int Fitter::classify_features(bool features_are_kept, Clock::time_point start) {
  if (ranks_.is_root()) warn_of_one_folder(sets_);
  if (ranks_.is_root() && options_.pretrained_weights == "none") {
    log::warn("no --pretrained_weights given: features are those of a randomly initialised {}",
              options_.pretrained_model_type);
  }
  for (Set* set : {&train_, &validation_}) {
    const auto [first, last] = ranks_.share_of(set->tiles->tiles.size());
    set->labels = torch::empty({static_cast<std::int64_t>(last - first)}, torch::kLong);
    auto* label = set->labels.mutable_data_ptr<std::int64_t>();
    for (std::size_t i = first; i < last; ++i) *label++ = set->tiles->tiles[i].label;
  }
  if (features_are_kept) {
    if (ranks_.is_root()) log::line("features of '{}' are used again", options_.features.native());
    read_features();
  } else {
    make_features();
  }
  if (mpi::any_asked_to_stop(ranks_)) return end_interrupted();
  if (!features_are_kept && !options_.features.empty()) {
    const torch::Tensor train = gather_rows(train_.features, ranks_);
    const torch::Tensor validation = gather_rows(validation_.features, ranks_);
    mpi::together(ranks_, [&] {
      if (ranks_.is_root()) keep(options_.features, made_of_, sets_, train, validation);
    });
  }
  const double feature_seconds = seconds_since(start);
  try {
    classify();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInterrupted) throw;
    return end_interrupted();
  }
  evaluate(train_);
  evaluate(validation_);
  row_ = {
      1, train_.loss, train_.error, validation_.loss, validation_.error, 0, seconds_since(start),
      0};
  row_.tiles_per_s = static_cast<double>(sets_.train.tiles.size()) / row_.seconds;
  record_.environment.emplace_back("features", features_are_kept ? "used again" : "computed");
  record_.environment.emplace_back("feature_seconds", std::round(1000 * feature_seconds) / 1000);
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    write_model();
    write_record(RunStatus::kComplete);
  });
  if (ranks_.is_root()) print_summary(row_.seconds);
  return kExitDone;
}

}  // namespace

int fit(const FitOptions& options, const Settings& config) {
  catch_stop_signals();
  const mpi::Environment environment;
  const mpi::Communicator ranks = mpi::Communicator::world();
  const mpi::Watchdog watchdog(ranks, options.watchdog_seconds);
  log::set_origin("quadrat-fit", ranks.size() > 1 ? ranks.rank() : -1);
  // One rank a core: see README.
  at::set_num_threads(1);
  RunFolder folder(options.runs, options.output_model_name);
  std::int64_t is_complete = 0;
  mpi::together(ranks, [&] {
    if (ranks.is_root()) is_complete = folder.is_complete(config, options.resume == "auto") ? 1 : 0;
  });
  if (ranks.sum(is_complete) != 0) {
    if (!ranks.is_root()) return kExitDone;
    fmt::print("run {} is complete; nothing to do\n", folder.path().native());
    std::error_code ignored;
    if (!options.features.empty() && !std::filesystem::exists(options.features, ignored)) {
      log::line("'{}' is not written: features are kept by a fit that computes them",
                options.features.native());
    }
    return kExitDone;
  }
  return Fitter(options, config, ranks, folder).run();
}

}  // namespace quadrat::fit
