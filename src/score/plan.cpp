#include "quadrat/score/plan.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>

#include "amx_convolution.h"
#include "kernels.h"
#include "onednn_ops.h"
#include "quadrat/base/cpu.h"
#include "quadrat/base/error.h"
#include "quadrat/model/int16_linear.h"
#include "quadrat/model/winograd.h"
#include "quadrat/score/device_network.h"

namespace quadrat::score {

namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

at::ScalarType activation_type(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return at::kFloat;
    case Precision::kBf16:
      return at::kBFloat16;
    case Precision::kInt8:
      return at::kByte;
    case Precision::kInt16:
      return at::kFloat;
  }
  return at::kFloat;
}

/// The value torchvision's ToTensor and Normalize give a byte.
float normalised(int byte, double mean, double std) {
  return (static_cast<float>(byte) / 255.0F - static_cast<float>(mean)) / static_cast<float>(std);
}

/// 256 steps from `low` to `high`, one of them exactly 0.
Quantisation quantisation_of(float low, float high) {
  constexpr double kSteps = 255;
  constexpr float kSmallestRange = 1e-6F;  // of a layer that gives nothing but zeros
  const double range = std::max(high - low, kSmallestRange);
  Quantisation result;
  result.scale = range / kSteps;
  result.zero_point = std::lround(-low / result.scale);
  return result;
}

}  // namespace

const char* to_string(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kBf16:
      return "bf16";
    case Precision::kInt8:
      return "int8";
    case Precision::kInt16:
      return "int16";
  }
  return "?";
}

Precision parse_precision(std::string_view text) {
  for (const Precision precision : {Precision::kBf16, Precision::kInt8, Precision::kInt16}) {
    if (text == to_string(precision)) return precision;
  }
  return Precision::kFp32;
}

bool is_supported(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return true;
    // oneDNN computes bf16 in float32 registers where there is AVX-512 without bf16; below that it
    // refuses.
    case Precision::kBf16:
      return cpu_features().avx512;
    // Without VNNI the products of two bytes are added in 16 bits, which overflow.
    case Precision::kInt8:
      return cpu_features().vnni;
    case Precision::kInt16:
      return cpu_features().avx2;
  }
  return false;
}

bool is_accelerated(Precision precision) {
  return precision == Precision::kBf16 ? cpu_features().bf16 : is_supported(precision);
}

struct Plan::Impl {
  struct Step {
    Layer layer;  // without its weights
    std::size_t index = 0;
    at::Tensor packed;
    at::Tensor bias;
    QuantisedWeight quantised;                      // in int8 instead of `packed`
    std::unique_ptr<WinogradConvolution> winograd;  // where quicker: instead of `packed`
    std::unique_ptr<Int16Linear> int16;             // likewise
    std::unique_ptr<AmxConvolution> amx;            // where it can: instead of all of these
    std::optional<Layer> pool;                      // which follows `amx` and is computed with it
    Quantisation in, before, out;                   // of the input, the addend, the output
    bool to_float = false;                          // int8's last layer before the head
    std::int64_t weights = 0;                       // how many

    int output() const { return pool ? pool->output : layer.output; }
  };

  ModelCard card;
  Precision precision = Precision::kFp32;
  std::int64_t batch = 0;
  bool may_use_amx = true;
  std::optional<DeviceNetwork> on_device;  // then all that follows is empty
  std::vector<Step> trunk;                 // up to the flattening: runs on kTilesAtOnce tiles
  std::size_t alone = 0;                   // steps of the trunk that run on one tile at a time
  at::Tensor gathered;                     // what they give, of kTilesAtOnce tiles
  std::vector<Step> dense;                 // the rest but the head: runs on the whole batch
  std::size_t layers = 0;                  // of the network
  Step head;  // always float32: its cost is nothing, and the probabilities are its
  std::shared_ptr<const Forest> forest;  // where the head is one
  std::vector<at::Tensor> slots;
  at::Tensor input;     // [kTilesAtOnce, 3, side, side] channels-last
  at::Tensor flat;      // [batch, features of the trunk]
  at::Tensor features;  // [batch, feature_count] float32
  at::Tensor logits;    // [batch, classes] float32
  PixelTable<float> float_table{};
  PixelTable<std::uint16_t> bf16_table{};
  PixelTable<std::uint8_t> int8_table{};
  Calibration* observed = nullptr;

