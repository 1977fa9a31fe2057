#include <immintrin.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "quadrat/base/bf16.h"
#include "quadrat/base/error.h"
#include "quadrat/comm/all_reduce.h"

namespace quadrat::comm {

namespace {

// Small enough to stay in the caches between a rank's writing and another's reading, so that main
// memory sees each gradient twice: read once, written once.
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 18;
constexpr std::uint64_t kSlots = 4;

/// What a rank tells the others, in pieces since the beginning. Each is written by its owner alone.
struct alignas(64) Progress {
  std::atomic<std::uint64_t> written;  ///< the rank's own values are in its slots
  std::atomic<std::uint64_t> summed;   ///< its slice of the sum is in its slots
  std::atomic<std::uint64_t> read;     ///< it has taken all slices: its slots may be written again
};

struct alignas(64) Segment {
  Progress progress;
  alignas(64) std::array<std::array<std::byte, kPieceBytes>, kSlots> slots;
};

/// Element by element over the ranks in their order, rounded to T once.
/// @param sources one a rank; the result goes to the `mine`-th
template <typename T, typename Sum, typename Widen, typename Narrow>
void sum_slice(const std::vector<std::byte*>& sources, std::size_t mine, std::int64_t first,
               std::int64_t last, Widen to_sum, Narrow from_sum) {
  constexpr std::int64_t kAtOnce = 1024;
  std::array<Sum, kAtOnce> sums;
  for (std::int64_t at = first; at < last; at += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, last - at);
    const auto* from = reinterpret_cast<const T*>(sources[0]) + at;
    for (std::int64_t i = 0; i < count; ++i) sums[static_cast<std::size_t>(i)] = to_sum(from[i]);
    for (std::size_t rank = 1; rank < sources.size(); ++rank) {
      from = reinterpret_cast<const T*>(sources[rank]) + at;
      for (std::int64_t i = 0; i < count; ++i) sums[static_cast<std::size_t>(i)] += to_sum(from[i]);
    }
    auto* to = reinterpret_cast<T*>(sources[mine]) + at;
    for (std::int64_t i = 0; i < count; ++i) to[i] = from_sum(sums[static_cast<std::size_t>(i)]);
  }
}

/// The sums under way, in the order they were started; all ranks cut them into the same pieces. A
/// piece goes through three steps: every rank writes its values to a slot of its own, sums one
/// slice of all ranks' slots, and reads the slices that the others have summed. A rank takes each
/// step as soon as the others are far enough.
class Engine {
 public:
  explicit Engine(const mpi::Communicator& ranks)
      : ranks_(ranks.size()), rank_(static_cast<std::size_t>(ranks.rank())) {
    void* mine = nullptr;
    // MPI promises no alignment. Its memory begins a page in every process, so that all round an
    // address up alike.
    mpi::check(MPI_Win_allocate_shared(static_cast<MPI_Aint>(sizeof(Segment) + alignof(Segment)), 1,
                                       MPI_INFO_NULL, ranks.get(), &mine, &window_),
               "MPI_Win_allocate_shared");
    for (int rank = 0; rank < ranks_; ++rank) {
      MPI_Aint bytes = 0;
      int unit = 0;
      void* base = nullptr;
      mpi::check(MPI_Win_shared_query(window_, rank, &bytes, &unit, &base), "MPI_Win_shared_query");
      std::size_t room = sizeof(Segment) + alignof(Segment);
      segments_.push_back(
          static_cast<Segment*>(std::align(alignof(Segment), sizeof(Segment), base, room)));
    }
    new (&segments_[rank_]->progress) Progress{};
    ranks.barrier();
  }
  ~Engine() {
    // Freeing is collective, as in Communicator.
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 && std::uncaught_exceptions() == 0) MPI_Win_free(&window_);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// @return the number of pieces that must be read before the sum is there
  std::uint64_t add(torch::Tensor values) {
    Task task;
    task.values = std::move(values);
    task.data = static_cast<std::byte*>(task.values.mutable_data_ptr());
    task.elements = task.values.numel();
    task.element_bytes = static_cast<std::int64_t>(task.values.element_size());
    task.first_piece = end_;
    end_ += static_cast<std::uint64_t>((task.elements * task.element_bytes + kPieceBytes - 1) /
                                       kPieceBytes);
    task.end_piece = end_;
    tasks_.push_back(std::move(task));
    return end_;
  }

  /// Takes every step that needs no waiting. @return whether there was any
  bool advance() {
    Progress& mine = segments_[rank_]->progress;
    bool any = false;
    for (bool moved = true; moved; any = any || moved) {
      moved = false;
      if (may_go(written_, end_, all_read_, kSlots, &Progress::read)) {
        write(piece(written_));
        mine.written.store(++written_, std::memory_order_release);
        moved = true;
      }
      if (may_go(summed_, written_, all_written_, 0, &Progress::written)) {
        sum(piece(summed_));
        mine.summed.store(++summed_, std::memory_order_release);
        moved = true;
      }
      if (may_go(read_, summed_, all_summed_, 0, &Progress::summed)) {
        read(piece(read_));
        mine.read.store(++read_, std::memory_order_release);
        while (!tasks_.empty() && tasks_.front().end_piece <= read_) tasks_.pop_front();
        moved = true;
      }
    }
    return any;
  }

  std::uint64_t done() const { return read_; }
  int ranks() const { return ranks_; }

 private:
  struct Task {
    torch::Tensor values;
    std::byte* data = nullptr;
    std::int64_t elements = 0;
    std::int64_t element_bytes = 1;
    std::uint64_t first_piece = 0;
    std::uint64_t end_piece = 0;
  };
  struct Piece {
    const Task* task;
    std::byte* data;
    std::int64_t elements;
    std::size_t slot;
  };

