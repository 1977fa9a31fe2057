#include "quadrat/train/finetune.h"

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <limits>
#include <thread>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/comm/gradient_reducer.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/mpi/watchdog.h"
#include "quadrat/model/weights.h"
#include "quadrat/record/run_folder.h"
#include "quadrat/tiles/training_sets.h"
#include "quadrat/train/batches.h"
#include "quadrat/train/checkpoint.h"
#include "quadrat/train/features.h"
#include "quadrat/train/schedule.h"

namespace quadrat {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Rows a forward pass without gradients takes at once: more leave the cache and get slower.
constexpr std::int64_t kForwardRows = 16;

/// bf16 where asked for: convolutions and matrix products under autocast, everything else in float32.
class Autocast {
 public:
  Autocast(bool enabled, torch::DeviceType device) : enabled_(enabled), device_(device) {
    if (!enabled_) return;
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, torch::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!enabled_) return;
    // The cache holds bf16 copies of weights that the next step changes.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool enabled_;
  torch::DeviceType device_;
};

std::vector<std::int32_t> labels_of(const Catalog& catalog) {
  std::vector<std::int32_t> labels;
  labels.reserve(catalog.tiles.size());
  for (const Tile& tile : catalog.tiles) labels.push_back(tile.label);
  return labels;
}

torch::Device choose_device(const FinetuneOptions& options, const mpi::Communicator& ranks) {
  const bool gpu_usable = comm::has_nccl() && torch::cuda::is_available();
  if (options.device == "cpu" || (options.device == "auto" && !gpu_usable)) return torch::kCPU;
  if (!gpu_usable) {
    throw DeviceError("use a GPU", "", comm::has_nccl() ? "this machine has none that CUDA can use" : "this build has no CUDA",
                      "give --device cpu");
  }
  const mpi::Communicator host = ranks.split_by_host();
  const auto gpus = static_cast<int>(torch::cuda::device_count());
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(host.rank() % gpus)};
}

bool choose_bf16(const FinetuneOptions& options, torch::Device device) {
  if (options.precision != "auto") return options.precision == "bf16";
  #ifdef __x86_64__
  return device.is_cuda() || __builtin_cpu_supports("avx512bf16") != 0;
#else
  return device.is_cuda();
#endif
}

int choose_threads(const FinetuneOptions& options, const mpi::Communicator& ranks) {
  if (options.threads > 0) return static_cast<int>(options.threads);
  const int here = ranks.split_by_host().size();
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / here);
}

/// AlexNet's gradients are 228 MB a step: kept by the allocator they cost nothing, given back to the kernel and
/// faulted in again they cost a third of the step.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

/// One rank's share of a training run.
class Finetuner {
 public:
  Finetuner(const FinetuneOptions& options, const Settings& config, const mpi::Communicator& ranks,
            const RunFolder& folder)
      : options_(options),
        ranks_(ranks),
        folder_(folder),
        seed_(static_cast<std::uint64_t>(options.seed)),
        device_(choose_device(options, ranks)),
        bf16_(choose_bf16(options, device_)),
        threads_(choose_threads(options, ranks)),
        inputs_(list_training_sets(options.train, options.validation, options.sample_frac, seed_, ranks)),
        train_labels_(labels_of(inputs_.train)),
        plan_(train_labels_, options.shards, options.batch_size, seed_),
        shards_(plan_.shards_of(ranks.rank(), ranks.size())),
        transform_(kTileSide_px, kImageNetMean, kImageNetStd, parse_augment(options.augment), seed_),
        schedule_(options.lr_schedule, options.effective_learning_rate(), options.warmup_epochs, options.num_epochs,
                  plan_.steps_per_epoch()) {
    at::set_num_threads(threads_);
    keep_freed_memory();
    validation_tiles_ = share_of_validation();
    make_network();
    if (device_.is_cuda()) {
      all_reduce_ = comm::make_nccl_all_reduce(ranks_, device_.index());
    } else {
      all_reduce_ = comm::make_mpi_all_reduce(ranks_);
    }
    comm::ReducerOptions reducing;
    reducing.bf16_on_the_wire = options.bf16_gradients;
    reducer_ = std::make_unique<comm::GradientReducer>(network_->trained_parameters(), *all_reduce_, reducing);
    optimizer_ = std::make_unique<Optimizer>(
        network_->trained_parameters(),
        Optimizer::Options{options.optimizer, options.momentum, options.weight_decay});
    make_class_weights();
    describe(config);
  }

