#include "quadrat/model/batch_norm.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>

#include "normalize.h"
#include "on_gpu.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

/// Values a thread takes at once. A constant: sums are the same for any number of threads.
constexpr std::int64_t kValuesAtOnce = std::int64_t{1} << 18;

torch::Tensor per_channel(const torch::Tensor& values) { return values.view({1, -1, 1, 1}); }

bool has_kernels(const torch::Tensor& input) {
  const auto type = input.scalar_type();
  return input.is_cpu() && input.dim() == 4 && input.size(1) % normalize::kChannelGroup == 0 &&
         (type == torch::kFloat || type == torch::kBFloat16 || type == torch::kDouble);
}

/// The type scales and statistics are applied in.
torch::ScalarType arithmetic(const torch::Tensor& input) {
  return input.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
}

torch::Tensor channels_last(const torch::Tensor& tensor) {
  return tensor.contiguous(torch::MemoryFormat::ChannelsLast);
}

/// Calls `body` with a value of the kernels' element type.
template <typename Body>
void for_type(const torch::Tensor& input, Body body) {
  switch (input.scalar_type()) {
    case torch::kFloat:
      return body(float{});
    case torch::kDouble:
      return body(double{});
    default:
      return body(normalize::Bf16{});
  }
}

template <typename T>
T* data(const torch::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

/// A channels-last map as rows of channels.
struct Rows {
  explicit Rows(const torch::Tensor& map)
      : channels(map.size(1)),
        count(map.numel() / channels),
        at_once(std::max<std::int64_t>(kValuesAtOnce / channels, 1)) {}
  std::int64_t channels, count, at_once;
  std::int64_t parts() const { return (count + at_once - 1) / at_once; }
  /// body(part, first row, rows) for every part, dealt to threads.
  template <typename Body>
  void for_parts(Body body) const {
    at::parallel_for(0, parts(), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t first = part * at_once;
        body(part, first, std::min(at_once, count - first));
      }
    });
  }
};

/// Mean and variance of every channel over this rank's input, float64 [C].
std::pair<torch::Tensor, torch::Tensor> local_statistics(const torch::Tensor& input) {
  const auto options =
      input.options().dtype(torch::kDouble).memory_format(torch::MemoryFormat::Contiguous);
  const auto channels = input.size(1);
  if (input.numel() == 0)
    return {torch::zeros({channels}, options), torch::zeros({channels}, options)};
  if (!has_kernels(input)) {
    const auto [var, mean] = at::var_mean(input.to(arithmetic(input)), at::IntArrayRef{0, 2, 3}, 0);
    return {mean.to(torch::kDouble), var.to(torch::kDouble)};
  }
  const Rows rows(input);
  const auto part_means = torch::empty({rows.parts(), channels}, options);
  const auto part_deviations = torch::empty_like(part_means);
  for_type(input, [&](auto type) {
    using T = decltype(type);
    rows.for_parts([&](std::int64_t part, std::int64_t first, std::int64_t count) {
      normalize::kernels<T>().statistics(data<T>(input) + first * channels, count, channels,
                                         data<double>(part_means) + part * channels,
                                         data<double>(part_deviations) + part * channels);
    });
  });
  auto counts = torch::full({rows.parts(), 1}, static_cast<double>(rows.at_once), options);
  counts[-1] = static_cast<double>(rows.count - (rows.parts() - 1) * rows.at_once);
  const auto total = static_cast<double>(rows.count);
  const auto mean = (part_means * counts).sum(0) / total;
  const auto from_mean = part_means - mean;
  return {mean, (part_deviations + from_mean * from_mean * counts).sum(0) / total};
}

torch::Tensor pooled_empty(const torch::Tensor& input, const torch::TensorOptions& options) {
  return torch::empty({input.size(0), input.size(1), normalize::pooled(input.size(2)),
                       normalize::pooled(input.size(3))},
                      options.memory_format(torch::MemoryFormat::ChannelsLast));
}

