#include "quadrat/score/score.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <filesystem>
#include <set>
#include <span>
#include <string_view>

#include "folder_lock.h"
#include "merge.h"
#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/image/png.h"
#include "quadrat/model/weights.h"
#include "quadrat/record/score_record.h"
#include "quadrat/score/journal.h"
#include "quadrat/score/plan.h"
#include "quadrat/score/units.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"
#include "start.h"
#include "tile_feed.h"
#include "trial.h"
#include "unit_scorer.h"

namespace quadrat::score {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMostModelBytes = std::uint64_t{1} << 34;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::uint32_t checksum(std::span<const std::byte> bytes) { return libdeflate_crc32(0, bytes.data(), bytes.size()); }

std::string hex(std::uint32_t value) { return fmt::format("{:08x}", value); }

std::string setting(const Settings& settings, std::string_view name) {
  for (const auto& [key, value] : settings) {
    if (key == name) return value;
  }
  return {};
}

/// Which tiles, in which order, with which labels; not where they lie.
std::uint32_t checksum_of(const Catalog& catalog) {
  Catalog nameless = catalog;
  nameless.root.clear();
  return checksum(nameless.serialize());
}

/// One scoring run from its options to its files. The parts that only rank 0 runs say so.
class Job {
 public:
  Job(const ScoreOptions& options, const mpi::Communicator& ranks)
      : options_(options),
        ranks_(ranks),
        name_(options.name.empty() ? options.output_model_name : options.name),
        folder_(options.scores / name_),
        record_path_(folder_ / "scores.h5"),
        model_path_(options.runs / options.output_model_name / "model.safetensors") {}

  ScoreSummary run();

 private:
  void prepare();                               // rank 0
  void check_tile_size() const;                 // rank 0
  void choose_precision();                      // rank 0
  void check_precision() const;                 // rank 0
  void compare_with(const ScoreRecord& earlier) const;  // rank 0
  void find_what_is_done();                     // rank 0
  WeightsFile fetch_weights();
  void try_model();
  void work(Plan& plan);
  void finish(bool is_interrupted);             // rank 0
  void export_features();                       // rank 0
  void summarise(const ScoreRecord& record);    // rank 0
  Settings environment(const std::vector<Bytes>& hosts) const;

