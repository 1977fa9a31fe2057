#include "inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <utility>

#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"

namespace quadrat {

namespace {

/// bf16 matrix products round their input to bf16 anyway: features kept so are the same to them, at
/// half the memory.
torch::ScalarType feature_type(const Session& session) {
  return session.bf16 ? torch::kBFloat16 : torch::kFloat;
}

/// The most rows that are computed on at once: what activations on a GPU are for.
std::int64_t most_rows(const Session& session) {
  const auto ranks = static_cast<std::int64_t>(session.ranks.size());
  return std::max((session.options.batch_size + ranks - 1) / ranks, FrozenLayers::kRowsOnDevice);
}

bool is_augmented(const Session& session, Inputs::Use use) {
  return use == Inputs::Use::kTraining && session.transform.augment() != Augment::kNone;
}

std::uint64_t views_of(const Session& session, Inputs::Use use) {
  if (session.card.retraining == Retraining::kAll) return 0;
  if (!is_augmented(session, use)) return 1;
  return static_cast<std::uint64_t>(std::min(session.options.views, session.options.num_epochs));
}

/// Features out of the cache.
class KeptFeatures : public InputStream {
 public:
  KeptFeatures(const FeatureCache& cache, const SamplesOfStep& samples_of, Steps steps)
      : cache_(cache) {
    std::vector<Sample> all;
    for (std::int64_t step = steps.first; step < steps.second; ++step) {
      const auto samples = samples_of(step);
      std::vector<std::uint32_t> tiles;
      for (const Sample& sample : samples) tiles.push_back(sample.tile);
      tiles_.push(std::move(tiles));
      all.insert(all.end(), samples.begin(), samples.end());
    }
    rows_ = cache_.rows_of(all);
  }

  Batch next() override {
    Batch batch;
    batch.tiles = std::move(tiles_.front());
    tiles_.pop();
    const auto count = std::ssize(batch.tiles);
    batch.input = cache_.gather(rows_.narrow(0, begin_, count));
    begin_ += count;
    return batch;
  }

 private:
  const FeatureCache& cache_;
  std::queue<std::vector<std::uint32_t>> tiles_;  ///< of the steps to come
  torch::Tensor rows_;                            ///< of all steps' samples
  std::int64_t begin_ = 0;
};

/// Features computed as they are asked for.
class FreshFeatures : public InputStream {
 public:
  FreshFeatures(std::unique_ptr<InputStream> pixels, FrozenLayers& frozen, torch::ScalarType dtype)
      : pixels_(std::move(pixels)), frozen_(frozen), dtype_(dtype) {}

  Batch next() override {
    Batch batch = pixels_->next();
    batch.input = frozen_.features(batch.input).to(dtype_);
    return batch;
  }

