#include "quadrat/geo/cut.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/cli/parser.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"

namespace {

using namespace quadrat;

void validate(const geo::CutOptions& options) {
  if (!(options.validation_fraction >= 0 && options.validation_fraction < 1)) {
    throw UsageError(fmt::format("--validation_fraction is {}, but must be from 0 to below 1",
                                 options.validation_fraction));
  }
  if (options.validation_fraction > 0 && !options.validation_images.empty()) {
    throw UsageError("--validation_fraction and --validation_images were both given; use one");
  }
  if (options.balance && options.nlcd.empty())
    throw UsageError("--balance evens out classes, which only --nlcd gives");
  if (options.labels_only && options.nlcd.empty())
    throw UsageError("--labels_only needs --nlcd to label from");
  if (!options.class_table.empty() && options.nlcd.empty())
    throw UsageError("--class_table goes with --nlcd");
  if (!options.manifest.empty() &&
      (!options.nlcd.empty() || options.balance || options.has_sets())) {
    throw UsageError(
        "--manifest says which tiles, labels and sets; leave out --nlcd, --balance and "
        "--validation_*");
  }
  if (options.max_black_px < 0 || options.max_black_px > geo::kTilePx * geo::kTilePx) {
    throw UsageError(fmt::format("--max_black_px is {}, but must be from 0 to {}",
                                 options.max_black_px, geo::kTilePx * geo::kTilePx));
  }
  if (options.png_level < 0 || options.png_level > 12) {
    throw UsageError(fmt::format("--png_level is {}, but must be from 0 (fastest) to 12 (smallest)",
                                 options.png_level));
  }
}

/// One line per set and class, then why tiles were left out.
void print(const geo::CutSummary& summary, const geo::CutOptions& options) {
  for (const auto& [key, count] : summary.counts) {
    const auto& [set, label] = key;
    fmt::print("{}{}{}\t{}\n", set, set.empty() ? "" : "\t", label.empty() ? "tiles" : label,
               count);
  }
  for (const auto& [why, count] : summary.discarded) fmt::print("discarded: {}\t{}\n", why, count);
  if (summary.was_complete) {
    log::line("'{}' is complete: {} tiles", options.output.native(), summary.kept);
  } else if (options.labels_only) {
    log::line("{} tiles labelled, listed in '{}'", summary.kept,
              (options.output / tile_folder::kManifest).native());
  } else {
    log::line("{} tiles in '{}'; {} cut in {}, {:.0f} tiles/s", summary.kept,
              options.output.native(), summary.cut_now, format_duration(summary.seconds),
              static_cast<double>(summary.cut_now) / summary.seconds);
  }
}

}  // namespace

int main(int argc, char** argv) {
  geo::CutOptions options;
  cli::Parser parser(
      "quadrat-cut",
      "cuts georeferenced images into tiles of 224 m x 224 m at 1 m a pixel, with --nlcd into a "
      "folder "
      "for each class of land use",
      "  quadrat-cut --image m_*.tif --output tiles                          # a set to score\n"
      "  quadrat-cut --image m_*.tif --nlcd nlcd.tif --balance --output train\n"
      "  quadrat-cut --image */m_*.tif --nlcd nlcd.tif --validation_fraction 0.2 --split_by folder "
      "\\\n"
      "              --output tiles                    # tiles/train and tiles/validation by "
      "county\n"
      "  mpirun -n 16 quadrat-cut --image county.tif --output tiles\n");
  parser.add("image", options.images, "FILE...",
             "rasters with red, green and blue bands of 8 bits in any projection; what is not at 1 "
             "m on the ground is resampled");
  parser.add("output,o", options.output, "DIR",
             "a new folder for the tiles; the same command again goes on with it");
  parser.group("Labels");
  parser.add("nlcd", options.nlcd, "FILE",
             "land cover raster, in any projection: a tile is kept where nine points in it are of "
             "one class");
  parser.add("class_table", options.class_table, "FILE",
             "lines of `code,class`, instead of NLCD's 21-24 Developed, 31 Barren, 41-43 and 90 "
             "Forest, 51-52 Shrub, "
             "71-74 and 95 Herbaceous, 81-82 Cultivated; codes not listed discard a tile");
  parser.add("max_black_px", options.max_black_px, "N",
             "a tile with more black (0,0,0) pixels is discarded");
  parser.add("balance", options.balance,
             "remove tiles at random until all classes of a set have as many");
  parser.add("labels_only", options.labels_only,
             "label and split, write manifest.csv and tiles.json, cut nothing and read no image");
  parser.group("Sets");
  parser.add("validation_fraction", options.validation_fraction, "X",
             "share of the tiles for validation: makes DIR/train and DIR/validation out of whole "
             "images, and drops "
             "training tiles less than 112 m away from a validation tile");
  parser.add("validation_images", options.validation_images, "NAME...",
             "or these images, by file name");
  parser.add_choice("split_by", options.split_by, {"image", "folder"},
                    "what is never in both sets: an image, or the images of one folder (a county)");
  parser.add("manifest", options.manifest, "FILE",
             "cut exactly what an earlier manifest.csv lists");
  parser.add("seed", options.seed, "N", "for --balance and --validation_fraction");
  parser.group("Files");
  parser.add("png_level", options.png_level, "N", "0 (fastest) to 12 (smallest)");
  parser.require({"image", "output"});

  return cli::run(parser, argc, argv, [&] {
    validate(options);
    catch_stop_signals();
    const mpi::Environment mpi;
    const auto ranks = mpi::Communicator::world();
    log::set_origin(parser.program(), ranks.size() > 1 ? ranks.rank() : -1);
    const geo::CutSummary summary = geo::cut_tiles(options, ranks);
    if (summary.interrupted) {
      if (ranks.is_root())
        log::line("interrupted after {} tiles; the same command goes on from there",
                  summary.cut_now);
      return kExitInterrupted;
    }
    if (ranks.is_root()) print(summary, options);
    return kExitDone;
  });
}
