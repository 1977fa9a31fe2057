#include "quadrat/comm/gradient_reducer.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include "quadrat/base/clock.h"

namespace quadrat::comm {

namespace {

/// Some parameters whose gradients are summed together.
struct Bucket {
  std::vector<std::size_t> members;   ///< indices into State::parameters
  std::vector<std::int64_t> offsets;  ///< of each member in `flat`, in elements
  torch::Tensor flat;       ///< what is summed; undefined where a lone gradient is summed in place
  std::size_t missing = 0;  ///< gradients still to come
  std::unique_ptr<Pending> pending;
  torch::Tensor in_flight;
};

class AfterAccumulation;

}  // namespace

struct GradientReducer::State {
  std::vector<torch::Tensor> parameters;
  std::vector<std::size_t> bucket_of;
  std::vector<Bucket> buckets;
  std::vector<bool> arrived;
  AllReduce* all_reduce = nullptr;
  ReducerOptions options;
  bool armed = false;
  std::size_t next_to_start = 0;  ///< buckets start in order, so that all ranks' sums match up
  double exposed_s = 0;

  void gradient_is_there(std::size_t index);
  void start(Bucket& bucket);
  void finish(Bucket& bucket);
  torch::Tensor part_of(const Bucket& bucket, std::size_t member) const;
};

namespace {

/// Autograd calls this when a parameter's gradient is complete.
class AfterAccumulation : public torch::autograd::PostAccumulateGradHook {
 public:
  AfterAccumulation(std::weak_ptr<GradientReducer::State> state, std::size_t index)
      : state_(std::move(state)), index_(index) {}

  void operator()(const torch::autograd::Variable& /*parameter*/) override {
    if (const auto state = state_.lock()) state->gradient_is_there(index_);
  }

