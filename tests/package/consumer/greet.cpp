// Uses quadrat::base and quadrat::mpi: sums over the ranks.
#include <cstdint>
#include <cstdio>
#include <string>

#include "quadrat/base/version.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"

int main() {
  const quadrat::mpi::Environment environment;
  const auto world = quadrat::mpi::Communicator::world();
  const auto sum = world.sum(static_cast<std::int64_t>(world.rank()) + 1);
  if (!world.is_root()) return 0;
  std::printf("quadrat %s: %d ranks, their numbers add up to %lld\n",
              std::string(quadrat::version()).c_str(), world.size(), static_cast<long long>(sum));
  return sum == world.size() * (world.size() + 1) / 2 ? 0 : 1;
}
