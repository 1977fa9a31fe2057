#pragma once

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "quadrat/base/host_device.h"

namespace quadrat {

/// Random numbers that are a pure function of a key, so that what a sample gets depends on (seed,
/// epoch, sample) and never on which rank, thread or order it is computed in. SplitMix64 (Steele,
/// Lea and Flood, 2014): its output mix passes BigCrush over a counter.
class KeyedRandom {
 public:
  /// @param key e.g. {seed, stream, epoch, sample}: every part changes all that follows
  explicit KeyedRandom(std::initializer_list<std::uint64_t> key) {
    for (const std::uint64_t part : key) state_ = mix(state_ ^ mix(part + kIncrement));
  }

  /// The same of a key of three parts; for code on a GPU, which has no lists.
  QUADRAT_HOST_DEVICE KeyedRandom(std::uint64_t first, std::uint64_t second, std::uint64_t third) {
    state_ = mix(state_ ^ mix(first + kIncrement));
    state_ = mix(state_ ^ mix(second + kIncrement));
    state_ = mix(state_ ^ mix(third + kIncrement));
  }

  QUADRAT_HOST_DEVICE std::uint64_t next() { return mix(state_ += kIncrement); }

  /// As so many calls of next(), at once.
  QUADRAT_HOST_DEVICE void skip(std::uint64_t numbers) { state_ += numbers * kIncrement; }

  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// Uniform in [0, n), n > 0, without modulo bias (Lemire's multiply-shift; its bias is below n /
  /// 2^64).
  std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * n) >> 64);
  }

 private:
  __extension__ typedef unsigned __int128 Wide;  // `using` is more than nvcc takes after it

  static constexpr std::uint64_t kIncrement = 0x9E3779B97F4A7C15u;

  QUADRAT_HOST_DEVICE static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_ = 0x6A09E667F3BCC909u;
};

/// Fisher-Yates; std::shuffle's result differs between standard libraries, this one's does not.
template <typename T>
void shuffle(std::vector<T>& items, KeyedRandom& random) {
  for (std::size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1], items[random.below(i)]);
  }
}

/// Streams keep uses of one seed apart: KeyedRandom({seed, kStreamOrder, epoch}).
enum RandomStream : std::uint64_t {
  kStreamInit = 1,
  kStreamShard,
  kStreamOrder,
  kStreamAugment,
  kStreamDropout,
  kStreamSample,
  kStreamSynth,
  kStreamSplit,
  kStreamForest,
  kStreamView,
};

}  // namespace quadrat
