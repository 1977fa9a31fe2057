#pragma once

#include "quadrat/geo/raster.h"
#include "quadrat/record/score_record.h"

namespace quadrat::test {

/// Gives tile i of `across` x `across` tiles the corners it has where the county's upper left
/// corner is at (left, top) of `crs`, to seven decimals of a degree: a centimetre. Tiles that the
/// record lacks (rejected) leave their place empty; the number in the tile's name says which it is.
void place(ScoreRecord& record, std::uint32_t across, const std::string& crs, double left,
           double top, double side_m);

}  // namespace quadrat::test
