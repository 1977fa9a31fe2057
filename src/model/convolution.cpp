#include "convolution.h"

#include <ATen/autocast_mode.h>

#include "quadrat/base/cpu.h"
#include "quadrat/model/winograd.h"

namespace quadrat {

namespace {

using torch::autograd::AutogradContext;

constexpr auto kChannelsLast = torch::MemoryFormat::ChannelsLast;

bool has_winograd(const torch::Tensor& input, const torch::Tensor& weight, std::int64_t stride,
                  std::int64_t padding) {
  if (!input.is_cpu() || weight.scalar_type() != torch::kFloat) return false;
  const auto size = weight.size(2), in = weight.size(1), out = weight.size(0);
  const bool is_fp32 =
      input.scalar_type() == torch::kFloat && !at::autocast::is_autocast_enabled(torch::kCPU);
  const bool is_bf16 = input.scalar_type() == torch::kBFloat16 && !cpu_features().amx &&
                       WinogradConvolution::beats_bf16(size, in, out);
  return (is_fp32 || is_bf16) && weight.size(3) == size &&
         WinogradConvolution::is_supported(size, stride, padding, in, out) &&
         WinogradConvolution::is_supported(size, stride, padding, out, in);
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

/// @param maps channels last
torch::Tensor run(const WinogradConvolution& convolution, const torch::Tensor& maps) {
  const auto height = maps.size(2), width = maps.size(3);
  auto out = torch::empty({maps.size(0), convolution.channels_out(), height, width},
                          maps.options().memory_format(kChannelsLast));
  with_type_of(maps, [&]<typename T>(T) {
    convolution.run<T>(static_cast<const T*>(maps.const_data_ptr()), {maps.size(0), height, width},
                       nullptr, false, static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

/// @param input, gradient channels last, of one type @return float32, channels last
torch::Tensor weight_gradient(const torch::Tensor& input, const torch::Tensor& gradient,
                              std::int64_t size) {
  auto out = torch::empty({gradient.size(1), input.size(1), size, size},
                          torch::TensorOptions(torch::kFloat).memory_format(kChannelsLast));
  with_type_of(input, [&]<typename T>(T) {
    WinogradWeightGradient(input.size(1), gradient.size(1), size)
        .run(static_cast<const T*>(input.const_data_ptr()),
             static_cast<const T*>(gradient.const_data_ptr()),
             {input.size(0), input.size(2), input.size(3)}, out.mutable_data_ptr<float>());
  });
  return out;
}

class WinogradFunction : public torch::autograd::Function<WinogradFunction> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& input,
                               const torch::Tensor& weight,
                               const std::optional<torch::Tensor>& bias) {
    const auto maps = input.contiguous(kChannelsLast);
    context->save_for_backward({maps, weight});
    context->saved_data["has_bias"] = bias.has_value();
    const auto taps = weight.contiguous(kChannelsLast);
    const WinogradConvolution convolution(taps.const_data_ptr<float>(),
                                          bias ? bias->const_data_ptr<float>() : nullptr,
                                          weight.size(1), weight.size(0), weight.size(2));
    return run(convolution, maps);
  }

  static torch::autograd::variable_list backward(AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1];
    const auto gradient = gradients[0].contiguous(kChannelsLast);
    const auto size = weight.size(2);
    torch::autograd::variable_list all(3);
    if (context->needs_input_grad(0)) {
      const auto taps = weight.contiguous(kChannelsLast);
      all[0] = run(WinogradConvolution::of_input_gradient(taps.const_data_ptr<float>(),
                                                          weight.size(1), weight.size(0), size),
                   gradient);
    }
    if (context->needs_input_grad(1)) all[1] = weight_gradient(input, gradient, size);
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2))
      all[2] = at::sum(gradient, {0, 2, 3}, false, torch::kFloat);
    return all;
  }
};

}  // namespace

torch::Tensor convolution_of(const torch::Tensor& input, const torch::Tensor& weight,
                             const torch::Tensor& bias, std::int64_t stride, std::int64_t padding) {
  if (has_winograd(input, weight, stride, padding)) {
    return WinogradFunction::apply(input, weight,
                                   bias.defined() ? std::optional(bias) : std::nullopt);
  }
  return at::conv2d(input, weight, bias, {stride, stride}, {padding, padding});
}

}  // namespace quadrat
