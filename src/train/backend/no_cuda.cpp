#include "../step_graphs.h"
#include "../tile_device.h"
#include "quadrat/base/error.h"

namespace quadrat {

namespace {

[[noreturn]] void fail() {
  throw DeviceError("use a GPU", "", "this build has no CUDA", "give --device cpu");
}

}  // namespace

std::unique_ptr<TileDevice> make_cuda_tile_device(torch::Device /*device*/) { fail(); }
std::unique_ptr<StepGraphs> make_cuda_step_graphs(torch::Device /*device*/) { fail(); }
void leave_default_stream(torch::Device /*device*/) { fail(); }

}  // namespace quadrat
