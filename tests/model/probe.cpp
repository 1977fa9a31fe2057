// What a network of ours computes, for pytorch_parity_test.py to compare with torchvision: reads
// weights, an input and labels from safetensors, and writes logits, loss, gradients and the weights
// after one SGD step.
//
// probe ARCHITECTURE RETRAINING weights.safetensors batch.safetensors out.safetensors
#include <torch/torch.h>

#include <cstdio>

#include "quadrat/base/error.h"
#include "quadrat/model/network.h"
#include "quadrat/model/weights.h"
#include "quadrat/train/optimizer.h"

int main(int argc, char** argv) try {
  if (argc != 6) return 1;
  using namespace quadrat;
  at::set_num_threads(1);
  const auto weights = read_weights(argv[3]);
  const auto batch = read_weights(argv[4]);
  const auto labels = to_tensor(*batch.find("labels"));
  const auto classes = std::stoll(batch.metadata.at("classes"));
  auto network = Network::create(parse_architecture(argv[1]), classes, 0);
  const auto given = to_tensor(*batch.find("input"));
  network->to(given.scalar_type());  // float64 too: see the test
  if (!load_weights(*network, weights, argv[3])) return 1;
  for (auto& p : network->parameters()) {
    if (p.dim() == 4) p.set_data(p.contiguous(torch::MemoryFormat::ChannelsLast));
  }
  network->set_retraining(parse_retraining(argv[2]));
  network->set_batch_norm(BatchNormMode::kLocal, {});
  // Dropout draws differ between the two; off in both, batch statistics on.
  network->train_mode();
  if (network->architecture() == Architecture::kAlexNet) network->eval();

  Optimizer optimizer(network->trained_parameters(), {"sgd", 0.9, 5e-4});
  WeightsFile out;
  const auto input = given.contiguous(torch::MemoryFormat::ChannelsLast);
  const int steps = input.scalar_type() == torch::kDouble ? 2 : 1;  // see the test
  for (int step = 0; step < steps; ++step) {
    const auto logits = network->forward(input);
    const auto loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Mean, -100, 0.1);
    for (auto& p : network->parameters()) p.mutable_grad().reset();
    loss.backward();
    if (step == 0) {
      out.tensors.push_back(to_stored("logits", logits));
      out.tensors.push_back(to_stored("loss", loss));
      for (const auto& item : network->named_parameters()) {
        if (item.value().requires_grad())
          out.tensors.push_back(to_stored("grad." + item.key(), item.value().grad()));
      }
    }
    optimizer.step(0.01);
  }
  for (const auto& item : network->named_parameters())
    out.tensors.push_back(to_stored("after." + item.key(), item.value()));
  for (const auto& item : network->named_buffers())
    out.tensors.push_back(to_stored("after." + item.key(), item.value()));
  write_safetensors(argv[5], out);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
