// How long sums over MPI take, by size: lines "BYTES SECONDS", the slowest rank's median of 15.
//
// usage: mpirun -n N bench_train_all_reduce
#include "quadrat/comm/all_reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "quadrat/base/clock.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"

int main() {
  constexpr std::size_t kTimes = 15;
  const quadrat::mpi::Environment environment;
  const auto ranks = quadrat::mpi::Communicator::world();
  const auto all_reduce = quadrat::comm::make_mpi_all_reduce(ranks);
  for (const std::int64_t bytes : {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20}) {
    const auto values = torch::ones({bytes / static_cast<std::int64_t>(sizeof(float))});
    std::vector<double> seconds;
    for (std::size_t i = 0; i < kTimes; ++i) {
      ranks.barrier();
      const auto start = Clock::now();
      all_reduce->start(values)->wait();
      seconds.push_back(ranks.max(seconds_since(start)));
    }
    std::nth_element(seconds.begin(), seconds.begin() + kTimes / 2, seconds.end());
    if (ranks.is_root()) fmt::print("{} {:.6f}\n", bytes, seconds[kTimes / 2]);
  }
}
