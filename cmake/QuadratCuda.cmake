# CUDA as a language, where FindLibTorch found what the GPU parts need: sets QUADRAT_HAS_CUDA.
#
# QUADRAT_CUDA=AUTO: where nvcc does not work with this host compiler, the build is one for CPUs.

set(QUADRAT_HAS_CUDA FALSE)
if(NOT LibTorch_CUDA_FOUND)
  return()
endif()

# The toolkit that was found, which may be one of wheels that no PATH names.
if(NOT DEFINED CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
endif()
if(NOT DEFINED CMAKE_CUDA_HOST_COMPILER)
  set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
endif()
# A100, H100, B200; the newest one's instructions also as PTX, for what comes after.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING "Compute capabilities kernels are built for")
endif()
# LibTorch's own libcudart: the program has one.
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)

if("${QUADRAT_CUDA}" STREQUAL "ON")
  enable_language(CUDA)
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(LibTorch_CUDA_SUMMARY "CPU only: '${CUDAToolkit_NVCC_EXECUTABLE}' does not work with ${CMAKE_CXX_COMPILER}")
    return()
  endif()
  enable_language(CUDA)
endif()
# CMake 3.25 does not know yet that nvcc has it.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${ccache_command})
endif()
set(QUADRAT_HAS_CUDA TRUE)
string(APPEND LibTorch_CUDA_SUMMARY ", architectures ${CMAKE_CUDA_ARCHITECTURES}")
