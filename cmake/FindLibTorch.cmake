# LibTorch as the torch wheel carries it, unpacked by tools/setup: LibTorch::LibTorch, and LibTorch::CUDA where the
# CUDA toolkit and NCCL are found too.
#
# The wheel's own TorchConfig.cmake is not used: it fails outright where there is no CUDA toolkit, and where there is
# one it runs a CUDA program while configuring.
#
# Looked for in LibTorch_ROOT (a folder holding include/ and lib/), else in $QUADRAT_DEPS, else where tools/setup
# puts it by default.

if(DEFINED ENV{QUADRAT_DEPS})
  set(_deps "$ENV{QUADRAT_DEPS}")
else()
  set(_deps "$ENV{HOME}/.local/share/quadrat")
endif()

find_path(LibTorch_ROOT_DIR NAMES include/torch/csrc/api/include/torch/torch.h
  HINTS "${LibTorch_ROOT}" "${_deps}/site/torch" NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS "${LibTorch_ROOT_DIR}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS "${LibTorch_ROOT_DIR}/lib" NO_DEFAULT_PATH)

if(LibTorch_ROOT_DIR)
  file(STRINGS "${LibTorch_ROOT_DIR}/include/torch/headeronly/version.h" _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX REPLACE "[^0-9;]" "" _numbers "${_lines}")
  list(JOIN _numbers "." LibTorch_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_ROOT_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run tools/setup, or set LibTorch_ROOT to the folder 'torch' of an unpacked torch wheel")

set(LibTorch_CUDA_FOUND FALSE)
set(LibTorch_CUDA_SUMMARY "off (QUADRAT_CUDA=OFF)")
if(LibTorch_FOUND AND NOT "${QUADRAT_CUDA}" STREQUAL "OFF")
  get_filename_component(_site "${LibTorch_ROOT_DIR}" DIRECTORY)
  find_package(CUDAToolkit 13 QUIET)
  if(NOT CUDAToolkit_FOUND AND NOT DEFINED CUDAToolkit_ROOT AND EXISTS "${_site}/nvidia/cu13/bin/nvcc")
    # The toolkit's wheels, from tools/setup --cuda. What the first search has found is of another version.
    unset(CUDAToolkit_BIN_DIR CACHE)
    unset(CUDAToolkit_NVCC_EXECUTABLE CACHE)
    set(CUDAToolkit_ROOT "${_site}/nvidia/cu13")
    find_package(CUDAToolkit 13 QUIET)
  endif()
  find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS "${LibTorch_ROOT_DIR}/lib" NO_DEFAULT_PATH)
  find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS "${LibTorch_ROOT_DIR}/lib" NO_DEFAULT_PATH)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} "${_site}/nvidia/nccl/include")
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} "${_site}/nvidia/nccl/lib")
  # libtorch_cuda needs these three, which a plain toolkit lacks.
  set(_missing)
  foreach(_wheel cusparselt/lib nvshmem/lib cu13/lib)
    if(NOT EXISTS "${_site}/nvidia/${_wheel}")
      list(APPEND _missing "${_wheel}")
    endif()
  endforeach()
  if(CUDAToolkit_FOUND AND LibTorch_CUDA_LIBRARY AND NCCL_INCLUDE_DIR AND NCCL_LIBRARY AND NOT _missing)
    set(LibTorch_CUDA_FOUND TRUE)
    set(LibTorch_CUDA_SUMMARY "toolkit ${CUDAToolkit_VERSION}, ${NCCL_LIBRARY}")
  elseif("${QUADRAT_CUDA}" STREQUAL "ON")
    message(FATAL_ERROR "QUADRAT_CUDA=ON, but not all was found: toolkit '${CUDAToolkit_VERSION}', NCCL header "
      "'${NCCL_INCLUDE_DIR}', library '${NCCL_LIBRARY}', missing wheels '${_missing}'. Run tools/setup --cuda.")
  else()
    set(LibTorch_CUDA_SUMMARY "not found, CPU only")
  endif()
endif()

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  get_filename_component(LibTorch_LIBRARY_DIRS "${LibTorch_CPU_LIBRARY}" DIRECTORY)
  add_library(LibTorch::C10 SHARED IMPORTED)
  set_target_properties(LibTorch::C10 PROPERTIES IMPORTED_LOCATION "${LibTorch_C10_LIBRARY}")
  add_library(LibTorch::LibTorch SHARED IMPORTED)
  set_target_properties(LibTorch::LibTorch PROPERTIES IMPORTED_LOCATION "${LibTorch_CPU_LIBRARY}")
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    "${LibTorch_ROOT_DIR}/include" "${LibTorch_ROOT_DIR}/include/torch/csrc/api/include")
  target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::C10)
  # What the library's own libgomp, cupti and cudart resolve to is its RPATH's affair, not the linker's.
  target_link_options(LibTorch::LibTorch INTERFACE "LINKER:--allow-shlib-undefined")
  # ATen's at::parallel_for, a header's, works on one thread in sources compiled without. The threads are the library's.
  find_package(OpenMP QUIET COMPONENTS CXX)
  find_library(LibTorch_GOMP_LIBRARY NAMES gomp libgomp.so.1 HINTS "${LibTorch_LIBRARY_DIRS}" NO_DEFAULT_PATH)
  if(OpenMP_CXX_FOUND AND LibTorch_GOMP_LIBRARY)
    target_compile_options(LibTorch::LibTorch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
    target_link_libraries(LibTorch::LibTorch INTERFACE "${LibTorch_GOMP_LIBRARY}")
  endif()
endif()

if(LibTorch_CUDA_FOUND AND NOT TARGET LibTorch::CUDA)
  add_library(LibTorch::C10_CUDA SHARED IMPORTED)
  set_target_properties(LibTorch::C10_CUDA PROPERTIES IMPORTED_LOCATION "${LibTorch_C10_CUDA_LIBRARY}")
  add_library(LibTorch::CUDA SHARED IMPORTED)
  set_target_properties(LibTorch::CUDA PROPERTIES IMPORTED_LOCATION "${LibTorch_CUDA_LIBRARY}")
  target_include_directories(LibTorch::CUDA SYSTEM INTERFACE "${NCCL_INCLUDE_DIR}")
  target_link_libraries(LibTorch::CUDA INTERFACE
    LibTorch::LibTorch LibTorch::C10_CUDA CUDA::cudart "${NCCL_LIBRARY}")
  # GPUs are known to LibTorch once this library is loaded; a linker that drops what no symbol asks for must not drop it.
  target_link_options(LibTorch::CUDA INTERFACE
    "LINKER:--push-state,--no-as-needed" "${LibTorch_CUDA_LIBRARY}" "LINKER:--pop-state")
endif()
