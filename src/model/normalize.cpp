#include "normalize.h"

#include "quadrat/base/cpu.h"

namespace quadrat::normalize {

template <typename T>
const Kernels<T>& kernels() {
  static const Kernels<T> best = cpu_features().avx512 ? avx512::kernels<T>()
                                 : cpu_features().avx2 ? avx2::kernels<T>()
                                                       : baseline::kernels<T>();
  return best;
}
template const Kernels<float>& kernels();
template const Kernels<double>& kernels();
template const Kernels<Bf16>& kernels();

}  // namespace quadrat::normalize
