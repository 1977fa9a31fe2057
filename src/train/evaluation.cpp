#include "evaluation.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace quadrat {

namespace {

/// Rows a forward pass without gradients takes at once. Of convolutions more than a few leave the
/// cache and get slower; fully connected layers read all their weights for every pass.
std::int64_t rows_at_once(const Session& session) {
  if (session.device.is_cuda()) return FrozenLayers::kRowsOnDevice;
  return session.card.retraining == Retraining::kAll ? 16 : 64;
}

}  // namespace

std::vector<std::uint32_t> share_of_validation(const Session& session) {
  const auto [first, last] = session.ranks.share_of(session.sets.validation.tiles.size());
  std::vector<std::uint32_t> mine(last - first);
  std::iota(mine.begin(), mine.end(), static_cast<std::uint32_t>(first));
  return mine;
}

Evaluation evaluate(const Session& session, Inputs& inputs,
                    const std::vector<std::uint32_t>& tiles) {
  session.network->eval();
  const torch::NoGradGuard no_gradients;
  const auto count = std::ssize(tiles);
  const std::int64_t rows = rows_at_once(session);
  // As many on every rank, where some may have one tile more: layers may need all ranks in a pass.
  const auto steps =
      (static_cast<std::int64_t>(session.ranks.max(static_cast<double>(count))) + rows - 1) / rows;
  const auto tiles_of = [&](std::int64_t step) {
    const auto begin = tiles.begin() + std::min(count, step * rows);
    return std::vector<std::uint32_t>(begin, std::min(begin + rows, tiles.end()));
  };
  const auto stream = inputs.stream(0, tiles_of, {0, steps});
  // Around all passes: the weights do not change in between, and are rounded to bf16 once.
  const Autocast autocast(session);
  // Where they are made until all is done: a GPU is not waited for in between.
  auto found = torch::zeros({2}, torch::TensorOptions(torch::kDouble).device(session.device));
  std::vector<torch::Tensor> rows_of_probabilities;
  for (std::int64_t step = 0; step < steps; ++step) {
    const Batch batch = stream->next();
    const auto logits =
        session.network->trained_part(batch.input.to(session.device)).to(torch::kFloat);
    const auto labels = session.labels_of(session.sets.validation, batch.tiles);
    const auto loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum);
    const auto wrong = logits.argmax(1).ne(labels).sum();
    found += torch::stack({loss.to(torch::kDouble), wrong.to(torch::kDouble)});
    rows_of_probabilities.push_back(torch::softmax(logits, 1));
  }
  session.all_reduce->settle();
  found = found.cpu();
  std::array<double, 2> sums{found[0].item<double>(), found[1].item<double>()};  // loss, wrong
  std::vector<float> mine;
  if (!rows_of_probabilities.empty()) {
    const auto probabilities = torch::cat(rows_of_probabilities).cpu().contiguous();
    const auto* values = probabilities.const_data_ptr<float>();
    mine.assign(values, values + probabilities.numel());
  }
  session.ranks.sum(sums);
  const auto all = static_cast<double>(session.sets.validation.tiles.size());
  return {sums[0] / all, sums[1] / all, session.ranks.gather_values(mine)};
}

}  // namespace quadrat