  const ScoreOptions& options_;
  const mpi::Communicator& ranks_;
  std::string name_;
  Path folder_;
  Path record_path_;
  Path model_path_;
  Start start_;
  ModelCard card_;        // rank 0 until the plan is made
  ScoreRecord record_;    // rank 0
  std::uint32_t catalog_crc_ = 0;
  bool all_accelerate_bf16_ = false;
  bool all_support_bf16_ = false;
  bool all_support_int8_ = false;
  bool is_complete_ = false;     // rank 0: an earlier run did it all
  bool is_chosen_ = false;       // rank 0: the precision, by the user or an earlier start
  Trial trial_;
  TrialTiles trial_tiles_;
  std::uint64_t earlier_tiles_ = 0;
  double seconds_ = 0;
  FolderLock lock_;       // rank 0
  ScoreSummary summary_;
};

void Job::check_tile_size() const {
  // A set of another size must not end as a list of rejections; one odd tile in it may.
  constexpr std::size_t kTried = 8;
  TileReader reader(start_.catalog);
  Bytes png;
  std::string odd;
  PngSize odd_size{};
  for (std::size_t i = 0; i < std::min(kTried, start_.catalog.tiles.size()); ++i) {
    PngSize size{};
    try {
      reader.read(i, png);
      size = read_png_size(png);
    } catch (const Error&) {
      continue;
    }
    if (size.width_px == card_.tile_px && size.height_px == card_.tile_px) return;
    if (odd.empty()) {
      odd = start_.catalog.tiles[i].name;
      odd_size = size;
    }
  }
  if (odd.empty()) return;
  throw InputError("score tiles in", options_.tiles.native(),
                   fmt::format("'{}' is {}x{} px, but the model '{}' was trained on {}x{} px", odd, odd_size.width_px,
                               odd_size.height_px, options_.output_model_name, card_.tile_px, card_.tile_px),
                   "cut the tiles in the model's size");
}

/// The largest share of tiles that a quicker precision may get wrong beyond fp32's.
constexpr double kMostCost = 0.003;

void Job::choose_precision() {
  if (trial_.tiles > 0) {
    start_.precision = trial_.best(kMostCost);
    start_.precision_reason =
        fmt::format("auto: the quickest within {:.1f} points of fp32's error on {} tiles of {}: {}", 100 * kMostCost,
                    trial_.tiles, trial_.validated_on, trial_.description());
    return;
  }
  start_.precision = all_accelerate_bf16_ ? Precision::kBf16 : Precision::kFp32;
  start_.precision_reason =
      fmt::format("auto: the model's validation tiles are not to be found, so costs in error are unknown; {}",
                  all_accelerate_bf16_ ? "every rank's CPU computes bf16 in hardware"
                                       : "not every rank's CPU computes bf16 in hardware");
  log::line("--precision auto takes {}: the validation tiles of '{}' are not to be found, so what int8 would cost in error "
            "is unknown",
            to_string(start_.precision), options_.output_model_name);
}

void Job::check_precision() const {
  if (start_.precision == Precision::kBf16 && !all_support_bf16_) {
    throw UsageError("--precision is bf16, but not every rank's CPU has AVX-512; give --precision fp32");
  }
  if (start_.precision == Precision::kInt8 && !all_support_int8_) {
    throw UsageError("--precision is int8, but not every rank's CPU has AVX-512 VNNI; give --precision auto");
  }
}

WeightsFile Job::fetch_weights() {
  Bytes file;
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    file = read_file(model_path_, kMostModelBytes);
    if (checksum(file) != start_.model_crc32) {
      throw InputError("use model", model_path_.native(), "it changed while it was read", "start again");
    }
  });
  return parse_weights(ranks_.broadcast(std::move(file)));
}

void Job::try_model() {
  const Path run_folder = model_path_.parent_path();
  const std::string cpu = fmt::format("{}{}{}", all_support_bf16_ ? "avx512" : "", all_accelerate_bf16_ ? " bf16" : "",
                                      all_support_int8_ ? " vnni" : "");
  bool is_needed = false;  // known on rank 0
  bool measures = false;   // likewise: costs in error too, not only int8's ranges
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root() || (is_chosen_ && start_.precision != Precision::kInt8)) return;
    trial_ = read_trial(run_folder, start_.model_crc32, cpu);
    if (is_chosen_ ? trial_.calibration.groups > 0 : trial_.tiles > 0) return;
    trial_tiles_ = TrialTiles::find(run_folder, card_, start_.catalog);
    measures = !is_chosen_ && !trial_tiles_.validation.tiles.empty();
    is_needed = is_chosen_ || measures;
    if (is_chosen_ && trial_tiles_.calibration.root == start_.catalog.root) {
      log::warn("the tiles the model was trained on are not there: int8 is calibrated on the tiles to score");
    }
    if (measures) {
      log::line("measuring once what each precision costs '{}' in error, on {} validation tiles", options_.output_model_name,
                trial_tiles_.validation.tiles.size());
    }
  });
  if (ranks_.sum(static_cast<std::int64_t>(is_needed ? 1 : 0)) == 0) return;
  measures = ranks_.sum(static_cast<std::int64_t>(measures ? 1 : 0)) > 0;
  std::vector<Precision> candidates;
  if (measures && all_support_bf16_) candidates.push_back(Precision::kBf16);
  if (measures && all_support_int8_) candidates.push_back(Precision::kInt8);
  trial_tiles_.broadcast(ranks_);
  trial_ = try_precisions([&] { return fetch_weights(); }, model_path_, trial_tiles_, candidates, ranks_);
  if (!ranks_.is_root()) return;
  trial_.model_crc32 = start_.model_crc32;
  trial_.cpu = cpu;
  // Ranges of the tiles to score are this run's own.
  if (trial_tiles_.calibration.root != start_.catalog.root) write_trial(run_folder, trial_);
}

