#pragma once

#include <cstdint>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"

namespace quadrat {

/// What quadrat-finetune is asked to do; the members are named as the options are, and mean what
/// --help says.
struct FinetuneOptions {
  Path train;
  Path validation;
  double sample_frac = 1.0;

  std::string pretrained_model_type;
  std::string retraining_type;
  std::string pretrained_weights = "none";
  std::string output_model_name;
  Path runs = "runs";
  std::string resume = "auto";

  std::int64_t num_epochs = 10;
  std::int64_t batch_size = 64;         ///< over all ranks
  std::int64_t accumulate_batches = 1;  ///< batches whose gradients make one step
  std::int64_t shards = 16;
  std::string optimizer = "sgd";
  double learning_rate =
      0;  ///< 0: by network, retraining and optimizer (see effective_learning_rate)
  std::string lr_schedule = "cosine";
  double warmup_epochs = 0;
  double momentum = 0.9;
  double weight_decay = 5e-4;
  double label_smoothing = 0;
  std::string class_weights = "none";
  double clip_gradients = 0;        ///< 0: not
  std::int64_t early_stopping = 0;  ///< epochs without a better validation error; 0: never
  std::string augment = "dihedral";
  std::int64_t views = 4;
  std::string batch_norm = "local";
  std::int64_t seed = 0;

  std::string device = "auto";
  std::string precision = "auto";
  std::int64_t threads = 0;  ///< a rank; 0: the host's cores over its ranks
  double memory_limit = 4;   ///< GB a rank for decoded tiles and kept features
  Path scratch;
  bool bf16_gradients = false;
  double watchdog_seconds = 60;  ///< a rank silent for so long ends the job; 0: never

  /// @throws UsageError for anything that can be seen to be wrong without touching a file
  void validate() const;

  /// --learning_rate, or what does well untuned.
  double effective_learning_rate() const;
};

}  // namespace quadrat
