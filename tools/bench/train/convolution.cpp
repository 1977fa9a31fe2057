// Convolutions of ResNet18 and AlexNet with their gradients, ours beside torch's own, on one
// thread.
//
//   build/release/tests/bench_train_convolution [fp32|bf16] [BATCH]
//
// Each figure is the least of several runs. Effective: the definition's operations, forward and for
// both gradients, over our time.

#include "convolution.h"

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "quadrat/base/clock.h"
#include "quadrat/score/plan.h"

namespace {

struct Shape {
  const char* name;
  std::int64_t in, out, side_px, size, stride, padding;
};

constexpr Shape kShapes[] = {
    {"ResNet18 conv1", 3, 64, 224, 7, 2, 3},       {"ResNet18 layer2.0.down", 64, 128, 56, 1, 2, 0},
    {"ResNet18 layer1", 64, 64, 56, 3, 1, 1},      {"ResNet18 layer2", 128, 128, 28, 3, 1, 1},
    {"ResNet18 layer3", 256, 256, 14, 3, 1, 1},    {"ResNet18 layer4", 512, 512, 7, 3, 1, 1},
    {"ResNet18 layer2.0", 64, 128, 56, 3, 2, 1},   {"ResNet18 layer3.0", 128, 256, 28, 3, 2, 1},
    {"ResNet18 layer4.0", 256, 512, 14, 3, 2, 1},  {"AlexNet features.0", 3, 64, 224, 11, 4, 2},
    {"AlexNet features.3", 64, 192, 27, 5, 1, 2},  {"AlexNet features.6", 192, 384, 13, 3, 1, 1},
    {"AlexNet features.8", 384, 256, 13, 3, 1, 1}, {"AlexNet features.10", 256, 256, 13, 3, 1, 1},
};

using Convolve = std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&)>;

struct Times {
  double forward_s = std::numeric_limits<double>::infinity();
  double input_s = forward_s, weight_s = forward_s;

  double total_s() const { return forward_s + input_s + weight_s; }
};

double seconds_of(const std::function<void()>& work) {
  const auto before = Clock::now();
  work();
  return seconds_since(before);
}

void measure(const Convolve& convolve, const torch::Tensor& input, const torch::Tensor& weight,
             bool bf16, Times& least) {
  torch::Tensor output;
  least.forward_s = std::min(least.forward_s, seconds_of([&] {
                               at::autocast::set_autocast_enabled(torch::kCPU, bf16);
                               output = convolve(input, weight);
                               at::autocast::clear_cache();
                               at::autocast::set_autocast_enabled(torch::kCPU, false);
                             }));
  const auto gradient = torch::ones_like(output);
  const auto of = [&](const torch::Tensor& leaf) {
    return seconds_of([&] { torch::autograd::grad({output}, {leaf}, {gradient}, true); });
  };
  least.input_s = std::min(least.input_s, of(input));
  least.weight_s = std::min(least.weight_s, of(weight));
}

}  // namespace

int main(int count, char** arguments) {
  const bool bf16 = count > 1 && std::string(arguments[1]) == "bf16";
  const std::int64_t batch = count > 2 ? std::stol(arguments[2]) : 32;
  constexpr int kRuns = 7;
  at::set_num_threads(1);
  quadrat::score::keep_freed_memory();
  at::autocast::set_autocast_dtype(torch::kCPU, torch::kBFloat16);
  fmt::print("{}, {} tiles; ms forward / input's gradient / weights' gradient\n",
             bf16 ? "bf16" : "fp32", batch);
  for (const Shape& shape : kShapes) {
    const auto input = torch::randn({batch, shape.in, shape.side_px, shape.side_px})
                           .to(bf16 ? torch::kBFloat16 : torch::kFloat)
                           .contiguous(torch::MemoryFormat::ChannelsLast)
                           .requires_grad_();
    const auto weight = (torch::randn({shape.out, shape.in, shape.size, shape.size}) * 0.05)
                            .contiguous(torch::MemoryFormat::ChannelsLast)
                            .requires_grad_();
    const Convolve ours = [&](const torch::Tensor& x, const torch::Tensor& w) {
      return quadrat::convolution_of(x, w, {}, shape.stride, shape.padding);
    };
    const Convolve torchs = [&](const torch::Tensor& x, const torch::Tensor& w) {
      return at::conv2d(x, w, {}, {shape.stride, shape.stride}, {shape.padding, shape.padding});
    };
    Times mine, theirs;
    for (int run = 0; run < kRuns; ++run) {
      measure(ours, input, weight, bf16, mine);
      measure(torchs, input, weight, bf16, theirs);
    }
    const auto side = (shape.side_px + 2 * shape.padding - shape.size) / shape.stride + 1;
    const double operations =
        3.0 * 2.0 *
        static_cast<double>(batch * side * side * shape.out * shape.in * shape.size * shape.size);
    fmt::print(
        "{:20} ours {:6.1f} {:6.1f} {:6.1f}  torch {:6.1f} {:6.1f} {:6.1f}  ratio {:.2f}, "
        "effective {:.0f} Gflop/s\n",
        shape.name, 1e3 * mine.forward_s, 1e3 * mine.input_s, 1e3 * mine.weight_s,
        1e3 * theirs.forward_s, 1e3 * theirs.input_s, 1e3 * theirs.weight_s,
        theirs.total_s() / mine.total_s(), operations / mine.total_s() / 1e9);
  }
}
