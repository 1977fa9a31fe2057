// How long it takes until every rank knows the tiles: rank 0 lists them and the others are sent the
// list, as at the start of every program here.
#include <chrono>
#include <cstdio>
#include <utility>

#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/tiles/catalog.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: mpirun -n N list_tiles FOLDER\n", stderr);
    return 1;
  }
  const quadrat::mpi::Environment environment;
  const auto ranks = quadrat::mpi::Communicator::world();
  ranks.barrier();
  const auto start = std::chrono::steady_clock::now();
  quadrat::Bytes bytes;
  if (ranks.is_root()) bytes = quadrat::list_tiles(argv[1]).serialize();
  const auto listed = std::chrono::steady_clock::now();
  const auto catalog = quadrat::Catalog::deserialize(ranks.broadcast(std::move(bytes)));
  ranks.barrier();
  const auto sent = std::chrono::steady_clock::now();
  if (!ranks.is_root()) return 0;
  const auto seconds = [](auto duration) {
    return std::chrono::duration<double>(duration).count();
  };
  std::printf("%zu tiles: listed in %.2f s, sent to %d ranks in %.3f s\n", catalog.tiles.size(),
              seconds(listed - start), ranks.size(), seconds(sent - listed));
}