  int run();

 private:
  struct Evaluation {
    double loss = 0;
    double error = 0;
    std::vector<float> probabilities;  ///< rank 0: [validation tiles, classes]
  };
  enum class Stop : int { kNo = 0, kAsked = 1, kNotFinite = 2 };

  std::vector<std::uint32_t> share_of_validation() const;
  void make_network();
  void make_class_weights();
  void describe(const Settings& config);
  void resume();
  void make_stores();
  void cache_features();
  FeatureCache features_of(TileStore& store, const std::vector<std::uint32_t>& tiles,
                           std::int64_t views, std::string_view what);
  bool train_epoch();
  void train_step(const torch::Tensor& features, const std::vector<std::uint32_t>& tiles, std::int64_t step);
  Stop agree_to_stop(bool finite) const;
  void share_running_statistics();
  Evaluation evaluate();
  torch::Tensor loss_of(const torch::Tensor& logits, const torch::Tensor& labels) const;
  torch::Tensor labels_tensor(const Catalog& catalog, const std::vector<std::uint32_t>& tiles) const;
  void finish_epoch(const Evaluation& evaluation);
  void write_record(RunStatus status);
  void save_checkpoint();
  bool stopping_early() const;
  void print_summary(double seconds) const;

  std::size_t classes() const { return inputs_.train.classes.size(); }
  std::uint64_t epoch_key() const { return position_.epoch; }

  const FinetuneOptions& options_;
  const mpi::Communicator& ranks_;
  const RunFolder& folder_;
  std::uint64_t seed_;
  torch::Device device_;
  bool bf16_;
  int threads_;
  TrainingSets inputs_;
  std::vector<std::int32_t> train_labels_;
  ShardPlan plan_;
  ShardPlan::Range shards_;
  TileTransform transform_;
  LearningRateSchedule schedule_;
  std::vector<std::uint32_t> validation_tiles_;
  std::shared_ptr<Network> network_;
  std::unique_ptr<comm::AllReduce> all_reduce_;
  std::unique_ptr<comm::GradientReducer> reducer_;
  std::unique_ptr<Optimizer> optimizer_;
  torch::Tensor class_weights_;
  std::unique_ptr<TileStore> train_store_, validation_store_;
  std::unique_ptr<FeatureCache> train_features_, validation_features_;
  RunRecord record_;
  RunPosition position_;
  ModelCard card_;
  double learning_rate_ = 0;
  bool weights_given_ = false;
};

std::vector<std::uint32_t> Finetuner::share_of_validation() const {
  const auto all = inputs_.validation.tiles.size();
  const auto rank = static_cast<std::size_t>(ranks_.rank());
  const auto size = static_cast<std::size_t>(ranks_.size());
  std::vector<std::uint32_t> mine;
  for (std::size_t i = all * rank / size; i < all * (rank + 1) / size; ++i) mine.push_back(static_cast<std::uint32_t>(i));
  return mine;
}

