// Writes a model with random weights for the command-line tests: make_model FILE {alexnet,resnet18}
// CLASS...
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <vector>

#include "reference.h"

int main(int argc, char** argv) {
  using quadrat::Architecture;
  if (argc < 4) {
    std::fprintf(stderr, "usage: make_model FILE {alexnet,resnet18} CLASS...\n");
    return 1;
  }
  const std::vector<std::string> classes(argv + 3, argv + argc);
  const auto architecture =
      std::string(argv[2]) == "alexnet" ? Architecture::kAlexNet : Architecture::kResNet18;
  auto weights = quadrat::score::testing::random_weights(
      architecture, static_cast<std::int64_t>(classes.size()), 42);
  std::string names;
  for (const std::string& name : classes)
    names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", name);
  weights.metadata["classes"] = "[" + names + "]";
  quadrat::write_safetensors(argv[1], weights);
  return 0;
}
