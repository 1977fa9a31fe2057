#pragma once

#include <cstdint>

#include "quadrat/gpu/element.h"

/// Batch normalisation on a GPU, with what follows it in a residual network in the same pass over
/// memory: what normalize::Kernels are for CPUs. Everything is queued on `stream` and
/// deterministic. Maps are channels last, [images, height, width, channels], and all pointers are
/// to the GPU's memory. @throws DeviceError where a kernel cannot be launched
namespace quadrat::gpu::normalize {

/// Channels are a multiple of this and at most kMostChannels.
constexpr std::int64_t kChannelGroup = 64;
constexpr std::int64_t kMostChannels = 1024;

struct Map {
  Element element = Element::kFloat32;
  std::int64_t images = 0, height = 0, width = 0, channels = 0;
  std::int64_t pool_padding = 1;  ///< of what is pooled: 0 or 1

  std::int64_t rows() const { return images * height * width; }
  /// Side of what a 3x3 maximum with stride 2 makes of a side.
  std::int64_t pooled(std::int64_t side) const { return (side + 2 * pool_padding - 3) / 2 + 1; }
};

/// Floats of scratch memory that sums over a map with so many channels need.
std::int64_t scratch_floats(std::int64_t channels);

/// What ranks add up to know mean and variance of all their inputs.
/// @param x of the map; a map of no images is one of zeros
/// @param moments float64 [2 C + 1]: sums of values, sums of their squares, rows. Taken about a
/// value of each channel and moved to 0 in float64, so that nothing cancels however far from 0 the
/// mean is.
void moments(const Map& map, const void* x, float* scratch, double* moments, CUstream_st* stream);

/// y = x * scale + offset is the normalisation; float32 [C] each.
struct Fold {
  float* mean = nullptr;
  float* invstd = nullptr;
  float* scale = nullptr;
  float* offset = nullptr;
};

/// The layer's own, float32 [C].
struct Layer {
  const float* weight = nullptr;
  const float* bias = nullptr;
  float* running_mean = nullptr;
  float* running_var = nullptr;
};

/// From moments of the whole batch, which the running statistics then learn of too; where there are
/// none, from the running statistics.
/// @param moments as moments() makes them, summed over ranks; or null
void fold(std::int64_t channels, const double* moments, const Layer& layer, double epsilon,
          double momentum, const Fold& fold, CUstream_st* stream);

/// A bias alone: scale 1, mean 0. @param bias float32 [C]
void fold_bias(std::int64_t channels, const float* bias, const Fold& fold, CUstream_st* stream);

/// y = x * scale + offset (+ shortcut), then max(0, y) where `relu`.
/// @param shortcut as x, or null
void apply(const Map& map, const void* x, const void* shortcut, bool relu, const Fold& fold,
           void* y, CUstream_st* stream);

/// Maximum over 3x3 windows, stride 2, of max(0, x * scale + offset).
/// @param map x's @param y [images, map.pooled(height), map.pooled(width), channels]
/// @param place uint8, as y: which of the window's nine the maximum is, the first of several, or
/// 255 where it is not positive
void apply_pooled(const Map& map, const void* x, const Fold& fold, void* y, std::uint8_t* place,
                  CUstream_st* stream);

/// Where a gradient comes from: the gradient of apply's or apply_pooled's output, and what says
/// where it passed the maximum with 0.
struct Gradient {
  const void* dy = nullptr;
  const void* dy2 = nullptr;  ///< with y: added to dy; or null
  bool relu = false;
  const void* y = nullptr;              ///< with a shortcut and relu: apply's output
  const std::uint8_t* place = nullptr;  ///< of apply_pooled
};

/// With g = the gradient that passed: float64 [2 C] sums of g and of g * (x - mean) over this
/// rank's rows.
/// @param passed gets g, as x, or null
void gradient_sums(const Map& map, const Gradient& gradient, const void* x, const Fold& fold,
                   void* passed, float* scratch, double* sums, CUstream_st* stream);

/// The parameters' gradients on this rank, and dx = a * g + b * (x - mean) + c.
struct Coefficients {
  float* weight_gradient = nullptr;  ///< float32 [C]
  float* bias_gradient = nullptr;    ///< float32 [C]
  float* abc = nullptr;              ///< float32 [3 C]
};

/// @param mine this rank's sums @param all those of all ranks; null where statistics do not depend
/// on x
/// @param rows of all ranks, in the GPU's memory: moments + 2 C
void coefficients(std::int64_t channels, const double* mine, const double* all, const double* rows,
                  const float* weight, const Fold& fold, const Coefficients& out,
                  CUstream_st* stream);

/// @param abc Coefficients::abc @param dx as x; may be the gradient's dy, but not where it has a
/// place
void gradient_input(const Map& map, const Gradient& gradient, const void* x, const Fold& fold,
                    const float* abc, void* dx, CUstream_st* stream);

}  // namespace quadrat::gpu::normalize
