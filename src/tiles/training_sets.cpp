#include "quadrat/tiles/training_sets.h"

#include <fmt/format.h>

#include <filesystem>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/text.h"
#include "quadrat/tiles/reader.h"

namespace quadrat {

TrainingSets list_training_sets(const Path& train, const Path& validation, std::uint32_t side_px,
                                double sample_frac, std::uint64_t seed,
                                const mpi::Communicator& ranks) {
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
    for (const Catalog* set : {&sets.train, &sets.validation}) {
      const std::string odd = tile_of_other_size(*set, side_px);
      if (odd.empty()) continue;
      throw InputError("train with tiles in", set->root.native(),
                       fmt::format("{0}, and the networks take {1}x{1} px", odd, side_px),
                       "cut them in that size, as quadrat-cut does");
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

void warn_of_one_folder(const TrainingSets& sets) {
  std::error_code error;
  if (!std::filesystem::equivalent(sets.train.root, sets.validation.root, error)) return;
  log::warn(
      "--train and --validation are the same folder: the validation error is of the tiles "
      "trained on");
}

}  // namespace quadrat
