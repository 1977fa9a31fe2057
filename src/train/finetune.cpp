#include "quadrat/train/finetune.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>

#include "evaluation.h"
#include "inputs.h"
#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/model/weights.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/mpi/watchdog.h"
#include "quadrat/record/run_folder.h"
#include "quadrat/train/checkpoint.h"
#include "session.h"
#include "trainer.h"

namespace quadrat {

namespace {

std::vector<std::int32_t> labels_of(const Catalog& catalog) {
  std::vector<std::int32_t> labels;
  labels.reserve(catalog.tiles.size());
  for (const Tile& tile : catalog.tiles) labels.push_back(tile.label);
  return labels;
}

/// Of a model and a checkpoint with as many moments, on a quick disk; 0 where that is too little to
/// leave a first epoch unsaved for.
double expected_saving_s(const Network& network) {
  constexpr double kBytesPerS = 1e9;
  constexpr double kLittle_s = 0.25;
  std::size_t bytes = 0;
  for (const auto& parameter : network.parameters()) bytes += 3 * parameter.nbytes();
  const double saving_s = static_cast<double>(bytes) / kBytesPerS;
  return saving_s > kLittle_s ? saving_s : 0;
}

ShardPlan make_plan(const Session& session) {
  std::optional<ShardPlan> plan;
  mpi::together(session.ranks, [&] {
    plan.emplace(labels_of(session.sets.train), session.options.shards, session.options.batch_size,
                 session.seed);
  });
  return *std::move(plan);
}

/// What the run's tiles are, whichever folder they are in.
std::uint32_t checksum_of(const TrainingSets& sets) {
  const std::array<std::uint32_t, 2> both{sets.train.checksum(), sets.validation.checksum()};
  return libdeflate_crc32(0, both.data(), sizeof both);
}

/// A run goes on in what it began with, whatever --precision auto would choose on these processors.
std::string precision_of(const RunFolder& folder, const FinetuneOptions& options,
                         const mpi::Communicator& ranks) {
  std::string precision = options.precision;
  mpi::together(ranks, [&] {
    std::error_code ignored;
    if (!ranks.is_root() || !std::filesystem::exists(folder.checkpoint(), ignored)) return;
    const std::string before = setting(read_run_summary(folder.record()).environment, "precision");
    if (precision == "auto" && (before == "bf16" || before == "fp32")) precision = before;
  });
  return ranks.broadcast(std::move(precision));
}

/// One rank's share of a training run: epochs, judged, and written down.
class Finetuner {
 public:
  Finetuner(const FinetuneOptions& options, const Settings& config, const mpi::Communicator& ranks,
            RunFolder& folder)
      : session_(options, ranks),
        options_(options),
        ranks_(ranks),
        folder_(folder),
        plan_(make_plan(session_)),
        validation_tiles_(share_of_validation(session_)),
        trainer_(session_, plan_),
        saving_s_(expected_saving_s(*session_.network)) {
    describe(config);
  }

  int run();

 private:
  int train();
  void describe(const Settings& config);
  void resume();
  void announce() const;
  void make_inputs();
  void finish_epoch(const Evaluation& evaluation, double evaluation_s);
  void write_epoch(bool stops_here);
  void write_record(RunStatus status);
  void write_kept_model();
  void take_predictions();
  void save_checkpoint();
  int end_interrupted() const;
  [[noreturn]] void fail_for_loss();
  bool is_last() const;
  void print_summary() const;

