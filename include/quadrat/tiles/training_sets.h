#pragma once

#include <cstdint>

#include "quadrat/base/files.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/tiles/catalog.h"

namespace quadrat {

/// What is learnt from, and what it is judged by. Both have the same classes.
struct TrainingSets {
  Catalog train;
  Catalog validation;
};

/// Rank 0 lists both folders, checks that they go together and keeps the sample; every rank gets
/// the lists. Collective.
/// @param side_px of the tiles @param sample_frac as sample_tiles' fraction, of either set
/// @throws InputError on all ranks: as list_labelled_tiles; class folders that differ; one class
/// only; tiles of another size
TrainingSets list_training_sets(const Path& train, const Path& validation, std::uint32_t side_px,
                                double sample_frac, std::uint64_t seed,
                                const mpi::Communicator& ranks);

/// Warns where a set is judged by itself.
void warn_of_one_folder(const TrainingSets& sets);

}  // namespace quadrat
