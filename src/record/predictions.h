#pragma once

#include <string>
#include <vector>

#include "hdf5.h"
#include "quadrat/base/error.h"
#include "quadrat/record/run_record.h"
#include "quadrat/record/score_record.h"

namespace quadrat {

/// A table of predictions as both kinds of record have it: tile, label (where known), predicted,
/// p_<class>..., and corners (where known).
void write_predictions(hid_t parent, const char* name, const Predictions& predictions,
                       bool with_labels, const std::vector<TileCorners>& corners,
                       const std::vector<std::string>& classes, std::string_view description);

/// @param corners left empty where the table has none; may be null @throws hdf5::Failure
Predictions read_predictions(const hdf5::FileOnDisk& file, const std::string& path,
                             const std::vector<std::string>& classes,
                             std::vector<TileCorners>* corners);

/// Runs `read` and turns what HDF5 said into an InputError about `path`.
template <typename Read>
auto read_record(const char* action, const Path& path, const Read& read) {
  const hdf5::QuietErrors quiet;
  try {
    return read();
  } catch (const hdf5::Failure& failure) {
    throw InputError(action, path.native(), failure.what(),
                     "is it whole, and a record of this suite?");
  }
}

/// Builds the file in memory by `fill` and replaces `path` by it.
void write_record(const char* action, const Path& path,
                  const std::function<void(hid_t file)>& fill);

/// Checks `schema` and `schema_version`, which every record begins with. @throws hdf5::Failure
void check_schema(hid_t file, const std::string& schema, std::int64_t version);

RunStatus status_from(const std::string& text);

}  // namespace quadrat
