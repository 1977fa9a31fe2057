#include "made_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quadrat/base/random.h"

namespace quadrat::test {

namespace {

const std::vector<std::string> kClasses{"Barren", "Cultivated", "Developed",
                                        "Forest", "Herbaceous", "Shrub"};

/// What a class is mistaken for first.
constexpr std::uint16_t kLookalike[] = {4, 4, 0, 5, 1, 3};

/// Probabilities that favour `label`, or its lookalike where the model errs.
std::vector<float> say(std::uint16_t label, double skill, KeyedRandom& random) {
  std::vector<double> logits;
  for (std::size_t c = 0; c < kClasses.size(); ++c) logits.push_back(1.2 * random.uniform(-1, 1));
  logits[label] += skill * random.uniform(0.0, 1.0) + 0.6;
  logits[kLookalike[label]] += 2.6 * random.uniform(0.0, 1.0);
  double sum = 0;
  for (double& logit : logits) sum += logit = std::exp(logit);
  std::vector<float> probabilities;
  for (const double value : logits) probabilities.push_back(static_cast<float>(value / sum));
  return probabilities;
}

void append(Predictions& to, const std::string& tile, const std::vector<float>& probabilities) {
  to.tiles.push_back(tile);
  to.predicted.push_back(static_cast<std::uint16_t>(
      std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin()));
  to.probabilities.insert(to.probabilities.end(), probabilities.begin(), probabilities.end());
}

}  // namespace

RunRecord made_run(const std::string& name, std::uint64_t seed, std::size_t tiles,
                   std::uint32_t epochs) {
  KeyedRandom random({seed, 77});
  RunRecord record;
  record.name = name;
  record.status = RunStatus::kComplete;
  record.program = "quadrat-finetune 0.1.0";
  record.config = {{"train", "tiles/train"},
                   {"validation", "tiles/validation"},
                   {"pretrained_model_type", seed % 2 == 0 ? "resnet18" : "alexnet"},
                   {"retraining_type", seed % 3 == 0 ? "last_only" : "all"},
                   {"num_epochs", epochs},
                   {"batch_size", 64},
                   {"learning_rate", 0.01},
                   {"weight_decay", 0.0005},
                   {"lr_schedule", "cosine"},
                   {"augment", "dihedral"},
                   {"precision", "bf16"},
                   {"seed", seed}};
  record.environment = {{"ranks", 2},
                        {"hosts", 1},
                        {"device", "cpu"},
                        {"threads_per_rank", 1},
                        {"precision", "bf16"},
                        {"libtorch", "2.11.0"},
                        {"mpi", "Open MPI 4.1.4"},
                        {"tiles_crc32", "67267253"}};
  record.classes = kClasses;
  for (std::uint32_t epoch = 1; epoch <= epochs; ++epoch) {
    const double progress = static_cast<double>(epoch) / epochs;
    EpochRow row;
    row.epoch = epoch;
    row.train_loss = 0.32 + 1.3 * std::exp(-4 * progress) + random.uniform(-0.02, 0.02);
    row.train_error = 0.08 + 0.45 * std::exp(-4 * progress) + random.uniform(-0.01, 0.01);
    row.validation_loss = 0.48 + 1.1 * std::exp(-4 * progress) + random.uniform(-0.04, 0.04);
    row.validation_error = 0.19 + 0.4 * std::exp(-4 * progress) + random.uniform(-0.015, 0.015);
    row.learning_rate = 0.005 * (1 + std::cos(3.14159265358979 * progress));
    row.seconds = 21 + random.uniform(-0.5, 0.5);
    row.tiles_per_s = 55 + random.uniform(-1, 1);
    record.epochs.push_back(row);
  }
  if (epochs > 0) {
    record.kept_epoch = std::min_element(record.epochs.begin(), record.epochs.end(),
                                         [](const EpochRow& a, const EpochRow& b) {
                                           return a.validation_error < b.validation_error;
                                         })
                            ->epoch;
    for (std::size_t i = 0; i < tiles; ++i) {
      const auto label = static_cast<std::uint16_t>(i * kClasses.size() / tiles);
      record.validation.labels.push_back(label);
      append(record.validation, fmt::format("{}/county_b_{:05d}.png", kClasses[label], i),
             say(label, 5.5, random));
    }
  }
  return record;
}

ScoreRecord made_scores(std::uint64_t seed, std::uint32_t across, double town_radius) {
  ScoreRecord record;
  record.status = RunStatus::kComplete;
  record.seconds = 0.004 * across * across;
  record.config = {
      {"tiles", "tiles/county"}, {"output_model_name", "resnet_all"}, {"sample_frac", 1.0}};
  record.environment = {{"ranks", 2}, {"device", "cpu"}, {"precision", "int8"}};
  record.classes = kClasses;
  KeyedRandom random({seed, 78});
  const double side_degrees_lat = 224.0 / 111320.0;
  const double south = 42.2;
  const double west = -71.6;
  const double side_degrees_lon = side_degrees_lat / std::cos(42.35 * 3.14159265358979 / 180);
  for (std::uint32_t y = 0; y < across; ++y) {
    for (std::uint32_t x = 0; x < across; ++x) {
      const double u = (x + 0.5) / across;
      const double v = (y + 0.5) / across;
      const double radius = std::hypot(u - 0.62, v - 0.45) *
                            (1 + 0.25 * std::sin(5 * std::atan2(v - 0.45, u - 0.62)));
      const double hills = std::sin(7 * u + 1.5) * std::cos(6 * v) + 0.5 * std::sin(13 * v + 4 * u);
      std::uint16_t label = hills > 0.45    ? 3
                            : hills > 0.2   ? 5
                            : hills > -0.35 ? 1
                            : hills > -0.8  ? 4
                                            : 0;
      if (radius < town_radius) label = 2;
      const std::string tile = fmt::format("county_{:04d}.png", y * across + x);
      if ((y * across + x) % 997 == 500) {
        record.rejected.push_back({tile, "IDAT: CRC error"});
        continue;
      }
      append(record.predictions, tile, say(label, 6.5, random));
      const double lat = south + (across - 1 - y) * side_degrees_lat;
      const double lon = west + x * side_degrees_lon;
      record.corners.push_back({lat, lon, lat + side_degrees_lat, lon + side_degrees_lon});
    }
  }
  return record;
}

}  // namespace quadrat::test
