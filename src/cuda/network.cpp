#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <tuple>
#include <utility>
#include <vector>

#include "../model/on_gpu.h"
#include "quadrat/gpu/dropout.h"
#include "quadrat/gpu/normalize.h"

namespace quadrat {

namespace {

namespace normalize = gpu::normalize;

constexpr auto kChannelsLast = torch::MemoryFormat::ChannelsLast;

template <typename T>
T* data(const torch::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

gpu::Element element_of(const torch::Tensor& tensor) {
  return tensor.scalar_type() == torch::kBFloat16 ? gpu::Element::kBf16 : gpu::Element::kFloat32;
}

normalize::Map map_of(const torch::Tensor& input) {
  return {element_of(input), input.size(0), input.size(2), input.size(3), input.size(1)};
}

torch::TensorOptions like(const torch::Tensor& input, torch::ScalarType type) {
  return torch::TensorOptions(type).device(input.device());
}

/// The rows of a float32 [4, C].
normalize::Fold fold_in(const torch::Tensor& rows) {
  auto* first = data<float>(rows);
  const auto channels = rows.size(1);
  return {first, first + channels, first + 2 * channels, first + 3 * channels};
}

torch::Tensor scratch_for(const torch::Tensor& input) {
  return torch::empty({normalize::scratch_floats(input.size(1))}, like(input, torch::kFloat));
}

CUstream_st* stream_of(const torch::Tensor& input) {
  return c10::cuda::getCurrentCUDAStream(input.device().index()).stream();
}

/// The same memory as a tensor of its own: autograd takes gradients of both without adding them up.
torch::Tensor twin_of(const torch::Tensor& tensor) {
  return torch::from_blob(
      tensor.mutable_data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void* /*data*/) {},
      tensor.options());
}

/// Output of what is pooled, and the places of the maxima.
std::pair<torch::Tensor, torch::Tensor> pooled_on_gpu(const normalize::Map& map,
                                                      const torch::Tensor& input,
                                                      const normalize::Fold& fold) {
  const auto make = [&](torch::ScalarType type) {
    return torch::empty({map.images, map.channels, map.pooled(map.height), map.pooled(map.width)},
                        like(input, type).memory_format(kChannelsLast));
  };
  auto output = make(input.scalar_type()), place = make(torch::kByte);
  normalize::apply_pooled(map, data<void>(input), fold, data<void>(output),
                          data<std::uint8_t>(place), stream_of(input));
  return {output, place};
}

class NormalizeOnGpu : public torch::autograd::Function<NormalizeOnGpu> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const torch::Tensor& given,
                                                const torch::Tensor& weight,
                                                const torch::Tensor& bias,
                                                const std::optional<torch::Tensor>& given_shortcut,
                                                const BatchNormImpl* norm, After after,
                                                bool is_read_twice) {
    context->set_materialize_grads(false);  // a reader may have none
    const auto input = given.contiguous(kChannelsLast);
    const c10::cuda::CUDAGuard guard(input.device());
    const auto shortcut = given_shortcut
                              ? given_shortcut->to(input.scalar_type()).contiguous(kChannelsLast)
                              : torch::Tensor();
    const auto map = map_of(input);
    const auto channels = map.channels;
    auto* stream = stream_of(input);
    const auto folded = torch::empty({4, channels}, like(input, torch::kFloat));
    torch::Tensor moments;
    if (norm->uses_batch_statistics()) {
      moments = torch::empty({2 * channels + 1}, like(input, torch::kDouble));
      normalize::moments(map, data<void>(input), data<float>(scratch_for(input)),
                         data<double>(moments), stream);
      if (norm->sum_over_ranks() != nullptr) (*norm->sum_over_ranks())(moments);
    }
    const auto fold = fold_in(folded);
    normalize::fold(channels, data<double>(moments),
                    {data<float>(weight), data<float>(bias), data<float>(norm->running_mean),
                     data<float>(norm->running_var)},
                    kBatchNormEpsilon, kBatchNormMomentum, fold, stream);
    torch::Tensor output, place;
    if (after == After::kReluPool) {
      std::tie(output, place) = pooled_on_gpu(map, input, fold);
    } else {
      output = torch::empty_like(input);
      normalize::apply(map, data<void>(input), data<void>(shortcut), after == After::kRelu, fold,
                       data<void>(output), stream);
    }
    const bool needs_output = after == After::kRelu && shortcut.defined();
    context->save_for_backward(
        {input, weight, folded, moments, needs_output ? output : torch::Tensor(), place});
    context->saved_data["relu"] = after == After::kRelu;
    context->saved_data["shortcut"] = shortcut.defined();
    context->saved_data["sum"] = reinterpret_cast<std::int64_t>(norm->sum_over_ranks());
    if (is_read_twice) return {output, twin_of(output)};
    return {output};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1], &folded = saved[2], &moments = saved[3],
               &output = saved[4], &place = saved[5];
    const c10::cuda::CUDAGuard guard(input.device());
    const auto* sum = reinterpret_cast<const SumOverRanks*>(context->saved_data["sum"].toInt());
    const auto map = map_of(input);
    const auto channels = map.channels;
    const auto fold = fold_in(folded);
    auto* stream = stream_of(input);

