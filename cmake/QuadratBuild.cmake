# What every target of the project shares: warnings, ccache, where programs land, the module and program helpers.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  # Without these ccache refuses to cache what uses a precompiled header.
  set(ccache_command "${CMAKE_COMMAND}" -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 "${CCACHE}")
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ccache_command})
  set(CMAKE_C_COMPILER_LAUNCHER ${ccache_command})
endif()

add_library(quadrat_warnings INTERFACE)
# nvcc's own code would be full of -Wpedantic's line markers.
target_compile_options(quadrat_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${QUADRAT_WERROR}>>:-Werror=all-warnings>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${QUADRAT_WERROR}>>:-Werror>)
# ccache reads what the preprocessor left: this leaves the precompiled header's name in it.
target_compile_options(quadrat_warnings INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)

if(QUADRAT_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

set(QUADRAT_MODULES "" CACHE INTERNAL "")
set(QUADRAT_PROGRAMS "" CACHE INTERNAL "")

# quadrat_add_module(NAME SOURCES ... [PUBLIC target...] [PRIVATE target...] [TORCH])
#
# The library quadrat::NAME. TORCH: its sources use LibTorch's headers, precompiled once for all such modules.
function(quadrat_add_module name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(quadrat_${name} STATIC ${arg_SOURCES})
  add_library(quadrat::${name} ALIAS quadrat_${name})
  set_target_properties(quadrat_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(quadrat_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(quadrat_${name} PUBLIC cxx_std_20)
  target_link_libraries(quadrat_${name} PUBLIC ${arg_PUBLIC} PRIVATE ${arg_PRIVATE}
    $<BUILD_INTERFACE:quadrat_warnings>)
  if(arg_TORCH)
    quadrat_use_torch_pch(quadrat_${name})
  endif()
  set_property(CACHE QUADRAT_MODULES APPEND PROPERTY VALUE quadrat_${name})
endfunction()

# One precompiled <torch/torch.h> for everything that includes it: it costs ~15 s a file otherwise.
function(quadrat_use_torch_pch target)
  target_link_libraries(${target} PUBLIC LibTorch::LibTorch)
  # The wheel's include folder holds an fmt of its own, newer than the system's and found first. Header-only, in its
  # own inline namespace, it never meets the system's library that the other rooms link.
  target_compile_definitions(${target} PRIVATE FMT_HEADER_ONLY)
  # GCC 13 takes a vector<bool>::reserve in torch's autograd for a copy past the end.
  target_compile_options(${target} PRIVATE
    $<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>>:-Wno-array-bounds
    -Wno-stringop-overflow>)
  if(NOT TARGET quadrat_torch_pch)
    file(WRITE "${CMAKE_BINARY_DIR}/torch_pch.cpp" "")
    add_library(quadrat_torch_pch OBJECT "${CMAKE_BINARY_DIR}/torch_pch.cpp")
    target_link_libraries(quadrat_torch_pch PRIVATE LibTorch::LibTorch fmt::fmt quadrat_warnings)
    target_compile_definitions(quadrat_torch_pch PRIVATE FMT_HEADER_ONLY)
    target_precompile_headers(quadrat_torch_pch PRIVATE <torch/torch.h>)
  endif()
  # A program's -fPIE would not match the -fPIC the header was compiled with.
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "EXECUTABLE")
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
  target_precompile_headers(${target} REUSE_FROM quadrat_torch_pch)
endfunction()

# quadrat_add_program(NAME SOURCE file [LINK target...] [TORCH] [CUDA])
#
# TORCH: LibTorch is found wherever the program is installed. CUDA: it loads libquadrat_cuda where there is a GPU.
function(quadrat_add_program name)
  cmake_parse_arguments(arg "TORCH;CUDA" "SOURCE" "LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCE})
  target_link_libraries(${name} PRIVATE ${arg_LINK} quadrat::cli quadrat_warnings)
  if(arg_TORCH)
    target_compile_definitions(${name} PRIVATE FMT_HEADER_ONLY)  # as in quadrat_use_torch_pch
    set_property(TARGET ${name} APPEND PROPERTY INSTALL_RPATH "${LibTorch_LIBRARY_DIRS}")
  endif()
  if(arg_CUDA AND QUADRAT_HAS_CUDA)
    set_property(TARGET ${name} APPEND PROPERTY INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
    set_target_properties(${name} PROPERTIES ENABLE_EXPORTS ON BUILD_RPATH "$ORIGIN/../lib")
    add_dependencies(${name} quadrat_cuda)
  endif()
  if(NOT TARGET quadrat_programs)
    add_custom_target(quadrat_programs)  # all of them, without the tests
  endif()
  add_dependencies(quadrat_programs ${name})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  set_property(CACHE QUADRAT_PROGRAMS APPEND PROPERTY VALUE ${name})
endfunction()

function(quadrat_install_package)
  set(modules ${QUADRAT_MODULES})
  install(TARGETS ${modules} EXPORT quadratTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/quadrat" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  set(destination ${CMAKE_INSTALL_LIBDIR}/cmake/quadrat)
  install(EXPORT quadratTargets NAMESPACE quadrat:: DESTINATION ${destination})
  set(QUADRAT_PACKAGE_CUDA OFF)
  if(QUADRAT_HAS_CUDA)
    set(QUADRAT_PACKAGE_CUDA ON)
  endif()
  configure_package_config_file(cmake/quadratConfig.cmake.in quadratConfig.cmake INSTALL_DESTINATION ${destination})
  write_basic_package_version_file(quadratConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/quadratConfig.cmake"
                "${CMAKE_CURRENT_BINARY_DIR}/quadratConfigVersion.cmake"
                "${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake"
          DESTINATION ${destination})
endfunction()

function(quadrat_print_summary)
  message(STATUS "")
  message(STATUS "quadrat ${PROJECT_VERSION}")
  message(STATUS "  build type     ${CMAKE_BUILD_TYPE}")
  message(STATUS "  compiler       ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}, ccache: ${CCACHE}")
  message(STATUS "  MPI            ${MPI_C_LIBRARIES}")
  message(STATUS "  HDF5           ${HDF5_VERSION}")
  message(STATUS "  GDAL           ${GDAL_VERSION}")
  if(QUADRAT_TORCH)
    message(STATUS "  LibTorch       ${LibTorch_VERSION} in ${LibTorch_ROOT_DIR}")
    message(STATUS "  CUDA and NCCL  ${LibTorch_CUDA_SUMMARY}")
  else()
    message(STATUS "  LibTorch       not used: only the rooms that read foreign bytes")
  endif()
  message(STATUS "  programs       ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  message(STATUS "")
endfunction()
