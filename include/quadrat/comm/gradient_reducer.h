#pragma once

#include <torch/torch.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "quadrat/comm/all_reduce.h"

namespace quadrat::comm {

struct ReducerOptions {
  /// Small gradients are gathered into sums of about this size; one that is as large by itself is
  /// summed where it is.
  std::size_t bucket_bytes = std::size_t{4} << 20;
  /// Send bfloat16 instead of float32: half the bytes, 8 bits of mantissa.
  bool bf16_on_the_wire = false;
};

/// Sums the gradients of any torch::nn::Module's parameters over ranks while the backward pass is
/// still going on: LibTorch has no DistributedDataParallel in C++.
///
///     GradientReducer reducer(module->parameters(), *all_reduce);
///     reducer.prepare();
///     loss.backward();          // sums start as soon as a bucket's gradients are there
///     reducer.finish();         // now every parameter's grad() is the sum over ranks
///
/// It sums; it does not divide: give each rank's loss its share (divide by the global batch) and
/// sums are gradients of the global mean, whatever the ranks' parts are. Every rank must use the
/// same parameters in the same order. A parameter that got no gradient on this rank counts as zero.
class GradientReducer {
 public:
  /// @param parameters those that require gradients, in an order all ranks share
  /// @param all_reduce must outlive the reducer
  GradientReducer(std::vector<torch::Tensor> parameters, AllReduce& all_reduce,
                  const ReducerOptions& options = {});
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// Before the backward pass whose gradients are to be summed. Drops the old gradients unless
  /// `keep_gradients` (gradient accumulation: earlier backward passes of this step ran without
  /// prepare()).
  void prepare(bool keep_gradients = false);

  /// After it: waits for the sums. @throws CommError
  void finish();

  /// Seconds that finish() has waited since the last call of this: communication that computing did
  /// not hide.
  double take_exposed_seconds();

  /// What the hooks on parameters point to; outlives the reducer where the module does.
  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace quadrat::comm
