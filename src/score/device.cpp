#include "quadrat/score/device.h"

#include "quadrat/base/error.h"

namespace quadrat {

torch::Device choose_device(std::string_view wish, const mpi::Communicator& ranks) {
#ifdef QUADRAT_HAS_CUDA
  constexpr bool kIsBuilt = true;
#else
  constexpr bool kIsBuilt = false;
#endif
  if (wish == "cpu") return torch::kCPU;
  const bool usable = kIsBuilt && torch::cuda::is_available();
  if (wish == "auto" && ranks.min(usable ? 1 : 0) == 0) return torch::kCPU;
  mpi::together(ranks, [&] {
    if (usable) return;
    throw DeviceError(
        "use a GPU", "",
        kIsBuilt ? "this machine has none that CUDA can use" : "this build has no CUDA",
        "give --device cpu");
  });
  const mpi::Communicator host = ranks.split_by_host();
  const auto gpus = static_cast<int>(torch::cuda::device_count());
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(host.rank() % gpus)};
}

}  // namespace quadrat
