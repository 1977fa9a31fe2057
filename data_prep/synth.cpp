#include "quadrat/geo/synth.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/cli/parser.h"

int main(int argc, char** argv) {
  using namespace quadrat;
  Path output;
  std::string name;
  std::string compression = "none";
  std::int64_t seed = 0;
  std::int64_t tiles_across = 24;
  std::int64_t year = 0;
  std::int64_t threads = 0;

  cli::Parser parser(
      "quadrat-synth",
      "paints a make-believe county: a 1 m image (DIR/NAME.tif) and its land cover at 30 m "
      "(DIR/NAME_nlcd.tif)",
      "  quadrat-synth --output county --tiles_across 48 --seed 1\n"
      "  quadrat-cut --image county/county1.tif --nlcd county/county1_nlcd.tif --output tiles\n"
      "  quadrat-synth --output county_later --tiles_across 48 --seed 1 --year 1\n");
  parser.add("output,o", output, "DIR", "where the two GeoTIFFs go");
  parser.add("tiles_across", tiles_across, "N", "the county is a square of N x N tiles of 224 m");
  parser.add("seed", seed, "N", "another seed, another county");
  parser.add("year", year, "{0,1}",
             "1: the same county later: towns have grown, fields bear other crops");
  parser.add("name", name, "NAME", "files are called so; 'county' and the seed when not given");
  parser.add_choice("compress", compression, {"none", "lzw", "deflate", "jpeg"},
                    "how the image is packed");
  parser.add("threads", threads, "N", "threads that paint; 0 for one on each core");
  parser.require({"output"});

  return cli::run(parser, argc, argv, [&] {
    if (name.empty()) name = fmt::format("county{}", seed);
    require_plain_name("name", name);
    if (seed < 0) throw UsageError(fmt::format("--seed is {}, but must be 0 or above", seed));
    if (threads < 0 || threads > 1024) {
      throw UsageError(fmt::format("--threads is {}, but must be from 0 to 1024", threads));
    }
    geo::SynthOptions options;
    options.seed = static_cast<std::uint64_t>(seed);
    options.tiles_across = tiles_across;
    options.year = year;
    options.threads = static_cast<int>(threads);
    make_folder(output);
    // Left by one that was killed; another may be painting here now.
    constexpr double kDay_s = 24 * 3600;
    remove_stale_temporaries(output, kDay_s);
    const Path image = output / (name + ".tif");
    const Path land_cover = output / (name + "_nlcd.tif");
    catch_stop_signals();
    if (!geo::write_synth_county(options, image, land_cover, compression, true)) {
      log::line("interrupted; the same command paints the county from the start");
      return kExitInterrupted;
    }
    fmt::print("{}\n{}\n", image.native(), land_cover.native());
    return kExitDone;
  });
}
