#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace quadrat::score {

/// Where a convolution looks: square windows, no dilation, no groups.
struct ConvolutionShape {
  std::int64_t stride = 1;
  std::int64_t padding = 0;
};

/// Weights of a convolution in the layout oneDNN likes best for inputs [n, C, H, W]; in the
/// weight's own dtype.
at::Tensor prepack_convolution(const at::Tensor& weight, ConvolutionShape shape,
                               at::IntArrayRef input_size);

/// relu(conv(input) + bias), relu only where asked for. Inputs and results are channels-last.
at::Tensor convolution(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                       ConvolutionShape shape, bool relu);

/// addend = relu(conv(input) + bias + addend)
void convolution_add(at::Tensor& addend, const at::Tensor& input, const at::Tensor& packed,
                     const at::Tensor& bias, ConvolutionShape shape, bool relu);

at::Tensor prepack_linear(const at::Tensor& weight, std::int64_t batch);

/// relu(input weight^T + bias), relu only where asked for. @param input [n, F], contiguous
at::Tensor linear(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias,
                  bool relu);

/// How an activation's bytes (uint8) stand for numbers: value = scale * (byte - zero_point).
struct Quantisation {
  double scale = 1;
  std::int64_t zero_point = 0;
};

/// Weights as bytes, symmetric, one scale an output channel: value = scales[channel] * byte.
struct Int8Weight {
  at::Tensor values;  ///< int8, contiguous
  at::Tensor scales;  ///< [C'] float32
};

/// @param weight float32, [C', C, k, k] or [F', F]
Int8Weight to_int8(const at::Tensor& weight);

/// The same as oneDNN takes them.
struct QuantisedWeight {
  at::Tensor packed;       ///< what the operators take
  at::Tensor scales;       ///< [C'] float32
  at::Tensor zero_points;  ///< [C'] int32, all 0
};

/// @param weight float32, [C', C, k, k] or [F', F]
QuantisedWeight quantise_convolution(const at::Tensor& weight, Quantisation input,
                                     ConvolutionShape shape, at::IntArrayRef input_size);
QuantisedWeight quantise_linear(const at::Tensor& weight, at::IntArrayRef input_size);

/// As convolution and convolution_add, on bytes. @param bias float32
at::Tensor convolution_int8(const at::Tensor& input, Quantisation in, const QuantisedWeight& weight,
                            const at::Tensor& bias, ConvolutionShape shape, bool relu,
                            Quantisation out);
/// @param before what the addend's bytes mean; @param out what they mean after
void convolution_add_int8(at::Tensor& addend, Quantisation before, const at::Tensor& input,
                          Quantisation in, const QuantisedWeight& weight, const at::Tensor& bias,
                          ConvolutionShape shape, bool relu, Quantisation out);
/// @param to_float gives float32 and ignores `out`
at::Tensor linear_int8(const at::Tensor& input, Quantisation in, const QuantisedWeight& weight,
                       const at::Tensor& bias, bool relu, Quantisation out, bool to_float);

}  // namespace quadrat::score