  void compile(FusedNetwork network, const Calibration* calibration);
  Quantisation fill_tables();
  std::vector<int> slots_needed(std::size_t step) const;
  void split_trunk();
  std::unique_ptr<AmxConvolution> tile_convolution(const Step& step, const at::Tensor& weight,
                                                   const at::Tensor& bias,
                                                   const at::Tensor& in) const;
  void load(const std::uint8_t* tiles, std::int64_t count);
  Result infer(std::int64_t count,
               const std::function<void(std::int64_t first, std::int64_t count)>& load_input);
  void run_step(const Step& step);
  at::Tensor averaged(const at::Tensor& in, const Step& step) const;
  void note(const Step& step);
};

/// @return what int8's bytes of the input mean
Quantisation Plan::Impl::fill_tables() {
  float low = 0;
  float high = 0;
  for (std::size_t c = 0; c < 3; ++c) {
    low = std::min(low, normalised(0, card.mean[c], card.std[c]));
    high = std::max(high, normalised(255, card.mean[c], card.std[c]));
  }
  const Quantisation quantisation = quantisation_of(low, high);
  for (std::size_t c = 0; c < 3; ++c) {
    for (int byte = 0; byte < 256; ++byte) {
      const float value = normalised(byte, card.mean[c], card.std[c]);
      const auto index = static_cast<std::size_t>(byte);
      float_table[c][index] = value;
      bf16_table[c][index] = c10::BFloat16(value).x;
      int8_table[c][index] = static_cast<std::uint8_t>(
          std::clamp(std::lround(value / quantisation.scale) + quantisation.zero_point, 0L, 255L));
    }
  }
  return quantisation;
}

namespace {

AmxConvolution::Meaning meaning(Quantisation quantisation) {
  return {static_cast<float>(quantisation.scale),
          static_cast<std::int32_t>(quantisation.zero_point)};
}

WinogradShape winograd_shape(const Layer& layer, const at::Tensor& in, std::int64_t channels_out) {
  return {in.size(1), channels_out, layer.kernel, layer.stride, layer.padding};
}

/// @param in of the type that is computed in
bool has_winograd(const Layer& layer, const at::Tensor& in, std::int64_t channels_out,
                  WinogradProducts products) {
  const WinogradShape shape = winograd_shape(layer, in, channels_out);
  return WinogradConvolution::pays(shape, in.size(2), in.size(3), products) &&
         (in.scalar_type() == torch::kFloat || WinogradConvolution::beats_bf16(shape));
}

}  // namespace

/// @return nothing where AmxConvolution cannot
std::unique_ptr<AmxConvolution> Plan::Impl::tile_convolution(const Step& step,
                                                             const at::Tensor& weight,
                                                             const at::Tensor& bias,
                                                             const at::Tensor& in) const {
  const AmxConvolution::Shape shape{in.size(1),        weight.size(0),     step.layer.kernel,
                                    step.layer.stride, step.layer.padding, in.size(2),
                                    in.size(3)};
  if (!may_use_amx || activation_type(precision) == at::kFloat ||
      !AmxConvolution::is_supported(shape))
    return nullptr;
  const at::Tensor plain = weight.contiguous();
  const auto* biases = bias.const_data_ptr<float>();
  if (precision == Precision::kBf16) {
    return std::make_unique<AmxConvolution>(shape, plain.const_data_ptr<float>(), biases);
  }
  const Int8Weight bytes = to_int8(plain);
  return std::make_unique<AmxConvolution>(
      shape, bytes.values.const_data_ptr<std::int8_t>(), bytes.scales.const_data_ptr<float>(),
      biases, meaning(step.in), meaning(step.before), meaning(step.out));
}