void Finetuner::make_network() {
  card_.architecture = parse_architecture(options_.pretrained_model_type);
  card_.classes = inputs_.train.classes;
  card_.retraining = parse_retraining(options_.retraining_type);
  network_ = Network::create(card_.architecture, std::ssize(card_.classes), seed_);
  weights_given_ = options_.pretrained_weights != "none";
  mpi::together(ranks_, [&] {
    if (!weights_given_ || !ranks_.is_root()) return;
    const Path path = options_.pretrained_weights;
    load_weights(*network_, read_weights(path), path);
  });
  // Everyone starts from rank 0's numbers, whatever its processor made of the random initialisation.
  const torch::NoGradGuard no_gradients;
  const auto from_root = [&](torch::Tensor tensor) {
    Bytes bytes;
    if (ranks_.is_root()) bytes = to_stored("", tensor).data;
    bytes = ranks_.broadcast(std::move(bytes));
    std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  };
  if (ranks_.size() > 1) {
    for (auto& parameter : network_->parameters()) from_root(parameter);
    for (auto& buffer : network_->buffers()) from_root(buffer);
  }
  for (auto& parameter : network_->parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.contiguous(torch::MemoryFormat::ChannelsLast));
  }
  network_->to(device_);
  network_->set_retraining(card_.retraining);
  network_->set_batch_norm(parse_batch_norm(options_.batch_norm), [this](torch::Tensor& sums) {
    all_reduce_->start(sums)->wait();
  });
}

void Finetuner::make_class_weights() {
  if (options_.class_weights == "none") return;
  // Inverse frequency, with mean 1 over the training tiles, so that the loss keeps its scale.
  std::vector<double> count(classes(), 0);
  for (const auto label : train_labels_) ++count[static_cast<std::size_t>(label)];
  class_weights_ = torch::empty({static_cast<std::int64_t>(classes())}, torch::kFloat);
  for (std::size_t c = 0; c < classes(); ++c) {
    class_weights_[static_cast<std::int64_t>(c)] =
        static_cast<double>(train_labels_.size()) / (static_cast<double>(classes()) * count[c]);
  }
  class_weights_ = class_weights_.to(device_);
}

void Finetuner::describe(const Settings& config) {
  record_.name = options_.output_model_name;
  record_.program = "quadrat-finetune";
  record_.git_commit = git_commit();
  record_.config = config;
  record_.classes = inputs_.train.classes;
  const int hosts = static_cast<int>(ranks_.sum(static_cast<std::int64_t>(ranks_.split_by_host().is_root() ? 1 : 0)));
  int version = 0, subversion = 0;
  MPI_Get_version(&version, &subversion);
  record_.environment = {
      {"ranks", fmt::format("{}", ranks_.size())},
      {"hosts", fmt::format("{}", hosts)},
      {"device", device_.is_cuda() ? "cuda" : "cpu"},
      {"threads_per_rank", fmt::format("{}", threads_)},
      {"precision", bf16_ ? "bf16" : "fp32"},
      {"learning_rate", fmt::format("{}", options_.effective_learning_rate())},
      {"initial_weights", weights_given_ ? options_.pretrained_weights : "random"},
      {"quadrat", std::string(quadrat::version())},
      {"libtorch", TORCH_VERSION},
      {"mpi_standard", fmt::format("{}.{}", version, subversion)},
  };
  for (const auto& tile : inputs_.validation.tiles) {
    record_.validation.tiles.push_back(tile.name);
    record_.validation.labels.push_back(static_cast<std::uint16_t>(tile.label));
  }
}

void Finetuner::resume() {
  position_.created = utc_now();
  mpi::together(ranks_, [&] {
    if (auto earlier = read_checkpoint(folder_.checkpoint(), *network_, *optimizer_)) position_ = std::move(*earlier);
  });
  record_.created = position_.created;
  if (position_.epochs.empty() && position_.step == 0) return;
  if (ranks_.is_root()) {
    log::line("going on with '{}' at epoch {}, step {}", options_.output_model_name, position_.epoch, position_.step + 1);
  }
}