  const Clock::time_point start_ = Clock::now();
  Session session_;
  const FinetuneOptions& options_;
  const mpi::Communicator& ranks_;
  RunFolder& folder_;
  ShardPlan plan_;
  std::vector<std::uint32_t> validation_tiles_;
  Trainer trainer_;
  std::optional<Inputs> train_inputs_, validation_inputs_;
  RunRecord record_;
  RunPosition position_;
  std::optional<WeightsFile> unwritten_model_;  // rank 0: the kept epoch's, where its file is older
  Clock::time_point saved_ = start_;            // rank 0: when the last epoch's state was written
  double saving_s_;                             // rank 0: how long that took, or might
};

void Finetuner::describe(const Settings& config) {
  record_.name = options_.output_model_name;
  record_.program = "quadrat-finetune";
  record_.git_commit = git_commit();
  record_.config = config;
  record_.classes = session_.sets.train.classes;
  const int hosts = ranks_.hosts();
  record_.environment = {
      {"ranks", ranks_.size()},
      {"hosts", hosts},
      {"device", session_.device.is_cuda() ? "cuda" : "cpu"},
      {"threads_per_rank", session_.threads},
      {"precision", session_.bf16 ? "bf16" : "fp32"},
      {"learning_rate", options_.effective_learning_rate()},
      {"initial_weights", session_.weights_given() ? options_.pretrained_weights : "random"},
      {"quadrat", std::string(quadrat::version())},
      {"libtorch", TORCH_VERSION},
      {"hdf5", hdf5_version()},
      {"mpi", mpi::library()},
  };
  for (const auto& tile : session_.sets.validation.tiles) {
    record_.validation.tiles.push_back(tile.name);
    record_.validation.labels.push_back(static_cast<std::uint16_t>(tile.label));
  }
}

void Finetuner::resume() {
  position_.created = utc_now();
  const Path path = folder_.checkpoint();
  const std::uint32_t tiles_crc32 = checksum_of(session_.sets);
  Bytes file;
  std::int64_t is_there = 0;
  mpi::together(ranks_, [&] {
    std::error_code ignored;
    if (!ranks_.is_root() || !std::filesystem::exists(path, ignored)) return;
    file = read_file(path, std::numeric_limits<std::uint64_t>::max());
    is_there = 1;
  });
  if (ranks_.sum(is_there) != 0) {
    file = ranks_.broadcast(std::move(file));
    mpi::together(ranks_, [&] {
      position_ = parse_checkpoint(std::move(file), path, *session_.network, trainer_.optimizer());
      if (position_.tiles_crc32 != 0 && position_.tiles_crc32 != tiles_crc32) {
        throw InputError("go on with run", folder_.path().native(),
                         "its tiles are not those that --train and --validation hold now",
                         "bring them back, or choose another --output_model_name");
      }
      const std::size_t expected = position_.kept_epoch == 0
                                       ? 0
                                       : session_.sets.validation.tiles.size() *
                                             static_cast<std::size_t>(session_.classes());
      if (position_.step > plan_.steps_per_epoch() ||
          position_.kept_probabilities.size() != expected) {
        throw InputError("go on from", path.native(),
                         fmt::format("it is at step {} of an epoch of {}, with {} probabilities, "
                                     "where {} are expected",
                                     position_.step, plan_.steps_per_epoch(),
                                     position_.kept_probabilities.size(), expected),
                         "remove the run's folder to start it over");
      }
    });
  }
  position_.tiles_crc32 = tiles_crc32;
  record_.created = position_.created;
  take_predictions();
}

void Finetuner::announce() const {
  if (!ranks_.is_root()) return;
  warn_of_one_folder(session_.sets);
  const bool goes_on = !position_.epochs.empty() || position_.step > 0;
  if (goes_on) {
    log::line("going on with '{}' at epoch {}, step {}", options_.output_model_name,
              position_.epoch, position_.step / options_.accumulate_batches + 1);
  } else if (!session_.weights_given()) {
    log::line("no --pretrained_weights given: {} starts from random initialisation",
              options_.pretrained_model_type);
    if (session_.card.retraining != Retraining::kAll) {
      log::warn("--retraining_type {} keeps random layers frozen; give --pretrained_weights",
                options_.retraining_type);
    }
  }
  log::line("{} tiles to train on and {} to validate, {} rank{} x {} thread{}, {}",
            session_.sets.train.tiles.size(), session_.sets.validation.tiles.size(), ranks_.size(),
            ranks_.size() == 1 ? "" : "s", session_.threads, session_.threads == 1 ? "" : "s",
            session_.bf16 ? "bf16" : "fp32");
}

/// Features are kept where they fit, the validation tiles' first, since all of them are looked at
/// each epoch; decoded tiles share what is left.
void Finetuner::make_inputs() {
  using Use = Inputs::Use;
  auto left = static_cast<std::uint64_t>(options_.memory_limit * 1e9);
  auto train_tiles = plan_.tiles_of(plan_.shards_of(ranks_.rank(), ranks_.size()));
  const auto count = [](const std::vector<std::uint32_t>& tiles) {
    return static_cast<double>(tiles.size());
  };
  std::uint64_t for_validation =
      Inputs::feature_bytes(session_, validation_tiles_.size(), Use::kValidation);
  if (for_validation == 0 || for_validation > left) {
    const double share =
        count(validation_tiles_) / std::max(1.0, count(validation_tiles_) + count(train_tiles));
    for_validation = static_cast<std::uint64_t>(static_cast<double>(left) * share);
  }
  left -= for_validation;
  const auto frozen = session_.card.retraining == Retraining::kAll
                          ? nullptr
                          : std::make_shared<FrozenLayers>(session_);
  train_inputs_.emplace(session_, session_.sets.train, std::move(train_tiles), Use::kTraining,
                        frozen, left);
  validation_inputs_.emplace(session_, session_.sets.validation, validation_tiles_,
                             Use::kValidation, frozen, for_validation);
}

void Finetuner::finish_epoch(const Evaluation& evaluation, double evaluation_s) {
  const auto tiles = static_cast<double>(plan_.tiles());
  EpochRow row;
  row.epoch = position_.epoch;
  row.train_loss = position_.loss_sum / tiles;
  row.train_error = position_.wrong / tiles;
  row.validation_loss = evaluation.loss;
  row.validation_error = evaluation.error;
  row.learning_rate = trainer_.learning_rate();
  row.seconds = position_.train_seconds + evaluation_s;
  row.tiles_per_s = position_.train_seconds > 0 ? tiles / position_.train_seconds : 0;
  bool best = true;
  for (const EpochRow& earlier : position_.epochs) {
    best = best && (row.validation_error < earlier.validation_error ||
                    (row.validation_error == earlier.validation_error &&
                     row.validation_loss < earlier.validation_loss));
  }
  position_.epochs.push_back(row);
  if (best) {
    position_.kept_epoch = row.epoch;
    position_.kept_probabilities = evaluation.probabilities;
  }
  ++position_.epoch;
  position_.step = 0;
  position_.loss_sum = position_.wrong = position_.train_seconds = 0;
  if (!ranks_.is_root()) return;

  const std::string waiting = ranks_.size() == 1 ? ""
                                                 : fmt::format(", {:.1f} % of it waiting for ranks",
                                                               100 * trainer_.waiting_share());
  log::line(
      "epoch {:>2}/{}: train loss {:.4f} error {:5.2f} %, validation loss {:.4f} error {:5.2f} %, "
      "{:.1f} tiles/s{}{}",
      row.epoch, options_.num_epochs, row.train_loss, 100 * row.train_error, row.validation_loss,
      100 * row.validation_error, row.tiles_per_s, waiting, best ? ", best so far" : "");
}

/// The record, after every epoch. Model, its predictions and checkpoint too, unless that would be
/// more than a tenth of the run's time: after epochs of a second, say, AlexNet's 0.7 GB. What a
/// kill then costs is ten times what writing them takes; before that is known, what it takes a
/// quick disk.
void Finetuner::write_epoch(bool stops_here) {
  constexpr double kSavingAtMostOneIn = 10;
  const bool better = position_.kept_epoch + 1 == position_.epoch;
  const bool is_time = seconds_since(saved_) >= kSavingAtMostOneIn * saving_s_;
  // By rank 0's clock.
  const bool saves =
      !is_last() && (stops_here || ranks_.max(ranks_.is_root() && is_time ? 1 : 0) > 0);
  if (better || saves) trainer_.collect_weights();
  if (saves) trainer_.collect_moments();
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    if (better) unwritten_model_ = to_weights_file(*session_.network, session_.card);
    const auto before = Clock::now();
    if (saves || is_last()) write_kept_model();
    write_record(stops_here ? RunStatus::kInterrupted : RunStatus::kRunning);
    if (!saves) return;
    save_checkpoint();
    saved_ = Clock::now();
    saving_s_ = seconds_since(before);
  });
}

