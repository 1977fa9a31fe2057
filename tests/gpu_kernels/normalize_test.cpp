// The GPU's batch norm and what follows it, run by the CPU (see cuda_on_cpu), against float64.
#include "quadrat/gpu/normalize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "cuda_runtime.h"
#include "values.h"

namespace quadrat::gpu::normalize {
namespace {

using cuda_on_cpu::Order;

constexpr double kRounding = 0x1p-24;  // of float32, relative

struct Case {
  Map map;
  Order order;
};

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const Map& map = info.param.map;
  return (map.element == Element::kBf16 ? "bf16_" : "float32_") + std::to_string(map.images) + "x" +
         std::to_string(map.height) + "x" + std::to_string(map.width) + "x" +
         std::to_string(map.channels) + "_padding" + std::to_string(map.pool_padding) + "_" +
         order_name(info.param.order);
}

class NormalizeKernels : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { cuda_on_cpu::set_order(GetParam().order); }

  const Map map = GetParam().map;
  const std::size_t C = static_cast<std::size_t>(map.channels);
  const std::size_t rows = static_cast<std::size_t>(map.rows());
  const Values x = Values::random(map.element, rows* C, 1, 3);
  std::vector<float> scratch =
      std::vector<float>(static_cast<std::size_t>(scratch_floats(map.channels)));

  /// Folded parameters, of which none is like another.
  struct Folded {
    Values mean, invstd, scale, offset;
    Fold fold() {
      const auto of = [](Values& values) { return static_cast<float*>(values.data()); };
      return {of(mean), of(invstd), of(scale), of(offset)};
    }
  };
  Folded folded(float offset_mean = -3) const {
    return {Values::random(Element::kFloat32, C, 2, 3), Values::random(Element::kFloat32, C, 3, 5),
            Values::random(Element::kFloat32, C, 4, 1),
            Values::random(Element::kFloat32, C, 5, offset_mean)};
  }
  /// As the kernels round it: product and sum one by one.
  static float normalised(const Values& x, const Folded& by, std::size_t i, std::size_t channel) {
    const float product = x.at(i) * by.scale.at(channel);
    return product + by.offset.at(channel);
  }

  std::size_t pooled_size() const {
    return static_cast<std::size_t>(map.images * map.pooled(map.height) * map.pooled(map.width)) *
           C;
  }
  /// body(output, input, k) for the places k of all windows that lie in the map, elements of
  /// channel 0.
  void for_windows(const std::function<void(std::size_t, std::size_t, unsigned)>& body) const {
    std::size_t output = 0;
    for (std::int64_t image = 0; image < map.images; ++image) {
      for (std::int64_t oy = 0; oy < map.pooled(map.height); ++oy) {
        for (std::int64_t ox = 0; ox < map.pooled(map.width); ++ox, output += C) {
          for (unsigned k = 0; k < 9; ++k) {
            const std::int64_t iy = 2 * oy + k / 3 - map.pool_padding,
                               ix = 2 * ox + k % 3 - map.pool_padding;
            if (iy < 0 || ix < 0 || iy >= map.height || ix >= map.width) continue;
            body(output, static_cast<std::size_t>((image * map.height + iy) * map.width + ix) * C,
                 k);
          }
        }
      }
    }
  }
};

Map map_of(Element element, std::int64_t images, std::int64_t height, std::int64_t width,
           std::int64_t channels, std::int64_t padding = 1) {
  return {element, images, height, width, channels, padding};
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Element element : {Element::kFloat32, Element::kBf16}) {
    // 192 channels leave threads idle; 1,024 are the most; pooling knows even and odd sides.
    const Map maps[] = {map_of(element, 3, 7, 6, 64), map_of(element, 2, 6, 9, 64, 0),
                        map_of(element, 2, 5, 5, 192), map_of(element, 1, 3, 4, 192, 0),
                        map_of(element, 1, 5, 3, 1024)};
    for (const Map& map : maps) {
      for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled})
        all.push_back({map, order});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Maps, NormalizeKernels, testing::ValuesIn(cases()), name_of);