void Finetuner::make_stores() {
  const auto limit = static_cast<std::uint64_t>(options_.memory_limit * 1e9);
  const auto train_tiles = plan_.tiles_of(shards_);
  const std::size_t all = train_tiles.size() + validation_tiles_.size();
  const auto share = [&](std::size_t tiles) {
    return StoreLimits{static_cast<std::uint64_t>(static_cast<double>(limit) * static_cast<double>(tiles) /
                                                  static_cast<double>(std::max<std::size_t>(1, all))),
                       options_.scratch};
  };
  train_store_ = std::make_unique<TileStore>(inputs_.train, train_tiles, kTileSide_px, share(train_tiles.size()));
  validation_store_ = std::make_unique<TileStore>(inputs_.validation, validation_tiles_, kTileSide_px,
                                                  share(validation_tiles_.size()));
}

FeatureCache Finetuner::features_of(TileStore& store, const std::vector<std::uint32_t>& tiles, std::int64_t views,
                                    std::string_view what) {
  const std::int64_t width = network_->retraining() == Retraining::kFullyConnected ? 256 * 6 * 6
                             : card_.architecture == Architecture::kAlexNet        ? 4096
                                                                                   : 512;
  FeatureCache cache(tiles, views, width);
  const auto count = std::ssize(tiles);
  const std::int64_t steps_per_view = (count + kForwardRows - 1) / kForwardRows;
  const auto rows_of = [&](std::int64_t step) {
    const auto begin = step % std::max<std::int64_t>(1, steps_per_view) * kForwardRows;
    return std::pair(begin, std::min(begin + kForwardRows, count));
  };
  std::int64_t step = 0;
  const bool plain = views == 1 && (transform_.augment() == Augment::kNone || &store == validation_store_.get());
  BatchStream stream(
      store, kTileSide_px,
      [&](std::int64_t s) {
        const auto [begin, end] = rows_of(s);
        return std::vector<std::uint32_t>(tiles.begin() + begin, tiles.begin() + end);
      },
      // A view is the augmentation of an epoch that never comes, numbered from the view.
      [&, made = std::int64_t{0}](const std::uint8_t* pixels, std::uint32_t tile,
                                                            float* out) mutable {
        if (plain) return transform_.plain(pixels, out);
        const std::int64_t view = made++ / count;
        transform_.train(pixels, static_cast<std::uint64_t>(view), tile, out);
      },
      {0, steps_per_view * views});
  Progress progress(what, "tiles", static_cast<std::uint64_t>(count * views), ranks_.is_root());
  const torch::NoGradGuard no_gradients;
  network_->eval();
  for (; step < steps_per_view * views; ++step) {
    const Batch batch = stream.next();
    const Autocast autocast(bf16_, device_.type());
    const auto features = network_->frozen_part(batch.input.to(device_));
    const auto [begin, end] = rows_of(step);
    cache.view(step / steps_per_view).narrow(0, begin, end - begin).copy_(features);
    progress.update(static_cast<std::uint64_t>(step / steps_per_view * count + end));
  }
  return cache;
}

void Finetuner::cache_features() {
  if (network_->retraining() == Retraining::kAll) return;
  const std::int64_t views = transform_.augment() == Augment::kNone ? 1 : std::min(options_.views, options_.num_epochs);
  const auto train_tiles = plan_.tiles_of(shards_);
  train_features_ = std::make_unique<FeatureCache>(
      features_of(*train_store_, train_tiles, views, "features of the training tiles"));
  validation_features_ = std::make_unique<FeatureCache>(
      features_of(*validation_store_, validation_tiles_, 1, "features of the validation tiles"));
  // From here on nobody looks at pixels.
  train_store_.reset();
  validation_store_.reset();
}

torch::Tensor Finetuner::labels_tensor(const Catalog& catalog, const std::vector<std::uint32_t>& tiles) const {
  auto labels = torch::empty({std::ssize(tiles)}, torch::kLong);
  auto* label = labels.data_ptr<std::int64_t>();
  for (const auto tile : tiles) *label++ = catalog.tiles[tile].label;
  return labels.to(device_);
}

