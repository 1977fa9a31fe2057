#!/usr/bin/env bash
# quadrat-pack started again: what is packed just so is complete, everything else is refused, and of an unfinished pack
# nothing is left.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/check.sh"
cd "$scratch"

bin=${QUADRAT_BIN:?}
"$bin/quadrat-synth" --output county --tiles_across 10 --seed 4 >/dev/null 2>&1
"$bin/quadrat-cut" --image county/county4.tif --nlcd county/county4_nlcd.tif --output tiles >/dev/null 2>&1
pack() { "$bin/quadrat-pack" --tiles "$1" --output shards --tiles_per_shard "$2" "${@:3}"; } # TILES N OPTIONS...
# Whether a webdataset glob finds the index's shards and nothing else.
whole() { # FOLDER
  holds "$(cut -f 1 "$1/shards.tsv" | sed 1d | sort -u)" = "$(cd "$1" && ls -A -I shards.tsv -I tile_summaries.csv)"
}
refused() { # TEXT COMMAND...
  exits 2 "${@:2}"
  says err "$1"
  says err 'name another --output'
}

# --- complete, or something else ---
exits 0 pack tiles 8
whole shards
before=$(stat -c '%n %Y %i' shards/*)
for same in '' --order=shuffled --seed=0; do
  exits 0 pack tiles 8 ${same:+"$same"}
  says out 'shards is complete'
done
exits 0 mpirun -n 3 "$bin/quadrat-pack" --tiles tiles --output shards --tiles_per_shard 8
says out 'shards is complete'
cp -r tiles copied
exits 0 pack copied 8
for other in '4' '8 --seed=1' '8 --order=sorted'; do
  # shellcheck disable=SC2086  # words
  refused 'packed with another --tiles_per_shard, --order or --seed' pack tiles $other
done
first=$(cd tiles && echo */*.png | cut -d ' ' -f 1)
# Another byte, and the size and time that it had.
printf x | dd of="copied/$first" bs=1 seek=60 conv=notrunc status=none
touch -r "tiles/$first" "copied/$first"
refused "its tile '$first' was packed with other bytes" pack copied 8
printf x >>"copied/$first"
refused "its tile '$first' was packed with other bytes" \
  mpirun -n 2 "$bin/quadrat-pack" --tiles copied --output shards --tiles_per_shard 8
rm "copied/$first"
refused 'other tiles, packed already' pack copied 8
holds "$before" = "$(stat -c '%n %Y %i' shards/*)"
# From shards into other shards.
exits 0 "$bin/quadrat-pack" --tiles shards --output again
exits 0 "$bin/quadrat-pack" --tiles shards --output again
says out 'again is complete'

# --- what a killed one leaves ---
rm shards/shards.tsv
touch shards/.tiles-000009.tar.part.7 shards/.shards.tsv.tmp.host.7 shards/.lock
exits 0 pack tiles 16
whole shards
holds ! -e shards/.lock
mkdir foreign
echo mine >foreign/tiles-1.tar
exits 2 "$bin/quadrat-pack" --tiles tiles --output foreign
says err "it holds 'tiles-1.tar'"
holds "$(ls -A foreign)" = tiles-1.tar

# --- two at once, and one that is told to stop ---
mkdir many
for copy in {1..12}; do
  for file in tiles/*/*.png; do ln -s "$scratch/$file" "many/$copy-$(basename "$file")"; done
done
"$bin/quadrat-pack" --tiles many --output held >held.log 2>&1 &
background+=($!)
# The lock has a name in it once it is held; before that the file only exists.
until [ -s held/.lock ]; do [ ! -e held/shards.tsv ] || fail "it was done before it could be stopped"; done
kill -STOP "${background[0]}"
holds ! -e held/shards.tsv
exits 2 "$bin/quadrat-pack" --tiles tiles --output held
says err "it is in use by process ${background[0]}"
kill -KILL "${background[0]}"
exits 0 "$bin/quadrat-pack" --tiles tiles --output held
whole held

"$bin/quadrat-pack" --tiles many --output stopped --tiles_per_shard 50 >out 2>err &
background+=($!)
until [ -s stopped/.lock ]; do [ ! -e stopped/shards.tsv ] || fail "it was done before it could be stopped"; done
kill -TERM "${background[1]}"
exits 75 wait "${background[1]}"
holds ! -e stopped/tiles-000014.tar
holds ! -e stopped/shards.tsv
holds ! -e stopped/.lock
exits 0 "$bin/quadrat-pack" --tiles many --output stopped --tiles_per_shard 100
whole stopped

# --- tiles that are not all cut ---
cut() { exec "$bin/quadrat-cut" --image county/county4.tif --output uncut; }
cut >out 2>err &
background+=($!)
until [ -e uncut/.quadrat_cut/plan.cbor ]; do [ ! -e uncut/tiles.json ] || fail "it was done before it could be stopped"; done
kill -TERM "${background[2]}"
exits 75 wait "${background[2]}"
exits 2 "$bin/quadrat-pack" --tiles uncut --output of_uncut
says err "they are not all cut yet; start the same quadrat-cut again to finish it"
holds ! -e of_uncut
(cut) >out 2>err
exits 0 "$bin/quadrat-pack" --tiles uncut --output of_uncut
passed