TEST_P(NormalizeKernels, moments_are_the_sums) {
  std::vector<double> found(2 * C + 1, std::nan(""));
  moments(map, x.data(), scratch.data(), found.data(), nullptr);
  EXPECT_EQ(found[2 * C], static_cast<double>(rows));
  for (std::size_t c = 0; c < C; ++c) {
    const double pivot = x.at(c);
    double sum = 0, squares = 0, distances = 0, distance_squares = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      const double value = x.at(row * C + c), distance = value - pivot;
      sum += value;
      squares += value * value;
      distances += std::abs(distance);
      distance_squares += distance * distance;
    }
    // In float32 are: each distance, its square, and at most `rows` additions.
    const double n = static_cast<double>(rows) + 3;
    EXPECT_NEAR(found[c], sum, n * kRounding * distances + 1e-12 * squares) << c;
    EXPECT_NEAR(
        found[C + c], squares,
        n * kRounding * (distance_squares + 2 * std::abs(pivot) * distances) + 1e-12 * squares)
        << c;
  }
}

TEST_P(NormalizeKernels, fold_is_batch_norms_formula) {
  for (const bool from_moments : {true, false}) {
    std::vector<double> moments(2 * C + 1);
    moments[2 * C] = 20;
    Values weight = Values::random(Element::kFloat32, C, 6, 1),
           bias = Values::random(Element::kFloat32, C, 7);
    Values mean = Values::random(Element::kFloat32, C, 8), var(Element::kFloat32, C);
    for (std::size_t c = 0; c < C; ++c) {
      var.set(c, 1 + 0.5F * static_cast<float>(c % 7));
      moments[c] = 20 * (0.25 * static_cast<double>(c % 5));                       // mean
      moments[C + c] = 20 * (2 + std::pow(0.25 * static_cast<double>(c % 5), 2));  // variance 2
    }
    const Values old_mean = mean, old_var = var;
    Folded out = folded();
    const Layer layer{static_cast<float*>(weight.data()), static_cast<float*>(bias.data()),
                      static_cast<float*>(mean.data()), static_cast<float*>(var.data())};
    fold(map.channels, from_moments ? moments.data() : nullptr, layer, 1e-5, 0.1, out.fold(),
         nullptr);
    for (std::size_t c = 0; c < C; ++c) {
      const double used_mean = from_moments ? moments[c] / 20 : old_mean.at(c);
      const double used_var = from_moments ? 2 : old_var.at(c);
      const double invstd = 1 / std::sqrt(used_var + 1e-5);
      const auto near = [&](float found, double expected) {
        EXPECT_NEAR(found, expected, 2 * kRounding * (1 + std::abs(expected))) << c << from_moments;
      };
      near(out.mean.at(c), used_mean);
      near(out.invstd.at(c), invstd);
      near(out.scale.at(c), weight.at(c) * invstd);
      near(out.offset.at(c), bias.at(c) - weight.at(c) * invstd * used_mean);
      near(mean.at(c), from_moments ? 0.9 * old_mean.at(c) + 0.1 * used_mean : used_mean);
      near(var.at(c), from_moments ? 0.9 * old_var.at(c) + 0.1 * 2 * 20 / 19 : used_var);
    }
  }
}

TEST_P(NormalizeKernels, fold_of_a_bias_adds_it_alone) {
  Folded out = folded();
  const Values bias = Values::random(Element::kFloat32, C, 6);
  fold_bias(map.channels, static_cast<const float*>(bias.data()), out.fold(), nullptr);
  for (std::size_t c = 0; c < C; ++c) {
    EXPECT_EQ(out.mean.at(c), 0);
    EXPECT_EQ(out.invstd.at(c), 1);
    EXPECT_EQ(out.scale.at(c), 1);
    EXPECT_EQ(out.offset.at(c), bias.at(c));
  }
}