/// Summed over the rows, so that ranks' losses add up whatever their parts of the batch.
torch::Tensor Finetuner::loss_of(const torch::Tensor& logits, const torch::Tensor& labels) const {
  return at::cross_entropy_loss(logits.to(torch::kFloat), labels, class_weights_, at::Reduction::Sum, -100,
                                options_.label_smoothing);
}

Finetuner::Stop Finetuner::agree_to_stop(bool finite) const {
  Stop mine = stop_signal() != 0 ? Stop::kAsked : Stop::kNo;
  if (!finite) mine = Stop::kNotFinite;
  if (ranks_.size() == 1) return mine;
  return static_cast<Stop>(static_cast<int>(ranks_.max(static_cast<double>(mine))));
}

/// With local batch statistics each rank's running ones would drift apart. Their mean over ranks, taken every step (38 kB
/// beside 45 MB of gradients), keeps them one: ranks validate the same model and a checkpoint holds all there is.
void Finetuner::share_running_statistics() {
  if (ranks_.size() == 1 || options_.batch_norm != "local" || network_->retraining() != Retraining::kAll) return;
  const torch::NoGradGuard no_gradients;
  std::vector<torch::Tensor> statistics;
  for (const auto& buffer : network_->buffers()) {
    if (buffer.is_floating_point()) statistics.push_back(buffer);
  }
  if (statistics.empty()) return;
  std::vector<torch::Tensor> flat;
  for (const auto& tensor : statistics) flat.push_back(tensor.flatten());
  auto all = torch::cat(flat);
  all_reduce_->start(all)->wait();
  all /= ranks_.size();
  std::int64_t at = 0;
  for (auto& tensor : statistics) {
    tensor.copy_(all.narrow(0, at, tensor.numel()).view(tensor.sizes()));
    at += tensor.numel();
  }
}

void Finetuner::train_step(const torch::Tensor& features, const std::vector<std::uint32_t>& tiles, std::int64_t step) {
  learning_rate_ = schedule_.at(static_cast<std::int64_t>(position_.epoch - 1) * plan_.steps_per_epoch() + step);
  std::vector<std::uint64_t> keys;
  for (const auto tile : tiles) keys.push_back(KeyedRandom({seed_, kStreamDropout, epoch_key(), tile}).next());
  network_->set_dropout_keys(std::move(keys));

  reducer_->prepare();
  bool finite = true;
  // Synchronised batch norm needs every rank in the pass, also those without tiles.
  if (!tiles.empty() || options_.batch_norm == "sync") {
    torch::Tensor logits;
    {
      const Autocast autocast(bf16_, device_.type());
      logits = network_->trained_part(features);
    }
    const auto labels = labels_tensor(inputs_.train, tiles);
    const auto loss = loss_of(logits, labels);
    (loss / static_cast<double>(plan_.batch_tiles(step))).backward();
    const double loss_value = loss.item<double>();
    finite = std::isfinite(loss_value);
    position_.loss_sum += loss_value;
    position_.wrong += logits.argmax(1).ne(labels).sum().item<double>();
  }
  reducer_->finish();
  for (auto& parameter : network_->trained_parameters()) {
    if (!parameter.grad().defined()) parameter.mutable_grad() = torch::zeros_like(parameter);
  }
  const Stop stop = agree_to_stop(finite);
  if (stop == Stop::kNotFinite) {
    record_.epochs = position_.epochs;
    write_record(RunStatus::kFailed);
    throw Error::shared(
        ErrorKind::kInput,
        fmt::format("the loss of epoch {} is no longer a finite number; lower --learning_rate (it is {}) or give "
                    "--clip_gradients; {}",
                    position_.epoch, options_.effective_learning_rate(),
                    position_.kept_epoch > 0 ? fmt::format("the model of epoch {} is kept in '{}'", position_.kept_epoch,
                                                           folder_.model().native())
                                             : "no model was kept"));
  }
  share_running_statistics();
  if (options_.clip_gradients > 0) optimizer_->clip(options_.clip_gradients);
  optimizer_->step(learning_rate_);
  position_.step = step + 1;
  if (stop == Stop::kAsked) set_stop_signal(stop_signal() != 0 ? stop_signal() : SIGTERM);
}

