#include "quadrat/mpi/processors.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace quadrat::mpi {

namespace {

cpu_set_t affinity_of(pid_t process) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(process, sizeof set, &set) != 0) {
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) CPU_SET(i, &set);
  }
  return set;
}

bool is_mpirun(pid_t process) {
  std::string name;
  std::getline(std::ifstream(fmt::format("/proc/{}/comm", process)), name);
  constexpr const char* kNames[] = {"mpirun", "orterun", "orted", "prterun", "prted"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

}  // namespace

Processors processors_of(const Communicator& ranks) {
  const cpu_set_t mine = affinity_of(0);
  const Communicator host = ranks.split_by_host();
  const std::vector<cpu_set_t> gathered = host.gather_values(std::vector{mine});
  const auto bytes = std::as_bytes(std::span(gathered));
  const Bytes all = host.broadcast(Bytes(bytes.begin(), bytes.end()));

  int sharing = 0;
  cpu_set_t any;
  CPU_ZERO(&any);
  for (std::size_t at = 0; at < all.size(); at += sizeof(cpu_set_t)) {
    cpu_set_t other;
    std::memcpy(&other, all.data() + at, sizeof other);
    sharing += CPU_EQUAL(&mine, &other) != 0 ? 1 : 0;
    CPU_OR(&any, &any, &other);
  }
  Processors found;
  found.per_rank = std::max(1, CPU_COUNT(&mine) / std::max(1, sharing));
  found.of_ranks = CPU_COUNT(&any);
  const pid_t parent = ::getppid();
  if (is_mpirun(parent)) {
    const cpu_set_t its = affinity_of(parent);
    found.of_launcher = CPU_COUNT(&its);
  }
  return found;
}

}  // namespace quadrat::mpi
