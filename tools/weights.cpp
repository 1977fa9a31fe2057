// quadrat-weights: what a weights file holds, and the same weights in the other format.
#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/text.h"
#include "quadrat/cli/parser.h"
#include "quadrat/weights/describe.h"
#include "quadrat/weights/weights_file.h"

namespace {

using namespace quadrat;

struct Options {
  std::vector<std::string> words;
  bool overwrite = false;
};

void show(const Path& path) { fmt::print("{}", describe(read_weights(path), path)); }

void convert(const Path& from, const Path& to, bool overwrite) {
  const std::string extension = to.extension().string();
  const bool as_torch = extension == ".pth" || extension == ".pt";
  if (!as_torch && extension != ".safetensors") {
    throw UsageError(
        fmt::format("the name of the new file is '{}', but must end in .safetensors, .pth or .pt",
                    printable(to.string())));
  }
  std::error_code error;
  if (!overwrite && std::filesystem::exists(to, error)) {
    throw InputError("convert to", to.string(), "the file exists",
                     "name another or add --overwrite");
  }
  const WeightsFile weights = read_weights(from);
  if (as_torch && !weights.metadata.empty()) {
    log::warn("'{}' has no place for the metadata (classes, mean, std), which is left out",
              to.string());
  }
  if (as_torch) {
    write_torch_zip(to, weights);
  } else {
    write_safetensors(to, weights);
  }
  fmt::print("{}: {} tensors\n", to.string(), weights.tensors.size());
}

int run(const Options& options) {
  const std::vector<std::string>& words = options.words;
  if (words.empty())
    throw UsageError("say what to do: show FILE, or convert FILE FILE (see --help)");
  if (words[0] != "show" && words[0] != "convert")
    throw cli::unknown_command(words[0], {"show", "convert"});
  const std::size_t files = words[0] == "show" ? 1 : 2;
  if (words.size() != files + 1) {
    throw UsageError(fmt::format("'{}' wants {}, {} were given", words[0],
                                 files == 1 ? "one file" : "two files, the old and the new",
                                 words.size() - 1));
  }
  if (files == 1) {
    show(words[1]);
  } else {
    convert(words[1], words[2], options.overwrite);
  }
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  cli::Parser parser(
      "quadrat-weights",
      "shows what a weights file holds and converts between PyTorch's .pth and .safetensors.",
      "  quadrat-weights show resnet18-f37072fd.pth\n"
      "  quadrat-weights convert resnet18-f37072fd.pth resnet18.safetensors\n"
      "  quadrat-weights convert runs/county/model.safetensors county.pth");
  parser.add_words(
      options.words, "show FILE | convert FILE FILE",
      "  show       the network it belongs to, its metadata, its tensors and their values\n"
      "  convert    the first file's tensors into the second, whose name ends in .safetensors, "
      ".pth or\n"
      "             .pt. What the first one is, its content tells. A .pth holds no metadata");
  parser.add("overwrite", options.overwrite, "'convert' may replace a file");
  return cli::run(parser, argc, argv, [&] { return run(options); });
}
