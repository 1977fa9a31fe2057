#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quadrat/score/journal.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/reader.h"
#include "tile_feed.h"

namespace quadrat::score {

/// What is made of a tile beside its class probabilities.
struct Extras {
  bool all_views =
      false;  ///< mean probabilities of the 8 flips and quarter turns instead of the tile's own
  bool features = false;  ///< what the head sees, of the tile as it is
};

/// What is tried before a tile is computed whole.
struct FirstLook {
  Plan* plan = nullptr;  ///< of the middles of tiles; null: nothing is tried
  float threshold = 0;   ///< the likeliest class's probability from which it is believed
};

/// Turns tiles into probabilities, batch by batch: decode, compute, softmax.
class UnitScorer {
 public:
  UnitScorer(Plan& plan, TileFeed& feed, Extras extras = {}, FirstLook look = {});

  /// Reads and decodes on so many threads what a feed of depth 0 names. @param catalog the feed's
  void read_and_decode_on(int threads, const Catalog& catalog);

  /// Scores the next `tiles` tiles that the feed was told of.
  /// @param between called after every batch with the tiles it had; false stops
  /// @return nothing where it was stopped @throws IoError where two tiles in a row cannot be read
  /// because a disk or a file server fails
  std::optional<UnitResult> score(std::uint64_t unit, std::size_t tiles,
                                  const std::function<bool(std::size_t)>& between);

  /// Whether the storage refused the last tile: that of two in a row is no fault of theirs, so that
  /// until the next one has been read the unit is in doubt.
  bool last_was_unread() const { return last_was_unread_; }

 private:
  /// Fills `pixels` or says why not.
  Refusal decode(const TileFeed::Item& item, std::span<std::uint8_t> pixels) const;

  /// The next tiles of the feed into `pixels_`. @return of each, what decode() returned
  std::vector<Refusal> decode_next(std::size_t tiles);
  void stop_where_storage_is_gone(const Refusal& refusal);
  std::vector<float> infer(std::span<const std::uint8_t> tiles, std::vector<float>& features);
  void look_at(std::size_t first, std::size_t here, const std::vector<std::size_t>& rejected,
               UnitResult& result);
  void settle_waiting(UnitResult& result);

  /// What a thread that reads and decodes has of its own.
  struct Worker {
    explicit Worker(const Catalog& catalog) : reader(catalog) {}
    TileReader reader;
    TileFeed::Item item;
  };

  /// A batch that a GPU was given.
  struct Started {
    Plan::Result result;
    std::size_t first = 0;
    std::vector<std::size_t> rejected;
  };
  void settle(const Started& started, UnitResult& result) const;
  void clear(std::size_t first, const std::vector<std::size_t>& rejected, UnitResult& result) const;
  std::span<std::uint8_t> buffer(bool second) const;

  Plan& plan_;
  TileFeed& feed_;
  bool last_was_unread_ = false;
  Extras extras_;
  FirstLook look_;
  std::vector<std::unique_ptr<Worker>> workers_;  // none: this thread decodes what the feed read
  TileFeed::Item item_;
  torch::Tensor buffers_;                     // uint8 [2, batch * side * side * 3]
  std::span<std::uint8_t> pixels_;            // [batch, side, side, 3], one of the two
  std::vector<std::uint8_t> middles_;         // [batch, look's side, look's side, 3]
  std::vector<std::uint8_t> waiting_pixels_;  // [batch, side, side, 3], tiles to be computed whole
  std::vector<std::size_t> waiting_;          // their places in the unit
  std::vector<std::uint8_t> view_;            // the same, of another view of the tiles
};

}  // namespace quadrat::score
