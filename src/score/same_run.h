#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quadrat/record/score_record.h"
#include "quadrat/score/score.h"
#include "start.h"

namespace quadrat::score {

/// scores/NAME, and runs/MODEL/model.safetensors.
Path folder_of(const ScoreOptions& options);
Path model_path_of(const ScoreOptions& options);

std::uint32_t checksum(std::span<const std::byte> bytes);

/// Of what quadrat-cut says of its work beside the tiles, since tiles of other pictures may have
/// the same names; empty where it says nothing.
std::string checksum_of_cut(const Path& tiles);

/// What a run was made with, as its record tells it: what require_same_run reads, and what readers
/// want to know.
/// @param hosts every rank's
Settings environment_of(const ScoreOptions& options, const Start& start,
                        const std::vector<Bytes>& hosts);

/// Whether the record is of the model as it is now.
bool is_of_model(const ScoreRecord& record, const Start& start);

/// @throws InputError naming what differs, where the record is of a run whose results are not to be
/// gone on with
void require_same_run(const ScoreRecord& earlier, const ScoreOptions& options, const Start& start,
                      Precision precision);

/// Of all that a unit's results depend on.
std::uint64_t fingerprint_of(const ScoreOptions& options, const Start& start);

}  // namespace quadrat::score
