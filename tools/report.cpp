// quadrat-report: a run and a scored county as one page, and as maps for a GIS.
#include "quadrat/report/report.h"

#include <fmt/format.h>

#include <cstdio>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/cli/parser.h"

int main(int argc, char** argv) {
  using namespace quadrat;
  report::ReportOptions options;
  cli::Parser parser(
      "quadrat-report",
      "shows a training run, a scored county and what changed in it, as one HTML page and as maps.",
      "  quadrat-report --run resnet_all --output report\n"
      "  quadrat-report --run resnet_all --scores county_2022 --versus county_2012 --output "
      "report");
  parser.add("run,r", options.run, "NAME", "training run, or a path to one");
  parser.add("scores,s", options.scores, "NAME",
             "scored county, or a path to one; its map needs the corners of tiles");
  parser.add("versus", options.versus, "NAME",
             "earlier scores of the same county: shows what changed since");
  parser.add("output,o", options.output, "DIR", "where index.html, map.tif and tiles.gpkg go");
  parser.add("tile_summaries", options.tile_summaries, "FILE",
             "corners of the tiles of --scores, from quadrat-cut, where its record has none");
  parser.add("validation", options.validation, "DIR",
             "validation tiles of --run, for pictures of mistakes, where they were moved");
  parser.add("runs", options.runs, "DIR", "where runs are");
  parser.add("scores_folder", options.scores_folder, "DIR", "where scores are");
  parser.require({"output"});
  return cli::run(parser, argc, argv, [&] {
    const report::ReportResult result = report::write_report(options);
    for (const std::string& note : result.notes) log::line("note: {}", note);
    for (const Path& file : result.files) fmt::print("{}\n", file.native());
    return kExitDone;
  });
}