 private:
  std::unique_ptr<InputStream> pixels_;
  FrozenLayers& frozen_;
  torch::ScalarType dtype_;
};

}  // namespace

std::uint64_t Inputs::feature_bytes(const Session& session, std::size_t tiles, Use use) {
  const auto width = static_cast<std::uint64_t>(FrozenLayers::width(session.card));
  return tiles * views_of(session, use) * width * torch::elementSize(feature_type(session));
}

Inputs::Inputs(const Session& session, const Catalog& catalog, std::vector<std::uint32_t> tiles,
               Use use, std::shared_ptr<FrozenLayers> frozen, std::uint64_t memory_bytes)
    : session_(session),
      tiles_(std::move(tiles)),
      augmented_(is_augmented(session, use)),
      views_(views_of(session, use)),
      frozen_(std::move(frozen)) {
  const std::string_view set = use == Use::kTraining ? "training" : "validation";
  const std::uint64_t wanted = feature_bytes(session, tiles_.size(), use);
  std::uint64_t on_device = 0;
  if (session.device.is_cuda()) {
    device_ = make_cuda_tile_device(session.device);
    on_device = bytes_for_tiles(device_->free_bytes(), most_rows(session));
  }
  const std::uint64_t for_features = device_ ? on_device : memory_bytes;
  const bool keeps = views_ > 0 && wanted <= for_features;
  // Nobody looks at pixels again once the features are kept.
  const std::size_t fitting = on_device / session.transform.values_per_tile();
  open_tiles(catalog, keeps ? 0 : memory_bytes, keeps ? 0 : std::min(tiles_.size(), fitting));
  if (views_ == 0) return;
  if (keeps) {
    cache_ = std::make_unique<FeatureCache>(tiles_, static_cast<std::int64_t>(views_),
                                            FrozenLayers::width(session.card),
                                            feature_type(session), session.device);
    compute_all(set);
    frozen_.reset();
    device_tiles_.reset();
    store_.reset();
  } else if (session.ranks.is_root()) {
    log::line(
        "the features of the {} tiles would take {:.2f} GB a rank and {} leaves {:.2f}: they are "
        "computed anew each epoch",
        set, static_cast<double>(wanted) / 1e9, device_ ? "the GPU" : "--memory_limit",
        static_cast<double>(for_features) / 1e9);
  }
}

void Inputs::open_tiles(const Catalog& catalog, std::uint64_t memory_bytes, std::size_t kept) {
  const StoreLimits limits{memory_bytes, session_.options.scratch};
  if (!device_) {
    store_ = std::make_unique<TileStore>(catalog, tiles_, kTileSide_px, limits);
    return;
  }
  const auto element = session_.bf16 ? gpu::Element::kBf16 : gpu::Element::kFloat32;
  device_tiles_ = std::make_unique<DeviceTiles>(
      *device_, session_.transform, catalog, tiles_,
      DeviceTiles::Options{kept, limits, element, session_.network->input_blocks(kTileSide_px),
                           session_.threads});
}

std::unique_ptr<InputStream> Inputs::pixels(SamplesOfStep samples, Steps steps) {
  if (device_tiles_) return device_tiles_->stream(augmented_, std::move(samples), steps);
  return std::make_unique<BatchStream>(*store_, session_.transform, augmented_, std::move(samples),
                                       steps);
}

void Inputs::compute_all(std::string_view what) {
  const auto samples = tiles_.size() * views_;
  const auto at_once = static_cast<std::size_t>(frozen_->batch());
  const SamplesOfStep samples_of = [&](std::int64_t step) {
    std::vector<Sample> of_step;
    const auto begin = static_cast<std::size_t>(step) * at_once;
    for (std::size_t i = begin; i < std::min(begin + at_once, samples); ++i) {
      of_step.push_back({tiles_[i / views_], i % views_});
    }
    return of_step;
  };
  const auto steps = static_cast<std::int64_t>((samples + at_once - 1) / at_once);
  const auto stream = pixels(samples_of, {0, steps});
  Progress progress(fmt::format("features of the {} tiles", what), "tiles", samples,
                    session_.ranks.is_root());
  for (std::int64_t step = 0; step < steps && stop_signal() == 0; ++step) {
    cache_->put(samples_of(step), frozen_->features(stream->next().input));
    progress.update(std::min(static_cast<std::uint64_t>(step + 1) * at_once, samples));
  }
}

std::unique_ptr<InputStream> Inputs::stream(std::uint64_t epoch, TilesOfStep tiles, Steps steps) {
  SamplesOfStep samples = [this, epoch, tiles = std::move(tiles)](std::int64_t step) {
    std::vector<Sample> of_step;
    for (const std::uint32_t tile : tiles(step)) {
      std::uint64_t view = epoch;
      if (views_ > 0) view = KeyedRandom({session_.seed, kStreamView, epoch, tile}).below(views_);
      of_step.push_back({tile, view});
    }
    return of_step;
  };
  if (cache_) return std::make_unique<KeptFeatures>(*cache_, samples, steps);
  auto tiles_themselves = pixels(std::move(samples), steps);
  if (views_ == 0) return tiles_themselves;
  return std::make_unique<FreshFeatures>(std::move(tiles_themselves), *frozen_,
                                         feature_type(session_));
}

}  // namespace quadrat