Precision parse_precision(std::string_view text) {
  return text == "bf16" ? Precision::kBf16 : text == "int8" ? Precision::kInt8 : Precision::kFp32;
}

void Job::compare_with(const ScoreRecord& earlier) const {
  const auto refuse = [&](const std::string& finding) {
    throw InputError("go on with scores", folder_.native(), finding,
                     "give another --name, the same settings, or remove that folder");
  };
  if (setting(earlier.environment, "model_crc32") != hex(start_.model_crc32)) {
    refuse(fmt::format("they were made with another model than '{}' is now", model_path_.native()));
  }
  if (setting(earlier.environment, "tiles_crc32") != hex(catalog_crc_)) {
    refuse(fmt::format("they are of other tiles than --tiles '{}' --sample_frac {} --seed {} gives (were '{}', {}, {})",
                       options_.tiles.native(), options_.sample_frac, options_.seed, setting(earlier.config, "tiles"),
                       setting(earlier.config, "sample_frac"), setting(earlier.config, "seed")));
  }
  if (setting(earlier.environment, "precision") != to_string(start_.precision)) {
    refuse(fmt::format("--precision was {} and is {}", setting(earlier.environment, "precision"),
                       to_string(start_.precision)));
  }
  if (setting(earlier.environment, "batch_tiles") != fmt::format("{}", start_.batch)) {
    refuse(fmt::format("--batch_size was {} and is {}", setting(earlier.environment, "batch_tiles"), start_.batch));
  }
  const char* views = options_.test_time_augmentation ? "8" : "1";
  if (setting(earlier.environment, "views") != views) {
    refuse(fmt::format("they are of {} views of each tile, and --test_time_augmentation gives {}",
                       setting(earlier.environment, "views"), views));
  }
}

void Job::prepare() {
  std::error_code error;
  if (!std::filesystem::exists(model_path_, error)) {
    throw InputError("use model", options_.output_model_name,
                     fmt::format("there is no '{}'", model_path_.native()),
                     "train it with quadrat-finetune, or check -o and --runs");
  }
  {
    const Bytes file = read_file(model_path_, kMostModelBytes);
    start_.model_crc32 = checksum(file);
    try {
      card_ = read_model_card(parse_weights(file), model_path_);
    } catch (const InputError& failure) {
      // What is parsed from memory does not know its file's name.
      if (std::string_view(failure.what()).find(model_path_.native()) != std::string_view::npos) throw;
      throw InputError("use model", model_path_.native(), failure.what(), "train it again, or copy it again");
    }
  }
  if (std::filesystem::exists(model_path_.parent_path() / "checkpoint.safetensors", error)) {
    log::warn("the training of '{}' is not complete; scoring with the best model so far", options_.output_model_name);
  }

  start_.catalog = list_tiles(options_.tiles);
  sample_tiles(start_.catalog, options_.sample_frac, static_cast<std::uint64_t>(options_.seed));
  catalog_crc_ = checksum_of(start_.catalog);
  check_tile_size();

  constexpr std::int64_t kAtOnce = Plan::kTilesAtOnce;
  const std::int64_t batch = options_.batch_size > 0 ? options_.batch_size : Plan::suitable_batch(card_.architecture);
  start_.batch = (batch + kAtOnce - 1) / kAtOnce * kAtOnce;
  start_.units = Units(start_.catalog.tiles.size(), static_cast<std::size_t>(start_.batch));

  is_chosen_ = options_.precision != "auto";
  if (is_chosen_) {
    start_.precision = parse_precision(options_.precision);
    start_.precision_reason = "asked for";
  }
  const bool has_record = std::filesystem::exists(record_path_, error);
  if (has_record) {
    record_ = read_score_record(record_path_);
    if (!is_chosen_) {
      start_.precision = parse_precision(setting(record_.environment, "precision"));
      start_.precision_reason = setting(record_.environment, "precision_reason");
      is_chosen_ = true;
    }
    check_precision();
    compare_with(record_);
    if (record_.status == RunStatus::kComplete && options_.resume == "auto") {
      is_complete_ = true;
      summarise(record_);
      return;
    }
  }
  if (is_chosen_) check_precision();
  make_folder(folder_);
  lock_.take(folder_);
}

