#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "quadrat/comm/all_reduce.h"
#include "quadrat/model/network.h"
#include "quadrat/model/weights.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/score/cpu_abilities.h"
#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/training_sets.h"
#include "quadrat/train/options.h"

namespace quadrat {

/// What all parts of a training run work with, on this rank: its device, the tiles' lists, the
/// network, and the way to the other ranks.
struct Session {
  /// Collective. The network has the same weights on every rank. @throws Error on all ranks
  Session(const FinetuneOptions& options, const mpi::Communicator& ranks);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const FinetuneOptions& options;
  const mpi::Communicator& ranks;
  std::uint64_t seed;
  torch::Device device;
  score::CpuAbilities cpu;
  bool bf16;
  int threads;
  TrainingSets sets;
  TileTransform transform;
  ModelCard card;
  std::shared_ptr<Network> network;
  std::unique_ptr<comm::AllReduce> all_reduce;
  mutable double layers_waited_s = 0;  ///< for other ranks' numbers, inside forward and backward

  bool weights_given() const { return options.pretrained_weights != "none"; }
  std::size_t classes() const { return sets.train.classes.size(); }

  /// [n] on the device, on its way there where that is a GPU.
  torch::Tensor on_device(const std::vector<std::int64_t>& numbers) const;
  /// [n] int64 on the device.
  torch::Tensor labels_of(const Catalog& catalog, const std::vector<std::uint32_t>& tiles) const;

 private:
  void set_up_gpu() const;
  void make_network();
};

/// bf16 where asked for: convolutions and matrix products under autocast, everything else in
/// float32.
class Autocast {
 public:
  explicit Autocast(const Session& session);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool enabled_;
  bool was_enabled_ = false;
  torch::DeviceType device_;
};

}  // namespace quadrat
