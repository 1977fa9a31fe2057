#include "quadrat/score/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "engine.h"
#include "merge.h"
#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/folder_lock.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/image/png.h"
#include "quadrat/model/weights.h"
#include "quadrat/mpi/processors.h"
#include "quadrat/record/run_folder.h"
#include "quadrat/record/score_record.h"
#include "quadrat/score/device.h"
#include "quadrat/score/journal.h"
#include "quadrat/score/plan.h"
#include "quadrat/score/units.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"
#include "same_run.h"
#include "start.h"
#include "tile_feed.h"
#include "unit_scorer.h"

namespace quadrat::score {

namespace {

/// Tiles that keep a GPU busy.
constexpr std::int64_t kBatchOnGpu = 256;
constexpr std::uint64_t kMostModelBytes = std::uint64_t{1} << 34;

/// One scoring run from its options to its files. The parts that only rank 0 runs say so.
class Job {
 public:
  Job(const ScoreOptions& options, const mpi::Communicator& ranks)
      : options_(options),
        ranks_(ranks),
        folder_(folder_of(options)),
        record_path_(folder_ / "scores.h5"),
        model_path_(model_path_of(options)) {}

  ScoreSummary run();

 private:
  void prepare();                    // rank 0
  void check_features() const;       // rank 0
  bool has_all() const;              // rank 0
  void leave_complete();             // rank 0
  void check_tile_size() const;      // rank 0
  void go_on_with_or_without_amx();  // rank 0
  void find_what_is_done();          // rank 0
  WeightsFile fetch_weights();
  void work(Plan& plan, Plan* look);
  void finish(bool is_interrupted);           // rank 0
  void name_rejected() const;                 // rank 0
  void export_features();                     // rank 0
  void summarise(const ScoreRecord& record);  // rank 0

  const ScoreOptions& options_;
  const mpi::Communicator& ranks_;
  Path folder_;
  Path record_path_;
  Path model_path_;
  Start start_;
  ModelCard card_;      // rank 0
  ScoreRecord record_;  // rank 0
  torch::Device device_ = torch::kCPU;
  CpuAbilities cpu_;
  EngineWish wish_;           // rank 0
  bool is_complete_ = false;  // rank 0: an earlier run did it all
  std::uint64_t earlier_tiles_ = 0;
  double seconds_ = 0;
  FolderLock lock_;  // rank 0
  ScoreSummary summary_;
};

void Job::check_features() const {
  const Path folder = options_.features.parent_path();
  std::error_code error;
  if (folder.empty() || std::filesystem::is_directory(folder, error)) return;
  throw InputError("write features", options_.features.native(),
                   fmt::format("there is no folder '{}'", folder.native()), "make it first");
}

/// Whether an earlier start, whose record is read, has done all that is asked.
bool Job::has_all() const {
  std::error_code error;
  return record_.status == RunStatus::kComplete &&
         (options_.features.empty() || std::filesystem::exists(options_.features, error));
}

/// Nothing is to be scored. The record has all that predictions.csv has.
void Job::leave_complete() {
  is_complete_ = true;
  summarise(record_);
  const Path csv = folder_ / "predictions.csv";
  std::error_code error;
  if (std::filesystem::exists(csv, error)) return;
  write_file(csv, predictions_csv(record_));
  log::line("'{}' was gone and is written again", csv.native());
}

void Job::check_tile_size() const {
  // A set of another size must not end as a list of rejections; one odd tile in it may.
  const std::string odd = tile_of_other_size(start_.catalog, card_.tile_px);
  if (odd.empty()) return;
  throw InputError("score tiles in", options_.tiles.native(),
                   fmt::format("{}, but the model '{}' was trained on {}x{} px", odd,
                               options_.output_model_name, card_.tile_px, card_.tile_px),
                   "cut the tiles in the model's size");
}

WeightsFile Job::fetch_weights() {
  Bytes file;
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    file = read_file(model_path_, kMostModelBytes);
    if (checksum(file) != start_.model_crc32) {
      throw InputError("use model", model_path_.native(), "it changed while it was read",
                       "start again");
    }
  });
  return parse_weights(ranks_.broadcast(std::move(file)));
}

