#include "kept_features.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>
#include <filesystem>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/record/feature_file.h"

namespace quadrat::fit {

namespace {

/// Of the list of tiles and of their files' sizes: what changes when tiles are replaced and can be
/// told without reading them. Packed tiles have checksums of their own in the catalog.
std::uint32_t checksum_of(const Catalog& catalog) {
  Catalog sized = catalog;
  for (Tile& tile : sized.tiles) {
    std::error_code ignored;
    if (tile.shard == Tile::kOwnFile) {
      tile.size_bytes =
          static_cast<std::uint32_t>(std::filesystem::file_size(catalog.root / tile.name, ignored));
    }
  }
  return sized.checksum();
}

}  // namespace

std::span<const float> values_of(const torch::Tensor& rows) {
  return {rows.const_data_ptr<float>(), static_cast<std::size_t>(rows.numel())};
}

Settings features_depend_on(const std::string& network, const WeightsFile& weights,
                            const std::string& precision, const TrainingSets& sets) {
  std::uint32_t weights_crc = 0;
  for (const StoredTensor& tensor : weights.tensors) {
    weights_crc = libdeflate_crc32(weights_crc, tensor.data.data(), tensor.data.size());
  }
  return {{"pretrained_model_type", network},
          {"weights_crc32", fmt::format("0x{:08x}", weights_crc)},
          {"training_tiles_crc32", fmt::format("0x{:08x}", checksum_of(sets.train))},
          {"validation_tiles_crc32", fmt::format("0x{:08x}", checksum_of(sets.validation))},
          {"precision", precision}};
}

bool are_kept(const Path& path, const Settings& made_of) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return false;
  const Settings found = read_features_made_of(path);
  for (const Setting& now : made_of) {
    const std::string before = setting(found, now.name);
    if (before == now.value) continue;
    throw InputError("use features in", path.native(),
                     fmt::format("they were made with another {} ('{}', now '{}')", now.name,
                                 printable(before), now.value),
                     "name another file for these, or remove that one");
  }
  return true;
}

void keep(const Path& path, const Settings& made_of, const TrainingSets& sets,
          const torch::Tensor& train, const torch::Tensor& validation) {
  FeatureFile file;
  file.made_of = made_of;
  file.classes = sets.train.classes;
  file.width = train.size(1);
  const auto describe = [](const Catalog& catalog, FeatureFile::Set& set) {
    for (const Tile& tile : catalog.tiles) {
      set.tiles.push_back(tile.name);
      set.labels.push_back(static_cast<std::uint16_t>(tile.label));
    }
  };
  describe(sets.train, file.train);
  describe(sets.validation, file.validation);
  write_features(path, file, values_of(train), values_of(validation));
}

}  // namespace quadrat::fit
