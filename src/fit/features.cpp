#include "quadrat/fit/features.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/tiles/tile_store.h"

namespace quadrat::fit {

namespace {

std::span<const std::byte> bytes_of(const torch::Tensor& rows) {
  return {static_cast<const std::byte*>(rows.const_data_ptr()), rows.nbytes()};
}

}  // namespace

torch::Tensor compute_features(score::Plan& plan, const Catalog& tiles,
                               const mpi::Communicator& ranks, std::string_view what) {
  const auto [first, last] = ranks.share_of(tiles.tiles.size());
  const auto batch = static_cast<std::size_t>(plan.batch());
  const auto bytes = static_cast<std::size_t>(plan.bytes_per_tile());
  std::vector<std::uint8_t> pixels(batch * bytes);
  auto features = torch::zeros(
      {static_cast<std::int64_t>(last - first), score::feature_count(plan.card().architecture)},
      torch::kFloat);
  Progress progress(what, "tiles", last - first, ranks.is_root());
  std::vector<std::uint32_t> mine(last - first);
  std::iota(mine.begin(), mine.end(), static_cast<std::uint32_t>(first));
  // Every tile is looked at once: nothing is worth keeping.
  TileStore store(tiles, std::move(mine), plan.card().tile_px, StoreLimits{0, {}});
  for (std::size_t begin = first; begin < last && stop_signal() == 0; begin += batch) {
    const std::size_t count = std::min(batch, last - begin);
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(pixels.data() + i * bytes, store.pixels(static_cast<std::uint32_t>(begin + i)),
                  bytes);
    }
    features.narrow(0, static_cast<std::int64_t>(begin - first), static_cast<std::int64_t>(count))
        .copy_(plan.infer(std::span(pixels).first(count * bytes)).features);
    progress.update(begin + count - first);
  }
  return features;
}

torch::Tensor gather_rows(const torch::Tensor& mine, const mpi::Communicator& ranks) {
  const std::vector<Bytes> parts = ranks.gather(bytes_of(mine));
  if (!ranks.is_root()) return {};
  const std::int64_t width = mine.size(1);
  std::size_t bytes = 0;
  for (const Bytes& part : parts) bytes += part.size();
  auto all = torch::empty({static_cast<std::int64_t>(bytes / sizeof(float)) / width, width},
                          torch::kFloat);
  auto* out = static_cast<std::byte*>(all.mutable_data_ptr());
  for (const Bytes& part : parts) out = std::copy(part.begin(), part.end(), out);
  return all;
}

torch::Tensor broadcast_rows(const torch::Tensor& rows, std::int64_t width,
                             const mpi::Communicator& ranks) {
  if (ranks.size() == 1) return rows;
  Bytes bytes;
  if (ranks.is_root()) bytes.assign(bytes_of(rows).begin(), bytes_of(rows).end());
  bytes = ranks.broadcast(std::move(bytes));
  auto all = torch::empty({static_cast<std::int64_t>(bytes.size() / sizeof(float)) / width, width},
                          torch::kFloat);
  std::memcpy(all.mutable_data_ptr(), bytes.data(), bytes.size());
  return all;
}

}  // namespace quadrat::fit