void Plan::Impl::compile(FusedNetwork network, const Calibration* calibration) {
  const auto dtype = activation_type(precision);
  const bool is_int8 = precision == Precision::kInt8;
  const auto products =
      precision == Precision::kInt16 ? WinogradProducts::kInt16 : WinogradProducts::kFloat32;
  layers = network.layers.size();
  std::vector<Quantisation> meanings(
      static_cast<std::size_t>(network.slots));  // of the slots' bytes
  meanings[0] = fill_tables();
  input = at::empty({kTilesAtOnce, 3, card.tile_px, card.tile_px},
                    at::TensorOptions(dtype).memory_format(kChannelsLast))
              .zero_();
  slots.assign(static_cast<std::size_t>(network.slots), at::Tensor());

  // A dry run gives every layer the size of its input, which is what prepacking wants to know.
  slots[0] = input;
  bool in_trunk = true;
  for (std::size_t i = 0; i < network.layers.size(); ++i) {
    Layer& layer = network.layers[i];
    Step step;
    at::Tensor weight = std::exchange(layer.weight, {});
    const at::Tensor bias = std::exchange(layer.bias, {});
    step.layer = layer;
    step.index = i;
    step.bias = bias;
    const at::Tensor& in = slots[static_cast<std::size_t>(layer.input)];
    if (i + 1 == network.layers.size()) {
      step.packed = weight;
      head = std::move(step);
      break;
    }
    const ConvolutionShape shape{layer.stride, layer.padding};
    step.in = step.out = meanings[static_cast<std::size_t>(layer.input)];
    step.before = meanings[static_cast<std::size_t>(layer.output)];
    step.to_float = is_int8 && i + 2 == network.layers.size();
    if (layer.kind == Layer::Kind::kConvolution || layer.kind == Layer::Kind::kLinear) {
      step.weights = weight.numel();
      const bool is_convolution = layer.kind == Layer::Kind::kConvolution;
      if (is_int8) {
        const Calibration::Range& range = calibration->layers.at(i);
        step.out = quantisation_of(layer.relu ? 0.0F : range.low, range.high);
      }
      if (is_convolution) step.amx = tile_convolution(step, weight, bias, in);
      if (step.amx) {
        // No other needs its weights.
      } else if (is_int8) {
        step.quantised = is_convolution ? quantise_convolution(weight, step.in, shape, in.sizes())
                                        : quantise_linear(weight, in.sizes());
      } else if (is_convolution && has_winograd(layer, in, weight.size(0), products)) {
        step.winograd = std::make_unique<WinogradConvolution>(
            winograd_shape(layer, in, weight.size(0)),
            weight.contiguous(kChannelsLast).const_data_ptr<float>(), bias.const_data_ptr<float>(),
            products);
      } else if (!is_convolution && products == WinogradProducts::kInt16 &&
                 Int16Linear::is_supported(weight.size(1), weight.size(0))) {
        step.int16 = std::make_unique<Int16Linear>(weight.size(1), weight.size(0),
                                                   weight.contiguous().const_data_ptr<float>(),
                                                   bias.const_data_ptr<float>());
      } else {
        weight = weight.to(dtype);  // in float32 no longer needed
        step.packed = is_convolution ? prepack_convolution(weight, shape, in.sizes())
                                     : prepack_linear(weight, batch);
        step.bias = bias.to(dtype);
      }
    }
    meanings[static_cast<std::size_t>(layer.output)] = step.out;
    const Layer& next = network.layers[i + 1];
    if (step.amx && next.kind == Layer::Kind::kMaxPool && next.input == layer.output) {
      // Nothing else looks at what is pooled.
      step.pool = next;
      meanings[static_cast<std::size_t>(next.output)] = step.out;
      ++i;
    }
    if (layer.kind == Layer::Kind::kFlatten) {
      in_trunk = false;
      flat = at::zeros({batch, in.numel() / in.size(0)}, in.options());
      slots[static_cast<std::size_t>(layer.output)] = flat;
      trunk.push_back(std::move(step));
      continue;
    }
    run_step(step);
    (in_trunk ? trunk : dense).push_back(std::move(step));
  }
  features =
      at::zeros({batch, slots[static_cast<std::size_t>(head.layer.input)].size(1)}, at::kFloat);
  logits = at::zeros({batch, static_cast<std::int64_t>(card.classes.size())}, at::kFloat);
  split_trunk();
}