void Job::prepare() {
  check_features();
  std::error_code error;
  if (!std::filesystem::exists(model_path_, error)) {
    throw InputError("use model", options_.output_model_name,
                     fmt::format("there is no '{}'", model_path_.native()),
                     "train it with quadrat-finetune, or check -o and --runs");
  }
  {
    Bytes file = read_file(model_path_, kMostModelBytes);
    start_.model_crc32 = checksum(file);
    try {
      card_ = read_model_card(parse_weights(std::move(file)), model_path_);
    } catch (const InputError& failure) {
      // What is parsed from memory does not know its file's name.
      if (std::string_view(failure.what()).find(model_path_.native()) != std::string_view::npos)
        throw;
      throw InputError("use model", model_path_.native(), failure.what(),
                       "train it again, or copy it again");
    }
  }
  if (std::filesystem::exists(model_path_.parent_path() / "checkpoint.safetensors", error)) {
    log::warn("the training of '{}' is not complete; scoring with the best model so far",
              options_.output_model_name);
  }

  if (options_.cascade && card_.architecture != Architecture::kResNet18) {
    throw UsageError(fmt::format(
        "--cascade needs a network that takes tiles of any size, and '{}' is {}; leave it out",
        options_.output_model_name, to_string(card_.architecture)));
  }

  if (options_.cascade && device_.is_cuda())
    throw UsageError("--cascade is for CPUs; leave it out, or give --device cpu");

  const bool is_there = std::filesystem::exists(record_path_, error);
  const bool has_record = is_there && options_.resume == "auto";
  if (has_record) record_ = read_score_record(record_path_);
  // Its tiles may be gone by now.
  if (has_record && has_all() && record_.config == options_.as_used &&
      is_of_model(record_, start_) && !std::filesystem::exists(options_.tiles, error)) {
    leave_complete();
    return;
  }
  start_.catalog = list_tiles(options_.tiles);
  sample_tiles(start_.catalog, options_.sample_frac, static_cast<std::uint64_t>(options_.seed));
  start_.catalog_crc32 = start_.catalog.checksum();
  start_.cut_crc32 = checksum_of_cut(options_.tiles);
  check_tile_size();

  constexpr std::int64_t kAtOnce = Plan::kTilesAtOnce;
  const std::int64_t suitable =
      device_.is_cuda() ? kBatchOnGpu : Plan::suitable_batch(card_.architecture);
  const std::int64_t batch = options_.batch_size > 0 ? options_.batch_size : suitable;
  start_.batch = (batch + kAtOnce - 1) / kAtOnce * kAtOnce;
  start_.units = Units(start_.catalog.tiles.size(), static_cast<std::size_t>(start_.batch));

  wish_.cascade = options_.cascade;
  wish_.most_cost = options_.cascade_points / 100;
  if (options_.precision != "auto") {
    wish_.precision = parse_precision(options_.precision);
    wish_.precision_reason = "asked for";
  }
  if (has_record && !wish_.precision) {
    wish_.precision = parse_precision(setting(record_.environment, "precision"));
    wish_.precision_reason = setting(record_.environment, "precision_reason");
  }
  if (wish_.precision && device_.is_cpu()) cpu_.require(*wish_.precision);
  start_.amx = cpu_.has_amx && device_.is_cpu();
  if (has_record) {
    require_same_run(record_, options_, start_, *wish_.precision);
    if (has_all()) {
      leave_complete();
      return;
    }
    if (record_.status == RunStatus::kComplete) {
      log::line("'{}' is not there: all tiles are computed anew for it",
                options_.features.native());
    }
    go_on_with_or_without_amx();
    if (wish_.cascade) {
      const std::string side_px = setting(record_.environment, "look_px");
      const std::string threshold = setting(record_.environment, "look_threshold");
      QuickLook look;
      if (!parse_number(side_px, look.side_px) || !parse_number(threshold, look.threshold) ||
          !is_possible(look, card_.tile_px)) {
        throw InputError("go on with scores", folder_.native(),
                         fmt::format("by their record tiles are settled by {} px of their middle, "
                                     "at a probability of {}",
                                     printable(side_px), printable(threshold)),
                         "give another --name or --resume never");
      }
      wish_.look = {look, setting(record_.environment, "look_reason")};
    }
  }
  make_folder(folder_);
  lock_.take(folder_, "score into", "wait for it, or give another --name");
  if (std::filesystem::exists(record_path_, error) &&
      (!is_there || (has_record && read_score_record(record_path_).status != record_.status))) {
    throw InputError("score into", folder_.native(), "another process was at work there until now",
                     "start again, or give another --name");
  }
}

