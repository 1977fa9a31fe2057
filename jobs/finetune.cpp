// quadrat-finetune: fine-tunes AlexNet or ResNet18 on tiles in class folders, data-parallel over
// MPI ranks.
#include "quadrat/train/finetune.h"

#include "quadrat/cli/parser.h"

int main(int argc, char** argv) {
  quadrat::FinetuneOptions o;
  quadrat::cli::Parser parser(
      "quadrat-finetune",
      "fine-tune AlexNet or ResNet18 on land-use tiles, data-parallel over MPI ranks",
      "  mpirun -n 2 quadrat-finetune --train tiles/train --validation tiles/validation -p "
      "resnet18 -r all -o first\n"
      "  mpirun -n 4 quadrat-finetune -c run.ini --pretrained_weights resnet18-f37072fd.pth -r "
      "last_only -o last\n"
      "  quadrat-runs show first\n");
  parser.group("Input");
  parser.add("train", o.train, "DIR",
             "class folders of training tiles, 224x224 PNG, or packed shards");
  parser.add("validation", o.validation, "DIR", "the same classes, other tiles: never trained on");
  parser.add("sample_frac,f", o.sample_frac, "X",
             "use this fraction of the tiles, of each class alike");
  parser.group("Model");
  parser.add_choice("pretrained_model_type,p", o.pretrained_model_type, {"alexnet", "resnet18"},
                    "the network");
  parser.add_choice("retraining_type,r", o.retraining_type, {"last_only", "fully_connected", "all"},
                    "which layers to train; fully_connected goes with alexnet only");
  parser.add("pretrained_weights", o.pretrained_weights, "FILE|none",
             "torchvision's .pth or .safetensors (tools/fetch_weights gets them), or none: random "
             "initialisation");
  parser.group("Output");
  parser.add("output_model_name,o", o.output_model_name, "NAME",
             "the run's name: its files go to RUNS/NAME/");
  parser.add("runs", o.runs, "DIR", "folder of runs");
  parser.add_choice("resume", o.resume, {"auto", "never"},
                    "whether to go on with an unfinished run of that name");
  parser.group("Recipe");
  parser.add("num_epochs,n", o.num_epochs, "N", "passes over the training tiles");
  parser.add("batch_size", o.batch_size, "N",
             "tiles a step, over all ranks; a multiple of --shards");
  parser.add("accumulate_batches", o.accumulate_batches, "N",
             "sum the gradients of N batches before each step: N x batch_size tiles a step in the "
             "memory of one batch");
  parser.add_choice("optimizer", o.optimizer, {"sgd", "adamw"}, "sgd has momentum");
  parser.add("learning_rate", o.learning_rate, "X",
             "0: chosen by network, retraining, optimizer and batch size");
  parser.add_choice("lr_schedule", o.lr_schedule, {"constant", "step", "cosine"},
                    "how it falls; step: /10 each third");
  parser.add("warmup_epochs", o.warmup_epochs, "X", "rise linearly from 0 for so long");
  parser.add("momentum", o.momentum, "X", "of sgd");
  parser.add("weight_decay", o.weight_decay, "X", "L2 penalty (sgd) or decoupled decay (adamw)");
  parser.add("label_smoothing", o.label_smoothing, "X",
             "share of the target spread over all classes");
  parser.add_choice("class_weights", o.class_weights, {"none", "balanced"},
                    "weigh classes by inverse frequency");
  parser.add("clip_gradients", o.clip_gradients, "X", "largest L2 norm of all gradients; 0: any");
  parser.add("early_stopping", o.early_stopping, "N",
             "end after N epochs without a better validation error; 0: never");
  parser.add_choice(
      "augment", o.augment, {"none", "sample", "dihedral"},
      "dihedral: the 8 flips and quarter turns; sample: crop 0.85 and colour jitter 0.2");
  parser.add("views", o.views, "N",
             "augmented versions kept of each tile where frozen layers are computed once");
  parser.add_choice("batch_norm", o.batch_norm, {"sync", "local", "frozen"},
                    "statistics over the whole batch, each rank's part, or the pretrained ones");
  parser.add("seed", o.seed, "N", "of everything random");
  parser.add("shards", o.shards, "N",
             "virtual shards: any number of ranks up to this computes the same training");
  parser.group("Machine");
  parser.add_choice("device", o.device, {"auto", "cpu", "cuda"}, "auto: a GPU where there is one");
  parser.add_choice("precision", o.precision, {"auto", "fp32", "bf16"},
                    "auto: bf16 where the processor has it");
  parser.add("threads", o.threads, "N",
             "threads a rank; 0: the host's cores shared among its ranks");
  parser.add("memory_limit", o.memory_limit, "GB", "memory a rank may use for decoded tiles");
  parser.add("scratch", o.scratch, "DIR",
             "folder on a local disk for the decoded tiles beyond that");
  parser.add("bf16_gradients", o.bf16_gradients, "send gradients in bfloat16: half the traffic");
  parser.add(
      "watchdog_seconds", o.watchdog_seconds, "X",
      "a rank that gives no sign of life for so long ends the job, to be started again; 0: never");
  parser.require(
      {"train", "validation", "pretrained_model_type", "retraining_type", "output_model_name"});
  return quadrat::cli::run(parser, argc, argv,
                           [&] { return quadrat::finetune(o, parser.as_used()); });
}
