#include "quadrat/record/feature_file.h"

#include <algorithm>

#include "hdf5.h"
#include "predictions.h"

namespace quadrat {

namespace {

using hdf5::ColumnType;
using hdf5::Layout;

constexpr const char* kSchema = "quadrat-features";
constexpr std::int64_t kVersion = 1;

void write_set(hid_t file, const char* name, const FeatureFile::Set& set,
               std::span<const float> features, std::int64_t width) {
  std::size_t tile_bytes = 1;
  for (const std::string& tile : set.tiles) tile_bytes = std::max(tile_bytes, tile.size());
  const hdf5::Group group = hdf5::create_group(file, name);
  const Layout layout({{"tile", ColumnType::kText, tile_bytes, "path below the folder of tiles"},
                       {"label", ColumnType::kU16, 0, "true class, index into /classes"}});
  hdf5::write_table(group, "tiles", layout, set.tiles.size(), "one row a tile",
                    [&](std::uint64_t i, std::byte* row) {
                      layout.put(row, 0, std::string_view(set.tiles[i]));
                      layout.put(row, 1, set.labels[i]);
                    });
  hdf5::write_floats(group, "features", features, static_cast<std::uint64_t>(width),
                     "what the network's last layer would see, one row a tile");
}

}  // namespace

void write_features(const Path& path, const FeatureFile& file, std::span<const float> train,
                    std::span<const float> validation) {
  write_record("write features", path, [&](hid_t id) {
    hdf5::write_attribute(id, "schema", std::string_view(kSchema));
    hdf5::write_attribute(id, "schema_version", kVersion);
    hdf5::write_settings(id, "made_of", file.made_of, "what the features depend on");
    hdf5::write_strings(id, "classes", file.classes, "class names, in index order");
    write_set(id, "train", file.train, train, file.width);
    write_set(id, "validation", file.validation, validation, file.width);
  });
}

Settings read_features_made_of(const Path& path) {
  return read_record("read features", path, [&] {
    const hdf5::FileOnDisk file(path);
    check_schema(file.id(), kSchema, kVersion);
    return hdf5::read_settings(file.id(), "made_of");
  });
}

std::vector<float> read_feature_rows(const Path& path, const std::string& set, std::uint64_t width,
                                     std::uint64_t first, std::uint64_t last) {
  return read_record("read features", path, [&] {
    return hdf5::read_float_rows(hdf5::FileOnDisk(path), "/" + set + "/features", width, first,
                                 last);
  });
}

}  // namespace quadrat