/// And what goes with it: the record's predictions are those of the model that is there.
void Finetuner::write_kept_model() {
  if (!unwritten_model_) return;
  write_safetensors(folder_.model(), *unwritten_model_);
  unwritten_model_.reset();
  take_predictions();
  folder_.write_predictions(record_.validation, record_.classes);
  folder_.write_labels_and_info(record_.classes,
                                {{"output_model_name", options_.output_model_name},
                                 {"model_source", "finetune"},
                                 {"pretrained_model_type", options_.pretrained_model_type},
                                 {"retraining_type", options_.retraining_type}});
}

void Finetuner::take_predictions() {
  record_.kept_epoch = position_.kept_epoch;
  record_.validation.probabilities = position_.kept_probabilities;
  choose_most_probable(record_.validation, session_.classes());
}

void Finetuner::write_record(RunStatus status) {
  if (!ranks_.is_root()) return;
  record_.status = status;
  record_.epochs = position_.epochs;
  RunRecord record = record_;
  if (record.kept_epoch == 0) record.validation = {};
  write_run_record(folder_.record(), record);
}

void Finetuner::save_checkpoint() {
  if (!ranks_.is_root()) return;
  write_kept_model();
  write_checkpoint(folder_.checkpoint(), *session_.network, trainer_.optimizer(), position_);
}

