#!/usr/bin/env bash
# sbatch slurm/pipeline on a Slurm of one node: from make-believe counties to the report, unattended, with one job requeued
# in the middle; and the same command once more, which finds all done.
set -euo pipefail

# shellcheck source=tests/slurm/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"
county=$work/county

start_cluster
from=$SECONDS
submit() {
  rm -f pipeline.log
  sbatch --parsable --output="$work/pipeline.log" "$source_dir/slurm/pipeline" --work "$county" --synthetic 14 --entries 5 \
    -- -- --num_epochs 6 --batch_size 16 >/dev/null
  wait_until 60 'the jobs to be submitted' grep -q report pipeline.log
}
id_of() { sed -n "s/^\([0-9]*\) $1$/\1/p" pipeline.log; }

sweep_has() { grep -qE "$1" "$county"/logs/quadrat-sweep-*.log; }

submit
wait_until 240 'a checkpoint of the sweep' test -e "$county/runs/sweep_resnet18_all/checkpoint.safetensors"
scontrol requeue "$(id_of sweep)_5"
wait_until 60 'the sweep to go on' sweep_has 'going on with'
wait_until 300 'the report' job_has_ended "$(id_of report)"
for name in cut sweep best score report; do ends_complete "$(id_of "$name")" 1 "$name"; done
took=$((SECONDS - from))
[ "$(cat "$county/best")" = sweep_resnet18_all ] || fail "the best run is '$(cat "$county/best")'"
tiles=$(find "$county/tiles/to_score" -name '*.png' | wc -l)
[ "$(wc -l <"$county/scores/sweep_resnet18_all/predictions.csv")" -eq $((tiles + 1)) ] || fail "not every tile has a class"
grep -q '<html' "$county/report/index.html" || fail "there is no report"

before=$(stat -c %Y "$county/scores/sweep_resnet18_all/scores.h5")
submit
ends_complete "$(id_of report)" 120 'the report, again'
[ "$before" = "$(stat -c %Y "$county/scores/sweep_resnet18_all/scores.h5")" ] || fail "what was complete was done again"
echo "from three counties of 196 tiles to the report in $took s, one requeue of the training in it"
