#include "convolution.h"

#include <ATen/autocast_mode.h>

#include <array>

#include "quadrat/base/cpu.h"
#include "quadrat/model/winograd.h"

namespace quadrat {

namespace {

using torch::autograd::AutogradContext;

constexpr auto kChannelsLast = torch::MemoryFormat::ChannelsLast;

WinogradShape shape_of(const torch::Tensor& weight, std::int64_t stride, std::int64_t padding) {
  return {weight.size(1), weight.size(0), weight.size(2), stride, padding};
}

bool has_winograd(const torch::Tensor& input, const torch::Tensor& weight,
                  const WinogradShape& shape) {
  if (!input.is_cpu() || weight.scalar_type() != torch::kFloat || weight.size(3) != shape.kernel ||
      !WinogradConvolution::pays(shape, input.size(2), input.size(3)))
    return false;
  const bool is_fp32 =
      input.scalar_type() == torch::kFloat && !at::autocast::is_autocast_enabled(torch::kCPU);
  const bool is_bf16 = input.scalar_type() == torch::kBFloat16 && !cpu_features().amx &&
                       WinogradConvolution::beats_bf16(shape);
  return is_fp32 || is_bf16;
}

/// Whether WinogradConvolution::of_input_gradient can.
bool has_input_gradient(const WinogradShape& shape) {
  return shape.stride == 1 &&
         WinogradConvolution::is_supported(
             {shape.channels_out, shape.channels_in, shape.kernel, shape.stride, shape.padding});
}

/// Calls work(T()), T being what the kernels take the tensors' elements for.
template <typename Work>
void with_type_of(const torch::Tensor& maps, const Work& work) {
  if (maps.scalar_type() == torch::kBFloat16) {
    work(std::uint16_t());
  } else {
    work(float());
  }
}

WinogradMaps size_of(const torch::Tensor& maps) {
  return {maps.size(0), maps.size(2), maps.size(3)};
}

/// @param maps channels last
torch::Tensor run(const WinogradConvolution& convolution, const torch::Tensor& maps) {
  const WinogradMaps size = size_of(maps), outs = convolution.shape().outputs_of(size);
  auto out = torch::empty({outs.count, convolution.shape().channels_out, outs.height, outs.width},
                          maps.options().memory_format(kChannelsLast));
  with_type_of(maps, [&]<typename T>(T) {
    convolution.run<T>(static_cast<const T*>(maps.const_data_ptr()), size, nullptr, false,
                       static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

/// @param input, gradient channels last, of one type @return float32, channels last
torch::Tensor weight_gradient(const WinogradShape& shape, const torch::Tensor& input,
                              const torch::Tensor& gradient) {
  auto out = torch::empty({shape.channels_out, shape.channels_in, shape.kernel, shape.kernel},
                          torch::TensorOptions(torch::kFloat).memory_format(kChannelsLast));
  with_type_of(input, [&]<typename T>(T) {
    WinogradWeightGradient(shape).run(static_cast<const T*>(input.const_data_ptr()),
                                      static_cast<const T*>(gradient.const_data_ptr()),
                                      size_of(input), out.mutable_data_ptr<float>());
  });
  return out;
}

/// Torch's own gradients of the input and of the weights, those that are asked for.
/// @param weight float32; its gradient is of the maps' type, which autograd makes float32
std::array<torch::Tensor, 2> torchs_gradients(const WinogradShape& shape,
                                              const torch::Tensor& gradient,
                                              const torch::Tensor& input,
                                              const torch::Tensor& weight, bool of_input,
                                              bool of_weight) {
  if (!of_input && !of_weight) return {};
  const std::array<std::int64_t, 2> stride{shape.stride, shape.stride},
      padding{shape.padding, shape.padding}, one{1, 1}, none{0, 0};
  const auto found = at::convolution_backward(
      gradient, input, weight.to(input.scalar_type()), std::nullopt, stride, padding, one,
      /*transposed=*/false, none, /*groups=*/1, {of_input, of_weight, false});
  return {std::get<0>(found), std::get<1>(found)};
}

class WinogradFunction : public torch::autograd::Function<WinogradFunction> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& input,
                               const torch::Tensor& weight,
                               const std::optional<torch::Tensor>& bias, std::int64_t stride,
                               std::int64_t padding) {
    const auto maps = input.contiguous(kChannelsLast);
    context->save_for_backward({maps, weight});
    context->saved_data["has_bias"] = bias.has_value();
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    const auto taps = weight.contiguous(kChannelsLast);
    return run(WinogradConvolution(shape_of(weight, stride, padding), taps.const_data_ptr<float>(),
                                   bias ? bias->const_data_ptr<float>() : nullptr),
               maps);
  }

  static torch::autograd::variable_list backward(AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1];
    const auto gradient = gradients[0].contiguous(kChannelsLast);
    const WinogradShape shape = shape_of(weight, context->saved_data["stride"].toInt(),
                                         context->saved_data["padding"].toInt());
    const bool by_input = has_input_gradient(shape);
    const bool by_weight = WinogradWeightGradient::is_supported(shape);
    const bool of_input = context->needs_input_grad(0), of_weight = context->needs_input_grad(1);
    torch::autograd::variable_list all(5);
    const auto torchs = torchs_gradients(shape, gradient, input, weight, of_input && !by_input,
                                         of_weight && !by_weight);
    all[0] = torchs[0];
    all[1] = torchs[1];
    if (of_input && by_input) {
      const auto taps = weight.contiguous(kChannelsLast);
      all[0] = run(WinogradConvolution::of_input_gradient(shape, taps.const_data_ptr<float>()),
                   gradient);
    }
    if (of_weight && by_weight) all[1] = weight_gradient(shape, input, gradient);
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2))
      all[2] = at::sum(gradient, {0, 2, 3}, false, torch::kFloat);
    return all;
  }
};

}  // namespace

torch::Tensor convolution_of(const torch::Tensor& input, const torch::Tensor& weight,
                             const torch::Tensor& bias, std::int64_t stride, std::int64_t padding) {
  if (has_winograd(input, weight, shape_of(weight, stride, padding))) {
    return WinogradFunction::apply(
        input, weight, bias.defined() ? std::optional(bias) : std::nullopt, stride, padding);
  }
  return at::conv2d(input, weight, bias, {stride, stride}, {padding, padding});
}

}  // namespace quadrat
