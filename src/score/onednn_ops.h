#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace quadrat::score {

/// Where a convolution looks: square windows, no dilation, no groups.
struct ConvolutionShape {
  std::int64_t stride = 1;
  std::int64_t padding = 0;
};

/// How a tensor's bytes stand for numbers: value = scale * (byte - zero_point).
struct Quantisation {
  double scale = 1;
  std::int64_t zero_point = 0;
};

/// Weights of a convolution in the layout oneDNN likes best for inputs [n, C, H, W]; in the weight's own dtype.
at::Tensor prepack_convolution(const at::Tensor& weight, ConvolutionShape shape, at::IntArrayRef input_size);

/// relu(conv(input) + bias), relu only where asked for. Inputs and results are channels-last.
at::Tensor convolution(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                       ConvolutionShape shape, bool relu);

/// addend = relu(conv(input) + bias + addend)
void convolution_add(at::Tensor& addend, const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                     ConvolutionShape shape, bool relu);

at::Tensor prepack_linear(const at::Tensor& weight, std::int64_t batch);

/// relu(input weight^T + bias), relu only where asked for. @param input [n, F], contiguous
at::Tensor linear(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias, bool relu);

}  // namespace quadrat::score