    std::vector<torch::Tensor> of_readers;
    for (const auto& of_reader : gradients) {
      if (of_reader.defined())
        of_readers.push_back(of_reader.to(input.scalar_type()).contiguous(kChannelsLast));
    }
    // Only behind a shortcut and a ReLU do the kernels take two.
    if (of_readers.size() == 2 && !output.defined()) {
      of_readers[0] = of_readers[0] + of_readers[1];
      of_readers.pop_back();
    }
    const auto& dy = of_readers.front();
    const bool has_two = of_readers.size() == 2;
    normalize::Gradient gradient{data<void>(dy), has_two ? data<void>(of_readers[1]) : nullptr,
                                 context->saved_data["relu"].toBool(), data<void>(output),
                                 data<std::uint8_t>(place)};
    torch::Tensor to_shortcut;
    if (context->saved_data["shortcut"].toBool())
      to_shortcut = gradient.relu ? torch::empty_like(dy) : dy;
    const bool is_written = to_shortcut.defined() && gradient.relu;
    const auto mine = torch::empty({2 * channels}, like(input, torch::kDouble));
    normalize::gradient_sums(map, gradient, data<void>(input), fold,
                             is_written ? data<void>(to_shortcut) : nullptr,
                             data<float>(scratch_for(input)), data<double>(mine), stream);
    if (is_written) gradient = {data<void>(to_shortcut), nullptr, false, nullptr, nullptr};

    torch::Tensor all;
    if (moments.defined()) all = mine;
    if (moments.defined() && sum != nullptr) {
      all = mine.clone();
      (*sum)(all);
    }
    // The parameters' gradients are this rank's share: the gradient reducer adds the others'.
    const auto grad_weight = torch::empty_like(weight), grad_bias = torch::empty_like(weight);
    const auto abc = torch::empty({3, channels}, like(input, torch::kFloat));
    normalize::coefficients(
        channels, data<double>(mine), data<double>(all),
        moments.defined() ? data<double>(moments) + 2 * channels : nullptr, data<float>(weight),
        fold, {data<float>(grad_weight), data<float>(grad_bias), data<float>(abc)}, stream);
    const auto dx = torch::empty_like(input);
    normalize::gradient_input(map, gradient, data<void>(input), fold, data<float>(abc),
                              data<void>(dx), stream);
    return {dx, grad_weight, grad_bias, to_shortcut, {}, {}, {}};
  }
};

