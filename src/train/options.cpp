#include "quadrat/train/options.h"

#include <fmt/format.h>

#include <string_view>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

void require(bool right, std::string_view sentence) {
  if (!right) throw UsageError(sentence);
}

}  // namespace

void FinetuneOptions::validate() const {
  require_plain_name("--output_model_name", output_model_name);
  require(!(pretrained_model_type == "resnet18" && retraining_type == "fully_connected"),
          "--retraining_type fully_connected does not go with resnet18, which has one fully "
          "connected layer; use "
          "last_only or all");
  require(num_epochs >= 1, fmt::format("--num_epochs is {}, but must be at least 1", num_epochs));
  require(shards >= 1, fmt::format("--shards is {}, but must be at least 1", shards));
  require(batch_size >= 1 && batch_size % shards == 0,
          fmt::format("--batch_size is {}, but must be a multiple of --shards ({}): every batch "
                      "takes as many tiles from "
                      "each shard",
                      batch_size, shards));
  require(accumulate_batches >= 1,
          fmt::format("--accumulate_batches is {}, but must be at least 1", accumulate_batches));
  require(sample_frac > 0 && sample_frac <= 1,
          fmt::format("--sample_frac is {}, but must be above 0 and at most 1", sample_frac));
  require(learning_rate >= 0,
          fmt::format("--learning_rate is {}, but must be above 0, or 0 to choose", learning_rate));
  require(warmup_epochs >= 0 && warmup_epochs <= static_cast<double>(num_epochs),
          fmt::format("--warmup_epochs is {}, but must be from 0 to --num_epochs ({})",
                      warmup_epochs, num_epochs));
  require(momentum >= 0 && momentum < 1,
          fmt::format("--momentum is {}, but must be from 0 to below 1", momentum));
  require(weight_decay >= 0,
          fmt::format("--weight_decay is {}, but must be at least 0", weight_decay));
  require(label_smoothing >= 0 && label_smoothing < 1,
          fmt::format("--label_smoothing is {}, but must be from 0 to below 1", label_smoothing));
  require(
      clip_gradients >= 0,
      fmt::format("--clip_gradients is {}, but must be above 0, or 0 for none", clip_gradients));
  require(early_stopping >= 0,
          fmt::format("--early_stopping is {}, but must be at least 0", early_stopping));
  require(views >= 1 && views <= 64, fmt::format("--views is {}, but must be from 1 to 64", views));
  require(seed >= 0, fmt::format("--seed is {}, but must be at least 0", seed));
  require(threads >= 0,
          fmt::format("--threads is {}, but must be at least 1, or 0 to choose", threads));
  require(watchdog_seconds >= 0,
          fmt::format("--watchdog_seconds is {}, but must be at least 0", watchdog_seconds));
  require(memory_limit > 0,
          fmt::format("--memory_limit is {} GB, but must be above 0", memory_limit));
}

double FinetuneOptions::effective_learning_rate() const {
  if (learning_rate > 0) return learning_rate;
  const double scale = static_cast<double>(batch_size * accumulate_batches) /
                       64;  // Goyal et al., 2017: linear in the batch
  const bool from_scratch = pretrained_weights == "none";
  if (optimizer == "adamw")
    return (from_scratch || retraining_type == "last_only" ? 1e-3 : 1e-4) * scale;
  if (pretrained_model_type == "alexnet")
    return (retraining_type == "last_only" ? 0.01 : 0.005) * scale;
  return (from_scratch && retraining_type == "all" ? 0.05 : 0.01) * scale;
}

}  // namespace quadrat