/// @return false where it was asked to stop in between
bool Finetuner::train_epoch() {
  network_->train_mode();
  const auto order = plan_.epoch(epoch_key(), shards_);
  const std::int64_t steps = plan_.steps_per_epoch();
  const double seconds_before = position_.train_seconds;
  const auto start = Clock::now();
  Progress progress(fmt::format("epoch {}/{}", position_.epoch, options_.num_epochs), "tiles",
                    static_cast<std::uint64_t>(plan_.tiles()), ranks_.is_root());
  std::unique_ptr<BatchStream> stream;
  if (!train_features_) {
    stream = std::make_unique<BatchStream>(
        *train_store_, kTileSide_px, [&](std::int64_t step) { return order.batch(step); },
        [&](const std::uint8_t* pixels, std::uint32_t tile, float* out) {
          transform_.train(pixels, epoch_key(), tile, out);
        },
        std::pair(position_.step, steps));
  }
  std::int64_t done = 0;
  for (std::int64_t step = 0; step < position_.step; ++step) done += plan_.batch_tiles(step);
  // What ranks have seen so far is their own until the epoch's end, where it is summed; a checkpoint holds the sum.
  if (!ranks_.is_root()) position_.loss_sum = position_.wrong = 0;
  for (std::int64_t step = position_.step; step < steps; ++step) {
    if (train_features_) {
      const auto tiles = order.batch(step);
      const auto features = train_features_->gather(tiles, [&](std::uint32_t tile) {
        KeyedRandom random({seed_, kStreamAugment, epoch_key(), tile});
        return static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(train_features_->views())));
      });
      train_step(features.to(device_), tiles, step);
    } else {
      const Batch batch = stream->next();
      train_step(batch.input.to(device_), batch.tiles, step);
    }
    done += plan_.batch_tiles(step);
    progress.update(static_cast<std::uint64_t>(done));
    position_.train_seconds = seconds_before + seconds_since(start);
    if (stop_signal() != 0 && step + 1 < steps) break;
  }
  std::array<double, 2> sums{position_.loss_sum, position_.wrong};
  ranks_.sum(sums);
  position_.loss_sum = sums[0];
  position_.wrong = sums[1];
  return position_.step == steps;
}

Finetuner::Evaluation Finetuner::evaluate() {
  network_->eval();
  const torch::NoGradGuard no_gradients;
  const auto count = std::ssize(validation_tiles_);
  const std::int64_t steps = (count + kForwardRows - 1) / kForwardRows;
  const auto tiles_of = [&](std::int64_t step) {
    const auto begin = validation_tiles_.begin() + step * kForwardRows;
    return std::vector<std::uint32_t>(begin, std::min(begin + kForwardRows, validation_tiles_.end()));
  };
  std::unique_ptr<BatchStream> stream;
  if (!validation_features_) {
    stream = std::make_unique<BatchStream>(
        *validation_store_, kTileSide_px, tiles_of,
        [&](const std::uint8_t* pixels, std::uint32_t /*tile*/, float* out) { transform_.plain(pixels, out); },
        std::pair(std::int64_t{0}, steps));
  }
  std::array<double, 2> sums{};  // loss, wrong
  std::vector<float> mine;
  mine.reserve(static_cast<std::size_t>(count) * classes());
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto tiles = tiles_of(step);
    const auto input = stream ? stream->next().input
                              : validation_features_->gather(tiles, [](std::uint32_t) { return std::int64_t{0}; });
    torch::Tensor logits;
    {
      const Autocast autocast(bf16_, device_.type());
      logits = network_->trained_part(input.to(device_));
    }
    logits = logits.to(torch::kFloat);
    const auto labels = labels_tensor(inputs_.validation, tiles);
    sums[0] += at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).item<double>();
    sums[1] += logits.argmax(1).ne(labels).sum().item<double>();
    const auto probabilities = torch::softmax(logits, 1).cpu().contiguous();
    const auto* values = probabilities.const_data_ptr<float>();
    mine.insert(mine.end(), values, values + probabilities.numel());
  }
  ranks_.sum(sums);
  const auto all = static_cast<double>(inputs_.validation.tiles.size());
  Evaluation evaluation{sums[0] / all, sums[1] / all, {}};
  for (const Bytes& part : ranks_.gather(std::as_bytes(std::span(mine)))) {
    const auto old = evaluation.probabilities.size();
    evaluation.probabilities.resize(old + part.size() / sizeof(float));
    if (!part.empty()) std::memcpy(evaluation.probabilities.data() + old, part.data(), part.size());
  }
  return evaluation;
}