void Job::find_what_is_done() {
  const Bytes ranges = start_.precision == Precision::kInt8 ? serialize(start_.calibration) : Bytes();
  const std::string identity =
      fmt::format("{} {} {} {} {} {} {} {}", hex(start_.model_crc32), hex(catalog_crc_), to_string(start_.precision),
                  start_.batch, start_.units.count(), options_.test_time_augmentation, !options_.features.empty(),
                  hex(checksum(ranges)));
  start_.fingerprint = std::uint64_t{checksum(std::as_bytes(std::span(identity)))} << 32 | catalog_crc_;

  remove_stale_temporaries(folder_);
  if (options_.resume == "never") remove_journals(folder_);
  std::vector<char> is_done(start_.units.count());
  const JournalSummary found =
      read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(card_.classes.size()),
                    [&](UnitResult&& unit) {
                      if (unit.unit >= is_done.size()) return;
                      is_done[unit.unit] = 1;
                      earlier_tiles_ += start_.units.size(unit.unit);
                    });
  seconds_ = found.seconds;
  for (std::size_t unit = 0; unit < is_done.size(); ++unit) {
    if (is_done[unit] == 0) start_.todo.push_back(unit);
  }
  if (earlier_tiles_ > 0) {
    log::line("going on: {} of {} tiles were scored before", earlier_tiles_, start_.catalog.tiles.size());
  }
}

Settings Job::environment(const std::vector<Bytes>& hosts) const {
  std::set<std::string> names;
  for (const Bytes& host : hosts) names.emplace(reinterpret_cast<const char*>(host.data()), host.size());
  return {{"ranks", fmt::format("{}", ranks_.size())},
          {"hosts", fmt::format("{}", fmt::join(names.begin(), names.end(), " "))},
          {"device", "cpu"},
          {"threads_per_rank", "1"},
          {"precision", to_string(start_.precision)},
          {"precision_reason", start_.precision_reason},
          {"calibrated_on", start_.precision == Precision::kInt8 ? trial_.calibrated_on : ""},
          {"views", options_.test_time_augmentation ? "8" : "1"},
          {"batch_tiles", fmt::format("{}", start_.batch)},
          {"units", fmt::format("{}", start_.units.count())},
          {"model_crc32", hex(start_.model_crc32)},
          {"tiles_crc32", hex(catalog_crc_)},
          {"libtorch", TORCH_VERSION},
          {"program", fmt::format("quadrat-score {}", version())},
          {"git_commit", std::string(git_commit())}};
}