TEST_P(NormalizeKernels, apply_is_the_normalisation_the_shortcut_and_the_maximum) {
  Folded by = folded();
  const Values shortcut = Values::random(map.element, rows * C, 9);
  for (const bool has_shortcut : {false, true}) {
    for (const bool relu : {false, true}) {
      Values y(map.element, rows * C, -7);
      apply(map, x.data(), has_shortcut ? shortcut.data() : nullptr, relu, by.fold(), y.data(),
            nullptr);
      for (std::size_t i = 0; i < rows * C; ++i) {
        float expected = normalised(x, by, i, i % C);
        if (has_shortcut) expected += shortcut.at(i);
        if (relu && expected < 0) expected = 0;
        ASSERT_EQ(y.at(i), y.stored(expected)) << i << has_shortcut << relu;
      }
    }
  }
}

TEST_P(NormalizeKernels, pooling_takes_the_first_maximum_and_its_place) {
  Folded by = folded();
  Values input = x;
  // Ties, and windows without a positive value.
  for (std::size_t i = 0; i < input.size(); i += 3) input.set(i, 2);
  Values y(map.element, pooled_size(), -7);
  std::vector<std::uint8_t> place(pooled_size(), 77);
  apply_pooled(map, input.data(), by.fold(), y.data(), place.data(), nullptr);
  std::vector<float> best(pooled_size());
  std::vector<std::uint8_t> best_place(pooled_size(), 255);
  for_windows([&](std::size_t output, std::size_t from, unsigned k) {
    for (std::size_t c = 0; c < C; ++c) {
      const float value = normalised(input, by, from + c, c);
      if (value <= best[output + c]) continue;
      best[output + c] = value;
      best_place[output + c] = static_cast<std::uint8_t>(k);
    }
  });
  EXPECT_EQ(place, best_place);
  for (std::size_t i = 0; i < best.size(); ++i) ASSERT_EQ(y.at(i), y.stored(best[i])) << i;
}

TEST_P(NormalizeKernels, what_is_no_number_stays_none) {
  Folded by = folded();
  Values input = x;
  const std::size_t hit = (rows / 2) * C + 5;
  input.set(hit, std::numeric_limits<float>::quiet_NaN());
  Values y(map.element, rows * C);
  apply(map, input.data(), nullptr, true, by.fold(), y.data(), nullptr);
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isnan(y.at(i)), i == hit);
  Values pooled(map.element, pooled_size());
  std::vector<std::uint8_t> place(pooled_size());
  apply_pooled(map, input.data(), by.fold(), pooled.data(), place.data(), nullptr);
  std::vector<bool> expected(pooled_size());
  for_windows([&](std::size_t output, std::size_t from, unsigned) {
    if (from + 5 == hit) expected[output + 5] = true;
  });
  for (std::size_t i = 0; i < pooled.size(); ++i) ASSERT_EQ(std::isnan(pooled.at(i)), expected[i]);
}

/// A gradient's source, and which part of it passes.
struct Source {
  const char* name;
  Gradient gradient;
  std::vector<double> passed;
};

