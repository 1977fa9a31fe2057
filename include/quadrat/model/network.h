#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "quadrat/model/architecture.h"
#include "quadrat/model/batch_norm.h"
#include "quadrat/model/split_linear.h"
#include "quadrat/tiles/input_blocks.h"

namespace quadrat {

/// AlexNet or ResNet18 as torchvision has them: the same layers under the same parameter names, so
/// that weights go back and forth. Fine-tuning splits it in two: what stays as it was, which can be
/// computed once per tile, and what is trained.
class Network : public torch::nn::Module {
 public:
  /// Weights are torchvision's random initialisation, a function of the seed.
  static std::shared_ptr<Network> create(Architecture architecture, std::int64_t classes,
                                         std::uint64_t seed);

  Architecture architecture() const { return architecture_; }

  /// Chooses what is trained: sets requires_grad; train_mode() goes by it.
  /// @throws UsageError for fully_connected on ResNet18, which has one linear layer
  void set_retraining(Retraining retraining);
  Retraining retraining() const { return retraining_; }

  void set_batch_norm(BatchNormMode mode, const SumOverRanks& sum);

  /// How tiles lie in memory best for a GPU. The network takes them so, too, wherever it takes
  /// [N, 3, S, S].
  virtual InputBlocks input_blocks(std::uint32_t side_px) const = 0;

  /// Deals the outputs of the large linear layers that are trained to ranks: every forward and
  /// backward pass through trained_part is collective where there are such layers.
  void split_layers(const LayerRanks& ranks, torch::ScalarType dtype);

  /// After parameters were written to, other than by whoever trains them.
  void parameters_changed();

  /// The frozen layers: [N, 3, S, S] -> features, [N, 512], [N, 4096] or [N, 9216]; for `all` the
  /// input itself. Runs without gradients.
  torch::Tensor frozen_part(const torch::Tensor& input);

  /// The trained layers: what frozen_part gives -> logits [N, classes].
  torch::Tensor trained_part(const torch::Tensor& features);

  /// Both: [N, 3, S, S] -> logits [N, classes].
  torch::Tensor forward(const torch::Tensor& input) { return trained_part(frozen_part(input)); }

  /// Training mode for the layers that are trained, evaluation mode for the others.
  void train_mode();

  /// What the dropout masks of the next training forward are a function of: one key for each row of
  /// the batch.
  void set_dropout_keys(torch::Tensor keys) { dropout_keys_ = std::move(keys); }
  /// Whether it asks for them.
  bool has_dropout() const { return architecture_ == Architecture::kAlexNet; }

  /// The parameters being trained, in registration order; of those that are split, this rank's
  /// rows.
  std::vector<torch::Tensor> trained_parameters() const;

  /// The split ones among them.
  std::vector<SplitParameter> split_parameters() const;

  /// The last linear layer, whose rows are the classes: "fc" or "classifier.6".
  virtual torch::nn::Linear last_layer() const = 0;
  virtual std::string last_layer_name() const = 0;

 protected:
  explicit Network(Architecture architecture) : architecture_(architecture) {}

  virtual torch::Tensor body(
      const torch::Tensor& input) = 0;  ///< convolutions, pooled and flattened
  virtual torch::Tensor middle(const torch::Tensor& features) = 0;  ///< linear layers but the last
  virtual std::vector<torch::nn::Module*> trained_modules() = 0;

  /// Keeps half of the values, doubled, by a mask that depends on the row's key and `layer` alone.
  torch::Tensor dropout(const torch::Tensor& values, std::uint64_t layer) const;

 private:
  Architecture architecture_;
  Retraining retraining_ = Retraining::kAll;
  torch::Tensor dropout_keys_;  ///< int64 [rows], where the network is
};

}  // namespace quadrat
