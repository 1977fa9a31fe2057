#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat::mpi {

/// Turns an MPI return code into a CommError with MPI's own text. @param call the function's name
void check(int code, const char* call);

/// A group of ranks, with a context of its own: messages on it never meet those of any other
/// communicator. Move-only; a moved-from one is null. Every member function is collective unless it
/// says otherwise.
class Communicator {
 public:
  /// A duplicate of MPI_COMM_WORLD.
  static Communicator world();

  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator();

  Communicator duplicate() const;
  /// The ranks that share this host's memory.
  Communicator split_by_host() const;

  int rank() const { return rank_; }           ///< not collective
  int size() const { return size_; }           ///< not collective
  bool is_root() const { return rank_ == 0; }  ///< not collective
  int hosts() const;                           ///< on how many the ranks run
  MPI_Comm get() const { return comm_; }       ///< not collective

  /// Of so many things this rank's, [first, last): as many as any other's or one more, in rank
  /// order. Not collective.
  std::pair<std::size_t, std::size_t> share_of(std::size_t count) const;

  void barrier() const;

  /// Rank `root`'s bytes, on every rank. Sizes beyond 2 GB are sent in pieces.
  Bytes broadcast(Bytes bytes, int root = 0) const;
  std::string broadcast(std::string text, int root = 0) const;

  /// In place, element by element over all ranks.
  void sum(std::span<double> values) const;
  double max(double value) const;
  std::int64_t min(std::int64_t value) const;
  std::int64_t sum(std::int64_t value) const;

  /// Every rank's bytes in rank order, on `root`; empty elsewhere.
  std::vector<Bytes> gather(std::span<const std::byte> mine, int root = 0) const;

  /// Every rank's values one after the other in rank order, on rank 0; empty elsewhere.
  template <typename T>
  std::vector<T> gather_values(const std::vector<T>& mine) const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<T> all;
    for (const Bytes& part : gather(std::as_bytes(std::span(mine)))) {
      const std::size_t before = all.size();
      all.resize(before + part.size() / sizeof(T));
      if (!part.empty()) std::memcpy(all.data() + before, part.data(), part.size());
    }
    return all;
  }

  /// Bytes that lie in the same place on every rank, each rank's own from bounds[rank] to
  /// bounds[rank + 1]: afterwards root has all of them.
  void gather_parts(std::span<std::byte> bytes, std::span<const std::size_t> bounds,
                    int root = 0) const;

 private:
  explicit Communicator(MPI_Comm owned);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

/// Runs `work` on every rank, then lets the ranks agree: where any threw, all throw the lowest such
/// rank's error (as a shared Error), so that nobody waits in the next collective for a rank that
/// has left. Collective.
void together(const Communicator& ranks, const std::function<void()>& work);

/// Whether a signal has asked any rank to stop. Collective.
bool any_asked_to_stop(const Communicator& ranks);

/// @throws Error of kind kInterrupted, on all ranks, where a signal has asked any of them to stop.
/// Collective.
void stop_if_asked(const Communicator& ranks);

}  // namespace quadrat::mpi
