// How well work units spread over many ranks of uneven speed: the counter's cost measured on the
// ranks this runs on, then the whole United States, 195 million tiles, dealt to up to 4,096
// simulated ranks.
//
// usage: [mpirun -n N] bench_score_deal
//
// Simulated as quadrat-score works: a rank has two more units dealt to it than the one in hand, so
// its last ones may have waited for it while others were idle. Speeds are uniform between half and
// one and a half of the mean. Efficiency is the work over what all ranks could have done until the
// last one finished.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <queue>
#include <random>
#include <utility>
#include <vector>

#include "quadrat/base/clock.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/mpi/unit_dealer.h"
#include "quadrat/score/units.h"

namespace {

constexpr int kAhead = 2;

/// Seconds that one call takes with all ranks asking at once.
double measure_counter(const quadrat::mpi::Communicator& ranks) {
  constexpr std::size_t kCalls = 200'000;
  quadrat::mpi::UnitDealer dealer(ranks, kCalls);
  ranks.barrier();
  const auto start = Clock::now();
  std::size_t mine = 0;
  while (dealer.next()) ++mine;
  const double seconds = ranks.max(seconds_since(start));
  dealer.wait_for_all([] {});
  return seconds / kCalls;
}

struct Result {
  double efficiency, seconds, calls_per_s;
};

Result simulate(std::size_t ranks, const quadrat::score::Units& units, double tiles_per_s,
                double call_s) {
  std::minstd_rand random(11);
  std::uniform_real_distribution<double> spread(0.5, 1.5);
  std::vector<double> speeds(ranks);
  double together = 0;
  for (double& speed : speeds) together += speed = tiles_per_s * spread(random);
  // (when the rank begins its next unit, rank); what each has been dealt beyond that.
  std::priority_queue<std::pair<double, std::size_t>, std::vector<std::pair<double, std::size_t>>,
                      std::greater<>>
      begins;
  std::vector<std::deque<std::size_t>> dealt(ranks);
  std::size_t next = 0;
  double counter_free = 0, end = 0, tiles = 0;
  const auto take = [&](double now) {  // the counter serves one call after the other
    counter_free = std::max(counter_free, now) + call_s;
    return next < units.count() ? next++ : units.count();
  };
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    for (int ahead = 0; ahead < kAhead; ++ahead) dealt[rank].push_back(take(0));
    begins.emplace(counter_free, rank);
  }
  while (!begins.empty()) {
    const auto [now, rank] = begins.top();
    begins.pop();
    const std::size_t unit = dealt[rank].front();
    dealt[rank].pop_front();
    if (unit >= units.count()) continue;
    dealt[rank].push_back(take(now));  // does not wait: it is asked for ahead
    const double done = now + static_cast<double>(units.size(unit)) / speeds[rank];
    tiles += static_cast<double>(units.size(unit));
    end = std::max(end, done);
    begins.emplace(done, rank);
  }
  return {tiles / (together * end), end, static_cast<double>(units.count()) / end};
}

}  // namespace

int main() {
  const quadrat::mpi::Environment environment;
  const auto ranks = quadrat::mpi::Communicator::world();
  const double call_s = measure_counter(ranks);
  if (!ranks.is_root()) return 0;
  constexpr std::size_t kTiles = 195'000'000;
  constexpr double kTilesPerSecond = 200;
  constexpr std::size_t kBatch = 8;
  const quadrat::score::Units units(kTiles, kBatch);
  fmt::print("a fetch-and-add takes {:.2f} us with {} ranks asking at once\n", call_s * 1e6,
             ranks.size());
  fmt::print("{} tiles in {} units, {} tiles/s a rank, a call 20 us (a network's):\n", kTiles,
             units.count(), kTilesPerSecond);
  fmt::print("{:>6} {:>11} {:>10} {:>9} {:>16}\n", "ranks", "efficiency", "hours", "calls/s",
             "counter's share");
  constexpr double kNetworkCall = 20e-6;
  for (const std::size_t count : {2U, 64U, 512U, 4096U}) {
    const Result result = simulate(count, units, kTilesPerSecond, std::max(kNetworkCall, call_s));
    fmt::print("{:>6} {:>10.2f}% {:>10.2f} {:>9.1f} {:>15.3f}%\n", count, 100 * result.efficiency,
               result.seconds / 3600, result.calls_per_s,
               100 * result.calls_per_s * std::max(kNetworkCall, call_s));
  }
  return 0;
}