void Finetuner::fail_for_loss() {
  mpi::together(ranks_, [&] { write_kept_model(); });
  const std::string kept = position_.kept_epoch > 0
                               ? fmt::format("the model of epoch {} is kept in '{}'",
                                             position_.kept_epoch, folder_.model().native())
                               : "no model was kept";
  throw Error::shared(
      ErrorKind::kInput,
      fmt::format(
          "the loss of epoch {} is no longer a finite number; lower --learning_rate (it is {}) "
          "or give --clip_gradients; {}",
          position_.epoch, options_.effective_learning_rate(), kept));
}

/// Whether no epoch is left to train.
bool Finetuner::is_last() const {
  if (position_.epoch > options_.num_epochs) return true;
  return options_.early_stopping > 0 && !position_.epochs.empty() &&
         position_.epochs.back().epoch >= position_.kept_epoch + options_.early_stopping;
}

void Finetuner::print_summary() const {
  const double seconds = seconds_since(start_);
  const EpochRow& kept = position_.epochs.at(position_.kept_epoch - 1);
  fmt::print("run                {}\n", folder_.path().native());
  fmt::print("network            {}, {}, {} weights\n", options_.pretrained_model_type,
             options_.retraining_type,
             session_.weights_given() ? "pretrained" : "randomly initialised");
  fmt::print("tiles              {} to train on, {} to validate, {} classes\n",
             session_.sets.train.tiles.size(), session_.sets.validation.tiles.size(),
             session_.classes());
  fmt::print("validation error   {:.2f} % (epoch {} of {}, kept)\n", 100 * kept.validation_error,
             kept.epoch, position_.epochs.size());
  fmt::print("time               {} on {} rank{}, {}\n",
             seconds < 60 ? fmt::format("{:.1f} s", seconds) : format_duration(seconds),
             ranks_.size(), ranks_.size() == 1 ? "" : "s", session_.bf16 ? "bf16" : "fp32");
  std::fflush(stdout);
}