void Finetuner::finish_epoch(const Evaluation& evaluation) {
  const auto tiles = static_cast<double>(plan_.tiles());
  EpochRow row;
  row.epoch = position_.epoch;
  row.train_loss = position_.loss_sum / tiles;
  row.train_error = position_.wrong / tiles;
  row.validation_loss = evaluation.loss;
  row.validation_error = evaluation.error;
  row.learning_rate = learning_rate_;
  row.seconds = position_.train_seconds;
  row.tiles_per_s = position_.train_seconds > 0 ? tiles / position_.train_seconds : 0;
  bool best = true;
  for (const EpochRow& earlier : position_.epochs) {
    best = best && (row.validation_error < earlier.validation_error ||
                    (row.validation_error == earlier.validation_error && row.validation_loss < earlier.validation_loss));
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

  log::line("epoch {:>2}/{}: train loss {:.4f} error {:5.2f} %, validation loss {:.4f} error {:5.2f} %, {:.1f} tiles/s{}",
            row.epoch, options_.num_epochs, row.train_loss, 100 * row.train_error, row.validation_loss,
            100 * row.validation_error, row.tiles_per_s, best ? ", best so far" : "");
}

void Finetuner::write_record(RunStatus status) {
  if (!ranks_.is_root()) return;
  record_.status = status;
  record_.epochs = position_.epochs;
  record_.kept_epoch = position_.kept_epoch;
  record_.validation.probabilities = position_.kept_probabilities;
  record_.validation.predicted.clear();
  const auto columns = static_cast<std::ptrdiff_t>(classes());
  for (auto row = position_.kept_probabilities.begin(); row != position_.kept_probabilities.end(); row += columns) {
    record_.validation.predicted.push_back(static_cast<std::uint16_t>(std::max_element(row, row + columns) - row));
  }
  RunRecord record = record_;
  if (position_.kept_epoch == 0) record.validation = {};
  write_run_record(folder_.record(), record);
}

void Finetuner::save_checkpoint() {
  if (ranks_.is_root()) write_checkpoint(folder_.checkpoint(), *network_, *optimizer_, position_);
}

bool Finetuner::stopping_early() const {
  return options_.early_stopping > 0 && !position_.epochs.empty() &&
         position_.epochs.back().epoch >= position_.kept_epoch + options_.early_stopping;
}

void Finetuner::print_summary(double seconds) const {
  const EpochRow& kept = position_.epochs.at(position_.kept_epoch - 1);
  fmt::print("run                {}\n", folder_.path().native());
  fmt::print("network            {}, {}, {} weights\n", options_.pretrained_model_type, options_.retraining_type,
             weights_given_ ? "pretrained" : "randomly initialised");
  fmt::print("tiles              {} to train on, {} to validate, {} classes\n", inputs_.train.tiles.size(),
             inputs_.validation.tiles.size(), classes());
  fmt::print("validation error   {:.2f} % (epoch {} of {}, kept)\n", 100 * kept.validation_error, kept.epoch,
             position_.epochs.size());
  fmt::print("time               {} on {} rank{}, {}\n", format_duration(seconds), ranks_.size(),
             ranks_.size() == 1 ? "" : "s", bf16_ ? "bf16" : "fp32");
  std::fflush(stdout);
}

int Finetuner::run() {
  const auto start = Clock::now();
  mpi::together(ranks_, [&] {
    if (ranks_.is_root()) folder_.prepare();
  });
  resume();
  if (ranks_.is_root()) {
    if (!weights_given_) {
      log::line("no --pretrained_weights given: {} starts from random initialisation", options_.pretrained_model_type);
      if (network_->retraining() != Retraining::kAll) {
        log::warn("--retraining_type {} keeps random layers frozen; give --pretrained_weights", options_.retraining_type);
      }
    }
    log::line("{} tiles to train on and {} to validate, {} rank{} x {} thread{}, {}", inputs_.train.tiles.size(),
              inputs_.validation.tiles.size(), ranks_.size(), ranks_.size() == 1 ? "" : "s", threads_,
              threads_ == 1 ? "" : "s", bf16_ ? "bf16" : "fp32");
  }
  mpi::together(ranks_, [&] { make_stores(); });
  mpi::together(ranks_, [&] { write_record(RunStatus::kRunning); });
  cache_features();
  while (position_.epoch <= options_.num_epochs && !stopping_early()) {
    if (!train_epoch()) {
      mpi::together(ranks_, [&] {
        save_checkpoint();
        write_record(RunStatus::kInterrupted);
      });
      if (ranks_.is_root()) log::line("stopped by a signal; start the same command again to go on");
      return kExitInterrupted;
    }
    finish_epoch(evaluate());
    mpi::together(ranks_, [&] {
      if (ranks_.is_root() && position_.kept_epoch + 1 == position_.epoch) {
        write_safetensors(folder_.model(), to_weights_file(*network_, card_));
      }
      const bool last = position_.epoch > options_.num_epochs || stopping_early();
      write_record(stop_signal() != 0 && !last ? RunStatus::kInterrupted : RunStatus::kRunning);
      if (ranks_.is_root() && position_.kept_epoch + 1 == position_.epoch) {
        folder_.write_predictions(record_.validation, record_.classes);
        folder_.write_labels_and_info(record_.classes, {{"output_model_name", options_.output_model_name},
                                                        {"model_source", "finetune"},
                                                        {"pretrained_model_type", options_.pretrained_model_type},
                                                        {"retraining_type", options_.retraining_type}});
      }
      save_checkpoint();
    });
    if (agree_to_stop(true) == Stop::kAsked && position_.epoch <= options_.num_epochs && !stopping_early()) {
      if (ranks_.is_root()) log::line("stopped by a signal; start the same command again to go on");
      return kExitInterrupted;
    }
  }
  mpi::together(ranks_, [&] {
    write_record(RunStatus::kComplete);
    std::error_code ignored;
    if (ranks_.is_root()) std::filesystem::remove(folder_.checkpoint(), ignored);
  });
  if (ranks_.is_root()) print_summary(seconds_since(start));
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
    throw Error::shared(ErrorKind::kUsage, fmt::format("there are {} ranks for {} shards; start at most {} ranks or raise --shards",
                                                       ranks.size(), options.shards, options.shards));
  }
  const RunFolder folder(options.runs, options.output_model_name);
  std::int64_t found = 0;
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    const auto earlier = folder.look(config, may_change_on_resume);
    if (earlier == RunFolder::Found::kUnfinished && options.resume == "never") {
      throw InputError("start run", folder.path().native(), "an unfinished run of that name is there",
                       "give --resume auto to go on with it, or remove that folder");
    }
    found = static_cast<std::int64_t>(earlier);
  });
  found = ranks.sum(found);
  if (found == static_cast<std::int64_t>(RunFolder::Found::kComplete)) {
    if (ranks.is_root()) fmt::print("run {} is complete; nothing to do\n", folder.path().native());
    return kExitDone;
  }
  return Finetuner(options, config, ranks, folder).run();
}

}  // namespace quadrat
