#include "trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quadrat/base/clock.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"

namespace quadrat {

namespace {

/// Inverse frequency, with mean 1 over the training tiles, so that the loss keeps its scale.
torch::Tensor make_class_weights(const Session& session) {
  if (session.options.class_weights == "none") return {};
  std::vector<float> weights(session.classes(), 0);
  for (const Tile& tile : session.sets.train.tiles) ++weights[static_cast<std::size_t>(tile.label)];
  const auto mean =
      static_cast<float>(session.sets.train.tiles.size()) / static_cast<float>(session.classes());
  for (float& weight : weights) weight = mean / weight;
  return torch::tensor(weights).to(session.device);
}

/// Steps that a GPU is given between two looks at what came of them.
constexpr std::int64_t kStepsUnseen = 32;

Trainer::End most_serious(const mpi::Communicator& ranks, Trainer::End mine) {
  if (ranks.size() == 1) return mine;
  return static_cast<Trainer::End>(static_cast<int>(ranks.max(static_cast<double>(mine))));
}

/// Those whose gradients are to be summed: a split layer's are whole as they are.
std::vector<torch::Tensor> summed(const Network& network) {
  const auto split = network.split_parameters();
  auto parameters = network.trained_parameters();
  std::erase_if(parameters, [&](const torch::Tensor& parameter) {
    return std::any_of(split.begin(), split.end(),
                       [&](const SplitParameter& one) { return one.own.is_same(parameter); });
  });
  return parameters;
}

/// One rank's steps of one batch each are the same work again and again. More ranks than one sum
/// gradients in between and watch over it, which is not recorded.
std::unique_ptr<StepGraphs> make_graphs(const Session& session) {
  if (!session.device.is_cuda() || session.ranks.size() > 1) return nullptr;
  return session.options.accumulate_batches == 1 ? make_cuda_step_graphs(session.device) : nullptr;
}

/// Brings what changes from step to step to where it is read.
void put(const torch::Tensor& what, torch::Tensor& place) {
  if (!place.defined()) {
    place = what;
  } else if (place.const_data_ptr() != what.const_data_ptr()) {
    place.copy_(what);
  }
}

std::int64_t steps_of(const ShardPlan& plan, std::int64_t batches_per_step) {
  return (plan.steps_per_epoch() + batches_per_step - 1) / batches_per_step;
}

}  // namespace

Trainer::Trainer(const Session& session, const ShardPlan& plan)
    : session_(session),
      plan_(plan),
      shards_(plan.shards_of(session.ranks.rank(), session.ranks.size())),
      batches_per_step_(session.options.accumulate_batches),
      split_(session.network->split_parameters()),
      parameters_(session.network->trained_parameters()),
      schedule_(session.options.lr_schedule, session.options.effective_learning_rate(),
                session.options.warmup_epochs, session.options.num_epochs,
                steps_of(plan, batches_per_step_)),
      reducer_(summed(*session.network), *session.all_reduce,
               {.bf16_on_the_wire = session.options.bf16_gradients}),
      optimizer_(
          parameters_,
          {session.options.optimizer, session.options.momentum, session.options.weight_decay},
          split_),
      class_weights_(make_class_weights(session)),
      graphs_(make_graphs(session)),
      steps_between_reads_(session.device.is_cuda() ? kStepsUnseen : 1),
      sums_(torch::zeros({2}, torch::TensorOptions(torch::kDouble).device(session.device))),
      not_finite_(torch::zeros({}, torch::TensorOptions(torch::kFloat).device(session.device))) {}

Trainer::End Trainer::run_epoch(Inputs& inputs, RunPosition& position) {
  session_.network->train_mode();
  const auto order = plan_.epoch(position.epoch, shards_);
  const std::int64_t batches = plan_.steps_per_epoch();
  const double seconds_before = position.train_seconds;
  const auto start = Clock::now();
  waited_s_ = session_.layers_waited_s = 0;
  Progress progress(fmt::format("epoch {}/{}", position.epoch, session_.options.num_epochs),
                    "tiles", static_cast<std::uint64_t>(plan_.tiles()), session_.ranks.is_root());
  std::int64_t done = 0;
  for (std::int64_t batch = 0; batch < position.step; ++batch) done += plan_.batch_tiles(batch);
  const auto stream =
      inputs.stream(position.epoch, [&](std::int64_t batch) { return order.batch(batch); },
                    {position.step, batches});
  // What ranks have seen so far is their own until the epoch's end, where it is summed; a
  // checkpoint holds the sum.
  if (!session_.ranks.is_root()) position.loss_sum = position.wrong = 0;
  End end = End::kComplete;
  while (position.step < batches && end == End::kComplete) {
    const Steps of_step{position.step, std::min(position.step + batches_per_step_, batches)};
    end = step(*stream, of_step, position);
    if (end == End::kNotFinite) return end;
    position.step = of_step.second;
    for (std::int64_t batch = of_step.first; batch < of_step.second; ++batch)
      done += plan_.batch_tiles(batch);
    progress.update(static_cast<std::uint64_t>(done));
    position.train_seconds = seconds_before + seconds_since(start);
  }
  read_sums(position);
  position.train_seconds = seconds_before + seconds_since(start);
  waiting_share_ = (waited_s_ + session_.layers_waited_s) / std::max(1e-9, seconds_since(start));
  if (is_not_finite_) return End::kNotFinite;
  std::array<double, 2> sums{position.loss_sum, position.wrong};
  session_.ranks.sum(sums);
  position.loss_sum = sums[0];
  position.wrong = sums[1];
  // Stopped after its last step, an epoch is complete all the same.
  return position.step == batches ? End::kComplete : end;
}

Trainer::End Trainer::step(InputStream& inputs, Steps batches, RunPosition& position) {
  const auto [first, end] = batches;
  const std::int64_t steps_before =
      static_cast<std::int64_t>(position.epoch - 1) * steps_of(plan_, batches_per_step_);
  learning_rate_ = schedule_.at(steps_before + first / batches_per_step_);
  optimizer_.begin_step(learning_rate_);
  if (graphs_) return recorded_step(inputs.next(), position);
  std::int64_t tiles = 0;
  for (std::int64_t batch = first; batch < end; ++batch) tiles += plan_.batch_tiles(batch);

  drop_gradients();
  for (std::int64_t i = first; i < end; ++i) {
    // Sums begin during the last backward pass.
    if (i + 1 == end) reducer_.prepare(/*keep_gradients=*/true);
    const Batch batch = inputs.next();
    // Synchronised batch norm and split layers need every rank in the pass, also those without
    // tiles.
    if (batch.tiles.empty() && session_.options.batch_norm != "sync" && split_.empty()) continue;
    compute_gradients(pass_of(batch, position.epoch), tiles);
  }
  reducer_.finish();
  waited_s_ += reducer_.take_exposed_seconds();
  share_not_finite();
  if (++steps_unread_ == steps_between_reads_) read_sums(position);
  const auto before_agreeing = Clock::now();
  End mine = stop_signal() != 0 ? End::kAsked : End::kComplete;
  if (is_not_finite_) mine = End::kNotFinite;
  const End all = most_serious(session_.ranks, mine);
  waited_s_ += seconds_since(before_agreeing);
  if (all == End::kNotFinite) return all;
  share_running_statistics();
  apply_gradients();
  return all;
}

/// Unseen steps are called off by the GPU itself, so that all of one can be queued at once.
Trainer::End Trainer::recorded_step(const Batch& batch, RunPosition& position) {
  const auto rows = std::ssize(batch.tiles);
  Pass& pass = recorded_[rows];
  const Pass now = pass_of(batch, position.epoch);
  put(now.input, pass.input);
  put(now.labels, pass.labels);
  if (now.dropout_keys.defined()) put(now.dropout_keys, pass.dropout_keys);
  graphs_->run(rows, [&] {
    drop_gradients();
    compute_gradients(pass, rows);
    apply_gradients();
  });
  if (++steps_unread_ == steps_between_reads_) read_sums(position);
  if (is_not_finite_) return End::kNotFinite;
  return stop_signal() != 0 ? End::kAsked : End::kComplete;
}

void Trainer::drop_gradients() const {
  for (auto& parameter : parameters_) parameter.mutable_grad().reset();
}

void Trainer::apply_gradients() {
  for (auto& parameter : parameters_) {
    if (!parameter.grad().defined()) parameter.mutable_grad() = torch::zeros_like(parameter);
  }
  if (session_.options.clip_gradients > 0) {
    optimizer_.clip(session_.options.clip_gradients, [this](torch::Tensor& squares) {
      session_.all_reduce->start(squares)->wait();
    });
  }
  optimizer_.queue_step(not_finite_);
}

void Trainer::collect_weights() const {
  for (const SplitParameter& one : split_) collect(one.whole);
}

void Trainer::collect_moments() const {
  for (const torch::Tensor& whole : optimizer_.split_state()) collect(whole);
}

/// Brings every rank's rows to rank 0.
void Trainer::collect(const torch::Tensor& whole) const {
  const auto row_bytes = whole.nbytes() / static_cast<std::size_t>(whole.size(0));
  std::vector<std::size_t> bounds;
  for (std::int64_t rank = 0; rank <= session_.ranks.size(); ++rank) {
    bounds.push_back(row_bytes * static_cast<std::size_t>(SplitLinearImpl::first_output(
                                     whole.size(0), rank, session_.ranks.size())));
  }
  session_.ranks.gather_parts({static_cast<std::byte*>(whole.mutable_data_ptr()), whole.nbytes()},
                              bounds);
}

/// Where steps go unseen, all ranks' GPUs must call off the same ones.
void Trainer::share_not_finite() {
  if (steps_between_reads_ == 1 || session_.ranks.size() == 1) return;
  const torch::NoGradGuard no_gradients;
  session_.all_reduce->start(not_finite_)->wait();
  not_finite_.clamp_max_(1);
}

/// Waits for a GPU; adds what it found to the position's sums.
void Trainer::read_sums(RunPosition& position) {
  if (steps_unread_ == 0) return;
  steps_unread_ = 0;
  const auto before = Clock::now();
  session_.all_reduce->settle();
  waited_s_ += seconds_since(before);
  const auto sums = torch::cat({sums_, not_finite_.to(torch::kDouble).view({1})}).cpu();
  const auto* values = sums.const_data_ptr<double>();
  position.loss_sum += values[0];
  position.wrong += values[1];
  is_not_finite_ = values[2] != 0;
  sums_.zero_();
}

Trainer::Pass Trainer::pass_of(const Batch& batch, std::uint64_t epoch) const {
  Pass pass{
      batch.input.to(session_.device), session_.labels_of(session_.sets.train, batch.tiles), {}};
  if (!session_.network->has_dropout()) return pass;
  std::vector<std::int64_t> keys;
  for (const auto tile : batch.tiles) {
    keys.push_back(static_cast<std::int64_t>(
        KeyedRandom({session_.seed, kStreamDropout, epoch, tile}).next()));
  }
  pass.dropout_keys = session_.on_device(keys);
  return pass;
}

void Trainer::compute_gradients(const Pass& pass, std::int64_t tiles_in_step) {
  session_.network->set_dropout_keys(pass.dropout_keys);
  torch::Tensor logits;
  {
    const Autocast autocast(session_);
    logits = session_.network->trained_part(pass.input);
  }
  const torch::Tensor& labels = pass.labels;
  // Summed over the rows, so that ranks' losses add up whatever their parts of the batch.
  const auto loss =
      at::cross_entropy_loss(logits.to(torch::kFloat), labels, class_weights_, at::Reduction::Sum,
                             -100, session_.options.label_smoothing);
  (loss / static_cast<double>(tiles_in_step)).backward();
  const torch::NoGradGuard no_gradients;
  const auto wrong = logits.argmax(1).ne(labels).sum();
  sums_ += torch::stack({loss.detach().to(torch::kDouble), wrong.to(torch::kDouble)});
  not_finite_.logical_or_(loss.detach().isfinite().logical_not());
}

/// With local batch statistics each rank's running ones would drift apart. Their mean over ranks,
/// taken every step (38 kB beside 45 MB of gradients), keeps them one: ranks validate the same
/// model and a checkpoint holds all there is.
void Trainer::share_running_statistics() {
  if (session_.ranks.size() == 1 || session_.options.batch_norm != "local" ||
      session_.network->retraining() != Retraining::kAll) {
    return;
  }
  const torch::NoGradGuard no_gradients;
  std::vector<torch::Tensor> statistics;
  for (const auto& buffer : session_.network->buffers()) {
    if (buffer.is_floating_point()) statistics.push_back(buffer);
  }
  if (statistics.empty()) return;
  std::vector<torch::Tensor> flat;
  for (const auto& tensor : statistics) flat.push_back(tensor.flatten());
  auto all = torch::cat(flat);
  const auto before = Clock::now();
  session_.all_reduce->start(all)->wait();
  waited_s_ += seconds_since(before);
  all /= session_.ranks.size();
  std::int64_t at = 0;
  for (auto& tensor : statistics) {
    tensor.copy_(all.narrow(0, at, tensor.numel()).view(tensor.sizes()));
    at += tensor.numel();
  }
}

}  // namespace quadrat
