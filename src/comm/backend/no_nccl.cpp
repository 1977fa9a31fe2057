#include "quadrat/base/error.h"
#include "quadrat/comm/all_reduce.h"

namespace quadrat::comm {

std::unique_ptr<AllReduce> make_nccl_all_reduce(const mpi::Communicator& /*communicator*/,
                                                int /*device_index*/) {
  throw DeviceError("use a GPU", "", "this build has no CUDA",
                    "build with the gpu preset, or give --device cpu");
}

}  // namespace quadrat::comm