/// Normalisation and what comes after it, by the kernels; where there are none, normalisation
/// alone.
class Normalize : public torch::autograd::Function<Normalize> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& given, const torch::Tensor& weight,
                               const torch::Tensor& bias,
                               const std::optional<torch::Tensor>& given_shortcut,
                               const BatchNormImpl* norm, After after) {
    const auto shortcut = given_shortcut.value_or(torch::Tensor());
    const auto input = channels_last(given);
    const auto type = arithmetic(input);
    const auto channels = input.size(1);
    const SumOverRanks* sum = norm->uses_batch_statistics() ? norm->sum_over_ranks() : nullptr;
    auto total = static_cast<double>(input.numel() / channels);
    auto mean = norm->running_mean.to(torch::kDouble);
    auto var = norm->running_var.to(torch::kDouble);
    if (norm->uses_batch_statistics()) {
      std::tie(mean, var) = local_statistics(input);
      if (sum != nullptr) {
        // Only the combination of the ranks' variances is a difference of squares, in float64: no
        // cancellation however large the mean is. A rank without tiles in this batch still takes
        // part.
        auto sums = torch::cat(
            {mean * total, (var + mean * mean) * total, torch::full({1}, total, mean.options())});
        (*sum)(sums);
        total = sums[2 * channels].item<double>();
        mean = sums.narrow(0, 0, channels) / total;
        var = (sums.narrow(0, channels, channels) / total - mean * mean).clamp_min(0);
      }
      const double unbiased = total > 1 ? total / (total - 1) : 1;
      auto running_mean = norm->running_mean, running_var = norm->running_var;
      running_mean.mul_(1 - kBatchNormMomentum)
          .add_(mean.to(running_mean.scalar_type()), kBatchNormMomentum);
      running_var.mul_(1 - kBatchNormMomentum)
          .add_(var.to(running_var.scalar_type()), kBatchNormMomentum * unbiased);
    }
    const auto invstd = (var + kBatchNormEpsilon).rsqrt();
    const auto scale = (weight * invstd).to(type);
    const auto offset = (bias - weight * invstd * mean).to(type);
    const auto mean_applied = mean.to(type);

    torch::Tensor output, place;
    if (has_kernels(input)) {
      std::tie(output, place) = run(input, shortcut, after, scale, offset);
    } else {
      output = (input.to(type) * per_channel(scale) + per_channel(offset)).to(input.scalar_type());
    }
    // What passed a ReLU is seen from the input; only after an addition it takes the output.
    const bool relu = after == After::kRelu, keeps_output = relu && shortcut.defined();
    const bool keeps_scale = relu && !keeps_output;
    context->save_for_backward(
        {input, weight, mean_applied, invstd.to(type), keeps_output ? output : torch::Tensor(),
         place, keeps_scale ? scale : torch::Tensor(), keeps_scale ? offset : torch::Tensor()});
    context->saved_data["total"] = total;
    context->saved_data["batch_statistics"] = norm->uses_batch_statistics();
    context->saved_data["shortcut"] = shortcut.defined();
    context->saved_data["sum"] = reinterpret_cast<std::int64_t>(sum);
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1], &mean = saved[2], &invstd = saved[3],
               &output = saved[4], &place = saved[5], &scale = saved[6], &offset = saved[7];
    const double total = context->saved_data["total"].toDouble();
    const bool has_shortcut = context->saved_data["shortcut"].toBool();
    const auto* sum = reinterpret_cast<const SumOverRanks*>(context->saved_data["sum"].toInt());
    const auto type = arithmetic(input);
    const auto channels = input.size(1);

    auto gradient = channels_last(gradients[0].to(input.scalar_type()));
    const auto wide =
        input.options().dtype(torch::kDouble).memory_format(torch::MemoryFormat::Contiguous);
    const auto local_sums = torch::zeros({2, channels}, wide);
    if (place.defined()) gradient = unpool(gradient, place, input);
    torch::Tensor to_shortcut;  // what passed the ReLU
    if (has_kernels(input)) {
      if (has_shortcut) to_shortcut = output.defined() ? torch::empty_like(gradient) : gradient;
      sum_gradient(gradient, output, input, mean, scale, offset,
                   output.defined() ? to_shortcut : torch::Tensor(), local_sums);
    } else {
      local_sums[0] = gradient.to(type).sum({0, 2, 3});
      local_sums[1] = (gradient.to(type) * (input.to(type) - per_channel(mean))).sum({0, 2, 3});
    }
    if (to_shortcut.defined()) gradient = to_shortcut;
    // The parameters' gradients are this rank's share: the gradient reducer adds the others'.
    const auto grad_weight = (local_sums[1] * invstd).to(weight.scalar_type());
    const auto grad_bias = local_sums[0].to(weight.scalar_type());

    const auto a = weight.to(type) * invstd;
    auto b = torch::zeros_like(a), c = torch::zeros_like(a);
    if (context->saved_data["batch_statistics"].toBool()) {
      auto sums = local_sums.flatten();
      if (sum != nullptr) {
        sums = sums.clone();
        (*sum)(sums);
      }
      c = (sums.narrow(0, 0, channels) / -total * a).to(type);
      b = (sums.narrow(0, channels, channels) / -total * a * invstd * invstd).to(type);
    }
    torch::Tensor grad_input;
    if (has_kernels(input)) {
      grad_input = place.defined() ? gradient : torch::empty_like(input);
      propagate(gradient, input, mean, scale, offset, a, b, c, grad_input);
    } else {
      grad_input = gradient.to(type) * per_channel(a) +
                   (input.to(type) - per_channel(mean)) * per_channel(b) + per_channel(c);
      grad_input = grad_input.to(input.scalar_type());
    }
    return {grad_input, grad_weight, grad_bias, to_shortcut, {}, {}};
  }

 private:
  /// Output, and the places of the maxima where pooled.
  static std::pair<torch::Tensor, torch::Tensor> run(const torch::Tensor& input,
                                                     const torch::Tensor& shortcut, After after,
                                                     const torch::Tensor& scale,
                                                     const torch::Tensor& offset) {
    const auto channels = input.size(1), height = input.size(2), width = input.size(3);
    torch::Tensor output, place;
    for_type(input, [&](auto type) {
      using T = decltype(type);
      using A = normalize::ArithmeticOf<T>;
      if (after == After::kReluPool) {
        output = pooled_empty(input, input.options());
        place = pooled_empty(input, input.options().dtype(torch::kByte));
        const std::int64_t in = height * width * channels;
        const std::int64_t out = normalize::pooled(height) * normalize::pooled(width) * channels;
        at::parallel_for(0, input.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t n = begin; n < end; ++n) {
            normalize::kernels<T>().apply_pooled(
                data<const T>(input) + n * in, data<const A>(scale), data<const A>(offset), height,
                width, channels, data<T>(output) + n * out, data<std::uint8_t>(place) + n * out);
          }
        });
        return;
      }
      output = torch::empty_like(input);
      const auto residual =
          shortcut.defined() ? channels_last(shortcut.to(input.scalar_type())) : shortcut;
      const Rows rows(input);
      rows.for_parts([&](std::int64_t /*part*/, std::int64_t first, std::int64_t count) {
        const std::int64_t at = first * channels;
        normalize::kernels<T>().apply(data<const T>(input) + at,
                                      residual.defined() ? data<const T>(residual) + at : nullptr,
                                      after == After::kRelu, data<const A>(scale),
                                      data<const A>(offset), count, channels, data<T>(output) + at);
      });
    });
    return {output, place};
  }

  static torch::Tensor unpool(const torch::Tensor& gradient, const torch::Tensor& place,
                              const torch::Tensor& input) {
    const auto spread = torch::empty_like(input);
    const auto channels = input.size(1), height = input.size(2), width = input.size(3);
    const std::int64_t in = height * width * channels,
                       out = gradient.numel() / std::max<std::int64_t>(1, gradient.size(0));
    for_type(input, [&](auto type) {
      using T = decltype(type);
      at::parallel_for(0, input.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
          normalize::kernels<T>().backward_pooled(data<const T>(gradient) + n * out,
                                                  data<const std::uint8_t>(place) + n * out, height,
                                                  width, channels, data<T>(spread) + n * in);
        }
      });
    });
    return spread;
  }

  /// @param output, scale, offset by which of them the ReLU is undone, or undefined
  /// @param passed gets the gradient that passed the ReLU, where defined
  /// @param sums float64 [2, C], gets the gradient's sums and those of gradient * (input - mean)
  static void sum_gradient(const torch::Tensor& gradient, const torch::Tensor& output,
                           const torch::Tensor& input, const torch::Tensor& mean,
                           const torch::Tensor& scale, const torch::Tensor& offset,
                           const torch::Tensor& passed, const torch::Tensor& sums) {
    const Rows rows(input);
    const auto channels = rows.channels;
    const auto parts = torch::zeros({rows.parts(), 2, channels}, sums.options());
    for_type(input, [&](auto type) {
      using T = decltype(type);
      using A = normalize::ArithmeticOf<T>;
      const normalize::Scaling<T> scaling{data<const A>(mean), data<const A>(scale),
                                          data<const A>(offset)};
      rows.for_parts([&](std::int64_t part, std::int64_t first, std::int64_t count) {
        const std::int64_t at = first * channels;
        double* to = data<double>(parts) + part * 2 * channels;
        normalize::kernels<T>().backward_sums(
            data<const T>(gradient) + at, output.defined() ? data<const T>(output) + at : nullptr,
            data<const T>(input) + at, scaling, count, channels,
            passed.defined() ? data<T>(passed) + at : nullptr, to, to + channels);
      });
    });
    sums.copy_(parts.sum(0));
  }

  static void propagate(const torch::Tensor& gradient, const torch::Tensor& input,
                        const torch::Tensor& mean, const torch::Tensor& scale,
                        const torch::Tensor& offset, const torch::Tensor& a, const torch::Tensor& b,
                        const torch::Tensor& c, const torch::Tensor& grad_input) {
    const Rows rows(input);
    for_type(input, [&](auto type) {
      using T = decltype(type);
      using A = normalize::ArithmeticOf<T>;
      const normalize::Scaling<T> scaling{data<const A>(mean), data<const A>(scale),
                                          data<const A>(offset)};
      rows.for_parts([&](std::int64_t /*part*/, std::int64_t first, std::int64_t count) {
        const std::int64_t at = first * rows.channels;
        normalize::kernels<T>().backward_input(
            data<const T>(gradient) + at, data<const T>(input) + at, scaling, data<const A>(a),
            data<const A>(b), data<const A>(c), count, rows.channels, data<T>(grad_input) + at);
      });
    });
  }
};

