// Ranks that wait for each other under a watchdog of 2 s; the last one stops or kills itself first
// when told to.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string_view>
#include <thread>

#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/mpi/watchdog.h"

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  const quadrat::mpi::Environment environment;
  const auto ranks = quadrat::mpi::Communicator::world();
  const quadrat::mpi::Watchdog watchdog(ranks, 2);
  ranks.barrier();
  if (ranks.is_root()) std::puts("ready");
  std::fflush(stdout);
  if (ranks.rank() == ranks.size() - 1) {
    if (what == "stop") std::raise(SIGSTOP);
    if (what == "kill") std::raise(SIGKILL);
    if (what == "sleep") std::this_thread::sleep_for(std::chrono::seconds(3));
  }
  ranks.barrier();
  if (ranks.is_root()) std::puts("done");
}
