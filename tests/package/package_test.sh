#!/usr/bin/env bash
# Installs what was built into a folder of its own; another project finds the package there, builds with it and runs;
# the installed programs run too.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/check.sh"

build=$(dirname "${QUADRAT_BIN:?is set by ctest: the folder of the built programs}")
prefix=$scratch/prefix

exits 0 cmake --install "$build" --prefix "$prefix"
exits 0 cmake -S "$source_dir/tests/package/consumer" -B "$scratch/build" -G Ninja \
  -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS='-Wall -Wextra -Werror'
exits 0 cmake --build "$scratch/build" --parallel 2
# Nothing of the source or build tree is referred to.
holds -z "$(grep -rlF -e "$source_dir/include" -e "$build" "$prefix/lib/cmake" "$prefix/include" || true)"

for ranks in 1 2; do
  exits 0 mpirun -n "$ranks" "$scratch/build/greet"
done
says out '2 ranks, their numbers add up to 3'
if grep -q '^QUADRAT_TORCH:BOOL=ON$' "$build/CMakeCache.txt"; then
  exits 0 mpirun -n 2 "$scratch/build/fit_line"
  says out 'y = 3.000 x + -1.000'
fi

programs=0
for program in "$QUADRAT_BIN"/quadrat-*; do
  name=$(basename "$program")
  holds -x "$prefix/bin/$name"
  exits 0 "$prefix/bin/$name" --version
  says out quadrat
  exits 0 "$prefix/bin/$name" --help
  programs=$((programs + 1))
done
holds "$programs" -ge 1
if [ -e "$build/lib/libquadrat_cuda.so" ] && [ ! -e /dev/nvidiactl ]; then
  exits 2 "$prefix/bin/quadrat-score" --tiles "$scratch/none" -o none --runs "$scratch/runs" --device cuda
  says err 'this machine has none that CUDA can use'
fi
passed
