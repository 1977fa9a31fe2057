#!/usr/bin/env bash
# Four "hosts", each a network namespace with a name of its own, joined by links of 0.5 ms and 1 Gbit/s, a rank on each,
# started by mpirun with a host file: units are dealt over TCP, and a rank that stands still is named with its host.
#
# usage: tests/faults/namespaces.sh [--measure PAIRS]     also scoring: its results, its connections, and its speed beside that
#                                                           of four ranks on one host, in pairs of runs of 10,200 tiles
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
"$fixtures/wire" 0.5 1000 q1 q2 q3 q4 >wire.log 2>&1 &
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
  mpirun -n 4 --oversubscribe "${tcp[@]}" --mca btl_tcp_if_include lo $(scoring "$1") >out 2>&1
}
start_on_four_hosts() { # COMMAND...
  ./on_host 10.9.8.1 cd "$folder" '&&' mpirun -n 4 --hostfile hosts "${tcp[@]}" --mca plm_rsh_agent "$folder/on_host" \
    --mca btl_tcp_if_include wire --mca oob_tcp_if_include wire -x OMP_NUM_THREADS "$@" >out 2>&1
}
on_four_hosts() { # NAME
  # shellcheck disable=SC2046
  start_on_four_hosts $(scoring "$1")
}
start_on_four_hosts "$fixtures/unit_dealer_test" || fail "dealing units to four hosts"
status=0
start_on_four_hosts "$fixtures/stand_still" stop || status=$?
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

on_one_host whole || fail "scoring on one host"
on_four_hosts four &
job=$!
wait_until 120 'a unit' compgen -G 'plain/scores/four/*.journal'
for i in "${hosts[@]}"; do
  echo "rank $((i - 1)) of 4 has $(ip netns exec "q$i" ss -Htnp state established | grep -c '"quadrat-score"') connections"
done
wait "$job" || fail "scoring on four hosts"
grep -q 'scored, 0 rejected' out || fail "no result"
same_score plain four
h5dump -a /environment/hosts plain/scores/four/scores.h5 | grep -q 'q1 q2 q3 q4' || fail "these were not four hosts"

# measure WHERE: sets $speed, in tiles/s, as the program says it.
measure() {
  "on_$1" "$1" || fail "scoring on $1"
  speed=$(sed -n 's/.*, \([0-9.]*\) tiles\/s.*/\1/p' out)
  rm -r "plain/scores/$1"
}
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
# What the machine does from minute to minute meets both: a pair's two runs follow each other, and change places.
for pair in $(seq "$pairs"); do
  order=(one_host four_hosts)
  if ((pair % 2 == 0)); then order=(four_hosts one_host); fi
  for where in "${order[@]}"; do
    measure "$where"
    declare "$where=$speed"
    echo "$speed" >>"speeds_$where"
  done
  # shellcheck disable=SC2154  # declared above
  awk -v a="$four_hosts" -v b="$one_host" 'BEGIN { printf "%.3f\n", a / b }' >>ratios
  echo "pair $pair: one host $one_host, four hosts $four_hosts tiles/s, ratio $(tail -n 1 ratios)"
done
echo "medians: one host $(median speeds_one_host), four hosts $(median speeds_four_hosts) tiles/s, ratio of pairs $(median ratios)"
echo "the same results on four hosts, 0.5 ms and 1 Gbit/s apart"
