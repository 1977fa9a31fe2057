#include "onednn_ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <optional>
#include <string_view>

// The operators have no C++ header: torch's compiler for Python reaches them by name, and so do we. typed() checks
// the signatures against the library's when each is first used.

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

at::Tensor prepack_convolution(const at::Tensor& weight, ConvolutionShape shape, at::IntArrayRef input_size) {
  static const auto op =
      find<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, std::int64_t,
                      at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_weight");
  return op.call(weight.contiguous(at::MemoryFormat::ChannelsLast), pair_of(shape.padding), pair_of(shape.stride),
                 kNoDilation, 1, input_size);
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                       ConvolutionShape shape, bool relu) {
  static const auto op = find<at::Tensor(const at::Tensor&, const at::Tensor&, const Bias&, at::IntArrayRef,
                                         at::IntArrayRef, at::IntArrayRef, std::int64_t, std::string_view, Scalars,
                                         Text)>("mkldnn::_convolution_pointwise");
  return op.call(input, packed, bias, pair_of(shape.padding), pair_of(shape.stride), kNoDilation, 1,
                 relu ? "relu" : "none", Scalars(), std::nullopt);
}

void convolution_add(at::Tensor& addend, const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                     ConvolutionShape shape, bool relu) {
  static const auto op =
      find<at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&, const Bias&, at::IntArrayRef,
                       at::IntArrayRef, at::IntArrayRef, std::int64_t, std::string_view, std::optional<at::Scalar>,
                       Text, Scalars, Text)>("mkldnn::_convolution_pointwise_", "binary");
  op.call(addend, input, packed, bias, pair_of(shape.padding), pair_of(shape.stride), kNoDilation, 1, "add",
          at::Scalar(1.0), relu ? Text("relu") : Text(), Scalars(), std::nullopt);
}

at::Tensor prepack_linear(const at::Tensor& weight, std::int64_t batch) {
  static const auto op =
      find<at::Tensor(const at::Tensor&, std::optional<std::int64_t>)>("mkldnn::_reorder_linear_weight");
  return op.call(weight.contiguous(), batch);
}

at::Tensor linear(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias, bool relu) {
  static const auto op = find<at::Tensor(const at::Tensor&, const at::Tensor&, const Bias&, std::string_view, Scalars,
                                         Text)>("mkldnn::_linear_pointwise");
  return op.call(input, packed, bias, relu ? "relu" : "none", Scalars(), std::nullopt);
}

}  // namespace quadrat::score