/// Slots that hold what the trunk from `step` on still looks at.
std::vector<int> Plan::Impl::slots_needed(std::size_t step) const {
  std::vector<int> needed;
  std::vector<char> is_known(slots.size());  // needed already, or made in between
  for (; step < trunk.size(); ++step) {
    const Layer& layer = trunk[step].layer;
    for (const int slot : {layer.input, layer.addend}) {
      if (slot < 0 || is_known[static_cast<std::size_t>(slot)] != 0) continue;
      is_known[static_cast<std::size_t>(slot)] = 1;
      needed.push_back(slot);
    }
    is_known[static_cast<std::size_t>(trunk[step].output())] = 1;
  }
  return needed;
}

/// AMX is so quick that maps have to stay in the cache of a core: as long as they are larger than
/// the weights, one tile at a time; from then on weights are read for kTilesAtOnce tiles.
void Plan::Impl::split_trunk() {
  constexpr std::int64_t kManyWeights = 200'000;
  std::size_t alone_at_most = 0;
  for (std::size_t i = 0; i < trunk.size() && trunk[i].weights <= kManyWeights; ++i) {
    if (!trunk[i].amx && trunk[i].weights > 0) return;
    if (slots_needed(i + 1).size() == 1) alone_at_most = i + 1;
  }
  if (alone_at_most == 0) return;
  alone = alone_at_most;
  const at::Tensor& last = slots[static_cast<std::size_t>(slots_needed(alone).front())];
  gathered = at::zeros(last.sizes(), last.options().memory_format(kChannelsLast));
}

void Plan::Impl::load(const std::uint8_t* tiles, std::int64_t count) {
  const std::int64_t pixels = count * card.tile_px * card.tile_px;
  if (precision == Precision::kBf16) {
    look_up_pixels(tiles, pixels, bf16_table,
                   reinterpret_cast<std::uint16_t*>(input.data_ptr<at::BFloat16>()));
  } else if (precision == Precision::kInt8) {
    look_up_pixels(tiles, pixels, int8_table, input.data_ptr<std::uint8_t>());
  } else {
    look_up_pixels(tiles, pixels, float_table, input.data_ptr<float>());
  }
}

namespace {

PoolShape pool_shape(const Layer& layer, std::int64_t height, std::int64_t width,
                     std::int64_t channels) {
  return {height, width, channels, layer.kernel, layer.stride, layer.padding};
}

/// As max_pool, of values of `type`.
void pool_rows(at::ScalarType type, const void* in, const PoolShape& shape, std::int64_t first,
               std::int64_t last, std::int64_t in_first, void* out) {
  const auto run = [&](auto value) {
    using T = decltype(value);
    max_pool(static_cast<const T*>(in), shape, first, last, in_first, static_cast<T*>(out));
  };
  if (type == at::kBFloat16) {
    run(std::int16_t{});
  } else if (type == at::kByte) {
    run(std::uint8_t{});
  } else {
    run(std::int32_t{});
  }
}

at::Tensor max_pooled(const at::Tensor& in, const Layer& layer) {
  const PoolShape shape = pool_shape(layer, in.size(2), in.size(3), in.size(1));
  at::Tensor out = at::empty({in.size(0), in.size(1), shape.out_height(), shape.out_width()},
                             in.options().memory_format(kChannelsLast));
  const std::int64_t in_step = in.nbytes() / in.size(0);
  const std::int64_t out_step = out.nbytes() / out.size(0);
  const auto* from = static_cast<const std::byte*>(in.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
  at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      pool_rows(in.scalar_type(), from + n * in_step, shape, 0, shape.out_height(), 0,
                to + n * out_step);
    }
  });
  return out;
}

