#pragma once

#include <cstdint>
#include <vector>

#include "inputs.h"
#include "session.h"

namespace quadrat {

struct Evaluation {
  double loss = 0;                   ///< mean over the validation tiles
  double error = 0;                  ///< fraction of them
  std::vector<float> probabilities;  ///< rank 0: [validation tiles, classes]
};

/// The validation tiles that are this rank's: consecutive ones, in rank order.
std::vector<std::uint32_t> share_of_validation(const Session& session);

/// Each rank judges its share. Collective. @param tiles this rank's, whose inputs `inputs` brings
Evaluation evaluate(const Session& session, Inputs& inputs,
                    const std::vector<std::uint32_t>& tiles);

}  // namespace quadrat
