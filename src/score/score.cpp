#include "quadrat/score/score.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string_view>

#include "calibrate.h"
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
#include "tile_feed.h"
#include "unit_scorer.h"

namespace quadrat::score {

namespace {

using Clock = std::chrono::steady_clock;

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

/// Held by rank 0 while a run is at work in a folder; the system lets go of it whatever ends the process.
class FolderLock {
 public:
  FolderLock() = default;
  ~FolderLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// @throws InputError where another process holds it. File systems without locks are taken as they are.
  void take(const Path& folder) {
    const Path path = folder / ".lock";
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw IoError::from_errno("create", path.native());
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (::fcntl(descriptor_, F_SETLK, &whole) == 0 || (errno != EACCES && errno != EAGAIN)) return;
    throw InputError("score into", folder.native(), "another quadrat-score is at work there",
                     "wait for it, or give another --name");
  }

 private:
  int descriptor_ = -1;
};

/// What all ranks need to know before they start; made on rank 0.
struct Start {
  Bytes model;                       // model.safetensors
  Calibration calibration;           // for int8
  Catalog catalog;
  Precision precision = Precision::kFp32;
  std::string precision_reason;
  std::int64_t batch = 0;
  std::size_t unit_tiles = 0;
  std::vector<std::uint64_t> todo;   // units
  std::uint64_t fingerprint = 0;
  bool is_complete = false;          // an earlier run did it all

