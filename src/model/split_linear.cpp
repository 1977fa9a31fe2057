#include "quadrat/model/split_linear.h"

namespace quadrat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Where this rank's rows are among those of all ranks, in rank order.
struct Place {
  std::int64_t first = 0, count = 0, all = 0;
};

Place place_of(std::int64_t count, const LayerRanks& ranks) {
  auto counts = torch::zeros({ranks.size}, torch::kDouble);
  counts[ranks.rank] = static_cast<double>(count);
  ranks.sum(counts);
  return {static_cast<std::int64_t>(counts.narrow(0, 0, ranks.rank).sum().item<double>()), count,
          static_cast<std::int64_t>(counts.sum().item<double>())};
}

/// Every rank's rows. Summed with zeros, a number stays what it is.
torch::Tensor rows_of_all(const torch::Tensor& own, const Place& place, const LayerRanks& ranks) {
  auto all = torch::zeros({place.all, own.size(1)}, own.options());
  all.narrow(0, place.first, place.count).copy_(own);
  ranks.sum(all);
  return all;
}

/// This rank's rows -> all ranks' rows.
class Gather : public Function<Gather> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& own,
                               const Place& place, const LayerRanks* ranks) {
    context->saved_data["first"] = place.first;
    context->saved_data["count"] = place.count;
    context->saved_data["ranks"] = reinterpret_cast<std::int64_t>(ranks);
    return rows_of_all(own, place, *ranks);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto* ranks = reinterpret_cast<const LayerRanks*>(context->saved_data["ranks"].toInt());
    // Each rank has what comes through its outputs. In float32, lest bfloat16 round at each rank.
    auto sum = torch::empty(gradients[0].sizes(), gradients[0].options().dtype(torch::kFloat))
                   .copy_(gradients[0]);
    ranks->sum(sum);
    const auto own =
        sum.narrow(0, context->saved_data["first"].toInt(), context->saved_data["count"].toInt());
    return {own.to(gradients[0].scalar_type()), {}, {}};
  }
};

/// Some outputs of all ranks' rows -> all outputs of this rank's rows.
class Exchange : public Function<Exchange> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& part,
                               std::int64_t first_output, std::int64_t outputs, const Place& place,
                               const LayerRanks* ranks) {
    context->saved_data["first"] = place.first;
    context->saved_data["count"] = place.count;
    context->saved_data["all"] = place.all;
    context->saved_data["first_output"] = first_output;
    context->saved_data["part"] = part.size(1);
    context->saved_data["ranks"] = reinterpret_cast<std::int64_t>(ranks);
    auto all = torch::zeros({place.all, outputs}, part.options());
    all.narrow(1, first_output, part.size(1)).copy_(part);
    ranks->sum(all);
    return all.narrow(0, place.first, place.count).clone();
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto* ranks = reinterpret_cast<const LayerRanks*>(context->saved_data["ranks"].toInt());
    const Place place{context->saved_data["first"].toInt(), context->saved_data["count"].toInt(),
                      context->saved_data["all"].toInt()};
    const auto all = rows_of_all(gradients[0], place, *ranks);
    const auto part = all.narrow(1, context->saved_data["first_output"].toInt(),
                                 context->saved_data["part"].toInt());
    return {part.contiguous(), {}, {}, {}, {}};
  }
};

}  // namespace

void SplitLinearImpl::split(const LayerRanks& ranks, torch::ScalarType dtype) {
  ranks_ = ranks;
  const std::int64_t outputs = options.out_features();
  first_output_ = first_output(outputs, ranks.rank, ranks.size);
  const std::int64_t count = first_output(outputs, ranks.rank + 1, ranks.size) - first_output_;
  const torch::NoGradGuard no_gradients;
  for (const torch::Tensor& whole : {weight, bias}) {
    const auto rows = whole.narrow(0, first_output_, count);
    parts_.push_back({rows.detach().to(dtype).set_requires_grad(true), rows.detach(), whole});
  }
}

void SplitLinearImpl::update_copies() {
  const torch::NoGradGuard no_gradients;
  for (const SplitParameter& part : parts_) {
    if (part.own.scalar_type() != part.rows.scalar_type()) part.own.copy_(part.rows);
  }
}

torch::Tensor SplitLinearImpl::forward(const torch::Tensor& input) {
  if (parts_.empty()) return LinearImpl::forward(input);
  if (ranks_.size == 1) return torch::linear(input, parts_[0].own, parts_[1].own);
  const Place place = place_of(input.size(0), ranks_);
  const auto rows = Gather::apply(input, place, &ranks_);
  const auto part = torch::linear(rows, parts_[0].own, parts_[1].own);
  return Exchange::apply(part, first_output_, options.out_features(), place, &ranks_);
}

}  // namespace quadrat
