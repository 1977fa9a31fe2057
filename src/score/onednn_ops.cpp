#include "onednn_ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>

// The operators have no C++ header: torch's compiler for Python reaches them by name, and so do we.
// typed() checks the signatures against the library's when each is first used.

namespace quadrat::score {

namespace {

using Scalars = c10::List<std::optional<at::Scalar>>;
using Text = std::optional<std::string_view>;
using Bias = std::optional<at::Tensor>;

template <typename Signature>
auto find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

constexpr std::array<std::int64_t, 2> pair_of(std::int64_t value) { return {value, value}; }
constexpr std::array<std::int64_t, 2> kNoDilation{1, 1};

}  // namespace

at::Tensor prepack_convolution(const at::Tensor& weight, ConvolutionShape shape,
                               at::IntArrayRef input_size) {
  static const auto op = find<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
                                         at::IntArrayRef, std::int64_t, at::OptionalIntArrayRef)>(
      "mkldnn::_reorder_convolution_weight");
  return op.call(weight.contiguous(at::MemoryFormat::ChannelsLast), pair_of(shape.padding),
                 pair_of(shape.stride), kNoDilation, 1, input_size);
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                       ConvolutionShape shape, bool relu) {
  static const auto op =
      find<at::Tensor(const at::Tensor&, const at::Tensor&, const Bias&, at::IntArrayRef,
                      at::IntArrayRef, at::IntArrayRef, std::int64_t, std::string_view, Scalars,
                      Text)>("mkldnn::_convolution_pointwise");
  return op.call(input, packed, bias, pair_of(shape.padding), pair_of(shape.stride), kNoDilation, 1,
                 relu ? "relu" : "none", Scalars(), std::nullopt);
}

void convolution_add(at::Tensor& addend, const at::Tensor& input, const at::Tensor& packed,
                     const at::Tensor& bias, ConvolutionShape shape, bool relu) {
  static const auto op =
      find<at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&, const Bias&,
                       at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, std::int64_t,
                       std::string_view, std::optional<at::Scalar>, Text, Scalars, Text)>(
          "mkldnn::_convolution_pointwise_", "binary");
  op.call(addend, input, packed, bias, pair_of(shape.padding), pair_of(shape.stride), kNoDilation,
          1, "add", at::Scalar(1.0), relu ? Text("relu") : Text(), Scalars(), std::nullopt);
}

at::Tensor prepack_linear(const at::Tensor& weight, std::int64_t batch) {
  static const auto op = find<at::Tensor(const at::Tensor&, std::optional<std::int64_t>)>(
      "mkldnn::_reorder_linear_weight");
  return op.call(weight.contiguous(), batch);
}

at::Tensor linear(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                  bool relu) {
  static const auto op =
      find<at::Tensor(const at::Tensor&, const at::Tensor&, const Bias&, std::string_view, Scalars,
                      Text)>("mkldnn::_linear_pointwise");
  return op.call(input, packed, bias, relu ? "relu" : "none", Scalars(), std::nullopt);
}

// Row by row: a large layer is not held in memory several times.
Int8Weight to_int8(const at::Tensor& weight) {
  constexpr float kLargest = 127;
  constexpr float kSmallestScale = 1e-12F;  // a channel of zeros
  const at::Tensor rows = weight.contiguous();
  const std::int64_t count = weight.size(0);
  const std::int64_t length = weight.numel() / count;
  Int8Weight result{at::empty(weight.sizes(), at::kChar), at::empty({count}, at::kFloat)};
  const float* from = rows.const_data_ptr<float>();
  auto* to = result.values.data_ptr<std::int8_t>();
  for (std::int64_t row = 0; row < count; ++row, from += length, to += length) {
    float largest = 0;
    for (std::int64_t i = 0; i < length; ++i) largest = std::max(largest, std::abs(from[i]));
    const float scale = std::max(largest / kLargest, kSmallestScale);
    result.scales.data_ptr<float>()[row] = scale;
    for (std::int64_t i = 0; i < length; ++i) {
      to[i] = static_cast<std::int8_t>(
          std::nearbyint(std::clamp(from[i] / scale, -kLargest, kLargest)));
    }
  }
  return result;
}

