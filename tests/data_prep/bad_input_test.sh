#!/usr/bin/env bash
# What is wrong with files is one line on stderr that names the file, status 2, on one rank and on two; what is wrong
# with single tiles is counted and nothing more.
set -euo pipefail

bin=${QUADRAT_BIN:?}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
fail() { echo "$1"; exit 1; }

"$bin/quadrat-synth" --output county --tiles_across 8 --seed 2 >/dev/null 2>&1
image=county/county2.tif nlcd=county/county2_nlcd.tif

expect() { # text of the error, then the command
  local text=$1 status=0 lines
  shift
  "$@" >/dev/null 2>errors || status=$?
  [ "$status" -eq 2 ] || { cat errors; fail "status $status for: $*"; }
  grep -qF -- "$text" errors || { cat errors; fail "no '$text' for: $*"; }
  # Under mpirun its own note on the abort comes after ours.
  lines=$(grep -c '^quadrat-[a-z]*\(\[[0-9]*\]\)\?: error' errors || true)
  [ "$lines" -eq 1 ] || { cat errors; fail "$lines lines of error for: $*"; }
}

# A GeoTIFF has its directory in front here, so that the loss is found when the rows are read.
head -c $(($(stat -c %s "$image") / 2)) "$image" >short.tif
expect "'short.tif'" "$bin/quadrat-cut" --image short.tif --output t1
grep -q 'rows [0-9]* to [0-9]*' errors || { cat errors; fail "the rows are not named"; }
expect "'short.tif'" mpirun -n 2 "$bin/quadrat-cut" --image short.tif --output t2
head -c $(($(stat -c %s "$nlcd") / 2)) "$nlcd" >short_nlcd.tif
expect "'short_nlcd.tif'" "$bin/quadrat-cut" --image "$image" --nlcd short_nlcd.tif --output t3
expect "'none.tif'" "$bin/quadrat-cut" --image "$image" --nlcd none.tif --output t4
echo 'no raster' >text.tif
expect "'text.tif'" "$bin/quadrat-cut" --image text.tif --output t5
printf 'P6\n300 300\n255\n' >plain.ppm
head -c 270000 /dev/zero >>plain.ppm
expect "it has no coordinate system" "$bin/quadrat-cut" --image plain.ppm --output t6
expect "it has no coordinate system" "$bin/quadrat-cut" --image "$image" --nlcd plain.ppm --output t7
expect "it has 3 bands, and land cover has one; give the imagery to --image" \
  "$bin/quadrat-cut" --image "$image" --nlcd "$image" --output t8
mkdir full
echo mine >full/notes.txt
expect "it is not empty: it holds 'notes.txt'" "$bin/quadrat-cut" --image "$image" --output full
[ "$(cat full/notes.txt)" = mine ] || fail "it touched what it did not make"
expect "it is not a folder" "$bin/quadrat-cut" --image "$image" --output text.tif
mkdir other
echo '{"asked": [' >other/tiles.json
expect "not quadrat-cut's tiles.json" "$bin/quadrat-cut" --image "$image" --output other
# Deep enough to exhaust the stack of what takes it apart.
{
  printf '{"asked": '
  head -c 500000 /dev/zero | tr '\0' '['
  head -c 500000 /dev/zero | tr '\0' ']'
  printf '}'
} >other/tiles.json
expect "not quadrat-cut's tiles.json" "$bin/quadrat-cut" --image "$image" --output other

# A set is complete whatever became of its images, but not without a word.
"$bin/quadrat-cut" --image "$image" --output flat >/dev/null 2>&1
"$bin/quadrat-cut" --image "$image" --output flat >/dev/null 2>log
grep -q 'has changed' log && fail "an image that did not change has changed: $(cat log)"
touch "$image"
"$bin/quadrat-cut" --image "$image" --output flat >/dev/null 2>log || fail "a changed image: $(cat log)"
grep -q "'$image' has changed since it was cut" log || fail "a changed image is not named: $(cat log)"

# Codes that the table leaves out are counted, each by its number.
printf 'code,class\n31,Land\n41,Land\n42,Land\n43,Land\n52,Land\n71,Land\n81,Land\n82,Land\n' >table.csv
"$bin/quadrat-cut" --image "$image" --nlcd "$nlcd" --class_table table.csv --output some >/dev/null 2>log
grep -q 'land cover codes without a class discarded tiles: [0-9]* ([0-9]* tiles)' log || fail "codes are not named: $(cat log)"
[ "$(echo some/*/)" = some/Land/ ] || fail "other classes than the table's"
grep -q '"22": [1-9]' some/tiles.json || { cat some/tiles.json; fail "code 22 is not counted"; }

echo "all bad inputs are named"
