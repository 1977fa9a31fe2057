#include "../tile_device.h"
#include "quadrat/base/error.h"

namespace quadrat {

std::unique_ptr<TileDevice> make_cuda_tile_device(torch::Device /*device*/) {
  throw DeviceError("use a GPU", "", "this build has no CUDA", "give --device cpu");
}

}  // namespace quadrat
