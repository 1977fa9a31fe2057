# How tests are registered: one helper a kind, each with a label and a time limit.
include(GoogleTest)

set(QUADRAT_SHARED "$ENV{QUADRAT_SHARED}" CACHE PATH "Folder that holds data/, real inputs for the tests")
if(NOT QUADRAT_SHARED)
  set(QUADRAT_SHARED "${PROJECT_SOURCE_DIR}/../shared")
endif()
set(QUADRAT_PYTHON "" CACHE FILEPATH "Python with the packages that files are read back by (tools/python_env)")

set(quadrat_test_environment
  "QUADRAT_SHARED=${QUADRAT_SHARED}" "QUADRAT_PYTHON=${QUADRAT_PYTHON}" "QUADRAT_BIN=${CMAKE_BINARY_DIR}/bin"
  "QUADRAT_SOURCE=${PROJECT_SOURCE_DIR}" "OMP_NUM_THREADS=1"
  "OMPI_ALLOW_RUN_AS_ROOT=1" "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
  # Open MPI 4 and 5 each read their own.
  "OMPI_MCA_rmaps_base_oversubscribe=1" "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
  "OMPI_MCA_btl_vader_single_copy_mechanism=none")

# What Open MPI's plugins and GDAL's drivers never free is not ours to judge, and a plugin that is unloaded by then has no
# name left to suppress it by: leaks are looked for in the unit tests, everything else everywhere.
set(quadrat_program_environment ${quadrat_test_environment})
if(QUADRAT_SANITIZE)
  list(APPEND quadrat_program_environment "ASAN_OPTIONS=detect_leaks=0")
endif()

function(_quadrat_test_executable name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} GTest::gtest GTest::gmock quadrat_warnings)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  if(arg_TORCH)
    quadrat_use_torch_pch(${name})
  endif()
endfunction()

# quadrat_add_unit_test(NAME SOURCES file... LINK target... [TORCH] [LABEL unit|fuzz|faults|gpu] [TIMEOUT seconds])
function(quadrat_add_unit_test name)
  cmake_parse_arguments(arg "TORCH" "LABEL;TIMEOUT" "SOURCES;LINK" ${ARGN})
  if(NOT arg_LABEL)
    set(arg_LABEL unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set(torch)
  if(arg_TORCH)
    set(torch TORCH)
  endif()
  _quadrat_test_executable(${name} SOURCES ${arg_SOURCES} LINK ${arg_LINK} GTest::gtest_main ${torch})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT}
    ENVIRONMENT "${quadrat_test_environment}")
endfunction()

# quadrat_add_mpi_test(NAME SOURCES file... LINK target... RANKS n... [TORCH] [TIMEOUT seconds])
#
# The same tests on each number of ranks; main comes from tests/mpi_main.cpp, which fails on all ranks where one does.
function(quadrat_add_mpi_test name)
  cmake_parse_arguments(arg "TORCH" "TIMEOUT" "SOURCES;LINK;RANKS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set(torch)
  if(arg_TORCH)
    set(torch TORCH)
  endif()
  _quadrat_test_executable(${name} SOURCES ${arg_SOURCES} "${PROJECT_SOURCE_DIR}/tests/mpi_main.cpp"
    LINK ${arg_LINK} quadrat::mpi ${torch})
  foreach(ranks ${arg_RANKS})
    add_test(NAME ${name}.${ranks}ranks COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.${ranks}ranks PROPERTIES LABELS mpi TIMEOUT ${arg_TIMEOUT} PROCESSORS 2
      ENVIRONMENT "${quadrat_program_environment}")
  endforeach()
endfunction()

# Whether this machine has a GPU that tests can use.
set(QUADRAT_HAS_GPU FALSE)
if(QUADRAT_HAS_CUDA AND EXISTS /dev/nvidiactl)
  set(QUADRAT_HAS_GPU TRUE)
endif()

# quadrat_add_gpu_test(NAME SOURCES file... LINK target...): with LibTorch and MPI, on one rank. Built everywhere, and
# everywhere it must start; run where there is a GPU.
function(quadrat_add_gpu_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  _quadrat_test_executable(${name} SOURCES ${arg_SOURCES} "${PROJECT_SOURCE_DIR}/tests/mpi_main.cpp"
    LINK ${arg_LINK} quadrat::mpi TORCH)
  add_test(NAME ${name}.starts COMMAND ${name} --gtest_list_tests)
  set_tests_properties(${name}.starts PROPERTIES LABELS unit TIMEOUT 120 ENVIRONMENT "${quadrat_program_environment}")
  if(QUADRAT_HAS_GPU)
    add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} -n 1 $<TARGET_FILE:${name}>)
    set_tests_properties(${name} PROPERTIES LABELS gpu TIMEOUT 600 ENVIRONMENT "${quadrat_program_environment}")
  endif()
endfunction()

# quadrat_add_script_test(NAME SCRIPT file [LABEL cli] [TIMEOUT seconds]): a .py run by QUADRAT_PYTHON, a .sh by bash.
# Programs are found in $QUADRAT_BIN. Not registered for Python where QUADRAT_PYTHON is not set; tools/test sets it.
function(quadrat_add_script_test name)
  cmake_parse_arguments(arg "" "SCRIPT;LABEL;TIMEOUT" "" ${ARGN})
  if(NOT arg_LABEL)
    set(arg_LABEL cli)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(arg_SCRIPT MATCHES "\\.py$")
    if(NOT QUADRAT_PYTHON)
      return()
    endif()
    set(interpreter "${QUADRAT_PYTHON}")
  else()
    set(interpreter bash)
  endif()
  add_test(NAME ${name} COMMAND ${interpreter} "${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT}")
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT}
    ENVIRONMENT "${quadrat_program_environment}")
endfunction()