/// A convolution and the pooling that follows it, some rows at a time: the map between the two is
/// the network's largest, and never leaves the cache.
at::Tensor convolved_and_pooled(const AmxConvolution& convolution, bool relu, const at::Tensor& in,
                                const Layer& pool) {
  constexpr std::int64_t kRowsAtOnce = 8;
  const AmxConvolution::Shape& map = convolution.shape();
  const PoolShape shape = pool_shape(pool, map.out_height(), map.out_width(), map.channels_out);
  at::Tensor out = at::empty({in.size(0), map.channels_out, shape.out_height(), shape.out_width()},
                             in.options().memory_format(kChannelsLast));
  const std::int64_t pixel_bytes = map.channels_out * convolution.value_bytes();
  const std::int64_t in_step = in.nbytes() / in.size(0);
  const std::int64_t out_row = shape.out_width() * pixel_bytes;
  const auto* in_bytes = static_cast<const std::byte*>(in.const_data_ptr());
  auto* out_bytes = static_cast<std::byte*>(out.mutable_data_ptr());
  const auto run_map = [&](std::int64_t n) {
    static thread_local AlignedBytes rows;
    rows.grow(static_cast<std::size_t>((kRowsAtOnce * pool.stride + pool.kernel) * shape.width *
                                       pixel_bytes));
    std::byte* to = out_bytes + n * shape.out_height() * out_row;
    for (std::int64_t first = 0; first < shape.out_height(); first += kRowsAtOnce) {
      const std::int64_t last = std::min(first + kRowsAtOnce, shape.out_height());
      const std::int64_t top = std::max<std::int64_t>(0, first * pool.stride - pool.padding);
      const std::int64_t bottom =
          std::min(shape.height, (last - 1) * pool.stride - pool.padding + pool.kernel);
      convolution.run_rows(in_bytes + n * in_step, top, bottom, relu, rows.get());
      pool_rows(in.scalar_type(), rows.get(), shape, first, last, top, to);
      to += (last - first) * out_row;
    }
  };
  at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) run_map(n);
  });
  return out;
}

}  // namespace

at::Tensor Plan::Impl::averaged(const at::Tensor& in, const Step& step) const {
  const std::int64_t side = step.layer.side;
  if (side != 1) {
    if (in.scalar_type() != at::kByte)
      return at::adaptive_avg_pool2d(in, {side, side}).contiguous(kChannelsLast);
    return at::adaptive_avg_pool2d(in.to(at::kFloat), {side, side})
        .round()
        .to(at::kByte)
        .contiguous(kChannelsLast);
  }
  // In float32 from here on: the sum over a map has more digits than bf16.
  at::Tensor out = at::empty({in.size(0), in.size(1), 1, 1},
                             at::TensorOptions(at::kFloat).memory_format(kChannelsLast));
  const std::int64_t positions = in.size(2) * in.size(3);
  const std::int64_t channels = in.size(1);
  for (std::int64_t n = 0; n < in.size(0); ++n) {
    const std::int64_t from = n * positions * channels;
    float* to = out.data_ptr<float>() + n * channels;
    if (in.scalar_type() == at::kBFloat16) {
      mean_over_positions_bf16(static_cast<const std::uint16_t*>(in.const_data_ptr()) + from,
                               positions, channels, to);
    } else if (in.scalar_type() == at::kByte) {
      mean_over_positions_u8(in.const_data_ptr<std::uint8_t>() + from, positions, channels,
                             static_cast<float>(step.in.scale), to);
    } else {
      mean_over_positions(in.const_data_ptr<float>() + from, positions, channels, to);
    }
  }
  return out;
}

