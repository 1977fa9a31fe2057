#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/score/network.h"

namespace quadrat::score {

/// Numbers the network is computed in. In kInt16 maps are float32; products are of integers in
/// fully connected layers and where convolutions go by Winograd's algorithm
/// (WinogradProducts::kInt16).
enum class Precision { kFp32, kBf16, kInt8, kInt16 };

const char* to_string(Precision precision);

/// The precision that to_string names so; kFp32 for any other text.
Precision parse_precision(std::string_view text);

/// Whether this CPU computes in the precision at all; where it does so in hardware it is also
/// quicker.
bool is_supported(Precision precision);
bool is_accelerated(Precision precision);

/// What int8 needs to know: the values every layer's output takes on typical tiles. Made by
/// Plan::observe.
struct Calibration {
  struct Range {
    float low = 0;
    float high = 0;
  };
  /// One a layer: the smallest value seen, and the mean over groups of kTilesAtOnce tiles of the
  /// largest, which a single odd tile moves little.
  std::vector<Range> layers;
  std::int64_t groups = 0;
};

/// A network compiled for this CPU: layers fused, weights prepacked, activations channels-last,
/// shapes fixed, through the oneDNN operators that LibTorch registers
/// (mkldnn::_convolution_pointwise and its relatives). Where there is AMX, convolutions in bf16 and
/// int8 are our own; in fp32, and in bf16 without AMX, they go by Winograd's algorithm where that
/// is quicker (WinogradConvolution).
///
/// Convolutions run on `kTilesAtOnce` tiles at a time, so that activations stay in the cache, with
/// AMX the first of them on one; fully connected layers on all of the batch, so that their weights
/// are read once. A tile's result does not depend on its neighbours or on how full the batch is.
/// One thread; not thread-safe.
class Plan {
 public:
  static constexpr std::int64_t kTilesAtOnce = 8;

  /// The batch that suits the architecture: larger where fully connected layers dominate the memory
  /// traffic.
  static std::int64_t suitable_batch(Architecture architecture);

  /// @param batch the most tiles of one call, rounded up to a multiple of kTilesAtOnce
  /// @param calibration needed for kInt8, otherwise ignored
  /// @param device a GPU: the network is a DeviceNetwork there, in kFp32 or kBf16
  /// @param may_use_amx false where other ranks, or an earlier start, compute the same without:
  ///   bf16's and int8's last digits would differ
  /// @throws UsageError where this CPU, or a GPU, lacks what the precision needs
  Plan(FusedNetwork network, Precision precision, std::int64_t batch,
       const Calibration* calibration = nullptr, torch::Device device = torch::kCPU,
       bool may_use_amx = true);
  ~Plan();
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;

  struct Result {
    torch::Tensor features;  ///< [n, feature_count] float32: what the head sees
    torch::Tensor logits;    ///< [n, classes] float32
  };

  /// @param tiles [n, tile_px, tile_px, 3] RGB, row by row; n at most batch()
  /// @return views of buffers that the next call overwrites
  Result infer(std::span<const std::uint8_t> tiles);

  /// As infer; on a GPU without waiting for it, the tensors being the GPU's. `tiles`, in pinned
  /// memory, must stay as they are until the logits have been copied to the host.
  Result start(std::span<const std::uint8_t> tiles);

  bool is_on_device() const;

  /// As infer, of tiles that were augmented and normalised already. On a CPU, not in kInt8.
  /// @param tiles [n, 3, tile_px, tile_px] float32 in channels-last memory
  Result infer(const torch::Tensor& tiles);

  /// On a CPU. As infer, taking note of the range of every layer's output; in a plan of
  /// kFp32 and batch kTilesAtOnce; tiles beyond whole groups of kTilesAtOnce are left out.
  void observe(std::span<const std::uint8_t> tiles, Calibration& calibration);

  std::int64_t batch() const;
  Precision precision() const;
  const ModelCard& card() const;
  std::int64_t bytes_per_tile() const;
  std::size_t layers() const;  ///< as many ranges a calibration has

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Row-wise softmax in float64, rounded to float32. @param logits [n, classes] float32, contiguous
std::vector<float> probabilities(const torch::Tensor& logits);

/// Keeps freed activation buffers for the next batch instead of giving their pages back to the
/// system, which costs more than some layers do. For programs, once the plan is made: it is the
/// process's malloc that is told.
void keep_freed_memory();

}  // namespace quadrat::score
