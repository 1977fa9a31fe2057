#!/usr/bin/env bash
# Start-up at scale, as figures: listing N tiles over 1 ms per operation, from folders and from shards, and how many
# operations each rank of a scoring run asks of the file system.
#
# usage: tests/faults/startup.sh [--tiles N]       (default 65000)
set -euo pipefail
# shellcheck source=tests/faults/work.sh
. "$(dirname "${BASH_SOURCE[0]}")/work.sh"
tiles=65000
if [ "${1-}" = --tiles ]; then tiles=$2; fi

mkdir plain under under/folder under/classes mnt
# A plain green tile under many names: 1 kB each. File systems allow some ten thousand names a file.
python3 - under/folder "$tiles" <<'EOT'
import os, struct, sys, zlib
def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rows = b"".join(b"\0" + b"\x20\x60\x20" * 224 for _ in range(224))
png = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 224, 224, 8, 2, 0, 0, 0))
       + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))
folder, count = sys.argv[1], int(sys.argv[2])
for name in "ABCDEF": os.mkdir(f"under/classes/{name}")
for i in range(count):
    name = f"{folder}/m_4207101_ne_19_1_{i}.png"
    if i % 20000 == 0:
        first = name
        with open(name, "wb") as file: file.write(png)
    else:
        os.link(first, name)
    os.link(first, f"under/classes/{'ABCDEF'[i * 6 // count]}/{i}.png")
EOT
"$bin/quadrat-pack" --tiles under/folder --output under/shards >out 2>&1 || fail "packing"
"$fixtures/faultfs" --latency_ms 1 --counts counts under mnt 2>faultfs.log &
fixture_pids+=("$!")
wait_until 10 'faultfs' mountpoint -q mnt
for what in folder classes shards; do
  printf '%-8s ' "$what"
  mpirun -n 4 --oversubscribe "$fixtures/list_tiles" "mnt/$what" 2>out || fail "listing $what"
done
umount mnt
wait "${fixture_pids[-1]}"
echo 'operations in all three:'
grep -E '^rank' counts | sed 's/^/  /'

# What a scoring run asks for, to its end: 300 tiles on 4 ranks.
make_tiles plain
train plain whole || fail "training"
rm -rf under/*
cp -r plain/many under/folder
"$bin/quadrat-pack" --tiles under/folder --output under/shards >out 2>&1 || fail "packing"
for what in folder shards; do
  : >"counts_$what"
  "$fixtures/faultfs" --latency_ms 1 --counts "counts_$what" under mnt 2>faultfs.log &
  fixture_pids+=("$!")
  wait_until 10 'faultfs' mountpoint -q mnt
  mpirun -n 4 --oversubscribe "$bin/quadrat-score" --tiles "mnt/$what" --runs plain/runs -o whole --scores scores \
    --name "$what" >out 2>&1 || fail "scoring $what"
  sed -n 's/^scores.*: \([0-9]* tiles scored\).*/quadrat-score, '"$what"': \1 on 4 ranks; operations:/p' out
  umount mnt
  wait "${fixture_pids[-1]}"
  grep -E '^rank' "counts_$what" | sed 's/^/  /'
done
