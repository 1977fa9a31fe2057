#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"

namespace quadrat {

/// What a network makes of a training and a validation set, kept between runs. Schema
/// "quadrat-features" version 1: /made_of (attributes), /classes, and for each of /train and
/// /validation a table `tiles` (`tile`, `label` u2) beside `features`, f4 [tiles, width].
struct FeatureFile {
  struct Set {
    std::vector<std::string> tiles;
    std::vector<std::uint16_t> labels;
  };
  /// What the features depend on, as {name, value}: the same values mean the same features.
  Settings made_of;
  std::vector<std::string> classes;
  Set train;
  Set validation;
  std::int64_t width = 0;  ///< values a tile
};

/// Replaces `path` atomically. @param train, validation features [tiles, width] @throws IoError
void write_features(const Path& path, const FeatureFile& file, std::span<const float> train,
                    std::span<const float> validation);

/// FeatureFile::made_of. @throws IoError; InputError where it is not such a file or of a newer
/// version
Settings read_features_made_of(const Path& path);

/// Rows [first, last) of a set's features. @param set "train" or "validation" @param width values a
/// tile must have
/// @throws IoError; InputError where it has another width or fewer tiles
std::vector<float> read_feature_rows(const Path& path, const std::string& set, std::uint64_t width,
                                     std::uint64_t first, std::uint64_t last);

}  // namespace quadrat
