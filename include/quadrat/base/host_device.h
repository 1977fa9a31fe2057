#pragma once

/// Marks a function that nvcc compiles for the GPU as well as for the CPU; nothing to other
/// compilers.
#if defined(__CUDACC__)
#define QUADRAT_HOST_DEVICE __host__ __device__
#else
#define QUADRAT_HOST_DEVICE
#endif