QuantisedWeight quantise_convolution(const at::Tensor& weight, Quantisation input,
                                     ConvolutionShape shape, at::IntArrayRef input_size) {
  static const auto op =
      find<at::Tensor(at::Tensor, at::Tensor, double, std::int64_t, c10::List<std::int64_t>,
                      c10::List<std::int64_t>, c10::List<std::int64_t>, std::int64_t,
                      std::optional<c10::List<std::int64_t>>)>("onednn::qconv_prepack");
  const Int8Weight bytes = to_int8(weight);
  const auto pair = [](std::int64_t value) { return c10::List<std::int64_t>({value, value}); };
  QuantisedWeight result;
  result.scales = bytes.scales;
  result.zero_points = at::zeros({weight.size(0)}, at::kInt);
  result.packed =
      op.call(bytes.values, result.scales, input.scale, input.zero_point, pair(shape.stride),
              pair(shape.padding), pair(1), 1, c10::List<std::int64_t>(input_size));
  return result;
}

QuantisedWeight quantise_linear(const at::Tensor& weight, at::IntArrayRef input_size) {
  static const auto op = find<at::Tensor(at::Tensor, std::optional<c10::List<std::int64_t>>)>(
      "onednn::qlinear_prepack");
  const Int8Weight bytes = to_int8(weight);
  QuantisedWeight result;
  result.scales = bytes.scales;
  result.zero_points = at::zeros({weight.size(0)}, at::kInt);
  result.packed = op.call(bytes.values, c10::List<std::int64_t>(input_size));
  return result;
}

at::Tensor convolution_int8(const at::Tensor& input, Quantisation in, const QuantisedWeight& weight,
                            const at::Tensor& bias, ConvolutionShape shape, bool relu,
                            Quantisation out) {
  using Pair = c10::List<std::int64_t>;
  static const auto op =
      find<at::Tensor(at::Tensor, double, std::int64_t, at::Tensor, at::Tensor, at::Tensor, Bias,
                      Pair, Pair, Pair, std::int64_t, double, std::int64_t,
                      std::optional<at::ScalarType>, std::string_view, Scalars, Text)>(
          "onednn::qconv2d_pointwise");
  return op.call(input, in.scale, in.zero_point, weight.packed, weight.scales, weight.zero_points,
                 bias, Pair({shape.stride, shape.stride}), Pair({shape.padding, shape.padding}),
                 Pair({1, 1}), 1, out.scale, out.zero_point, std::nullopt, relu ? "relu" : "none",
                 Scalars(), "");
}

void convolution_add_int8(at::Tensor& addend, Quantisation before, const at::Tensor& input,
                          Quantisation in, const QuantisedWeight& weight, const at::Tensor& bias,
                          ConvolutionShape shape, bool relu, Quantisation out) {
  using Pair = c10::List<std::int64_t>;
  static const auto op = find<at::Tensor(
      at::Tensor, double, std::int64_t, at::Tensor, at::Tensor, at::Tensor, at::Tensor, Bias, Pair,
      Pair, Pair, std::int64_t, double, std::int64_t, std::optional<at::ScalarType>, double,
      std::int64_t, std::string_view, std::optional<at::Scalar>, Text, Scalars, Text)>(
      "onednn::qconv2d_pointwise", "binary");
  addend = op.call(input, in.scale, in.zero_point, weight.packed, weight.scales, weight.zero_points,
                   addend, bias, Pair({shape.stride, shape.stride}),
                   Pair({shape.padding, shape.padding}), Pair({1, 1}), 1, out.scale, out.zero_point,
                   std::nullopt, before.scale, before.zero_point, "sum", at::Scalar(1.0),
                   relu ? Text("relu") : Text("none"), Scalars(), "");
}

at::Tensor linear_int8(const at::Tensor& input, Quantisation in, const QuantisedWeight& weight,
                       const at::Tensor& bias, bool relu, Quantisation out, bool to_float) {
  static const auto op =
      find<at::Tensor(at::Tensor, double, std::int64_t, at::Tensor, at::Tensor, at::Tensor, Bias,
                      double, std::int64_t, std::optional<at::ScalarType>, std::string_view,
                      Scalars, std::string_view)>("onednn::qlinear_pointwise");
  return op.call(input, in.scale, in.zero_point, weight.packed, weight.scales, weight.zero_points,
                 bias, to_float ? 1.0 : out.scale, to_float ? 0 : out.zero_point,
                 to_float ? std::optional(at::kFloat) : std::nullopt, relu ? "relu" : "none",
                 Scalars(), "");
}

}  // namespace quadrat::score