/// @param norm in training mode counts this batch
torch::Tensor normalized(BatchNormImpl& norm, const torch::Tensor& input,
                         const torch::Tensor& shortcut, After after) {
  if (norm.uses_batch_statistics()) norm.num_batches_tracked.add_(1);
  if (input.is_cuda() && has_gpu_kernels(input))
    return normalized_on_gpu(norm, input, shortcut, after, false)[0];
  if (has_kernels(input))
    return Normalize::apply(input, norm.weight, norm.bias, std::optional(shortcut), &norm, after);
  auto x = norm.uses_batch_statistics() && norm.sum_over_ranks() != nullptr
               ? Normalize::apply(input, norm.weight, norm.bias, std::optional<torch::Tensor>(),
                                  &norm, After::kNothing)
               : at::batch_norm(input, norm.weight, norm.bias, norm.running_mean, norm.running_var,
                                norm.uses_batch_statistics(), kBatchNormMomentum, kBatchNormEpsilon,
                                input.is_cuda());
  if (shortcut.defined()) x = x + shortcut;
  if (after != After::kNothing) x = x.relu_();
  return after == After::kReluPool ? at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1}) : x;
}

}  // namespace

BatchNormMode parse_batch_norm(std::string_view name) {
  if (name == "sync") return BatchNormMode::kSync;
  if (name == "local") return BatchNormMode::kLocal;
  if (name == "frozen") return BatchNormMode::kFrozen;
  throw UsageError(
      fmt::format("--batch_norm is '{}', but must be sync, local or frozen", printable(name)));
}

