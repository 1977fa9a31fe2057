#pragma once

#include <torch/torch.h>

#include <string_view>

#include "quadrat/mpi/communicator.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/catalog.h"

namespace quadrat::fit {

/// What the plan's last layer sees of this rank's share of the tiles: [share, feature_count]
/// float32. Ends early, with rows unfilled, where a signal asks this process to stop.
/// @param what shown as progress, by rank 0 of its own share
/// @throws InputError naming the tile: unreadable, not a PNG, another size
torch::Tensor compute_features(score::Plan& plan, const Catalog& tiles,
                               const mpi::Communicator& ranks, std::string_view what);

/// Every rank's rows in rank order, [all tiles, width], on rank 0; undefined elsewhere. Collective.
torch::Tensor gather_rows(const torch::Tensor& mine, const mpi::Communicator& ranks);

/// Rank 0's tensor [rows, width] on every rank. Collective.
torch::Tensor broadcast_rows(const torch::Tensor& rows, std::int64_t width,
                             const mpi::Communicator& ranks);

}  // namespace quadrat::fit
