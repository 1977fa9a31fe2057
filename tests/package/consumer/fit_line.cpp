// Trains a model that has nothing to do with tiles on several ranks: y = 3 x - 1, each rank having
// points of its own.
#include <torch/torch.h>

#include <cstdio>

#include "quadrat/comm/gradient_reducer.h"
#include "quadrat/mpi/environment.h"

int main() {
  const quadrat::mpi::Environment environment;
  const auto world = quadrat::mpi::Communicator::world();
  const auto all_reduce = quadrat::comm::make_mpi_all_reduce(world);

  torch::manual_seed(0);  // the same start on every rank
  torch::nn::Linear line(1, 1);
  torch::optim::SGD optimizer(line->parameters(), 0.5);
  quadrat::comm::GradientReducer reducer(line->parameters(), *all_reduce);

  torch::manual_seed(world.rank() + 1);  // other points on each
  const torch::Tensor x = torch::rand({64, 1}) * 2 - 1;
  const torch::Tensor y = 3 * x - 1;
  for (int step = 0; step < 100; ++step) {
    reducer.prepare();
    const torch::Tensor loss = (line(x) - y).square().sum() / (64 * world.size());
    loss.backward();
    reducer.finish();
    optimizer.step();
  }
  const double slope = line->weight.item<double>();
  const double offset = line->bias.item<double>();
  if (world.is_root()) std::printf("y = %.3f x + %.3f\n", slope, offset);
  return std::abs(slope - 3) < 1e-3 && std::abs(offset + 1) < 1e-3 ? 0 : 1;
}