TEST_P(NormalizeKernels, gradients_are_the_chain_rules) {
  Folded by = folded();
  Values dy = Values::random(map.element, rows * C, 10);
  const Values dy2 = Values::random(map.element, rows * C, 11),
               y = Values::random(map.element, rows * C, 12);
  const Values pooled_dy = Values::random(map.element, pooled_size(), 13);
  std::vector<std::uint8_t> place(pooled_size());
  for (std::size_t i = 0; i < place.size(); ++i)
    place[i] = static_cast<std::uint8_t>(i * 7 % 11 < 9 ? i * 7 % 11 : 255);

  std::vector<Source> sources;
  const auto add = [&](const char* name, const Gradient& gradient,
                       const std::function<double(std::size_t)>& passed) {
    Source source{name, gradient, {}};
    for (std::size_t i = 0; i < rows * C; ++i) source.passed.push_back(passed(i));
    sources.push_back(source);
  };
  add("all", {dy.data(), nullptr, false, nullptr, nullptr},
      [&](std::size_t i) { return dy.at(i); });
  add("input", {dy.data(), nullptr, true, nullptr, nullptr},
      [&](std::size_t i) { return normalised(x, by, i, i % C) > 0 ? dy.at(i) : 0; });
  add("output", {dy.data(), nullptr, true, y.data(), nullptr},
      [&](std::size_t i) { return y.at(i) > 0 ? dy.at(i) : 0; });
  add("output twice", {dy.data(), dy2.data(), true, y.data(), nullptr},
      [&](std::size_t i) { return y.at(i) > 0 ? dy.at(i) + dy2.at(i) : 0; });
  std::vector<double> through(rows * C);
  for_windows([&](std::size_t output, std::size_t from, unsigned k) {
    for (std::size_t c = 0; c < C; ++c) {
      if (place[output + c] == k) through[from + c] += pooled_dy.at(output + c);
    }
  });
  add("place", {pooled_dy.data(), nullptr, true, nullptr, place.data()},
      [&](std::size_t i) { return through[i]; });

  const Values abc = Values::random(Element::kFloat32, 3 * C, 14, 1);
  for (const Source& source : sources) {
    Values passed(map.element, rows * C, 99);
    std::vector<double> sums(2 * C, std::nan(""));
    gradient_sums(map, source.gradient, x.data(), by.fold(), passed.data(), scratch.data(),
                  sums.data(), nullptr);
    const double n = static_cast<double>(rows) + 6;
    for (std::size_t c = 0; c < C; ++c) {
      double g_sum = 0, gx_sum = 0, g_size = 0, gx_size = 0;
      for (std::size_t i = c; i < rows * C; i += C) {
        const double g = source.passed[i], far = static_cast<double>(x.at(i)) - by.mean.at(c);
        g_sum += g;
        gx_sum += g * far;
        g_size += std::abs(g);
        gx_size += std::abs(g * far) + std::abs(g * by.mean.at(c));
        ASSERT_NEAR(passed.at(i), g,
                    (map.element == Element::kBf16 ? 0x1p-8 : 4 * kRounding) * (std::abs(g) + 1e-3))
            << source.name << i;
      }
      EXPECT_NEAR(sums[c], g_sum, n * kRounding * g_size) << source.name << c;
      EXPECT_NEAR(sums[C + c], gx_sum, n * kRounding * gx_size) << source.name << c;
    }
    // In place where that is allowed.
    Values dx = source.gradient.dy == dy.data() ? dy : Values(map.element, rows * C, 99);
    Gradient gradient = source.gradient;
    if (gradient.dy == dy.data()) gradient.dy = dx.data();
    gradient_input(map, gradient, x.data(), by.fold(), static_cast<const float*>(abc.data()),
                   dx.data(), nullptr);
    for (std::size_t i = 0; i < rows * C; ++i) {
      const std::size_t c = i % C;
      const double terms[] = {abc.at(c) * source.passed[i],
                              abc.at(C + c) * (static_cast<double>(x.at(i)) - by.mean.at(c)),
                              abc.at(2 * C + c)};
      const double expected = terms[0] + terms[1] + terms[2];
      const double size = std::abs(terms[0]) + std::abs(terms[1]) + std::abs(terms[2]) + 10;
      ASSERT_NEAR(
          dx.at(i), expected,
          (map.element == Element::kBf16 ? 0x1p-8 * std::abs(expected) : 0) + 8 * kRounding * size)
          << source.name << i;
    }
  }
}