/// As the earlier start did, so that the tiles it left come to the same digits.
void Job::go_on_with_or_without_amx() {
  const bool was_used = setting(record_.environment, "amx") == "yes";
  if (was_used && !start_.amx) {
    throw InputError("go on with scores", folder_.native(),
                     "they were computed with AMX, and not every rank's CPU has it now",
                     "start where all have it, or give another --name or --resume never");
  }
  start_.amx = was_used;
}

void Job::find_what_is_done() {
  start_.fingerprint = fingerprint_of(options_, start_);
  remove_stale_temporaries(folder_);
  if (options_.resume == "never") remove_journals(folder_);
  std::vector<char> is_done(start_.units.count());
  seconds_ =
      read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(card_.classes.size()),
                    [&](UnitResult&& unit) {
                      if (unit.unit >= is_done.size()) return;
                      is_done[unit.unit] = 1;
                      earlier_tiles_ += start_.units.size(unit.unit);
                    });
  for (std::size_t unit = 0; unit < is_done.size(); ++unit) {
    if (is_done[unit] == 0) start_.todo.push_back(unit);
  }
  if (earlier_tiles_ > 0) {
    log::line("going on: {} of {} tiles were scored before", earlier_tiles_,
              start_.catalog.tiles.size());
  }
}

void Job::work(Plan& plan, Plan* look) {
  JournalWriter journal(folder_, ranks_.rank(), ranks_.size(), start_.fingerprint,
                        static_cast<std::uint32_t>(plan.card().classes.size()));
  UnitDealer dealer(ranks_, start_.todo.size());
  const bool decodes_alone = start_.decoding_threads == 1;
  TileFeed feed(
      start_.catalog,
      decodes_alone ? static_cast<std::size_t>(std::max<std::int64_t>(64, 2 * start_.batch)) : 0);
  UnitScorer scorer(plan, feed, {options_.test_time_augmentation, !options_.features.empty()},
                    {look, start_.engine.look.threshold});
  if (!decodes_alone) scorer.read_and_decode_on(start_.decoding_threads, start_.catalog);
  Progress progress("scoring", "tiles", start_.catalog.tiles.size(), ranks_.is_root());
  std::size_t mine = 0;  // tiles of the unit in hand
  // Its last tile was refused by the storage. Whether that one is to blame, the next tile shows.
  std::optional<UnitResult> in_doubt;

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
  const auto work = [&] {
    auto unit = take();
    while (unit && stop_signal() == 0) {
      const auto next = take();
      mine = 0;
      auto result = scorer.score(*unit, start_.units.size(*unit), between);
      if (in_doubt) journal.append(*std::exchange(in_doubt, std::nullopt));
      if (!result) break;
      if (scorer.last_was_unread()) {
        in_doubt = std::move(result);
      } else {
        journal.append(*result);
      }
      mine = 0;
      dealer.add_done(start_.units.size(*unit));
      unit = next;
    }
    if (in_doubt && !unit) journal.append(*in_doubt);
    journal.close();
  };
  dealer.run(work, show);
}

void Job::summarise(const ScoreRecord& record) {
  const Predictions& predictions = record.predictions;
  summary_.tiles = predictions.tiles.size();
  summary_.rejected = record.rejected.size();
  summary_.seconds = record.seconds;
  if (record.seconds > 0)
    summary_.tiles_per_s = static_cast<double>(summary_.tiles) / record.seconds;
  summary_.precision = setting(record.environment, "precision");
  if (!predictions.labels.empty()) {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < predictions.labels.size(); ++i)
      wrong += predictions.labels[i] != predictions.predicted[i];
    summary_.error = static_cast<double>(wrong) / static_cast<double>(predictions.labels.size());
  }
}

