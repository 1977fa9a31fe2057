#!/usr/bin/env bash
# Four "hosts", each a network namespace with a name of its own, joined by links of 0.5 ms and 1 Gbit/s, a rank on each,
# started by mpirun with a host file: units are dealt over TCP, and a rank that stands still is named with its host.
#
# usage: tests/faults/namespaces.sh [--measure PAIRS]     also scoring: its results, its connections, and its speed beside that
#                                                           of four ranks on one host, both at once
set -euo pipefail
# shellcheck source=tests/faults/work.sh
. "$(dirname "${BASH_SOURCE[0]}")/work.sh"
PATH=$PATH:/usr/sbin:/sbin
pairs=0
if [ "${1-}" = --measure ]; then pairs=$2; fi

# Names of namespaces are files in /run, which are to end with this test.
mount -t tmpfs none /run
mkdir -p /run/netns
hosts=(1 2 3 4)
for i in "${hosts[@]}"; do ip netns add "q$i"; done
# A cable does not wait for a processor.
nice -n -10 "$fixtures/wire" 0.5 1000 q1 q2 q3 q4 >wire.log 2>&1 &
fixture_pids+=("$!")
wait_until 10 'the links' grep -q ready wire.log
for i in "${hosts[@]}"; do
  ip -n "q$i" link set lo up
  ip -n "q$i" link set wire up
  ip -n "q$i" addr add "10.9.8.$i/24" dev wire
  echo "10.9.8.$i slots=1" >>hosts
done
# Stands in for ssh: mpirun's command on that host, which has a name of its own as real ones do.
cat >on_host <<'AGENT'
#!/usr/bin/env bash
host=$1
shift
export number=${host##*.} command=$*
exec unshare --uts bash -c 'hostname "q$number"; exec ip netns exec "q$number" bash -c "$command"'
AGENT
chmod +x on_host

scoring() { # NAME
  echo "$bin/quadrat-score --tiles plain/many --runs plain/runs -o whole --precision int8 --scores plain/scores --name $1"
}
# Messages between ranks take TCP in both cases, so that the links are all that differs.
tcp=(--mca btl "tcp,self" --mca pml ob1 --bind-to none --allow-run-as-root)
on_one_host() { # NAME
  # shellcheck disable=SC2046
  mpirun -n 4 --oversubscribe "${tcp[@]}" --mca btl_tcp_if_include lo $(scoring "$1")
}
start_on_four_hosts() { # COMMAND...
  ./on_host 10.9.8.1 cd "$folder" '&&' mpirun -n 4 --hostfile hosts "${tcp[@]}" --mca plm_rsh_agent "$folder/on_host" \
    --mca btl_tcp_if_include wire --mca oob_tcp_if_include wire -x OMP_NUM_THREADS "$@"
}
on_four_hosts() { # NAME
  # shellcheck disable=SC2046
  start_on_four_hosts $(scoring "$1")
}
start_on_four_hosts "$fixtures/unit_dealer_test" >out 2>&1 || fail "dealing units to four hosts"
status=0
start_on_four_hosts "$fixtures/stand_still" stop >out 2>&1 || status=$?
[ "$status" -eq 75 ] || fail "a job with a stopped rank ended with $status"
grep -q "rank 3 on host 'q4' has given no sign of life" out || fail "the watchdog does not name the rank and its host"

if ((pairs == 0)); then
  echo "four hosts, 0.5 ms and 1 Gbit/s apart: units are dealt, a rank that stands still is named"
  exit 0
fi

mkdir plain
"$bin/quadrat-synth" --output county --tiles_across 14 --seed 6 >/dev/null 2>&1
"$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output plain/tiles >/dev/null 2>&1
mkdir plain/many
# Enough units for the last one of a rank, which the others do not wait for alike, to be a hundredth of the time at most.
for copy in $(seq 100); do
  for file in plain/tiles/*/*.png; do ln "$file" "plain/many/$copy-$(basename "$file")"; done
done
train plain whole || fail "training"

on_one_host whole >out 2>&1 || fail "scoring on one host"
on_four_hosts four >out 2>&1 &
job=$!
wait_until 120 'a unit' compgen -G 'plain/scores/four/*.journal'
for i in "${hosts[@]}"; do
  echo "rank $((i - 1)) of 4 has $(ip netns exec "q$i" ss -Htnp state established | grep -c '"quadrat-score"') connections"
done
wait "$job" || fail "scoring on four hosts"
grep -q 'scored, 0 rejected' out || fail "no result"
same_score plain four
h5dump -a /environment/host_names plain/scores/four/scores.h5 | grep -q 'q1 q2 q3 q4' || fail "these were not four hosts"

# Both at once, on the same processors: whatever else the machine does meets both alike, and a rank that waits for the
# network leaves its processor to the other job's. Compared is what both did while both were at work, by their journals,
# whose bytes are as many as the tiles in them.
bytes_in() { { cat plain/scores/"$1"/*.journal 2>/dev/null || true; } | wc -c; }
all_at_work() { [ "$(find plain/scores/one plain/scores/four -name '*.journal' | wc -l)" -eq 8 ]; }
: >ratios
for pair in $(seq "$pairs"); do
  rm -rf plain/scores/one plain/scores/four
  on_one_host one >out 2>&1 &
  job=$!
  on_four_hosts four >out_four 2>&1 &
  job_four=$!
  wait_until 200 'units of all ranks' all_at_work
  from=("$(bytes_in one)" "$(bytes_in four)") to=(0 0)
  from_s=$SECONDS
  until seen=("$(bytes_in one)" "$(bytes_in four)") && ((seen[0] < to[0] || seen[1] < to[1])); do
    to=("${seen[@]}")
    sleep 0.2
  done
  echo "$((SECONDS - from_s)) $((to[0] - from[0])) $((to[1] - from[1]))" | awk '{ print $3 / $2, $1 }' | tee -a ratios \
    | awk -v pair="$pair" '{ printf "pair %d: %.3f of what one host did, in %d s side by side\n", pair, $1, $2 }'
  wait "$job" || fail "scoring on one host"
  wait "$job_four" || fail "scoring on four hosts: $(cat out_four)"
done
sort -n ratios | awk '{ r[NR] = $1 } END { printf "median: %.3f of the speed on one host\n", r[int((NR + 1) / 2)] }'
echo "the same results on four hosts, 0.5 ms and 1 Gbit/s apart"
