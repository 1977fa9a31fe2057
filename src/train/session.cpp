#include "session.h"

#include <ATen/autocast_mode.h>

#include <algorithm>
#include <cstring>

#include "quadrat/base/clock.h"
#include "quadrat/base/log.h"
#include "quadrat/mpi/processors.h"
#include "quadrat/score/device.h"
#include "quadrat/score/plan.h"
#include "session_on_gpu.h"

namespace quadrat {

namespace {

bool choose_bf16(const FinetuneOptions& options, torch::Device device,
                 const score::CpuAbilities& cpu, const mpi::Communicator& ranks) {
  const bool is_quick = device.is_cuda() || cpu.accelerates_bf16;
  const bool bf16 = options.precision == "auto" ? is_quick : options.precision == "bf16";
  if (bf16 && !is_quick && ranks.is_root()) {
    log::warn(
        "training in bf16, which not every rank's CPU multiplies: --precision fp32 is quicker{}",
        cpu.has_bf16 ? "" : " many times over");
  }
  return bf16;
}

int choose_threads(const FinetuneOptions& options, const mpi::Communicator& ranks) {
  if (options.threads > 0) return static_cast<int>(options.threads);
  const mpi::Processors here = mpi::processors_of(ranks);
  if (ranks.is_root() && here.of_ranks < here.of_launcher) {
    log::warn(
        "mpirun lets its ranks use {} of this host's {} processors; start more ranks, or give it "
        "--bind-to none",
        here.of_ranks, here.of_launcher);
  }
  return here.per_rank;
}

}  // namespace

Session::Session(const FinetuneOptions& given, const mpi::Communicator& all)
    : options(given),
      ranks(all),
      seed(static_cast<std::uint64_t>(options.seed)),
      device(choose_device(options.device, ranks)),
      cpu(score::CpuAbilities::of(ranks)),
      bf16(choose_bf16(options, device, cpu, ranks)),
      threads(choose_threads(options, ranks)),
      sets(list_training_sets(options.train, options.validation, kTileSide_px, options.sample_frac,
                              seed, ranks)),
      transform(kTileSide_px, kImageNetMean, kImageNetStd, parse_augment(options.augment), seed) {
  at::set_num_threads(threads);
  // AlexNet's gradients are 228 MB a step: faulted in anew they would cost a third of it.
  score::keep_freed_memory();
  set_up_gpu();
  make_network();
  all_reduce = device.is_cuda() ? make_gpu_all_reduce(ranks, device.index())
                                : comm::make_host_all_reduce(ranks);
}

void Session::set_up_gpu() const {
  if (!device.is_cuda()) return;
  leave_default_stream(device);
  auto& context = at::globalContext();
  // A training's shapes are few and come again and again: cuDNN tries its algorithms once.
  context.setBenchmarkCuDNN(true);
  // Asked for fp32, nobody expects products of 10 bits.
  context.setAllowTF32CuDNN(false);
  context.setAllowTF32CuBLAS(false);
}

void Session::make_network() {
  card.architecture = parse_architecture(options.pretrained_model_type);
  card.classes = sets.train.classes;
  card.retraining = parse_retraining(options.retraining_type);
  network = Network::create(card.architecture, std::ssize(card.classes), seed);
  mpi::together(ranks, [&] {
    if (!weights_given() || !ranks.is_root()) return;
    const Path path = options.pretrained_weights;
    load_weights(*network, read_weights(path), path);
  });
  // Everyone starts from rank 0's numbers, whatever its processor made of the random
  // initialisation.
  const torch::NoGradGuard no_gradients;
  const auto from_root = [&](torch::Tensor tensor) {
    Bytes bytes;
    if (ranks.is_root()) bytes = to_stored("", tensor).data;
    bytes = ranks.broadcast(std::move(bytes));
    std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  };
  if (ranks.size() > 1) {
    for (auto& parameter : network->parameters()) from_root(parameter);
    for (auto& buffer : network->buffers()) from_root(buffer);
  }
  for (auto& parameter : network->parameters()) {
    if (parameter.dim() == 4)
      parameter.set_data(parameter.contiguous(torch::MemoryFormat::ChannelsLast));
  }
  network->to(device);
  network->set_retraining(card.retraining);
  const SumOverRanks sum = [this](torch::Tensor& sums) {
    if (all_reduce->ranks() == 1) return;
    const auto before = Clock::now();
    all_reduce->start(sums)->wait();
    layers_waited_s += seconds_since(before);
  };
  network->set_batch_norm(parse_batch_norm(options.batch_norm), sum);
  // GPUs sum gradients over NCCL while they compute on.
  if (device.is_cpu()) {
    // Gradients of several batches are not added up in bfloat16.
    const bool keeps_copies = bf16 && options.accumulate_batches == 1;
    network->split_layers({ranks.rank(), ranks.size(), sum},
                          keeps_copies ? torch::kBFloat16 : torch::kFloat);
  }
}

torch::Tensor Session::labels_of(const Catalog& catalog,
                                 const std::vector<std::uint32_t>& tiles) const {
  std::vector<std::int64_t> labels;
  for (const auto tile : tiles) labels.push_back(catalog.tiles[tile].label);
  return on_device(labels);
}

torch::Tensor Session::on_device(const std::vector<std::int64_t>& numbers) const {
  // Pinned, so that the host does not wait for the copy.
  auto here = torch::empty({std::ssize(numbers)},
                           torch::TensorOptions(torch::kLong).pinned_memory(device.is_cuda()));
  std::copy(numbers.begin(), numbers.end(), here.mutable_data_ptr<std::int64_t>());
  return here.to(device, /*non_blocking=*/true);
}

Autocast::Autocast(const Session& session)
    : enabled_(session.bf16), device_(session.device.type()) {
  if (!enabled_) return;
  was_enabled_ = at::autocast::is_autocast_enabled(device_);
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, torch::kBFloat16);
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  if (!enabled_) return;
  // The cache holds bf16 copies of weights that the next step changes.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_enabled_);
}

}  // namespace quadrat
