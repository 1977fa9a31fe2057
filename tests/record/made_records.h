#pragma once

#include <cstdint>
#include <string>

#include "quadrat/record/run_record.h"
#include "quadrat/record/score_record.h"

namespace quadrat::test {

/// A believable training run that nobody ran: ten epochs, the sample's six classes, `tiles`
/// validation tiles whose mistakes are the likely ones (shrub for herbaceous, ...). The same seed
/// gives the same run.
RunRecord made_run(const std::string& name, std::uint64_t seed = 0, std::size_t tiles = 1200,
                   std::uint32_t epochs = 10);

/// A believable county of `across` x `across` tiles with fields, woods and a town, corners
/// included. Different years have different town sizes; a few tiles are rejected.
ScoreRecord made_scores(std::uint64_t seed = 0, std::uint32_t across = 60,
                        double town_radius = 0.16);

}  // namespace quadrat::test