  Piece piece(std::uint64_t number) const {
    const auto task = std::upper_bound(
        tasks_.begin(), tasks_.end(), number,
        [](std::uint64_t value, const Task& one) { return value < one.end_piece; });
    const std::int64_t whole = kPieceBytes / task->element_bytes;
    const std::int64_t first = static_cast<std::int64_t>(number - task->first_piece) * whole;
    return {&*task, task->data + first * task->element_bytes,
            std::min(whole, task->elements - first), static_cast<std::size_t>(number % kSlots)};
  }

  /// What rank `owner` sums of a piece: from here to where the next rank's slice begins.
  std::int64_t slice(const Piece& piece, std::size_t owner) const {
    return piece.elements * static_cast<std::int64_t>(owner) / ranks_;
  }

  void write(const Piece& piece) {
    std::memcpy(segments_[rank_]->slots[piece.slot].data(), piece.data,
                static_cast<std::size_t>(piece.elements * piece.task->element_bytes));
  }

  void sum(const Piece& piece) {
    sources_.clear();
    for (Segment* segment : segments_) sources_.push_back(segment->slots[piece.slot].data());
    const std::int64_t first = slice(piece, rank_);
    const std::int64_t last = slice(piece, rank_ + 1);
    const auto same = [](auto value) { return value; };
    switch (piece.task->values.scalar_type()) {
      case torch::kFloat:
        sum_slice<float, float>(sources_, rank_, first, last, same, same);
        break;
      case torch::kDouble:
        sum_slice<double, double>(sources_, rank_, first, last, same, same);
        break;
      default:
        sum_slice<std::uint16_t, float>(sources_, rank_, first, last, bf16::widen, bf16::narrow);
        break;
    }
  }

  void read(const Piece& piece) {
    const std::int64_t bytes = piece.task->element_bytes;
    for (std::size_t owner = 0; owner < segments_.size(); ++owner) {
      const std::int64_t first = slice(piece, owner) * bytes;
      const std::int64_t last = slice(piece, owner + 1) * bytes;
      std::memcpy(piece.data + first, segments_[owner]->slots[piece.slot].data() + first,
                  static_cast<std::size_t>(last - first));
    }
  }

  /// Whether a step may take piece `next`: it is below `limit`, and the slowest rank's `what` is
  /// less than `ahead` behind or past it. Looks at the others only where `known` does not say so.
  bool may_go(std::uint64_t next, std::uint64_t limit, std::uint64_t& known, std::uint64_t ahead,
              std::atomic<std::uint64_t> Progress::*what) const {
    if (next >= limit) return false;
    if (next < known + ahead) return true;
    known = UINT64_MAX;
    for (const Segment* segment : segments_) {
      known = std::min(known, (segment->progress.*what).load(std::memory_order_acquire));
    }
    return next < known + ahead;
  }

  int ranks_;
  std::size_t rank_;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<Segment*> segments_;
  std::vector<std::byte*> sources_;
  std::deque<Task> tasks_;
  std::uint64_t end_ = 0;                              // pieces of all sums that were started
  std::uint64_t written_ = 0, summed_ = 0, read_ = 0;  // this rank's
  // That every rank has done, as far as is known.
  std::uint64_t all_written_ = 0, all_summed_ = 0, all_read_ = 0;
};

class SharedMemoryPending : public Pending {
 public:
  SharedMemoryPending(std::shared_ptr<Engine> engine, std::uint64_t end)
      : engine_(std::move(engine)), end_(end) {}

  bool poll() override {
    engine_->advance();
    return engine_->done() >= end_;
  }

  void wait() override {
    // A rank that has the core to itself finds out soonest by looking; one that shares it must let
    // the others run.
    constexpr int kLooks = 200;
    for (int looks = 0; engine_->done() < end_; ++looks) {
      if (engine_->advance()) looks = 0;
      if (looks < kLooks) {
        _mm_pause();
      } else {
        sched_yield();
      }
    }
  }

 private:
  std::shared_ptr<Engine> engine_;
  std::uint64_t end_;
};

class SharedMemoryAllReduce : public AllReduce {
 public:
  explicit SharedMemoryAllReduce(const mpi::Communicator& ranks)
      : engine_(std::make_shared<Engine>(ranks)) {}

  std::unique_ptr<Pending> start(torch::Tensor values) override {
    TORCH_CHECK(values.device().is_cpu() && values.is_non_overlapping_and_dense(),
                "a dense tensor in host memory");
    const auto type = values.scalar_type();
    TORCH_CHECK(type == torch::kFloat || type == torch::kDouble || type == torch::kBFloat16,
                "no sum for ", type);
    const std::uint64_t end = engine_->add(std::move(values));
    engine_->advance();
    return std::make_unique<SharedMemoryPending>(engine_, end);
  }

  int ranks() const override { return engine_->ranks(); }

 private:
  std::shared_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<AllReduce> make_shared_memory_all_reduce(const mpi::Communicator& communicator) {
  if (communicator.split_by_host().size() != communicator.size()) {
    throw UsageError("sums through shared memory are for ranks on one host");
  }
  return std::make_unique<SharedMemoryAllReduce>(communicator);
}

std::unique_ptr<AllReduce> make_host_all_reduce(const mpi::Communicator& communicator) {
  const bool share_a_host = communicator.split_by_host().size() == communicator.size();
  return share_a_host && communicator.size() > 1 ? make_shared_memory_all_reduce(communicator)
                                                 : make_mpi_all_reduce(communicator);
}

}  // namespace quadrat::comm