 private:
  std::weak_ptr<GradientReducer::State> state_;
  std::size_t index_;
};

/// The same memory as one dimension, whatever the strides: an element-wise sum does not care for
/// the order.
torch::Tensor flattened(const torch::Tensor& dense) {
  return dense.as_strided({dense.numel()}, {1}, dense.storage_offset());
}

bool is_alike(const torch::Tensor& a, const torch::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

}  // namespace

GradientReducer::GradientReducer(std::vector<torch::Tensor> parameters, AllReduce& all_reduce,
                                 const ReducerOptions& options)
    : state_(std::make_shared<State>()) {
  State& state = *state_;
  state.parameters = std::move(parameters);
  state.all_reduce = &all_reduce;
  state.options = options;
  state.bucket_of.resize(state.parameters.size());
  state.arrived.resize(state.parameters.size());

  // Backwards, about the order in which gradients come.
  std::size_t open_bytes = options.bucket_bytes;
  for (std::size_t i = state.parameters.size(); i-- > 0;) {
    const torch::Tensor& parameter = state.parameters[i];
    const std::size_t bytes = parameter.nbytes();
    const bool alone = bytes >= options.bucket_bytes;
    // A bucket is one tensor.
    const bool is_other = !state.buckets.empty() &&
                          !is_alike(parameter, state.parameters[state.buckets.back().members[0]]);
    if (alone || is_other || open_bytes + bytes > options.bucket_bytes) {
      state.buckets.emplace_back();
      open_bytes = 0;
    }
    Bucket& bucket = state.buckets.back();
    bucket.members.push_back(i);
    bucket.offsets.push_back(static_cast<std::int64_t>(open_bytes / parameter.element_size()));
    state.bucket_of[i] = state.buckets.size() - 1;
    open_bytes = alone ? options.bucket_bytes : open_bytes + bytes;
  }
  for (Bucket& bucket : state.buckets) {
    const bool in_place = bucket.members.size() == 1 && !options.bf16_on_the_wire;
    if (in_place) continue;
    std::int64_t elements = 0;
    for (const std::size_t i : bucket.members) elements += state.parameters[i].numel();
    auto tensor_options = state.parameters[bucket.members[0]].options().requires_grad(false);
    if (options.bf16_on_the_wire) tensor_options = tensor_options.dtype(torch::kBFloat16);
    bucket.flat = torch::empty({elements}, tensor_options);
  }
  for (std::size_t i = 0; i < state.parameters.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(state.parameters[i],
                                                   std::make_unique<AfterAccumulation>(state_, i));
  }
}

GradientReducer::~GradientReducer() {
  for (const auto& parameter : state_->parameters) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradientReducer::prepare(bool keep_gradients) {
  State& state = *state_;
  for (Bucket& bucket : state.buckets) bucket.missing = bucket.members.size();
  state.arrived.assign(state.parameters.size(), false);
  state.next_to_start = 0;
  state.armed = true;
  if (keep_gradients) return;
  for (auto& parameter : state.parameters) parameter.mutable_grad().reset();
}

void GradientReducer::State::gradient_is_there(std::size_t index) {
  if (!armed || arrived[index]) return;
  arrived[index] = true;
  --buckets[bucket_of[index]].missing;
  while (next_to_start < buckets.size() && buckets[next_to_start].missing == 0)
    start(buckets[next_to_start++]);
  for (std::size_t i = 0; i < next_to_start; ++i) {
    if (buckets[i].pending) buckets[i].pending->poll();
  }
}

/// A member's place in the bucket, laid out as the parameter is: copies then walk both in one line.
torch::Tensor GradientReducer::State::part_of(const Bucket& bucket, std::size_t member) const {
  const torch::Tensor& parameter = parameters[bucket.members[member]];
  return bucket.flat.as_strided(parameter.sizes(), parameter.strides(), bucket.offsets[member]);
}

void GradientReducer::State::start(Bucket& bucket) {
  if (all_reduce->ranks() == 1) return;
  const torch::NoGradGuard no_gradients;
  if (!bucket.flat.defined()) {
    auto& gradient = parameters[bucket.members[0]].mutable_grad();
    const torch::Tensor& parameter = parameters[bucket.members[0]];
    if (!gradient.defined()) {
      gradient = torch::zeros_like(parameter);
    } else if (gradient.strides() != parameter.strides()) {
      // All ranks must lay the elements out alike, and the parameter's layout is one they share.
      gradient = torch::empty_like(parameter).copy_(gradient);
    }
    bucket.in_flight = flattened(gradient);
  } else {
    for (std::size_t k = 0; k < bucket.members.size(); ++k) {
      const torch::Tensor& parameter = parameters[bucket.members[k]];
      const auto part = part_of(bucket, k);
      if (parameter.grad().defined()) {
        part.copy_(parameter.grad());
      } else {
        part.zero_();
      }
    }
    bucket.in_flight = bucket.flat;
  }
  bucket.pending = all_reduce->start(bucket.in_flight);
}

void GradientReducer::State::finish(Bucket& bucket) {
  if (!bucket.pending) return;
  const auto before = Clock::now();
  bucket.pending->wait();
  exposed_s += seconds_since(before);
  bucket.pending.reset();
  bucket.in_flight.reset();
  if (!bucket.flat.defined()) return;
  const torch::NoGradGuard no_gradients;
  for (std::size_t k = 0; k < bucket.members.size(); ++k) {
    torch::Tensor& parameter = parameters[bucket.members[k]];
    auto& gradient = parameter.mutable_grad();
    if (!gradient.defined()) gradient = torch::empty_like(parameter);
    gradient.copy_(part_of(bucket, k));
  }
}

void GradientReducer::finish() {
  State& state = *state_;
  state.armed = false;
  while (state.next_to_start < state.buckets.size())
    state.start(state.buckets[state.next_to_start++]);
  for (Bucket& bucket : state.buckets) state.finish(bucket);
}

double GradientReducer::take_exposed_seconds() { return std::exchange(state_->exposed_s, 0); }

}  // namespace quadrat::comm
