#pragma once

#include <memory>
#include <string>

#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"

// Small pictures of tiles. Private to the room.
namespace quadrat::report {

/// Pictures of the tiles in a folder or its packed shards, by the names that records give them.
class TilePictures {
 public:
  static constexpr std::uint32_t kSide = 112;

  /// @param tiles the folder; where it is empty or holds no tiles, no tile has a picture
  explicit TilePictures(Path tiles);

  /// The tile as a data: URI, at most kSide px wide and high, each pixel the mean of those it
  /// stands for; empty where there is no such tile or it cannot be read.
  std::string uri(const std::string& name);

 private:
  Bytes read(const std::string& name);

  Path folder_;
  Catalog catalog_;  ///< of packed shards only: files are found by their name
  std::unique_ptr<TileReader> shards_;
};

}  // namespace quadrat::report