int Finetuner::run() {
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) folder_.prepare();
  });
  resume();
  announce();
  mpi::together(ranks_, [&] { write_record(RunStatus::kRunning); });
  return or_mark_failed([&] { return train(); },
                        [&] {
                          // Written only now and then while all went well.
                          try {
                            write_kept_model();
                          } catch (const Error&) {
                          }
                          write_record(RunStatus::kFailed);
                        });
}

int Finetuner::end_interrupted() const {
  if (ranks_.is_root()) log::line("stopped by a signal; start the same command again to go on");
  return kExitInterrupted;
}

int Finetuner::train() {
  mpi::together(ranks_, [&] { make_inputs(); });
  if (mpi::any_asked_to_stop(ranks_)) {
    mpi::together(ranks_, [&] { write_record(RunStatus::kInterrupted); });
    return end_interrupted();
  }
  while (!is_last()) {
    const Trainer::End end = trainer_.run_epoch(*train_inputs_, position_);
    if (end == Trainer::End::kNotFinite) fail_for_loss();
    bool stops_here = end == Trainer::End::kAsked;
    if (stops_here) {
      trainer_.collect_weights();
      trainer_.collect_moments();
      mpi::together(ranks_, [&] {
        save_checkpoint();
        write_record(RunStatus::kInterrupted);
      });
    } else {
      const auto before = Clock::now();
      const Evaluation evaluation = evaluate(session_, *validation_inputs_, validation_tiles_);
      if (!std::isfinite(evaluation.loss)) fail_for_loss();
      finish_epoch(evaluation, seconds_since(before));
      stops_here = mpi::any_asked_to_stop(ranks_) && !is_last();
      write_epoch(stops_here);
    }
    if (stops_here) return end_interrupted();
  }
  mpi::together(ranks_, [&] {
    write_record(RunStatus::kComplete);
    std::error_code ignored;
    if (ranks_.is_root()) std::filesystem::remove(folder_.checkpoint(), ignored);
  });
  if (ranks_.is_root()) print_summary();
  return kExitDone;
}

}  // namespace

int finetune(const FinetuneOptions& options, const Settings& config) {
  options.validate();
  catch_stop_signals();
  const mpi::Environment environment;
  const mpi::Communicator ranks = mpi::Communicator::world();
  const mpi::Watchdog watchdog(ranks, options.watchdog_seconds);
  log::set_origin("quadrat-finetune", ranks.size() > 1 ? ranks.rank() : -1);
  if (ranks.size() > options.shards) {
    throw Error::shared(
        ErrorKind::kUsage,
        fmt::format("there are {} ranks for {} shards; start at most {} ranks or raise --shards",
                    ranks.size(), options.shards, options.shards));
  }
  RunFolder folder(options.runs, options.output_model_name);
  std::int64_t is_complete = 0;
  mpi::together(ranks, [&] {
    if (ranks.is_root()) is_complete = folder.is_complete(config, options.resume == "auto") ? 1 : 0;
  });
  if (ranks.sum(is_complete) != 0) {
    if (ranks.is_root()) fmt::print("run {} is complete; nothing to do\n", folder.path().native());
    return kExitDone;
  }
  mpi::together(ranks, [&] {
    std::error_code ignored;
    if (options.scratch.empty() || std::filesystem::is_directory(options.scratch, ignored)) return;
    throw InputError("use --scratch", options.scratch.native(),
                     fmt::format("it is no folder on host '{}'", host_name()),
                     "name a folder on a local disk of every host");
  });
  FinetuneOptions now = options;
  now.precision = precision_of(folder, options, ranks);
  try {
    return Finetuner(now, config, ranks, folder).run();
  } catch (const c10::OutOfMemoryError& error) {
    throw DeviceError("train on the GPU", "", message_of(error),
                      "give a smaller --batch_size, with --accumulate_batches for the same step");
  } catch (const c10::AcceleratorError& error) {
    throw DeviceError("train on the GPU", "", message_of(error),
                      "see nvidia-smi, then start the same command again");
  }
}

}  // namespace quadrat