void Job::work(Plan& plan) {
  JournalWriter journal(folder_, ranks_.rank(), ranks_.size(), start_.fingerprint,
                        static_cast<std::uint32_t>(plan.card().classes.size()));
  UnitDealer dealer(ranks_, start_.todo.size());
  TileFeed feed(start_.catalog, static_cast<std::size_t>(std::max<std::int64_t>(64, 2 * start_.batch)));
  UnitScorer scorer(plan, feed, {options_.test_time_augmentation, !options_.features.empty()});
  Progress progress("scoring", "tiles", start_.catalog.tiles.size(), ranks_.is_root());
  std::size_t mine = 0;  // tiles of the unit in hand

  // One unit is asked for ahead of the one in hand, and the reader goes on into it.
  const auto take = [&]() -> std::optional<std::uint64_t> {
    const auto position = dealer.next();
    if (!position) return std::nullopt;
    const std::uint64_t unit = start_.todo[*position];
    feed.add(start_.units.first(unit), start_.units.first(unit) + start_.units.size(unit));
    return unit;
  };
  const auto show = [&] {
    if (ranks_.is_root()) progress.update(earlier_tiles_ + dealer.done() + mine);
  };
  const auto between = [&](std::size_t tiles) {
    mine += tiles;
    dealer.poll();
    show();
    return stop_signal() == 0;
  };
  show();
  auto unit = take();
  while (unit && stop_signal() == 0) {
    const auto next = take();
    mine = 0;
    auto result = scorer.score(*unit, start_.units.size(*unit), between);
    if (!result) break;
    journal.append(*result);
    mine = 0;
    dealer.add_done(start_.units.size(*unit));
    unit = next;
  }
  journal.close();
  if (stop_signal() != 0) dealer.stop_all();
  dealer.wait_for_all(show);
}

void Job::summarise(const ScoreRecord& record) {
  const Predictions& predictions = record.predictions;
  summary_.tiles = predictions.tiles.size();
  summary_.rejected = record.rejected.size();
  summary_.seconds = record.seconds;
  if (record.seconds > 0) summary_.tiles_per_s = static_cast<double>(summary_.tiles) / record.seconds;
  summary_.precision = setting(record.environment, "precision");
  if (!predictions.labels.empty()) {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < predictions.labels.size(); ++i) wrong += predictions.labels[i] != predictions.predicted[i];
    summary_.error = static_cast<double>(wrong) / static_cast<double>(predictions.labels.size());
  }
}

void Job::export_features() {
  const auto width = static_cast<std::size_t>(feature_count(card_.architecture));
  std::vector<float> all(start_.catalog.tiles.size() * width);
  std::vector<char> is_rejected(start_.catalog.tiles.size());
  read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(record_.classes.size()), [&](UnitResult&& unit) {
    const std::size_t first = start_.units.first(unit.unit);
    std::copy(unit.features.begin(), unit.features.end(), all.begin() + static_cast<std::ptrdiff_t>(first * width));
    for (const UnitResult::Rejected& entry : unit.rejected) is_rejected[first + entry.tile] = 1;
  });
  std::size_t row = 0;
  for (std::size_t tile = 0; tile < is_rejected.size(); ++tile) {
    if (is_rejected[tile] != 0) continue;
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(tile * width), width,
                all.begin() + static_cast<std::ptrdiff_t>(row++ * width));
  }
  write_score_features(options_.features, record_, std::span(all).first(row * width), width);
}

void Job::finish(bool is_interrupted) {
  Merger merger(start_.catalog, start_.units, record_.classes.size());
  read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(record_.classes.size()),
                [&](UnitResult&& unit) { merger.add(std::move(unit)); });
  if (!is_interrupted && merger.tiles_done() != start_.catalog.tiles.size()) {
    throw IoError("merge journals in", folder_.native(),
                  fmt::format("they hold {} of {} tiles", merger.tiles_done(), start_.catalog.tiles.size()),
                  "start the same command again to score the rest");
  }
  const bool use_labels = !start_.catalog.classes.empty() && start_.catalog.classes == record_.classes;
  if (!start_.catalog.classes.empty() && !use_labels) {
    log::line("the tiles' folders are not the model's classes: no error is given");
  }
  merger.fill(record_, use_labels);
  record_.seconds = seconds_;
  record_.status = is_interrupted ? RunStatus::kInterrupted : RunStatus::kComplete;
  if (!is_interrupted && record_.predictions.tiles.empty()) {
    throw InputError("score tiles in", options_.tiles.native(),
                     fmt::format("none of the {} tiles could be read; '{}': {}", record_.rejected.size(),
                                 record_.rejected.front().tile, record_.rejected.front().reason));
  }
  // The record says complete only when everything else is in place.
  if (!is_interrupted) write_file(folder_ / "predictions.csv", predictions_csv(record_));
  if (!is_interrupted && !options_.features.empty()) export_features();
  write_score_record(record_path_, record_);
  if (!is_interrupted) remove_journals(folder_);
  summarise(record_);
}