BatchNormImpl::BatchNormImpl(std::int64_t channels) {
  weight = register_parameter("weight", torch::ones({channels}));
  bias = register_parameter("bias", torch::zeros({channels}));
  running_mean = register_buffer("running_mean", torch::zeros({channels}));
  running_var = register_buffer("running_var", torch::ones({channels}));
  num_batches_tracked = register_buffer("num_batches_tracked", torch::zeros({}, torch::kLong));
}

void BatchNormImpl::set_mode(BatchNormMode mode, SumOverRanks sum) {
  mode_ = mode;
  sum_ = std::move(sum);
}

torch::Tensor BatchNormImpl::forward(const torch::Tensor& input) {
  return normalized(*this, input, {}, After::kNothing);
}

torch::Tensor BatchNormImpl::forward_relu(const torch::Tensor& input,
                                          const torch::Tensor& shortcut) {
  return normalized(*this, input, shortcut, After::kRelu);
}

std::pair<torch::Tensor, torch::Tensor> BatchNormImpl::forward_relu_twice(
    const torch::Tensor& input, const torch::Tensor& shortcut) {
  if (!input.is_cuda() || !has_gpu_kernels(input)) {
    const auto output = forward_relu(input, shortcut);
    return {output, output};
  }
  if (uses_batch_statistics()) num_batches_tracked.add_(1);
  const auto outputs = normalized_on_gpu(*this, input, shortcut, After::kRelu, true);
  return {outputs[0], outputs[1]};
}

torch::Tensor BatchNormImpl::forward_relu_pool(const torch::Tensor& input) {
  return normalized(*this, input, {}, After::kReluPool);
}

}  // namespace quadrat