void Job::export_features() {
  const auto width = static_cast<std::size_t>(feature_count(card_.architecture));
  std::vector<float> all(start_.catalog.tiles.size() * width);
  std::vector<char> is_rejected(start_.catalog.tiles.size());
  read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(record_.classes.size()),
                [&](UnitResult&& unit) {
                  const std::size_t first = start_.units.first(unit.unit);
                  std::copy(unit.features.begin(), unit.features.end(),
                            all.begin() + static_cast<std::ptrdiff_t>(first * width));
                  for (const UnitResult::Rejected& entry : unit.rejected)
                    is_rejected[first + entry.tile] = 1;
                });
  std::size_t row = 0;
  for (std::size_t tile = 0; tile < is_rejected.size(); ++tile) {
    if (is_rejected[tile] != 0) continue;
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(tile * width), width,
                all.begin() + static_cast<std::ptrdiff_t>(row++ * width));
  }
  write_score_features(options_.features, record_, std::span(all).first(row * width), width);
}

void Job::name_rejected() const {
  constexpr std::size_t kNamed = 3;
  const auto& rejected = record_.rejected;
  for (std::size_t i = 0; i < std::min(kNamed, rejected.size()); ++i)
    log::warn("'{}' is not scored: {}", printable(rejected[i].tile), rejected[i].reason);
  if (rejected.size() > kNamed) {
    log::warn("and {} more; all of them: h5dump -d /rejected {}", rejected.size() - kNamed,
              record_path_.native());
  }
}

void Job::finish(bool is_interrupted) {
  Merger merger(start_.catalog, start_.units, record_.classes.size());
  read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(record_.classes.size()),
                [&](UnitResult&& unit) { merger.add(std::move(unit)); });
  if (!is_interrupted && merger.tiles_done() != start_.catalog.tiles.size()) {
    throw IoError(
        "merge journals in", folder_.native(),
        fmt::format("they hold {} of {} tiles", merger.tiles_done(), start_.catalog.tiles.size()),
        "start the same command again to score the rest");
  }
  const bool use_labels =
      !start_.catalog.classes.empty() && start_.catalog.classes == record_.classes;
  if (!start_.catalog.classes.empty() && !use_labels) {
    log::warn("no error is given: the tiles' folders are {}, and the model's classes are {}",
              enumerate(start_.catalog.classes), enumerate(record_.classes));
  }
  merger.fill(record_, use_labels);
  record_.seconds = seconds_;
  record_.status = is_interrupted ? RunStatus::kInterrupted : RunStatus::kComplete;
  if (!is_interrupted && record_.predictions.tiles.empty()) {
    // None of it is of use once the tiles are mended.
    remove_journals(folder_);
    throw InputError(
        "score tiles in", options_.tiles.native(),
        fmt::format("none of the {} tiles could be read; '{}': {}", record_.rejected.size(),
                    record_.rejected.front().tile, record_.rejected.front().reason));
  }
  if (!is_interrupted) {
    name_rejected();
    // The record says complete only when everything else is in place.
    write_file(folder_ / "predictions.csv", predictions_csv(record_));
    if (!options_.features.empty()) export_features();
  }
  write_score_record(record_path_, record_);
  if (!is_interrupted) remove_journals(folder_);
  summarise(record_);
}

