#include "amx_convolution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "quadrat/base/bf16.h"
#include "quadrat/base/cpu.h"

namespace quadrat::score {
namespace {

using Shape = AmxConvolution::Shape;
using Meaning = AmxConvolution::Meaning;

constexpr std::int64_t kMaps = 2;

/// Sum over the definition's products for one output. @param product (index in, index of weight)
template <typename Product>
double by_definition(const Shape& s, std::int64_t output, Product product) {
  const std::int64_t k = output % s.channels_out;
  const std::int64_t pixel = output / s.channels_out;
  const std::int64_t x = pixel % s.out_width();
  const std::int64_t y = pixel / s.out_width() % s.out_height();
  const std::int64_t n = pixel / s.out_width() / s.out_height();
  double sum = 0;
  for (std::int64_t i = 0; i < s.kernel; ++i) {
    for (std::int64_t j = 0; j < s.kernel; ++j) {
      const std::int64_t row = y * s.stride + i - s.padding;
      const std::int64_t column = x * s.stride + j - s.padding;
      if (row < 0 || column < 0 || row >= s.height || column >= s.width) continue;
      for (std::int64_t c = 0; c < s.channels_in; ++c) {
        sum += product(((n * s.height + row) * s.width + column) * s.channels_in + c,
                       ((k * s.channels_in + c) * s.kernel + i) * s.kernel + j);
      }
    }
  }
  return sum;
}

class AmxConvolutionOf : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!AmxConvolution::is_supported(shape_)) GTEST_SKIP() << "this CPU has no AMX";
    std::normal_distribution<float> normal;
    weight_.resize(size(shape_.channels_out * shape_.channels_in * shape_.kernel * shape_.kernel));
    const auto spread =
        std::sqrt(static_cast<float>(weight_.size()) / static_cast<float>(shape_.channels_out));
    for (float& value : weight_) value = normal(random_) / spread;
    bias_.resize(size(shape_.channels_out));
    for (float& value : bias_) value = normal(random_);
    ins_ = kMaps * shape_.height * shape_.width * shape_.channels_in;
    outs_ = kMaps * shape_.out_height() * shape_.out_width() * shape_.channels_out;
  }

  static std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

  /// Outputs to look at: all around the first map's corner, others here and there.
  std::vector<std::int64_t> some_outputs() {
    std::vector<std::int64_t> some;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(outs_, 200); ++i) some.push_back(i);
    for (int i = 0; i < 400; ++i)
      some.push_back(static_cast<std::int64_t>(random_() % size(outs_)));
    for (std::int64_t i = outs_ - 50; i < outs_; ++i) some.push_back(i);
    return some;
  }

  Shape shape_ = GetParam();
  std::mt19937_64 random_{3};
  std::vector<float> weight_, bias_;
  std::int64_t ins_ = 0, outs_ = 0;
};

TEST_P(AmxConvolutionOf, bf16_is_the_definition) {
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> in(size(ins_)), addend(size(outs_)), out(size(outs_));
  for (auto& value : in) value = bf16::narrow(normal(random_));
  for (auto& value : addend) value = bf16::narrow(normal(random_));
  for (float& value : weight_) value = bf16::widen(bf16::narrow(value));
  const AmxConvolution convolution(shape_, weight_.data(), bias_.data());
  for (const bool adds : {false, true}) {
    for (const bool relu : {false, true}) {
      convolution.run(in.data(), kMaps, adds ? addend.data() : nullptr, relu, out.data());
      for (const std::int64_t i : some_outputs()) {
        double wanted = by_definition(shape_, i, [&](std::int64_t at, std::int64_t weight) {
          return static_cast<double>(bf16::widen(in[size(at)])) *
                 static_cast<double>(weight_[size(weight)]);
        });
        wanted += static_cast<double>(bias_[size(i % shape_.channels_out)]);
        if (adds) wanted += static_cast<double>(bf16::widen(addend[size(i)]));
        if (relu) wanted = std::max(wanted, 0.0);
        // Half of bf16's last digit.
        ASSERT_NEAR(bf16::widen(out[size(i)]), wanted, 1e-5 + std::abs(wanted) / 255)
            << "output " << i << ", adds " << adds << ", relu " << relu;
      }
    }
  }
}

