#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/model/network.h"
#include "quadrat/record/run_record.h"
#include "quadrat/train/optimizer.h"

namespace quadrat {

/// Where a run stands, beside its weights: enough to go on as if nothing had happened. Random
/// numbers need no state, since each is a function of (seed, epoch, sample).
struct RunPosition {
  std::uint32_t epoch = 1;        ///< being trained, from 1
  std::int64_t step = 0;          ///< next step of that epoch
  double loss_sum = 0;            ///< over the epoch's tiles so far, all ranks
  double wrong = 0;               ///< tiles of the epoch so far that were classified wrongly
  double train_seconds = 0;       ///< of the epoch so far
  std::string created;            ///< of the run
  std::uint32_t tiles_crc32 = 0;  ///< of the lists of tiles; 0: of a checkpoint without
  std::vector<EpochRow> epochs;   ///< complete ones
  std::uint32_t kept_epoch = 0;
  std::vector<float> kept_probabilities;  ///< [validation tiles, classes] of the kept epoch
};

/// runs/NAME/checkpoint.safetensors. Replaced atomically; written by rank 0 alone. @throws IoError
void write_checkpoint(const Path& path, const Network& network, const Optimizer& optimizer,
                      const RunPosition& position);

/// Fills network and optimizer.
/// @param file what is in it, which every rank has from rank 0: on disks of their own the others
/// would find none or an older one
/// @param path for messages
/// @throws InputError where it is no checkpoint, or of another network
RunPosition parse_checkpoint(Bytes file, const Path& path, Network& network, Optimizer& optimizer);

}  // namespace quadrat