void Plan::Impl::note(const Step& step) {
  const at::Tensor& tensor = slots[static_cast<std::size_t>(step.layer.output)];
  const Extremes seen = extremes(tensor.const_data_ptr<float>(), tensor.numel());
  Calibration::Range& range = observed->layers[step.index];
  range.low = std::min(range.low, seen.low);
  range.high += (seen.high - range.high) / static_cast<float>(observed->groups + 1);
}

namespace {

/// @param out is what is added before the ReLU, where the layer adds; otherwise it is made
void convolve(const WinogradConvolution& convolution, const at::Tensor& in, const Layer& layer,
              at::Tensor& out) {
  const bool adds = layer.addend >= 0;
  const WinogradMaps maps{in.size(0), in.size(2), in.size(3)};
  const WinogradMaps outs = convolution.shape().outputs_of(maps);
  if (!adds) {
    out = at::empty({maps.count, convolution.shape().channels_out, outs.height, outs.width},
                    in.options().memory_format(kChannelsLast));
  }
  const auto run = [&](auto type) {
    using T = decltype(type);
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    convolution.run(static_cast<const T*>(in.const_data_ptr()), maps, adds ? to : nullptr,
                    layer.relu, to);
  };
  if (in.scalar_type() == at::kBFloat16) {
    run(std::uint16_t{});
  } else {
    run(float{});
  }
}

void convolve(const AmxConvolution& convolution, const at::Tensor& in, const Layer& layer,
              at::Tensor& out) {
  const AmxConvolution::Shape& shape = convolution.shape();
  const bool adds = layer.addend >= 0;
  if (!adds) {
    out = at::empty({in.size(0), shape.channels_out, shape.out_height(), shape.out_width()},
                    in.options().memory_format(kChannelsLast));
  }
  const auto* from = static_cast<const std::byte*>(in.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
  const std::int64_t in_step = in.nbytes() / in.size(0), out_step = out.nbytes() / out.size(0);
  at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    std::byte* const maps = to + begin * out_step;
    convolution.run(from + begin * in_step, end - begin, adds ? maps : nullptr, layer.relu, maps);
  });
}

}  // namespace

void Plan::Impl::run_step(const Step& step) {
  const Layer& layer = step.layer;
  const ConvolutionShape shape{layer.stride, layer.padding};
  const bool is_int8 = precision == Precision::kInt8;
  const at::Tensor& in = slots[static_cast<std::size_t>(layer.input)];
  at::Tensor& out = slots[static_cast<std::size_t>(layer.output)];
  switch (layer.kind) {
    case Layer::Kind::kConvolution:
      if (step.pool) {
        slots[static_cast<std::size_t>(step.pool->output)] =
            convolved_and_pooled(*step.amx, layer.relu, in, *step.pool);
      } else if (step.amx) {
        convolve(*step.amx, in, layer, out);
      } else if (step.winograd) {
        convolve(*step.winograd, in, layer, out);
      } else if (is_int8 && layer.addend >= 0) {
        convolution_add_int8(out, step.before, in, step.in, step.quantised, step.bias, shape,
                             layer.relu, step.out);
      } else if (is_int8) {
        out = convolution_int8(in, step.in, step.quantised, step.bias, shape, layer.relu, step.out);
      } else if (layer.addend >= 0) {
        convolution_add(out, in, step.packed, step.bias, shape, layer.relu);
      } else {
        out = convolution(in, step.packed, step.bias, shape, layer.relu);
      }
      break;
    case Layer::Kind::kLinear:
      if (is_int8) {
        out = linear_int8(in, step.in, step.quantised, step.bias, layer.relu, step.out,
                          step.to_float);
      } else if (step.int16) {
        out = at::empty({in.size(0), step.int16->outputs()}, in.options());
        step.int16->run(in.const_data_ptr<float>(), in.size(0), layer.relu,
                        out.mutable_data_ptr<float>());
      } else {
        out = linear(in, step.packed, step.bias, layer.relu);
      }
      break;
    case Layer::Kind::kMaxPool:
      out = max_pooled(in, layer);
      break;
    case Layer::Kind::kAveragePool:
      out = averaged(in, step);
      break;
    case Layer::Kind::kFlatten:
    case Layer::Kind::kForest:
      break;
  }
  if (observed != nullptr) note(step);
}

