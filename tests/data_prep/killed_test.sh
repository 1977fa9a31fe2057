#!/usr/bin/env bash
# quadrat-cut killed again and again at random instants, on changing numbers of ranks, ends with the very files of a
# run that nobody disturbed. A full disk is one error line, and the same command goes on once there is room.
set -euo pipefail

bin=${QUADRAT_BIN:?}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"$bin/quadrat-synth" --output county --tiles_across 14 --seed 6 2>/dev/null >/dev/null
cut() { "$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --balance --output "$1"; }
cut whole >/dev/null 2>&1

# Listing without times of the run: all files but tiles.json, and tiles.json without its times.
same_files() {
  diff -r --exclude tiles.json whole "$1" || return 1
  diff <(grep -vE '"(created|seconds)"' whole/tiles.json) <(grep -vE '"(created|seconds)"' "$1/tiles.json")
}

# Instants are parts of what an undisturbed run takes here, so that a fast machine is interrupted as often as a slow one.
program=("$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --balance --output)
from=$(date +%s%N)
mpirun -n 2 "${program[@]}" timed >/dev/null 2>&1
whole_ns=$(($(date +%s%N) - from))

RANDOM=1
kills=0
finished=0
for attempt in $(seq 1 60); do
  ((kills < 8 || finished < 1)) || break
  setsid mpirun -n $((1 + attempt % 3)) "${program[@]}" killed >/dev/null 2>&1 &
  job=$!
  sleep "$(awk -v ns="$whole_ns" -v part="$((RANDOM % 90 + 5))" 'BEGIN { printf "%.3f", ns * part / 1e11 }')"
  # mpirun and its ranks, which have process groups of their own but share its session.
  is_killed=false
  if pkill -KILL -s "$job"; then is_killed=true; fi
  while pgrep -s "$job" >/dev/null; do sleep 0.01; done
  if wait "$job" 2>/dev/null && ! $is_killed; then
    # It got to its end before the signal: the next attempts begin from nothing.
    same_files killed
    finished=$((finished + 1))
    rm -rf killed
    continue
  fi
  kills=$((kills + 1))
  # What bears a tile's name is a whole PNG, however often we kill.
  while IFS= read -r tile; do
    cmp -s "$tile" "whole/${tile#killed/}" || { echo "$tile differs after kill $kills"; exit 1; }
  done < <(find killed -name '*.png' -not -name '.*' 2>/dev/null)
done
[ "$kills" -ge 8 ] || { echo "only $kills kills in $attempt attempts"; exit 1; }
cut killed >log.txt 2>&1 || { cat log.txt; exit 1; }
same_files killed
echo "the same files after $kills kills"

# A disk with room for a third of the tiles. Where no file system can be mounted, a limit on the files' size is no
# substitute for it, so the limit is on what the shell may write: one file too large.
if mkdir full && mount -t tmpfs -o size=3m none full 2>/dev/null; then
  trap 'umount "$folder/full"; rm -rf "$folder"' EXIT
  status=0
  cut full/tiles >/dev/null 2>errors.txt || status=$?
  [ "$status" -eq 2 ] || { echo "status $status on a full disk"; cat errors.txt; exit 1; }
  [ "$(grep -c 'No space left' errors.txt)" -eq 1 ] || { cat errors.txt; exit 1; }
  mount -o remount,size=100m full
  cut full/tiles >/dev/null 2>&1
  diff -r --exclude tiles.json whole full/tiles
  echo "and after a full disk"
fi
