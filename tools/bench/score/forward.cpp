// How quickly this machine computes a network, without reading or decoding: tiles a second of all
// ranks together, each with one thread, and beside it what the same ranks reach multiplying large
// matrices in that precision (int16: in float32).
//
// usage: [mpirun -n N] bench_score_forward MODEL {fp32,bf16,int8,int16} [SECONDS [BATCH]]
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <array>
#include <cstdio>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/score/plan.h"

namespace {

using quadrat::score::Calibration;
using quadrat::score::Plan;
using quadrat::score::Precision;

/// Calls `work` for so long. @return calls a second
template <typename Work>
double rate(double seconds, Work work) {
  work();
  const auto start = Clock::now();
  std::int64_t calls = 0;
  do {
    work();
    ++calls;
  } while (seconds_since(start) < seconds);
  return static_cast<double>(calls) / seconds_since(start);
}

/// Multiplications and additions a second in thousands of millions: a side^3 product of matrices.
double multiply_rate(Precision precision, double seconds) {
  constexpr std::int64_t kSide = 1536;
  const torch::InferenceMode guard;
  double products = 0;
  if (precision == Precision::kInt8) {
    const auto a = torch::randint(0, 255, {kSide, kSide}, torch::kByte);
    const auto pack = c10::Dispatcher::singleton()
                          .findSchemaOrThrow("onednn::qlinear_prepack", "")
                          .typed<at::Tensor(at::Tensor, std::optional<c10::List<std::int64_t>>)>();
    const auto b = pack.call(torch::randint(-127, 127, {kSide, kSide}, torch::kChar),
                             c10::List<std::int64_t>({kSide, kSide}));
    const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("onednn::qlinear_pointwise", "")
            .typed<at::Tensor(at::Tensor, double, std::int64_t, at::Tensor, at::Tensor, at::Tensor,
                              std::optional<at::Tensor>, double, std::int64_t,
                              std::optional<at::ScalarType>, std::string_view,
                              c10::List<std::optional<at::Scalar>>, std::string_view)>();
    const auto scales = torch::ones({kSide});
    const auto zeros = torch::zeros({kSide}, torch::kInt);
    products = rate(seconds, [&] {
      op.call(a, 1.0, 0, b, scales, zeros, std::nullopt, 1000.0, 0, std::nullopt, "none",
              c10::List<std::optional<at::Scalar>>(), "");
    });
  } else {
    const auto type = precision == Precision::kBf16 ? torch::kBFloat16 : torch::kFloat;
    const auto a = torch::rand({kSide, kSide}).to(type);
    const auto b = torch::rand({kSide, kSide}).to(type);
    auto c = torch::empty({kSide, kSide}, type);
    products = rate(seconds, [&] { at::mm_out(c, a, b); });
  }
  return products * 1e-9 * kSide * kSide * kSide;
}

int run(int argc, char** argv, const quadrat::mpi::Communicator& ranks) {
  const std::string_view name = argv[2];
  const Precision precision = quadrat::score::parse_precision(name);
  const double seconds = argc > 3 ? std::stod(argv[3]) : 3;
  auto weights = quadrat::read_weights(argv[1]);
  const auto card = quadrat::read_model_card(weights, argv[1]);
  const std::int64_t batch =
      argc > 4 ? std::stoll(argv[4]) : Plan::suitable_batch(card.architecture);

  std::vector<std::uint8_t> tiles(static_cast<std::size_t>(batch) * card.tile_px * card.tile_px *
                                  3);
  std::minstd_rand random(7);
  for (auto& byte : tiles) byte = static_cast<std::uint8_t>(random() >> 8);
  Calibration calibration;
  if (precision == Precision::kInt8) {
    Plan plan(quadrat::score::fuse_network(weights, card, argv[1]), Precision::kFp32,
              Plan::kTilesAtOnce);
    plan.observe(tiles, calibration);
  }
  Plan plan(quadrat::score::fuse_network(std::move(weights), card, argv[1]), precision, batch,
            &calibration);
  quadrat::score::keep_freed_memory();
  plan.infer(tiles);
  ranks.barrier();
  std::array<double, 2> sums{rate(seconds, [&] { plan.infer(tiles); }) * static_cast<double>(batch),
                             0};
  ranks.barrier();
  sums[1] = multiply_rate(precision, seconds / 3);
  ranks.sum(sums);
  const auto [tiles_per_s, limit] = sums;
  // Multiplications of one tile at 224 px, as convolutions are defined.
  const double needed = card.architecture == quadrat::Architecture::kAlexNet ? 0.714 : 1.814;
  if (ranks.is_root()) {
    fmt::print(
        "{:.1f} tiles/s, {:.1f} G multiplications/s of large matrices: {:.1f} tiles/s at that "
        "rate\n",
        tiles_per_s, limit, limit / needed);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: bench_score_forward MODEL {fp32,bf16,int8,int16} [SECONDS [BATCH]]\n",
               stderr);
    return 1;
  }
  at::set_num_threads(1);
  const quadrat::mpi::Environment environment;
  try {
    return run(argc, argv, quadrat::mpi::Communicator::world());
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_score_forward: {}\n", error.what());
    return 2;
  }
}
