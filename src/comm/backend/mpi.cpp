#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cstdint>

#include "quadrat/base/bf16.h"
#include "quadrat/base/error.h"
#include "quadrat/comm/all_reduce.h"

namespace quadrat::comm {

namespace {

/// MPI has no bfloat16, so its sum is ours.
void sum_bf16(void* in, void* in_out, int* length, MPI_Datatype* /*type*/) {
  const auto* from = static_cast<const std::uint16_t*>(in);
  auto* to = static_cast<std::uint16_t*>(in_out);
  for (int i = 0; i < *length; ++i) to[i] = bf16::narrow(bf16::widen(from[i]) + bf16::widen(to[i]));
}

class MpiPending : public Pending {
 public:
  explicit MpiPending(std::vector<MPI_Request> requests) : requests_(std::move(requests)) {}

  bool poll() override {
    int done = 0;
    mpi::check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done,
                           MPI_STATUSES_IGNORE),
               "MPI_Testall");
    return done != 0;
  }

  void wait() override {
    mpi::check(
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
        "MPI_Waitall");
  }

 private:
  std::vector<MPI_Request> requests_;
};

class MpiAllReduce : public AllReduce {
 public:
  explicit MpiAllReduce(const mpi::Communicator& communicator)
      : communicator_(communicator.duplicate()) {
    mpi::check(MPI_Op_create(sum_bf16, 1, &sum_bf16_), "MPI_Op_create");
  }

  ~MpiAllReduce() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0) MPI_Op_free(&sum_bf16_);
  }

  std::unique_ptr<Pending> start(torch::Tensor values) override {
    TORCH_CHECK(values.device().is_cpu() && values.is_non_overlapping_and_dense(),
                "a dense tensor in host memory");
    MPI_Datatype type = MPI_FLOAT;
    MPI_Op op = MPI_SUM;
    switch (values.scalar_type()) {
      case torch::kFloat:
        break;
      case torch::kDouble:
        type = MPI_DOUBLE;
        break;
      case torch::kBFloat16:
        type = MPI_UINT16_T;
        op = sum_bf16_;
        break;
      default:
        TORCH_CHECK(false, "no MPI sum for ", values.scalar_type());
    }
    // In pieces, since a count is an int.
    constexpr std::int64_t kLargestPiece = std::int64_t{1} << 28;
    std::vector<MPI_Request> requests;
    auto* data = static_cast<std::byte*>(values.mutable_data_ptr());
    for (std::int64_t at = 0; at < values.numel(); at += kLargestPiece) {
      const auto count = static_cast<int>(std::min(kLargestPiece, values.numel() - at));
      requests.emplace_back();
      mpi::check(MPI_Iallreduce(MPI_IN_PLACE, data + at * values.element_size(), count, type, op,
                                communicator_.get(), &requests.back()),
                 "MPI_Iallreduce");
    }
    return std::make_unique<MpiPending>(std::move(requests));
  }

  int ranks() const override { return communicator_.size(); }

 private:
  mpi::Communicator communicator_;
  MPI_Op sum_bf16_ = MPI_OP_NULL;
};

}  // namespace

std::unique_ptr<AllReduce> make_mpi_all_reduce(const mpi::Communicator& communicator) {
  return std::make_unique<MpiAllReduce>(communicator);
}

}  // namespace quadrat::comm