ScoreSummary Job::run() {
  summary_.folder = folder_;
  all_accelerate_bf16_ = ranks_.min(is_accelerated(Precision::kBf16) ? 1 : 0) == 1;
  all_support_int8_ = ranks_.min(is_supported(Precision::kInt8) ? 1 : 0) == 1;
  all_support_bf16_ = ranks_.min(is_supported(Precision::kBf16) ? 1 : 0) == 1;
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) prepare();
  });
  if (ranks_.sum(static_cast<std::int64_t>(is_complete_ ? 1 : 0)) > 0) {
    summary_.outcome = ScoreSummary::Outcome::kAlreadyComplete;
    return summary_;
  }
  try_model();
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    if (!is_chosen_) choose_precision();
    if (start_.precision == Precision::kInt8) start_.calibration = trial_.calibration;
    find_what_is_done();
  });
  start_.broadcast(ranks_);
  char host[HOST_NAME_MAX + 1] = {};
  ::gethostname(host, sizeof host - 1);
  const auto hosts = ranks_.gather(std::as_bytes(std::span(host, std::strlen(host))));

  std::optional<Plan> plan;
  WeightsFile weights = fetch_weights();
  mpi::together(ranks_, [&] {
    ModelCard card = read_model_card(weights, model_path_);
    plan.emplace(fuse_network(std::move(weights), std::move(card), model_path_), start_.precision, start_.batch,
                 &start_.calibration);
    if (!ranks_.is_root()) return;
    // From here on the folder says whose it is.
    record_ = ScoreRecord{};
    record_.status = RunStatus::kRunning;
    record_.config = options_.as_used;
    record_.environment = environment(hosts);
    record_.classes = plan->card().classes;
    write_score_record(record_path_, record_);
  });

  // Not before: the file's bytes and the weights as they were stored go back to the system.
  keep_freed_memory();
  const auto begin = Clock::now();
  if (!start_.todo.empty()) work(*plan);
  seconds_ += seconds_since(begin);
  const bool is_interrupted = ranks_.sum(static_cast<std::int64_t>(stop_signal() != 0 ? 1 : 0)) > 0;
  plan.reset();
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) finish(is_interrupted);
  });
  summary_.outcome = is_interrupted ? ScoreSummary::Outcome::kInterrupted : ScoreSummary::Outcome::kComplete;
  return summary_;
}

}  // namespace

void validate(const ScoreOptions& options) {
  require_plain_name("--output_model_name", options.output_model_name);
  if (!options.name.empty()) require_plain_name("--name", options.name);
  if (!(options.sample_frac > 0 && options.sample_frac <= 1)) {
    throw UsageError(fmt::format("--sample_frac is {}, but must be above 0 and at most 1", options.sample_frac));
  }
  if (options.watchdog_seconds < 0) {
    throw UsageError(fmt::format("--watchdog_seconds is {}, but must be at least 0", options.watchdog_seconds));
  }
  if (options.seed < 0) throw UsageError(fmt::format("--seed is {}, but must not be negative", options.seed));
  if (!options.features.empty() && options.features.extension() != ".h5" && options.features.extension() != ".hdf5") {
    throw UsageError(fmt::format("--features is '{}', but must end in .h5 or .hdf5", options.features.native()));
  }
  constexpr std::int64_t kMaxBatch = 1024;
  if (options.batch_size < 0 || options.batch_size > kMaxBatch) {
    throw UsageError(fmt::format("--batch_size is {}, but must be 1 to {}, or 0 for what suits the network",
                                 options.batch_size, kMaxBatch));
  }
}

ScoreSummary score_tiles(const ScoreOptions& options, const mpi::Communicator& ranks) {
  return Job(options, ranks).run();
}

}  // namespace quadrat::score