TEST_P(AmxConvolutionOf, int8_is_the_definition) {
  std::vector<std::uint8_t> in(size(ins_)), addend(size(outs_)), out(size(outs_));
  std::vector<std::int8_t> weight(weight_.size());
  std::vector<float> scales(size(shape_.channels_out));
  for (auto& value : in) value = static_cast<std::uint8_t>(random_());
  for (auto& value : addend) value = static_cast<std::uint8_t>(random_());
  for (auto& value : weight)
    value = static_cast<std::int8_t>(static_cast<int>(random_() % 255) - 127);
  for (std::size_t k = 0; k < scales.size(); ++k)
    scales[k] = 0.5F / static_cast<float>(80 + k) / std::sqrt(static_cast<float>(weight.size()));
  const Meaning meaning_in{0.02F, shape_.channels_in == 3 ? 114 : 0};
  const Meaning before{0.03F, 100}, after{0.01F, 90};
  const AmxConvolution convolution(shape_, weight.data(), scales.data(), bias_.data(), meaning_in,
                                   before, after);
  for (const bool adds : {false, true}) {
    for (const bool relu : {false, true}) {
      convolution.run(in.data(), kMaps, adds ? addend.data() : nullptr, relu, out.data());
      for (const std::int64_t i : some_outputs()) {
        const auto k = size(i % shape_.channels_out);
        double wanted = by_definition(shape_, i, [&](std::int64_t at, std::int64_t w) {
          return static_cast<double>((int{in[size(at)]} - meaning_in.zero_point) *
                                     int{weight[size(w)]});
        });
        wanted = wanted * static_cast<double>(meaning_in.scale) * static_cast<double>(scales[k]) +
                 static_cast<double>(bias_[k]);
        if (adds)
          wanted += static_cast<double>(before.scale) * (addend[size(i)] - before.zero_point);
        if (relu) wanted = std::max(wanted, 0.0);
        const double byte =
            std::clamp(wanted / static_cast<double>(after.scale) + after.zero_point, 0.0, 255.0);
        // Rounded; what lies halfway may go either way.
        ASSERT_NEAR(out[size(i)], byte, 0.501)
            << "output " << i << ", adds " << adds << ", relu " << relu;
      }
    }
  }
}

TEST_P(AmxConvolutionOf, some_rows_are_those_of_the_whole) {
  std::vector<std::uint16_t> in(size(ins_)), out(size(outs_));
  std::normal_distribution<float> normal;
  for (auto& value : in) value = bf16::narrow(normal(random_));
  const AmxConvolution convolution(shape_, weight_.data(), bias_.data());
  convolution.run(in.data(), 1, nullptr, true, out.data());
  const std::int64_t row = shape_.out_width() * shape_.channels_out;
  const std::int64_t first = shape_.out_height() / 3, last = shape_.out_height() - 1;
  std::vector<std::uint16_t> rows(size((last - first) * row));
  convolution.run_rows(in.data(), first, last, true, rows.data());
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), out.begin() + first * row));
}

// Those of ResNet18 and AlexNet at their own and other tile sizes.
INSTANTIATE_TEST_SUITE_P(
    Shapes, AmxConvolutionOf,
    ::testing::Values(Shape{3, 64, 7, 2, 3, 224, 224}, Shape{3, 64, 7, 2, 3, 96, 96},
                      Shape{3, 64, 11, 4, 2, 224, 224}, Shape{64, 64, 3, 1, 1, 56, 56},
                      Shape{64, 64, 3, 1, 1, 24, 24}, Shape{64, 128, 3, 2, 1, 56, 56},
                      Shape{64, 128, 1, 2, 0, 56, 56}, Shape{64, 192, 5, 1, 2, 27, 27},
                      Shape{192, 384, 3, 1, 1, 13, 13}, Shape{256, 512, 3, 2, 1, 14, 14},
                      Shape{512, 512, 3, 1, 1, 7, 7}, Shape{512, 512, 3, 1, 1, 3, 3},
                      Shape{256, 512, 1, 2, 0, 5, 9}, Shape{64, 32, 3, 1, 1, 5, 70}));

}  // namespace
}  // namespace quadrat::score
