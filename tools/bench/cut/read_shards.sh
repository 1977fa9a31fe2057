#!/usr/bin/env bash
# Reads tiles from packed shards and from single files through a file system on which every operation that reaches it
# takes a millisecond longer, as on a busy file server: tests/faults/faultfs. Needs root and /dev/fuse.
#
# usage: tools/bench/cut/read_shards.sh BUILD TILES FOLDER [COUNT [LATENCY_MS]]
#
# BUILD is a build folder with bench_read_tiles and faultfs built (ninja bench_read_tiles faultfs), TILES a folder of
# single tiles; they are packed into FOLDER, which needs as much room. 50,000 tiles and 1 ms unless told.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 1; }
build=$1 tiles=$2 folder=$3 count=${4:-50000} latency=${5:-1}
work=$folder/quadrat_bench_read
mkdir "$work"
server=
leave() {
  if mountpoint -q "$work/slow"; then umount "$work/slow"; fi
  [ -z "$server" ] || wait "$server" || true
  rm -rf "$work"
}
trap leave EXIT
mkdir "$work/slow"
"$build/bin/quadrat-pack" --tiles "$tiles" --output "$work/shards" >/dev/null

slowly() { # folder
  # What was read before stays out of it.
  sync
  if [ -w /proc/sys/vm/drop_caches ]; then echo 3 >/proc/sys/vm/drop_caches; fi
  "$build/tests/faultfs" --latency_ms "$latency" --counts "$work/counts" "$1" "$work/slow" 2>"$work/log" &
  server=$!
  for _ in $(seq 100); do
    if mountpoint -q "$work/slow"; then break; fi
    sleep 0.1
  done
  "$build/tests/bench_read_tiles" "$work/slow" "$count"
  umount "$work/slow"
  wait "$server"
  server=
  sed 's/^/  operations: /' "$work/counts"
}
echo "$latency ms an operation:"
slowly "$work/shards"
slowly "$tiles"