std::int64_t Plan::suitable_batch(Architecture architecture) {
  return architecture == Architecture::kAlexNet ? 64 : kTilesAtOnce;
}

Plan::Plan(FusedNetwork network, Precision precision, std::int64_t batch,
           const Calibration* calibration, torch::Device device, bool may_use_amx)
    : impl_(std::make_unique<Impl>()) {
  if (device.is_cuda() && precision != Precision::kFp32 && precision != Precision::kBf16) {
    throw UsageError(
        fmt::format("--precision is {}, which is for CPUs; give --precision bf16 or --device cpu",
                    to_string(precision)));
  }
  if (device.is_cpu() && !is_supported(precision)) {
    throw UsageError(
        fmt::format("--precision is {}, but this CPU cannot compute in it; give --precision auto",
                    to_string(precision)));
  }
  assert(precision != Precision::kInt8 || (calibration != nullptr && calibration->groups > 0));
  const torch::InferenceMode guard;
  impl_->card = network.card;
  impl_->forest = network.forest;
  impl_->precision = precision;
  impl_->may_use_amx = may_use_amx;
  impl_->batch =
      (std::max<std::int64_t>(batch, 1) + kTilesAtOnce - 1) / kTilesAtOnce * kTilesAtOnce;
  if (device.is_cuda()) {
    impl_->on_device.emplace(std::move(network), device, activation_type(precision));
  } else {
    impl_->compile(std::move(network), calibration);
  }
}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;

std::int64_t Plan::batch() const { return impl_->batch; }
Precision Plan::precision() const { return impl_->precision; }
const ModelCard& Plan::card() const { return impl_->card; }
std::size_t Plan::layers() const { return impl_->layers; }
std::int64_t Plan::bytes_per_tile() const {
  return std::int64_t{3} * impl_->card.tile_px * impl_->card.tile_px;
}

/// @param load_input fills `input` from tiles `first` to `first + count`
Plan::Result Plan::Impl::infer(
    std::int64_t count,
    const std::function<void(std::int64_t first, std::int64_t count)>& load_input) {
  assert(count <= batch);
  const std::int64_t flat_row_bytes = flat.size(1) * flat.element_size();
  for (std::int64_t first = 0; first < count; first += kTilesAtOnce) {
    const std::int64_t here = std::min(kTilesAtOnce, count - first);
    if (alone == 0) {
      load_input(first, here);
      slots[0] = input;
    } else {
      const int last = slots_needed(alone).front();
      const auto tile_bytes = static_cast<std::int64_t>(gathered.nbytes()) / kTilesAtOnce;
      auto* to = static_cast<std::byte*>(gathered.mutable_data_ptr());
      for (std::int64_t i = 0; i < here; ++i, to += tile_bytes) {
        load_input(first + i, 1);
        slots[0] = input.narrow(0, 0, 1);
        for (std::size_t step = 0; step < alone; ++step) run_step(trunk[step]);
        std::memcpy(to, slots[static_cast<std::size_t>(last)].const_data_ptr(),
                    static_cast<std::size_t>(tile_bytes));
      }
      slots[static_cast<std::size_t>(last)] = gathered;
    }
    for (std::size_t i = alone; i < trunk.size(); ++i) {
      const Step& step = trunk[i];
      if (step.layer.kind != Layer::Kind::kFlatten) {
        run_step(step);
        continue;
      }
      const at::Tensor& map = slots[static_cast<std::size_t>(step.layer.input)];
      std::memcpy(static_cast<std::byte*>(flat.mutable_data_ptr()) + first * flat_row_bytes,
                  map.const_data_ptr(), static_cast<std::size_t>(here * flat_row_bytes));
      slots[static_cast<std::size_t>(step.layer.output)] = flat;
    }
  }
  for (const Impl::Step& step : dense) run_step(step);
  features.copy_(slots[static_cast<std::size_t>(head.layer.input)]);
  if (forest) {
    forest->log_probabilities(features.const_data_ptr<float>(), count,
                              logits.mutable_data_ptr<float>());
  } else {
    at::addmm_out(logits, head.bias, features, head.packed.t());
  }
  return {features.narrow(0, 0, count), logits.narrow(0, 0, count)};
}