/// A normalisation by a mean of 0 and a scale of 1: what follows a convolution with a bias.
class RectifyOnGpu : public torch::autograd::Function<RectifyOnGpu> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& given, const torch::Tensor& bias,
                               bool is_pooled) {
    const auto input = given.contiguous(kChannelsLast);
    const c10::cuda::CUDAGuard guard(input.device());
    const auto map = map_in(input);
    const auto folded = torch::empty({4, map.channels}, like(input, torch::kFloat));
    const auto fold = fold_in(folded);
    normalize::fold_bias(map.channels, data<float>(bias), fold, stream_of(input));
    torch::Tensor output, place;
    if (is_pooled) {
      std::tie(output, place) = pooled_on_gpu(map, input, fold);
    } else {
      output = torch::empty_like(input);
      normalize::apply(map, data<void>(input), nullptr, /*relu=*/true, fold, data<void>(output),
                       stream_of(input));
    }
    context->save_for_backward({input, folded, place});
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &folded = saved[1], &place = saved[2];
    const c10::cuda::CUDAGuard guard(input.device());
    const auto map = map_in(input);
    const auto dy = gradients[0].to(input.scalar_type()).contiguous(kChannelsLast);
    const auto sums = torch::empty({2, map.channels}, like(input, torch::kDouble));
    const auto dx = torch::empty_like(input);
    normalize::gradient_sums(map,
                             {data<void>(dy), nullptr, true, nullptr, data<std::uint8_t>(place)},
                             data<void>(input), fold_in(folded), data<void>(dx),
                             data<float>(scratch_for(input)), data<double>(sums), stream_of(input));
    return {dx, sums[0].to(torch::kFloat), {}};
  }

 private:
  static normalize::Map map_in(const torch::Tensor& input) {
    auto map = map_of(input);
    map.pool_padding = 0;
    return map;
  }
};

class DropOutOnGpu : public torch::autograd::Function<DropOutOnGpu> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& values, const torch::Tensor& keys,
                               std::int64_t layer) {
    context->save_for_backward({keys});
    context->saved_data["layer"] = layer;
    return run(values, keys, layer);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    return {
        run(gradients[0], context->get_saved_variables()[0], context->saved_data["layer"].toInt()),
        {},
        {}};
  }

 private:
  static torch::Tensor run(const torch::Tensor& given, const torch::Tensor& keys,
                           std::int64_t layer) {
    const c10::cuda::CUDAGuard guard(given.device());
    const auto values = given.contiguous();
    auto out = torch::empty_like(values);
    gpu::dropout(data<void>(values), element_of(values), values.size(0), values.size(1),
                 data<std::int64_t>(keys), static_cast<std::uint64_t>(layer), data<void>(out),
                 stream_of(values));
    return out;
  }
};

bool has_kernels(const torch::Tensor& input) {
  const auto type = input.scalar_type();
  return input.dim() == 4 && input.size(1) % normalize::kChannelGroup == 0 &&
         input.size(1) <= normalize::kMostChannels &&
         (type == torch::kFloat || type == torch::kBFloat16);
}

std::vector<torch::Tensor> normalized(BatchNormImpl& norm, const torch::Tensor& input,
                                      const torch::Tensor& shortcut, After after,
                                      bool is_read_twice) {
  return NormalizeOnGpu::apply(input, norm.weight, norm.bias,
                               shortcut.defined() ? std::optional(shortcut) : std::nullopt, &norm,
                               after, is_read_twice);
}

torch::Tensor rectified(const torch::Tensor& values, const torch::Tensor& bias, bool is_pooled) {
  return RectifyOnGpu::apply(values, bias, is_pooled);
}

torch::Tensor dropped(const torch::Tensor& values, const torch::Tensor& keys, std::uint64_t layer) {
  return DropOutOnGpu::apply(values, keys, static_cast<std::int64_t>(layer));
}

const bool kIsThere = [] {
  has_gpu_kernels = has_kernels;
  normalized_on_gpu = normalized;
  rectified_on_gpu = rectified;
  dropped_on_gpu = dropped;
  return true;
}();

}  // namespace

}  // namespace quadrat