ScoreSummary Job::run() {
  summary_.folder = folder_;
  device_ = choose_device(options_.device, ranks_);
  if (device_.is_cuda()) {
    start_.device = "cuda";
    start_.decoding_threads = mpi::processors_of(ranks_).per_rank;
  }
  cpu_ = CpuAbilities::of(ranks_);
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) prepare();
  });
  if (ranks_.sum(static_cast<std::int64_t>(is_complete_ ? 1 : 0)) > 0) {
    summary_.outcome = ScoreSummary::Outcome::kAlreadyComplete;
    return summary_;
  }
  const ModelFile model{model_path_, start_.model_crc32, card_, [&] { return fetch_weights(); }};
  if (device_.is_cuda()) {
    start_.engine.precision = wish_.precision.value_or(Precision::kBf16);
    start_.engine.precision_reason =
        wish_.precision
            ? wish_.precision_reason
            : "auto: GPUs compute bf16 in their tensor cores; costs in error unmeasured";
  } else {
    auto engine = choose_engine(wish_, model, start_.catalog, cpu_, ranks_);
    if (!engine) {
      summary_.outcome = ScoreSummary::Outcome::kInterrupted;
      return summary_;
    }
    start_.engine = std::move(*engine);
  }
  const Precision precision = start_.engine.precision;
  start_.amx = start_.amx && (precision == Precision::kBf16 || precision == Precision::kInt8);
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) find_what_is_done();
  });
  start_.broadcast(ranks_);
  const std::string host = host_name();
  const auto hosts = ranks_.gather(std::as_bytes(std::span(host)));

  const auto compiled = [&](std::uint32_t side_px) {
    return compile(model, start_.engine.precision, start_.batch, side_px, start_.engine.calibration,
                   ranks_, device_, start_.amx);
  };
  std::optional<Plan> plan = compiled(0);
  std::optional<Plan> look;
  if (start_.engine.look) look = compiled(start_.engine.look.side_px);
  mpi::together(ranks_, [&] {
    if (!ranks_.is_root()) return;
    // From here on the folder says whose it is.
    const std::string created = earlier_tiles_ > 0 ? record_.created : "";
    record_ = ScoreRecord{};
    record_.created = created;
    record_.status = RunStatus::kRunning;
    record_.config = options_.as_used;
    record_.environment = environment_of(options_, start_, hosts);
    record_.classes = plan->card().classes;
    write_score_record(record_path_, record_);
  });

  const auto work_and_finish = [&] {
    const auto begin = Clock::now();
    if (!start_.todo.empty()) work(*plan, look ? &*look : nullptr);
    seconds_ += seconds_since(begin);
    const bool is_interrupted = mpi::any_asked_to_stop(ranks_);
    plan.reset();
    look.reset();
    mpi::together(ranks_, [&] {
      if (ranks_.is_root()) finish(is_interrupted);
    });
    summary_.outcome =
        is_interrupted ? ScoreSummary::Outcome::kInterrupted : ScoreSummary::Outcome::kComplete;
    return 0;
  };
  or_mark_failed(work_and_finish, [&] {
    if (!ranks_.is_root()) return;
    record_.status = RunStatus::kFailed;
    write_score_record(record_path_, record_);
  });
  return summary_;
}

}  // namespace

void validate(const ScoreOptions& options) {
  require_plain_name("--output_model_name", options.output_model_name);
  if (!options.name.empty()) require_plain_name("--name", options.name);
  if (!(options.sample_frac > 0 && options.sample_frac <= 1)) {
    throw UsageError(
        fmt::format("--sample_frac is {}, but must be above 0 and at most 1", options.sample_frac));
  }
  if (options.watchdog_seconds < 0) {
    throw UsageError(
        fmt::format("--watchdog_seconds is {}, but must be at least 0", options.watchdog_seconds));
  }
  if (options.seed < 0)
    throw UsageError(fmt::format("--seed is {}, but must not be negative", options.seed));
  if (!options.features.empty() && options.features.extension() != ".h5" &&
      options.features.extension() != ".hdf5") {
    throw UsageError(
        fmt::format("--features is '{}', but must end in .h5 or .hdf5", options.features.native()));
  }
  if (!(options.cascade_points >= 0 && options.cascade_points <= 100)) {
    throw UsageError(
        fmt::format("--cascade_points is {}, but must be 0 to 100", options.cascade_points));
  }
  if (options.cascade && (options.test_time_augmentation || !options.features.empty())) {
    throw UsageError(fmt::format(
        "--cascade settles tiles by a look at their middle, {}; leave out one of the two",
        options.test_time_augmentation
            ? "but --test_time_augmentation wants all views of all of them"
            : "which has no --features of the whole tile"));
  }
  constexpr std::int64_t kMaxBatch = 1024;
  if (options.batch_size < 0 || options.batch_size > kMaxBatch) {
    throw UsageError(
        fmt::format("--batch_size is {}, but must be 1 to {}, or 0 for what suits the network",
                    options.batch_size, kMaxBatch));
  }
}

ScoreSummary score_tiles(const ScoreOptions& options, const mpi::Communicator& ranks) {
  return Job(options, ranks).run();
}

}  // namespace quadrat::score
