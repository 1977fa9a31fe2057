#include "same_run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <libdeflate.h>
#include <torch/torch.h>

#include <set>

#include "quadrat/base/error.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/base/version.h"
#include "quadrat/mpi/environment.h"

namespace quadrat::score {

namespace {

std::string hex(std::uint32_t value) { return fmt::format("{:08x}", value); }

}  // namespace

std::uint32_t checksum(std::span<const std::byte> bytes) {
  return libdeflate_crc32(0, bytes.data(), bytes.size());
}

Path folder_of(const ScoreOptions& options) {
  return options.scores / (options.name.empty() ? options.output_model_name : options.name);
}

Path model_path_of(const ScoreOptions& options) {
  return options.runs / options.output_model_name / "model.safetensors";
}

std::string checksum_of_cut(const Path& tiles) {
  for (const char* name : {tile_folder::kReport, tile_folder::kManifest}) {
    std::error_code error;
    if (std::filesystem::is_regular_file(tiles / name, error))
      return hex(checksum(read_file(tiles / name)));
  }
  return "";
}

std::uint64_t fingerprint_of(const ScoreOptions& options, const Start& start) {
  const Engine& engine = start.engine;
  const Bytes ranges =
      engine.precision == Precision::kInt8 ? serialize(engine.calibration) : Bytes();
  const std::string identity = fmt::format(
      "{} {} {} {} {} {} {} {} {} {}{}{}", hex(start.model_crc32), hex(start.catalog_crc32),
      to_string(engine.precision), start.batch, start.units.count(), options.test_time_augmentation,
      !options.features.empty(), hex(checksum(ranges)), engine.look.side_px, engine.look.threshold,
      start.device == "cpu" ? "" : " " + start.device, start.amx ? " amx" : "");
  return std::uint64_t{checksum(std::as_bytes(std::span(identity)))} << 32 | start.catalog_crc32;
}

Settings environment_of(const ScoreOptions& options, const Start& start,
                        const std::vector<Bytes>& hosts) {
  std::set<std::string> names;
  for (const Bytes& host : hosts)
    names.emplace(reinterpret_cast<const char*>(host.data()), host.size());
  return {{"ranks", hosts.size()},
          {"hosts", names.size()},
          {"host_names", fmt::format("{}", fmt::join(names.begin(), names.end(), " "))},
          {"device", start.device},
          {"threads_per_rank", start.decoding_threads},
          {"amx", start.amx ? "yes" : "no"},
          {"precision", to_string(start.engine.precision)},
          {"precision_reason", start.engine.precision_reason},
          {"calibrated_on", start.engine.calibrated_on},
          {"look_px", start.engine.look.side_px},
          {"look_threshold", start.engine.look.threshold},
          {"look_reason", start.engine.look_reason},
          {"views", options.test_time_augmentation ? 8 : 1},
          {"batch_tiles", start.batch},
          {"units", start.units.count()},
          {"model_crc32", hex(start.model_crc32)},
          {"tiles_crc32", hex(start.catalog_crc32)},
          {"cut_crc32", start.cut_crc32},
          {"libtorch", TORCH_VERSION},
          {"hdf5", hdf5_version()},
          {"mpi", mpi::library()},
          {"program", fmt::format("quadrat-score {}", version())},
          {"git_commit", std::string(git_commit())}};
}

bool is_of_model(const ScoreRecord& record, const Start& start) {
  return setting(record.environment, "model_crc32") == hex(start.model_crc32);
}

void require_same_run(const ScoreRecord& earlier, const ScoreOptions& options, const Start& start,
                      Precision precision) {
  const auto refuse = [&](const std::string& finding) {
    throw InputError("go on with scores", folder_of(options).native(), finding,
                     "give another --name, the same settings, or --resume never");
  };
  if (!is_of_model(earlier, start)) {
    refuse(fmt::format("they were made with another model than '{}' is now",
                       model_path_of(options).native()));
  }
  if (setting(earlier.environment, "tiles_crc32") != hex(start.catalog_crc32)) {
    const auto is_as_before = [&](const char* option) {
      return setting(earlier.config, option) == setting(options.as_used, option);
    };
    if (is_as_before("tiles") && is_as_before("sample_frac") && is_as_before("seed")) {
      refuse(fmt::format("the tiles in '{}' are others now, {} of them", options.tiles.native(),
                         start.catalog.tiles.size()));
    }
    refuse(fmt::format(
        "they are of other tiles than --tiles '{}' --sample_frac {} --seed {} gives (were '{}', "
        "{}, {})",
        options.tiles.native(), options.sample_frac, options.seed, setting(earlier.config, "tiles"),
        setting(earlier.config, "sample_frac"), setting(earlier.config, "seed")));
  }
  // Two years cut alike have the same names. A folder that is gone may have been moved.
  const Path earlier_tiles = setting(earlier.config, "tiles");
  std::error_code error;
  if (std::filesystem::exists(earlier_tiles, error) &&
      !std::filesystem::equivalent(earlier_tiles, options.tiles, error) && !error) {
    refuse(fmt::format("--tiles was '{}' and is '{}'", earlier_tiles.native(),
                       options.tiles.native()));
  }
  const std::string earlier_cut = setting(earlier.environment, "cut_crc32");
  if (!earlier_cut.empty() && !start.cut_crc32.empty() && earlier_cut != start.cut_crc32) {
    refuse(fmt::format("the tiles in '{}' have been cut again since", options.tiles.native()));
  }
  if (setting(earlier.environment, "device") != start.device) {
    refuse(fmt::format("they were computed on {} and --device gives {}",
                       setting(earlier.environment, "device"), start.device));
  }
  if (setting(earlier.environment, "precision") != to_string(precision)) {
    refuse(fmt::format("--precision was {} and is {}", setting(earlier.environment, "precision"),
                       to_string(precision)));
  }
  const auto cascade = [](bool is_used, const std::string& points) {
    return is_used ? fmt::format("used with --cascade_points {}", points) : "not used";
  };
  const std::string earlier_cascade = cascade(!setting(earlier.environment, "look_reason").empty(),
                                              setting(earlier.config, "cascade_points"));
  const std::string this_cascade =
      cascade(options.cascade, setting(options.as_used, "cascade_points"));
  if (earlier_cascade != this_cascade) {
    refuse(fmt::format("--cascade was {} and is {}", earlier_cascade, this_cascade));
  }
  if (setting(earlier.environment, "batch_tiles") != fmt::format("{}", start.batch)) {
    refuse(fmt::format("--batch_size was {} and is {}", setting(earlier.environment, "batch_tiles"),
                       start.batch));
  }
  if (setting(earlier.config, "features").empty() != options.features.empty()) {
    refuse(options.features.empty() ? "they were made with --features, and now it is left out"
                                    : "they were made without --features");
  }
  const char* views = options.test_time_augmentation ? "8" : "1";
  if (setting(earlier.environment, "views") != views) {
    refuse(fmt::format("they are of {} views of each tile, and --test_time_augmentation gives {}",
                       setting(earlier.environment, "views"), views));
  }
}

}  // namespace quadrat::score
