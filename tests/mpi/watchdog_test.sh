#!/usr/bin/env bash
# A rank that stands still ends the job with one line that names it; a job that stands still as a whole goes on.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/check.sh"

program=${QUADRAT_BIN:?}/../tests/stand_still
host=$(hostname)

exits 75 mpirun -n 3 "$program" stop
says err "rank 2 on host '$host' has given no sign of life for 2 s"
holds "$(grep -c 'no sign of life' "$scratch/err")" = 1

# Open MPI itself sees a death, and says whose; what is tested is that nobody waits.
exits 137 mpirun -n 3 "$program" kill
says err 'rank 2'

exits 0 mpirun -n 3 "$program" sleep
says out 'done'

# All ranks stopped for longer than the watchdog, one after the other going on.
# The last job has written "ready" too.
rm "$scratch/out"
mpirun -n 3 "$program" sleep >"$scratch/out" 2>"$scratch/err" &
job=$!
for _ in $(seq 100); do
  if grep -qs ready "$scratch/out"; then break; fi
  sleep 0.1
done
read -r -a ranks <"/proc/$job/task/$job/children" || true
holds "${#ranks[@]}" = 3
kill -STOP "${ranks[@]}"
sleep 4
for rank in "${ranks[@]}"; do
  kill -CONT "$rank"
  sleep 0.3
done
status=0
wait "$job" || status=$?
holds "$status" = 0
says out 'done'
says_not err 'no sign of life'
passed
