#!/usr/bin/env bash
# sbatch slurm/pipeline on a Slurm of one node: from make-believe counties to the report, unattended, with one job requeued
# in the middle; and the same command once more, which finds all done.
set -euo pipefail

export QUADRAT_BIN=${QUADRAT_BIN:?the folder of the programs}
source_dir=${QUADRAT_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
# shellcheck source=tests/slurm/cluster.sh
. "$source_dir/tests/slurm/cluster.sh"
trap stop_cluster EXIT
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
unset QUADRAT_SLURM

work=$cluster/county
cd "$cluster"
fail() {
  echo "FAILED: $*"
  tail -n 15 "$work"/logs/*.log "$cluster"/*.log
  exit 1
}

start_cluster
from=$SECONDS
submit() {
  rm -f pipeline.log
  sbatch --parsable --output="$cluster/pipeline.log" "$source_dir/slurm/pipeline" --work "$work" --synthetic 14 --entries 5 \
    -- -- --num_epochs 6 --batch_size 16 >/dev/null
  wait_until 60 'the jobs to be submitted' grep -q report pipeline.log
}
id_of() { sed -n "s/^\([0-9]*\) $1$/\1/p" pipeline.log; }

sweep_has() { grep -qE "$1" "$work"/logs/quadrat-sweep-*.log; }

submit
wait_until 240 'an epoch of the sweep' sweep_has 'epoch +1/6: train'
scontrol requeue "$(id_of sweep)_5"
wait_until 60 'the sweep to go on' sweep_has 'going on with'
wait_until 300 'the report' job_has_ended "$(id_of report)"
for name in cut sweep best score report; do
  [ "$(job_state "$(id_of "$name")")" = COMPLETED ] || fail "$name ended as $(job_state "$(id_of "$name")")"
done
took=$((SECONDS - from))
[ "$(cat "$work/best")" = sweep_resnet18_all ] || fail "the best run is '$(cat "$work/best")'"
tiles=$(find "$work/tiles/to_score" -name '*.png' | wc -l)
[ "$(wc -l <"$work/scores/sweep_resnet18_all/predictions.csv")" -eq $((tiles + 1)) ] || fail "not every tile has a class"
grep -q '<html' "$work/report/index.html" || fail "there is no report"

before=$(stat -c %Y "$work/scores/sweep_resnet18_all/scores.h5")
submit
wait_until 120 'the report again' job_has_ended "$(id_of report)"
[ "$(job_state "$(id_of report)")" = COMPLETED ] || fail "again: report ended as $(job_state "$(id_of report)")"
[ "$before" = "$(stat -c %Y "$work/scores/sweep_resnet18_all/scores.h5")" ] || fail "what was complete was done again"
echo "from three counties of 196 tiles to the report in $took s, one requeue of the training in it"
