#include "quadrat/tiles/training_sets.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

TrainingSets list_training_sets(const Path& train, const Path& validation, double sample_frac,
                                std::uint64_t seed, const mpi::Communicator& ranks) {
  TrainingSets sets;
  Bytes train_list, validation_list;
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    sets.train = list_labelled_tiles(train);
    sets.validation = list_labelled_tiles(validation);
    if (sets.train.classes != sets.validation.classes) {
      throw InputError("compare classes of", train.native(),
                       fmt::format("it has {}, but '{}' has {}", enumerate(sets.train.classes),
                                   validation.native(), enumerate(sets.validation.classes)),
                       "give both the same class folders");
    }
    if (sets.train.classes.size() < 2) {
      throw InputError("learn from", train.native(), "it has one class only",
                       "there must be at least two");
    }
    sample_tiles(sets.train, sample_frac, seed);
    sample_tiles(sets.validation, sample_frac, seed);
    train_list = sets.train.serialize();
    validation_list = sets.validation.serialize();
  });
  train_list = ranks.broadcast(std::move(train_list));
  validation_list = ranks.broadcast(std::move(validation_list));
  if (!ranks.is_root()) {
    sets.train = Catalog::deserialize(train_list);
    sets.validation = Catalog::deserialize(validation_list);
  }
  return sets;
}

}  // namespace quadrat
