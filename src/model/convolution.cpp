#include "convolution.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#include <array>

#include "quadrat/model/winograd.h"

namespace quadrat {

namespace {

using torch::autograd::AutogradContext;

constexpr auto kChannelsLast = torch::MemoryFormat::ChannelsLast;

bool has_winograd(const torch::Tensor& input, const torch::Tensor& weight, std::int64_t stride,
                  std::int64_t padding) {
  if (!input.is_cpu() || input.scalar_type() != torch::kFloat ||
      weight.scalar_type() != torch::kFloat || at::autocast::is_autocast_enabled(torch::kCPU)) {
    return false;
  }
  const auto size = weight.size(2), in = weight.size(1), out = weight.size(0);
  return weight.size(3) == size &&
         WinogradConvolution::is_supported(size, stride, padding, in, out) &&
         WinogradConvolution::is_supported(size, stride, padding, out, in);
}

/// @param maps channels last
torch::Tensor run(const WinogradConvolution& convolution, const torch::Tensor& maps) {
  const auto height = maps.size(2), width = maps.size(3);
  auto out = torch::empty({maps.size(0), convolution.channels_out(), height, width},
                          maps.options().memory_format(kChannelsLast));
  const auto* from = maps.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, maps.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    convolution.run<float>(from + begin * maps.size(1) * height * width,
                           {end - begin, height, width}, nullptr, false,
                           to + begin * out.size(1) * height * width);
  });
  return out;
}

class WinogradFunction : public torch::autograd::Function<WinogradFunction> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& input,
                               const torch::Tensor& weight,
                               const std::optional<torch::Tensor>& bias) {
    context->save_for_backward({input, weight});
    context->saved_data["has_bias"] = bias.has_value();
    const auto taps = weight.contiguous(kChannelsLast);
    const WinogradConvolution convolution(taps.const_data_ptr<float>(),
                                          bias ? bias->const_data_ptr<float>() : nullptr,
                                          weight.size(1), weight.size(0), weight.size(2));
    return run(convolution, input.contiguous(kChannelsLast));
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
    const bool of_bias = context->saved_data["has_bias"].toBool() && context->needs_input_grad(2);
    const std::array<std::int64_t, 1> bias_sizes{weight.size(0)};
    const auto padding = (size - 1) / 2;
    std::tie(std::ignore, all[1], all[2]) = at::convolution_backward(
        gradient, input, weight, of_bias ? at::OptionalIntArrayRef(bias_sizes) : std::nullopt,
        {1, 1}, {padding, padding}, {1, 1}, false, {0, 0}, 1,
        {false, context->needs_input_grad(1), of_bias});
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
