#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"

namespace quadrat::score {

/// Why a tile cannot be scored.
struct Refusal {
  std::string reason;       ///< empty: it can
  bool of_storage = false;  ///< the storage failed, not the tile: IoError::is_of_storage
};

/// Reads tiles ahead of their use on a thread of its own, so that computing never waits for a disk
/// or a file server. One thread adds and takes; tiles come out in the order they were added.
class TileFeed {
 public:
  /// @param depth how many tiles are read ahead; 0: none, and items are numbers only, for threads
  /// that read what they decode
  TileFeed(const Catalog& catalog, std::size_t depth);
  ~TileFeed();
  TileFeed(const TileFeed&) = delete;
  TileFeed& operator=(const TileFeed&) = delete;

  /// These tiles are wanted next: [first, last).
  void add(std::size_t first, std::size_t last);

  struct Item {
    std::size_t tile = 0;  ///< index into the catalog
    Bytes png;
    Refusal refusal;

    /// Fills `png` or says why not. @throws what is no fault of the tile's, as std::bad_alloc
    void read(TileReader& reader);
  };

  /// The next tile, waited for. As many calls as tiles were added. @throws as Item::read
  /// @param taken what it held is read into again
  void next(Item& taken);

 private:
  struct Range {
    std::size_t first, last;
  };

  void read_all();
  std::size_t take_wanted();  ///< the lock is held

  const Catalog& catalog_;
  std::vector<Item> ring_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Range> wanted_;
  std::size_t read_ = 0;        ///< tiles read so far: the next goes to ring_[read_ % size]
  std::size_t given_ = 0;       ///< tiles given out so far
  std::exception_ptr failure_;  ///< what ended the reading
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace quadrat::score
