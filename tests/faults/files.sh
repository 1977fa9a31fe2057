#!/usr/bin/env bash
# Data and run folders on a file system that is slow, gives short reads and knows no locks; that has no room left; whose
# server has forgotten a file; that fails. One line says so, what was whole stays whole, and once the fault is gone the
# same command ends with the very results of an undisturbed run.
set -euo pipefail
# shellcheck source=tests/faults/work.sh
. "$(dirname "${BASH_SOURCE[0]}")/work.sh"

mkdir plain under mnt
make_tiles plain
train plain whole || fail "training on a local disk"
score plain whole || fail "scoring on a local disk"
cp -r plain/tiles plain/many under/
mkdir -p under/runs
cp -r plain/runs/whole under/runs/whole
: >control
"$fixtures/faultfs" --control control --counts counts under mnt 2>faultfs.log &
fixture_pids+=("$!")
wait_until 10 'faultfs' mountpoint -q mnt
# Looked at every 20 ms.
faults() { printf '%s\n' "$@" >control; sleep 0.2; }

# --- slow, short reads, no locks: nothing that matters ---
faults 'latency_ms 1' short_reads no_locks
train mnt slow || fail "training on a slow file system"
same_train mnt slow
score mnt slow || fail "scoring on a slow file system"
same_score mnt slow
# Only the first rank lists folders; the others open what they read and nothing else.
grep -q '^rank0 readdir' counts || fail "nobody listed anything: $(cat counts)"
if grep '^rank1 readdir' counts; then fail "rank 1 lists folders"; fi

cut() { # FOLDER NAME
  "$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output "$1/$2" >out 2>&1
}
pack() { # FOLDER NAME
  "$bin/quadrat-pack" --tiles plain/many --tiles_per_shard 100 --output "$1/$2" >out 2>&1
}
same_cut() { diff -r --exclude tiles.json plain/tiles "$1/$2" || fail "other tiles in $1/$2"; }
same_pack() { diff -r plain/packed "$1/$2" || fail "other shards in $1/$2"; }
# Tiles and shards that bear their own names, of cutting or packing that failed, are what they will be.
pieces_are_whole() { # NAME AS
  local file
  while IFS= read -r file; do
    cmp "mnt/$1/$file" "plain/$2/$file" || fail "a part of $file is to be seen"
  done < <(cd "mnt/$1" && find . -type f -name '[!.]*' \( -name '*.png' -o -name '*.tar' \))
}

# fails_with TEXT WHAT NAME: exit 2, an error line of each rank that met it, whole files.
fails_with() {
  local status=0
  "$2" mnt "$3" || status=$?
  [ "$status" -eq 2 ] || fail "$2 with '$(cat control)' ended with $status"
  [ "$(grep -c 'error: ' out)" -le 2 ] || fail "$2 with '$(cat control)' has more lines of error than ranks"
  grep 'error: ' out | grep -qF "$1" || fail "$2 with '$(cat control)' does not say '$1'"
  faults ''
  all_is_whole mnt
}

# --- no room: 100 MB are a model and a part of the checkpoint beside it ---
faults 'room_bytes 100000000'
fails_with 'No space left' train full
train mnt full || fail "training once there is room"
same_train mnt full
faults 'room_bytes 2000'
fails_with 'No space left' score full
score mnt full || fail "scoring once there is room"
same_score mnt full

faults 'room_bytes 3000000'
fails_with 'No space left' cut full_cut
pieces_are_whole full_cut tiles
cut mnt full_cut || fail "cutting once there is room"
same_cut mnt full_cut
pack plain packed || fail "packing on a local disk"
faults 'room_bytes 9000000'
fails_with 'No space left' pack full_pack
pieces_are_whole full_pack packed
pack mnt full_pack || fail "packing once there is room"
same_pack mnt full_pack

# --- the quota says no only when a file is closed or flushed ---
faults 'fail fsync EDQUOT checkpoint'
fails_with 'quota' train quota
train mnt quota || fail "training once the quota is raised"
same_train mnt quota
faults 'fail fsync EDQUOT journal'
fails_with 'quota' score quota
score mnt quota || fail "scoring once the quota is raised"
same_score mnt quota

# --- errors of the server ---
faults 'fail rename ESTALE run.h5'
fails_with 'Stale file handle' train stale
train mnt stale || fail "training after a stale handle"
same_train mnt stale
faults 'fail write ESTALE journal'
fails_with 'Stale file handle' score stale
score mnt stale || fail "scoring after a stale handle"
same_score mnt stale
faults 'fail rename EIO scores.h5'
fails_with 'Input/output error' score broken
score mnt broken || fail "scoring after an I/O error"
same_score mnt broken
faults 'fail write EIO .tar'
fails_with 'Input/output error' pack broken_pack
pieces_are_whole broken_pack packed
pack mnt broken_pack || fail "packing after an I/O error"
same_pack mnt broken_pack
faults 'fail write EIO model.safetensors'
fails_with 'Input/output error' train broken
train mnt broken || fail "training after an I/O error"
same_train mnt broken
faults 'fail read EIO tiles/Forest'
fails_with 'Input/output error' train unreadable
faults 'fail read EIO many'
fails_with 'Input/output error' score unreadable
score mnt unreadable || fail "scoring once tiles can be read"
same_score mnt unreadable
# One tile that stays unreadable is listed, and the others scored.
tile=$(cd plain/many && printf '%s\n' *.png | sed -n 7p)
faults "fail read EIO many/$tile"
score mnt bad_block || fail "scoring with a bad block"
grep -q "$tile.*Input/output error" out || fail "the tile on the bad block is not named"
faults ''

echo "slow, short reads, no locks, full, over quota, stale, broken: reported, and the same results afterwards"
umount mnt