bool Plan::is_on_device() const { return impl_->on_device.has_value(); }

Plan::Result Plan::infer(std::span<const std::uint8_t> tiles) {
  const torch::InferenceMode guard;
  const Result result = start(tiles);
  return {result.features.cpu(), result.logits.cpu()};
}

Plan::Result Plan::start(std::span<const std::uint8_t> tiles) {
  const torch::InferenceMode guard;
  const std::int64_t count = static_cast<std::int64_t>(tiles.size()) / bytes_per_tile();
  assert(count * bytes_per_tile() == static_cast<std::int64_t>(tiles.size()));
  if (impl_->on_device) return impl_->on_device->infer(tiles);
  return impl_->infer(count, [&](std::int64_t first, std::int64_t here) {
    impl_->load(tiles.data() + first * bytes_per_tile(), here);
  });
}

Plan::Result Plan::infer(const torch::Tensor& tiles) {
  const torch::InferenceMode guard;
  assert(impl_->precision != Precision::kInt8 && !impl_->on_device);
  return impl_->infer(tiles.size(0), [&](std::int64_t first, std::int64_t here) {
    impl_->input.narrow(0, 0, here).copy_(tiles.narrow(0, first, here));
  });
}

void Plan::observe(std::span<const std::uint8_t> tiles, Calibration& calibration) {
  Impl& plan = *impl_;
  assert(plan.precision == Precision::kFp32 && plan.batch == kTilesAtOnce);
  calibration.layers.resize(layers());
  plan.observed = &calibration;
  const auto group = static_cast<std::size_t>(kTilesAtOnce * bytes_per_tile());
  for (; tiles.size() >= group; tiles = tiles.subspan(group)) {
    infer(tiles.first(group));
    ++calibration.groups;
  }
  plan.observed = nullptr;
}

std::vector<float> probabilities(const torch::Tensor& logits) {
  const std::int64_t rows = logits.size(0);
  const std::int64_t columns = logits.size(1);
  std::vector<float> result(static_cast<std::size_t>(rows * columns));
  std::vector<double> powers(static_cast<std::size_t>(columns));
  const float* row = logits.const_data_ptr<float>();
  for (std::int64_t r = 0; r < rows; ++r, row += columns) {
    const double top = *std::max_element(row, row + columns);
    double sum = 0;
    for (std::int64_t c = 0; c < columns; ++c)
      sum += powers[static_cast<std::size_t>(c)] = std::exp(row[c] - top);
    for (std::int64_t c = 0; c < columns; ++c) {
      result[static_cast<std::size_t>(r * columns + c)] =
          static_cast<float>(powers[static_cast<std::size_t>(c)] / sum);
    }
  }
  return result;
}

void keep_freed_memory() {
  constexpr int kLargestKept = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
  mallopt(M_TRIM_THRESHOLD, kLargestKept);
}

}  // namespace quadrat::score
