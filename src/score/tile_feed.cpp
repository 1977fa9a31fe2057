#include "tile_feed.h"

#include <exception>
#include <utility>

#include "quadrat/tiles/reader.h"

namespace quadrat::score {

TileFeed::TileFeed(const Catalog& catalog, std::size_t depth)
    : catalog_(catalog), ring_(depth), thread_([this] { read_all(); }) {}

TileFeed::~TileFeed() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void TileFeed::add(std::size_t first, std::size_t last) {
  if (first == last) return;
  {
    const std::lock_guard lock(mutex_);
    wanted_.push_back({first, last});
  }
  changed_.notify_all();
}

const TileFeed::Item& TileFeed::next() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return read_ > given_; });
    std::swap(taken_, ring_[given_ % ring_.size()]);
    ++given_;
  }
  changed_.notify_all();
  return taken_;
}

void TileFeed::read_all() {
  TileReader reader(catalog_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock,
                  [this] { return ends_ || (!wanted_.empty() && read_ - given_ < ring_.size()); });
    if (ends_) return;
    Range& range = wanted_.front();
    Item& item = ring_[read_ % ring_.size()];
    item.tile = range.first++;
    if (range.first == range.last) wanted_.pop_front();
    lock.unlock();
    item.error.clear();
    try {
      reader.read(item.tile, item.png);
    } catch (const std::exception& error) {
      item.error = error.what();
    }
    lock.lock();
    ++read_;
    changed_.notify_all();
  }
}

}  // namespace quadrat::score
