#!/usr/bin/env bash
# Cuts a synthetic county with quadrat-cut on 1 and 2 ranks and with rasterio + Pillow on 2 processes, in turn, some
# times over: medians of tiles/s, their ratios, CPU time, bytes a tile, the largest memory of one rank, and what a
# tile's time goes into.
#
# usage: tools/bench/cut/compare.sh BIN FOLDER [TILES_ACROSS [ROUNDS]]
#
# BIN holds the programs (build/release/bin). FOLDER is where there is room: 0.15 MB a tile for the image, 0.1 MB for
# its PNGs; what is made is removed, but an image FOLDER/countyTILES_ACROSS.tif that is there is used and stays.
# 64 tiles across and 3 rounds unless told. rasterio and Pillow come from tools/python_env.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 1; }
bin=$1 folder=$2 across=${3:-64} rounds=${4:-3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/../../python_env")
work=$folder/quadrat_bench_cut
mkdir "$work"
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
image=$folder/county$across.tif
if [ ! -e "$image" ]; then
  /usr/bin/env time -f 'quadrat-synth: %e s wall, %U s user, %S s system, %M kB' \
    "$bin/quadrat-synth" --output "$work" --name county --tiles_across "$across" >/dev/null 2>"$work/synth.log"
  tail -1 "$work/synth.log"
  image=$work/county.tif
fi
cat "$image" >/dev/null # what does not fit into memory is read from the disk by all alike

ours() { # ranks: one line, tiles/s, seconds, user s, system s, kB of one process, bytes a tile
  local tiles bytes
  /usr/bin/env time -f '%e %U %S %M' -o "$work/time" mpirun --oversubscribe -n "$1" \
    /usr/bin/env time -f '%M' -a -o "$work/memory" "$bin/quadrat-cut" --image "$image" --output "$work/tiles" \
    >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  read -r tiles bytes < <(find "$work/tiles" -name '*.png' -printf '%s\n' | awk '{s += $1} END {print NR, s / NR}')
  awk -v n="$tiles" -v b="$bytes" -v m="$(sort -n "$work/memory" | tail -1)" \
    '{printf "%.0f %.1f %.1f %.1f %d %.0f\n", n / $1, $1, $2, $3, m, b}' "$work/time"
  rm -r "$work/tiles" "$work/memory"
}
peer() { # level: one line, tiles/s, bytes a tile
  "$python" "$here/rasterio_cut.py" "$image" "$work/peer" 2 "$1" | awk -F'\t' '{print $3 + 0, $4 + 0}'
  rm -r "$work/peer"
}
for _ in $(seq "$rounds"); do
  ours 1 | tee -a "$work/ours1" | sed 's/^/1 rank: /' >&2
  ours 2 | tee -a "$work/ours2" | sed 's/^/2 ranks: /' >&2
  peer 6 | tee -a "$work/peer6" | sed 's/^/peer, level 6: /' >&2
  peer 3 | tee -a "$work/peer3" | sed 's/^/peer, level 3: /' >&2
done
median() { sort -n "$work/$1" | awk '{line[NR] = $0} END {print line[int((NR + 1) / 2)]}'; }
read -r one s1 u1 k1 m1 bytes <<<"$(median ours1)"
read -r two s2 u2 k2 m2 _ <<<"$(median ours2)"
read -r six bytes6 <<<"$(median peer6)"
read -r three bytes3 <<<"$(median peer3)"
echo "$((across * across)) tiles, medians of $rounds:"
echo "quadrat-cut, 1 rank:    $one tiles/s ($s1 s wall, $u1 s user, $k1 s system), $bytes bytes a tile, $m1 kB a rank"
echo "quadrat-cut, 2 ranks:   $two tiles/s ($s2 s wall, $u2 s user, $k2 s system), $m2 kB a rank"
echo "rasterio + Pillow, 2 processes: $six tiles/s, $bytes6 bytes a tile (zlib level 6, its default)"
echo "rasterio + Pillow, 2 processes: $three tiles/s, $bytes3 bytes a tile (level 3)"
awk -v a="$one" -v b="$two" -v c="$six" -v d="$three" \
  'BEGIN {printf "ratios: 1 to 2 ranks %.2f, against level 6 %.2f, against level 3 %.2f\n", b / a, b / c, b / d}'
if [ -x "$bin/../tests/bench_cut_parts" ]; then
  "$bin/../tests/bench_cut_parts" "$image" "$work"
fi
