#include "tile_feed.h"

#include <exception>
#include <utility>

#include "quadrat/base/error.h"

namespace quadrat::score {

void TileFeed::Item::read(TileReader& reader) {
  refusal = {};
  try {
    reader.read(tile, png);
  } catch (const IoError& error) {
    refusal = {error.what(), error.is_of_storage()};
  } catch (const Error& error) {
    refusal = {error.what(), false};
  }
}

TileFeed::TileFeed(const Catalog& catalog, std::size_t depth) : catalog_(catalog), ring_(depth) {
  if (depth > 0) thread_ = std::thread([this] { read_all(); });
}

TileFeed::~TileFeed() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void TileFeed::add(std::size_t first, std::size_t last) {
  if (first == last) return;
  {
    const std::lock_guard lock(mutex_);
    wanted_.push_back({first, last});
  }
  changed_.notify_all();
}

void TileFeed::next(Item& taken) {
  {
    std::unique_lock lock(mutex_);
    if (ring_.empty()) {
      taken.tile = take_wanted();
      return;
    }
    changed_.wait(lock, [this] { return read_ > given_ || failure_; });
    if (read_ == given_) std::rethrow_exception(failure_);
    std::swap(taken, ring_[given_ % ring_.size()]);
    ++given_;
  }
  changed_.notify_all();
}

std::size_t TileFeed::take_wanted() {
  Range& range = wanted_.front();
  const std::size_t tile = range.first++;
  if (range.first == range.last) wanted_.pop_front();
  return tile;
}

void TileFeed::read_all() {
  TileReader reader(catalog_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock,
                  [this] { return ends_ || (!wanted_.empty() && read_ - given_ < ring_.size()); });
    if (ends_) return;
    Item& item = ring_[read_ % ring_.size()];
    item.tile = take_wanted();
    lock.unlock();
    std::exception_ptr failure;
    try {
      item.read(reader);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      failure_ = failure;
      changed_.notify_all();
      return;
    }
    ++read_;
    changed_.notify_all();
  }
}

}  // namespace quadrat::score
