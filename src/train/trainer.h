#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "inputs.h"
#include "quadrat/comm/gradient_reducer.h"
#include "quadrat/tiles/shard_plan.h"
#include "quadrat/train/checkpoint.h"
#include "quadrat/train/optimizer.h"
#include "quadrat/train/schedule.h"
#include "session.h"
#include "step_graphs.h"

namespace quadrat {

/// Trains the network, epoch by epoch, together with the other ranks.
class Trainer {
 public:
  Trainer(const Session& session, const ShardPlan& plan);

  enum class End { kComplete, kAsked, kNotFinite };

  /// Goes on from position.step, and keeps `position` up to date: afterwards its sums are those of
  /// all ranks. Collective; all ranks end alike. @return kAsked where a signal came in between,
  /// kNotFinite where the loss is no longer a number: the parameters are then as they were before
  /// that step. On a GPU the host looks at the loss only now and then, so that it need not wait for
  /// each step; the GPU itself calls off that step and all that follow.
  End run_epoch(Inputs& inputs, RunPosition& position);

  /// Bring what the ranks have of split layers, and of their moments, to rank 0, so that it can
  /// write them down. Collective.
  void collect_weights() const;
  void collect_moments() const;

  Optimizer& optimizer() { return optimizer_; }
  double learning_rate() const { return learning_rate_; }  ///< of the last step
  /// Fraction of the last epoch's time that this rank waited for others.
  double waiting_share() const { return waiting_share_; }

 private:
  /// What a pass through the network reads, on the device; keys only where it has dropout.
  struct Pass {
    torch::Tensor input, labels, dropout_keys;
  };
  Pass pass_of(const Batch& batch, std::uint64_t epoch) const;
  void compute_gradients(const Pass& pass, std::int64_t tiles_in_step);
  void drop_gradients() const;
  void apply_gradients();
  End step(InputStream& inputs, Steps batches, RunPosition& position);
  End recorded_step(const Batch& batch, RunPosition& position);
  void collect(const torch::Tensor& whole) const;
  void share_running_statistics();
  void share_not_finite();
  void read_sums(RunPosition& position);

  const Session& session_;
  const ShardPlan& plan_;
  ShardPlan::Range shards_;
  std::int64_t batches_per_step_;
  std::vector<SplitParameter> split_;
  std::vector<torch::Tensor> parameters_;  ///< trained ones
  LearningRateSchedule schedule_;
  comm::GradientReducer reducer_;
  Optimizer optimizer_;
  torch::Tensor class_weights_;
  std::unique_ptr<StepGraphs> graphs_;     ///< null where steps are not recorded
  std::map<std::int64_t, Pass> recorded_;  ///< by rows: what the recordings read
  double learning_rate_ = 0;
  double waited_s_ = 0;
  double waiting_share_ = 0;
  std::int64_t steps_between_reads_;
  std::int64_t steps_unread_ = 0;
  bool is_not_finite_ = false;  ///< as last read
  torch::Tensor sums_;          ///< float64 [loss, wrong tiles] since they were last read
  torch::Tensor not_finite_;    ///< float32 scalar: 1 from the first loss on that is no number
};

}  // namespace quadrat
