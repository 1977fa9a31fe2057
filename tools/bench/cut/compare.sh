#!/usr/bin/env bash
# Cuts a synthetic county with quadrat-cut on 1 and 2 ranks and with rasterio + Pillow on 2 processes: wall time,
# CPU time, peak memory of one process, bytes a tile.
#
# usage: tools/bench/cut/compare.sh BIN PYTHON FOLDER [TILES_ACROSS]
#
# BIN holds the programs, PYTHON has rasterio and Pillow, FOLDER is where some GB are free (removed at the end).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 1; }
bin=$1 python=$2 folder=$3/quadrat_bench_cut across=${4:-64}
here=$(dirname "${BASH_SOURCE[0]}")
mkdir "$folder"
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

timed() { # name, command...
  local name=$1
  shift
  /usr/bin/env time -f "$name: %e s wall, %U s user, %S s system, %M kB peak of one process" "$@"
}
timed synth "$bin/quadrat-synth" --output "$folder" --name county --tiles_across "$across" >/dev/null
for ranks in 1 2; do
  timed "quadrat-cut on $ranks" mpirun --oversubscribe -n "$ranks" "$bin/quadrat-cut" --image "$folder/county.tif" \
    --output "$folder/tiles" | tail -1
  tiles=$(find "$folder/tiles" -name '*.png' | wc -l)
  bytes=$(find "$folder/tiles" -name '*.png' -printf '%s\n' | awk '{sum += $1} END {printf "%.0f", sum / NR}')
  echo "$tiles tiles, $bytes bytes a tile"
  rm -r "$folder/tiles"
done
timed "rasterio + Pillow on 2" "$python" "$here/rasterio_cut.py" "$folder/county.tif" "$folder/compared" 2
