// quadrat-fit: features of a pretrained network, and a classifier fitted to them, on MPI ranks.
#include "quadrat/fit/fit.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/cli/parser.h"

int main(int argc, char** argv) {
  quadrat::fit::FitOptions o;
  quadrat::cli::Parser parser(
      "quadrat-fit",
      "fit logistic regression or a random forest to a pretrained network's features of land-use "
      "tiles",
      "  mpirun -n 2 quadrat-fit --train tiles/train --validation tiles/validation -p resnet18 -m "
      "logistic_regression \\\n"
      "      --pretrained_weights resnet18-f37072fd.pth --features resnet18.h5 -o linear\n"
      "  quadrat-score --tiles county/tiles -o linear\n");
  parser.group("Input");
  parser.add("train", o.train, "DIR",
             "class folders of training tiles, 224x224 PNG, or packed shards");
  parser.add("validation", o.validation, "DIR", "the same classes, other tiles: never fitted to");
  parser.add("sample_frac,f", o.sample_frac, "X",
             "use this fraction of the tiles, of each class alike");
  parser.add("features", o.features, "FILE",
             "keep the features in this HDF5 file; use them again where it is there");
  parser.group("Network");
  parser.add_choice("pretrained_model_type,p", o.pretrained_model_type, {"alexnet", "resnet18"},
                    "the network");
  parser.add("pretrained_weights", o.pretrained_weights, "FILE|none",
             "torchvision's .pth or .safetensors (tools/fetch_weights gets them), or none: random "
             "initialisation");
  parser.add_choice(
      "precision", o.precision, {"auto", "fp32", "bf16"},
      "numbers the features are computed in; auto: bf16 where every processor has it");
  parser.group("Classifier");
  parser.add_choice("classifier,m", o.classifier, {"logistic_regression", "random_forest"},
                    "what is fitted");
  parser.add_choice("mmlspark_model_type", o.mmlspark_model_type,
                    {"logisticregression", "randomforest"},
                    "the same, as the Azure sample spells it");
  parser.add("l2", o.l2, "X",
             "logistic regression: penalty on squared weights of standardised features, times 1/2");
  parser.add("max_iterations", o.max_iterations, "N",
             "logistic regression: of L-BFGS; it ends earlier at the optimum");
  parser.add("trees", o.trees, "N", "random forest: how many");
  parser.add("depth", o.depth, "N", "random forest: splits on the way to a leaf, at most");
  parser.add("seed", o.seed, "N", "of everything random");
  parser.group("Output");
  parser.add("output_model_name,o", o.output_model_name, "NAME",
             "the run's name: its files go to RUNS/NAME/");
  parser.add("runs", o.runs, "DIR", "folder of runs");
  parser.add_choice("resume", o.resume, {"auto", "never"},
                    "whether to start an unfinished run of that name again");
  parser.add(
      "watchdog_seconds", o.watchdog_seconds, "X",
      "a rank that gives no sign of life for so long ends the job, to be started again; 0: never");
  parser.require({"train", "validation", "pretrained_model_type", "output_model_name"});
  return quadrat::cli::run(parser, argc, argv, [&] {
    o.validate();
    const bool is_forest = o.classifier == "random_forest";
    for (const char* other : {is_forest ? "l2" : "trees", is_forest ? "max_iterations" : "depth"}) {
      if (!parser.is_given(other)) continue;
      throw quadrat::UsageError(fmt::format(
          "--{} is given, but --classifier is {}, which has no such setting; leave it out", other,
          o.classifier));
    }
    quadrat::Settings config = parser.as_used();
    for (quadrat::Setting& setting : config) {
      if (setting.name == "classifier") setting.value = o.classifier;
    }
    return quadrat::fit::fit(o, config);
  });
}