/// Sums, coefficients and inputs' gradients together are batch norm's backward pass.
TEST_P(NormalizeKernels, coefficients_are_batch_norms_backward_pass) {
  const Values dy = Values::random(map.element, rows * C, 10);
  Values weight = Values::random(Element::kFloat32, C, 6, 1),
         bias = Values::random(Element::kFloat32, C, 7);
  Values running_mean(Element::kFloat32, C), running_var(Element::kFloat32, C, 1);
  const Layer layer{static_cast<float*>(weight.data()), static_cast<float*>(bias.data()),
                    static_cast<float*>(running_mean.data()),
                    static_cast<float*>(running_var.data())};
  for (const bool of_batch : {true, false}) {
    Folded by = folded();
    std::vector<double> of_x(2 * C + 1), sums(2 * C);
    moments(map, x.data(), scratch.data(), of_x.data(), nullptr);
    fold(map.channels, of_batch ? of_x.data() : nullptr, layer, 1e-5, 0.1, by.fold(), nullptr);
    const Gradient gradient{dy.data(), nullptr, false, nullptr, nullptr};
    gradient_sums(map, gradient, x.data(), by.fold(), nullptr, scratch.data(), sums.data(),
                  nullptr);
    Values weight_gradient(Element::kFloat32, C), bias_gradient(Element::kFloat32, C),
        abc(Element::kFloat32, 3 * C);
    coefficients(map.channels, sums.data(), of_batch ? sums.data() : nullptr, of_x.data() + 2 * C,
                 static_cast<const float*>(weight.data()), by.fold(),
                 {static_cast<float*>(weight_gradient.data()),
                  static_cast<float*>(bias_gradient.data()), static_cast<float*>(abc.data())},
                 nullptr);
    Values dx(map.element, rows * C);
    gradient_input(map, gradient, x.data(), by.fold(), static_cast<const float*>(abc.data()),
                   dx.data(), nullptr);
    const double n = static_cast<double>(rows);
    for (std::size_t c = 0; c < C; ++c) {
      double mean = 0, var = 0, g_mean = 0, gx_mean = 0;
      for (std::size_t i = c; i < rows * C; i += C) mean += x.at(i) / n;
      for (std::size_t i = c; i < rows * C; i += C) var += std::pow(x.at(i) - mean, 2) / n;
      if (!of_batch) {
        mean = running_mean.at(c);
        var = running_var.at(c);
      }
      const double invstd = 1 / std::sqrt(var + 1e-5);
      const auto normal = [&](std::size_t i) { return (x.at(i) - mean) * invstd; };
      for (std::size_t i = c; i < rows * C; i += C) {
        g_mean += dy.at(i) / n;
        gx_mean += dy.at(i) * normal(i) / n;
      }
      EXPECT_NEAR(bias_gradient.at(c), g_mean * n, 1e-5 * n) << of_batch;
      EXPECT_NEAR(weight_gradient.at(c), gx_mean * n, 1e-5 * n * (1 + std::abs(mean) * invstd))
          << of_batch;
      for (std::size_t i = c; i < rows * C; i += C) {
        const double inner = of_batch ? dy.at(i) - g_mean - normal(i) * gx_mean : dy.at(i);
        const double expected = weight.at(c) * invstd * inner;
        ASSERT_NEAR(
            dx.at(i), expected,
            (map.element == Element::kBf16 ? 0x1p-8 * std::abs(expected) : 0) + 1e-4 * (1 + invstd))
            << c << of_batch;
      }
    }
  }
}

TEST(NormalizeKernelsOfNothing, launch_nothing_and_sum_to_zero) {
  const Map map = map_of(Element::kBf16, 0, 8, 8, 64);
  const int before = cuda_on_cpu::launches();
  std::vector<double> sums(129, 7);
  moments(map, nullptr, nullptr, sums.data(), nullptr);
  EXPECT_EQ(sums, std::vector<double>(129));
  sums.assign(129, 7);
  gradient_sums(map, {}, nullptr, {}, nullptr, nullptr, sums.data(), nullptr);
  EXPECT_EQ(sums[127], 0);
  EXPECT_EQ(sums[128], 7);
  apply(map, nullptr, nullptr, true, {}, nullptr, nullptr);
  apply_pooled(map, nullptr, {}, nullptr, nullptr, nullptr);
  gradient_input(map, {}, nullptr, {}, nullptr, nullptr, nullptr);
  EXPECT_EQ(cuda_on_cpu::launches(), before);
}

}  // namespace
}  // namespace quadrat::gpu::normalize