  void broadcast(const mpi::Communicator& ranks);
};

void Start::broadcast(const mpi::Communicator& ranks) {
  nlohmann::json small;
  Bytes units(todo.size() * sizeof(std::uint64_t));
  if (!todo.empty()) std::memcpy(units.data(), todo.data(), units.size());
  if (ranks.is_root()) {
    small = {{"precision", static_cast<int>(precision)}, {"reason", precision_reason}, {"batch", batch},
             {"unit_tiles", unit_tiles},                 {"fingerprint", fingerprint}, {"is_complete", is_complete}};
  }
  small = nlohmann::json::parse(ranks.broadcast(small.dump()));
  precision = static_cast<Precision>(small["precision"].get<int>());
  precision_reason = small["reason"];
  batch = small["batch"];
  unit_tiles = small["unit_tiles"];
  fingerprint = small["fingerprint"];
  is_complete = small["is_complete"];
  if (is_complete) return;
  model = ranks.broadcast(std::move(model));
  units = ranks.broadcast(std::move(units));
  calibration = deserialize_calibration(ranks.broadcast(ranks.is_root() ? serialize(calibration) : Bytes()));
  todo.resize(units.size() / sizeof(std::uint64_t));
  if (!todo.empty()) std::memcpy(todo.data(), units.data(), units.size());
  const Bytes listed = ranks.broadcast(ranks.is_root() ? catalog.serialize() : Bytes());
  if (!ranks.is_root()) catalog = Catalog::deserialize(listed);
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
  void choose_precision(const ScoreRecord* earlier);  // rank 0
  void compare_with(const ScoreRecord& earlier) const;  // rank 0
  void calibrate_int8();                        // rank 0
  void work(Plan& plan);
  void finish(bool is_interrupted);             // rank 0
  void summarise(const ScoreRecord& record);    // rank 0
  Settings environment(const std::vector<Bytes>& hosts) const;
  std::size_t units() const { return (start_.catalog.tiles.size() + start_.unit_tiles - 1) / start_.unit_tiles; }
  std::size_t tiles_of(std::uint64_t unit) const {
    const std::size_t first = unit * start_.unit_tiles;
    return std::min(start_.unit_tiles, start_.catalog.tiles.size() - first);
  }

  const ScoreOptions& options_;
  const mpi::Communicator& ranks_;
  std::string name_;
  Path folder_;
  Path record_path_;
  Path model_path_;
  Start start_;
  ModelCard card_;        // rank 0 until the plan is made
  ScoreRecord record_;    // rank 0
  std::uint32_t model_crc_ = 0;
  std::uint32_t catalog_crc_ = 0;
  std::string calibrated_on_;
  bool all_accelerate_bf16_ = false;
  bool all_support_bf16_ = false;
  bool all_support_int8_ = false;
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

void Job::choose_precision(const ScoreRecord* earlier) {
  const auto choose = [&](Precision precision, std::string reason) {
    start_.precision = precision;
    start_.precision_reason = std::move(reason);
  };
  const auto parse = [](std::string_view text) {
    return text == "bf16" ? Precision::kBf16 : text == "int8" ? Precision::kInt8 : Precision::kFp32;
  };
  if (options_.precision != "auto") {
    choose(parse(options_.precision), "asked for");
  } else if (earlier != nullptr) {
    choose(parse(setting(earlier->environment, "precision")), setting(earlier->environment, "precision_reason"));
  } else if (all_accelerate_bf16_) {
    choose(Precision::kBf16, "auto: every rank's CPU computes bf16 in hardware");
  } else {
    choose(Precision::kFp32, "auto: not every rank's CPU computes bf16 in hardware");
  }
  if (start_.precision == Precision::kBf16 && !all_support_bf16_) {
    throw UsageError("--precision is bf16, but not every rank's CPU has AVX-512; give --precision fp32");
  }
  if (start_.precision == Precision::kInt8 && !all_support_int8_) {
    throw UsageError("--precision is int8, but not every rank's CPU has AVX-512 VNNI; give --precision auto");
  }
}

void Job::calibrate_int8() {
  const Catalog training = find_training_tiles(model_path_.parent_path());
  const bool is_there = !training.tiles.empty();
  if (!is_there) log::warn("the tiles the model was trained on are not there: int8 is calibrated on the tiles to score");
  const Catalog& tiles = is_there ? training : start_.catalog;
  start_.calibration = calibrate(parse_weights(start_.model), card_, model_path_, tiles);
  calibrated_on_ = fmt::format("{} tiles of {}", start_.calibration.groups * Plan::kTilesAtOnce,
                               is_there ? tiles.root.native() : "the set to score");
}

void Job::compare_with(const ScoreRecord& earlier) const {
  const auto refuse = [&](const std::string& finding) {
    throw InputError("go on with scores", folder_.native(), finding,
                     "give another --name, the same settings, or remove that folder");
  };
  if (setting(earlier.environment, "model_crc32") != hex(model_crc_)) {
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
}

void Job::prepare() {
  std::error_code error;
  if (!std::filesystem::exists(model_path_, error)) {
    throw InputError("use model", options_.output_model_name,
                     fmt::format("there is no '{}'", model_path_.native()),
                     "train it with quadrat-finetune, or check -o and --runs");
  }
  start_.model = read_file(model_path_, std::uint64_t{1} << 34);
  model_crc_ = checksum(start_.model);
  try {
    card_ = read_model_card(parse_weights(start_.model), model_path_);
  } catch (const InputError& failure) {
    // What is parsed from memory does not know its file's name.
    if (std::string_view(failure.what()).find(model_path_.native()) != std::string_view::npos) throw;
    throw InputError("use model", model_path_.native(), failure.what(), "train it again, or copy it again");
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
  start_.unit_tiles = unit_size(start_.catalog.tiles.size(), static_cast<std::size_t>(start_.batch));

  if (std::filesystem::exists(record_path_, error)) {
    record_ = read_score_record(record_path_);
    choose_precision(&record_);
    compare_with(record_);
    if (record_.status == RunStatus::kComplete && options_.resume == "auto") {
      start_.is_complete = true;
      summarise(record_);
      return;
    }
  } else {
    choose_precision(nullptr);
  }
  const std::string identity = fmt::format("{} {} {} {} {}", hex(model_crc_), hex(catalog_crc_),
                                           to_string(start_.precision), start_.batch, start_.unit_tiles);
  start_.fingerprint = std::uint64_t{checksum(std::as_bytes(std::span(identity)))} << 32 | catalog_crc_;

  make_folder(folder_);
  lock_.take(folder_);
  remove_stale_temporaries(folder_);
  if (options_.resume == "never") remove_journals(folder_);
  std::vector<char> is_done(units());
  const JournalSummary found =
      read_journals(folder_, start_.fingerprint, static_cast<std::uint32_t>(card_.classes.size()),
                    [&](UnitResult&& unit) {
                      if (unit.unit >= is_done.size()) return;
                      is_done[unit.unit] = 1;
                      earlier_tiles_ += tiles_of(unit.unit);
                    });
  seconds_ = found.seconds;
  for (std::size_t unit = 0; unit < is_done.size(); ++unit) {
    if (is_done[unit] == 0) start_.todo.push_back(unit);
  }
  if (start_.precision == Precision::kInt8) calibrate_int8();
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
          {"calibrated_on", calibrated_on_},
          {"batch_tiles", fmt::format("{}", start_.batch)},
          {"unit_tiles", fmt::format("{}", start_.unit_tiles)},
          {"model_crc32", hex(model_crc_)},
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
  UnitScorer scorer(plan, feed);
  Progress progress("scoring", "tiles", start_.catalog.tiles.size(), ranks_.is_root());
  std::size_t mine = 0;  // tiles of the unit in hand

  // One unit is asked for ahead of the one in hand, and the reader goes on into it.
  const auto take = [&]() -> std::optional<std::uint64_t> {
    const auto position = dealer.next();
    if (!position) return std::nullopt;
    const std::uint64_t unit = start_.todo[*position];
    feed.add(unit * start_.unit_tiles, unit * start_.unit_tiles + tiles_of(unit));
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
    auto result = scorer.score(*unit, tiles_of(*unit), between);
    if (!result) break;
    journal.append(*result);
    mine = 0;
    dealer.add_done(tiles_of(*unit));
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

void Job::finish(bool is_interrupted) {
  Merger merger(start_.catalog, start_.unit_tiles, record_.classes.size());
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
  start_.broadcast(ranks_);
  if (start_.is_complete) {
    summary_.outcome = ScoreSummary::Outcome::kAlreadyComplete;
    return summary_;
  }
  char host[HOST_NAME_MAX + 1] = {};
  ::gethostname(host, sizeof host - 1);
  const auto hosts = ranks_.gather(std::as_bytes(std::span(host, std::strlen(host))));

  std::optional<Plan> plan;
  mpi::together(ranks_, [&] {
    WeightsFile weights = parse_weights(start_.model);
    Bytes().swap(start_.model);
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
