#!/usr/bin/env bash
# What goes wrong on a cluster, done on purpose to jobs of slurm/*.sbatch on a Slurm of one node: after each the job ends
# complete, by itself, with the very results of a job that nobody disturbed.
#
# usage: tests/slurm/drills.sh [--all] [--table FILE] [DRILL...]       (default: the short ones)
# Needs $QUADRAT_BIN. The table, in Markdown, says what was done, how long recovery took and what was lost.
# shellcheck disable=SC2016  # backticks in the rows are Markdown's
set -euo pipefail

export QUADRAT_BIN=${QUADRAT_BIN:?the folder of the programs}
source_dir=${QUADRAT_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
# shellcheck source=tests/slurm/cluster.sh
. "$source_dir/tests/slurm/cluster.sh"
trap stop_cluster EXIT
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
unset QUADRAT_SLURM

short=(rank_killed rank_stopped requeued)
# A controller saves what jobs it has within 5 s: on a fast machine the restarted one may not know the job that it had just
# taken.
long=(controller_restarted time_limit cancelled slurmd_killed node_lost array_task_requeued preempted_srun)
table=
drills=()
while (($#)); do
  case $1 in
    --all) drills=("${short[@]}" "${long[@]}") ;;
    --table) table=$(realpath "$2"); shift ;;
    *) drills+=("$1") ;;
  esac
  shift
done
if ((${#drills[@]} == 0)); then drills=("${short[@]}"); fi

fail() {
  printf 'FAILED: %s: %s\n' "${drill:-setup}" "$*" >&2
  tail -n 40 "$work/${drill:-setup}"*.log >&2 || true
  tail -n 8 "$cluster/slurmctld.log" "$cluster/slurmd.log" >&2 || true
  exit 1
}
now() { date +%s.%N; }
minus() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; printf "%.1f", d < 0 ? 0 : d }'; }

work=$cluster/work
mkdir "$work"
cd "$work"
"$QUADRAT_BIN/quadrat-synth" --output county --tiles_across 14 --seed 6 >/dev/null 2>&1
"$QUADRAT_BIN/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output tiles >/dev/null 2>&1
# One tile many times over: what is tested is not the classes.
mkdir many
i=0
for copy in 1 2 3 4 5; do
  for file in tiles/*/*.png; do
    i=$((i + 1))
    ln -s "$(realpath "$file")" "many/$copy-$i.png"
  done
done

start_cluster

epochs=5
training=(--train tiles --validation tiles --pretrained_model_type resnet18 --retraining_type all --batch_size 16 --runs runs
  --sample_frac 0.3 --watchdog_seconds 4)
scoring=(--tiles many --runs runs -o undisturbed --precision fp32 --scores scores --watchdog_seconds 4)

# submit NAME SCRIPT OPTIONS OF sbatch... -- OPTIONS OF THE PROGRAM...: sets $job.
submit() {
  local name=$1 script=$2 options=()
  shift 2
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  job=$(sbatch --parsable --exclusive --output="$work/$name.log" "${options[@]}" "$source_dir/slurm/$script.sbatch" "$@")
}
train() { submit "$drill" finetune "$@" -- "${training[@]}" --num_epochs "$epochs" -o "$drill"; }
score() { submit "$drill" score -- "${scoring[@]}" --name "$drill"; }

wait_for_end() {
  wait_until 240 "the end of $drill" job_has_ended "$job"
  [ "$(job_state "$job")" = COMPLETED ] || fail "the job ended as $(job_state "$job")"
}
# What an epoch computed; not how long it took.
epochs_of() { "$QUADRAT_BIN/quadrat-runs" export "$1" --runs runs --csv | cut -d , -f 1-6; }
same_training() {
  cmp "runs/undisturbed/model.safetensors" "runs/$1/model.safetensors" || fail "another model"
  cmp "runs/undisturbed/predictions_validation.csv" "runs/$1/predictions_validation.csv" || fail "other predictions"
  diff <(epochs_of undisturbed) <(epochs_of "$1") || fail "other epochs"
  [ ! -e "runs/$1/checkpoint.safetensors" ] || fail "a checkpoint was left behind"
}
same_scores() {
  cmp scores/undisturbed/predictions.csv "scores/$1/predictions.csv" || fail "other predictions"
  h5diff scores/undisturbed/scores.h5 "scores/$1/scores.h5" /predictions || fail "other probabilities"
}

log_has() { grep -qE "$1" "$work/$drill.log"; }
log_has_times() { [ "$(grep -cE "$1" "$work/$drill.log")" -ge "$2" ]; }
# Training is two epochs in, with a checkpoint, and at work on the next; scoring has a unit in a journal.
wait_for_training() {
  wait_until 120 "two epochs of $drill" log_has "epoch +2/$epochs: train"
  sleep 0.7
}
wait_for_scoring() {
  wait_until 120 "a journal of $drill" compgen -G "scores/$drill/*.journal"
  sleep 0.5
}
# The processes of a program in this job's name, by what their command lines hold.
ranks_of() { # PROGRAM: of this drill's run
  local pid
  for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    case $({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null || true) in
      "$QUADRAT_BIN/$1 "*" $drill "*) echo "$pid" ;;
    esac
  done
}

# fault: notes the instant and how old the last checkpoint or unit is.
fault() { fault_at=$(now); }
saved_at() {
  if [ -e "runs/$drill/checkpoint.safetensors" ]; then
    stat -c %.Y "runs/$drill/checkpoint.safetensors"
  else
    stat -c %.Y scores/"$drill"/*.journal 2>/dev/null | sort -n | tail -n 1
  fi
}
# recovered TEXT N: the log says so for the Nth time: then work goes on. Sets $recovery_s and $lost_s.
recovered() {
  wait_until 200 "'$1' in the log of $drill" log_has_times "$1" "$2"
  recovery_s=$(minus "$(now)" "$fault_at")
  lost_s=$(minus "$fault_at" "$(saved_at)")
}
rows=()
row() { # WHAT RECOVERY LOST
  rows+=("| $1 | $2 | $3 |")
  echo "$drill: $2; lost: $3"
}

rank_killed() {
  train
  wait_for_training
  fault
  kill -KILL "$(ranks_of quadrat-finetune | tail -n 1)"
  recovered 'going on with' 1
  log_has 'exited on signal 9' || fail "nobody says that a rank was killed"
  wait_for_end
  same_training "$drill"
  row 'a rank killed (SIGKILL), training' "$recovery_s s, in the same job" "$lost_s s of training: since the last epoch's checkpoint"
}

rank_stopped() {
  train
  wait_for_training
  fault
  kill -STOP "$(ranks_of quadrat-finetune | tail -n 1)"
  recovered 'going on with' 1
  log_has "rank [01] on host '$(hostname)' has given no sign of life" || fail "the watchdog does not name the rank"
  wait_for_end
  same_training "$drill"
  row 'a rank stopped (SIGSTOP), training, watchdog at 4 s (default: 60 s)' "$recovery_s s, in the same job" \
    "$lost_s s of training: since the last epoch's checkpoint"
}

requeued() {
  score
  wait_for_scoring
  fault
  scontrol requeue "$job"
  recovered 'going on:' 1
  wait_for_end
  [ "$(job_restarts "$job")" -ge 1 ] || fail "it was not requeued"
  same_scores "$drill"
  row '`scontrol requeue`, scoring' "$recovery_s s, of which Slurm waits 6 s" \
    "at most a unit a rank: $lost_s s since the last one"
}

controller_restarted() {
  score
  wait_for_scoring
  fault
  end_daemon slurmctld KILL
  sleep 3
  start_controller
  wait_until 60 'the controller' scontrol ping
  recovery_s=$(minus "$(now)" "$fault_at")
  wait_for_end
  [ "$(job_restarts "$job")" -eq 0 ] || fail "it was requeued for nothing"
  same_scores "$drill"
  row 'slurmctld killed, started again 3 s later, scoring' "none needed: the job ran on (controller back after $recovery_s s)" 'nothing'
}

time_limit() {
  # Slurm counts in minutes and looks at limits every 30 s: with a warning 50 s ahead it comes within half a minute.
  epochs=8
  train --time=1 --signal=B:USR1@50
  wait_until 120 'the warning' log_has 'requeued \(the time limit is near\)'
  fault
  recovered 'going on with' 1
  wait_for_end
  [ "$(job_restarts "$job")" -ge 1 ] || fail "it was not requeued"
  local count
  count=$(job_restarts "$job")
  drill=longer
  train
  wait_for_end
  cmp runs/longer/model.safetensors runs/time_limit/model.safetensors || fail "another model"
  diff <(epochs_of longer) <(epochs_of time_limit) || fail "other epochs"
  drill=time_limit
  row "time limit near (SIGUSR1), $count times in one training" "$recovery_s s, of which Slurm waits 6 s" 'nothing: saved before the end'
  epochs=5
}

cancelled() {
  train
  wait_for_training
  fault
  scancel "$job"
  wait_until 60 'the cancelled job to end' job_has_ended "$job"
  [ "$(job_state "$job")" = CANCELLED ] || fail "a cancelled job ended as $(job_state "$job")"
  sleep 1
  [ -z "$(ranks_of quadrat-finetune)" ] || fail "ranks outlive the cancelled job"
  train --open-mode=append
  recovered 'going on with' 1
  wait_for_end
  same_training "$drill"
  row '`scancel`, the same command submitted again, training' "$recovery_s s" "$lost_s s of training: since the last epoch's checkpoint"
}

slurmd_killed() {
  score
  wait_for_scoring
  fault
  end_daemon slurmd KILL
  sleep 3
  start_node
  wait_until 60 'the node' node_is_up
  recovery_s=$(minus "$(now)" "$fault_at")
  wait_for_end
  [ "$(job_restarts "$job")" -eq 0 ] || fail "it was requeued for nothing"
  same_scores "$drill"
  row 'slurmd killed under a job, started again 3 s later, scoring' "none needed: the job ran on (node back after $recovery_s s)" 'nothing'
}

# As when the power goes: slurmd, its steps and the ranks are gone at once, and nobody says goodbye.
node_lost() {
  local pid victims
  train
  wait_for_training
  fault
  victims=$(step_processes)
  end_daemon slurmd KILL
  for pid in $victims; do kill -KILL "$pid" 2>/dev/null || true; done
  wait_until 90 'Slurm to see that the node is down' node_is_down
  start_node
  recovered 'going on with' 1
  wait_for_end
  [ "$(job_restarts "$job")" -ge 1 ] || fail "it was not requeued"
  same_training "$drill"
  row 'node lost: slurmd and all of the job killed, back when Slurm has seen it (`SlurmdTimeout` 10 s), training' \
    "$recovery_s s" "$lost_s s of training: since the last epoch's checkpoint"
}
node_is_down() { sinfo -h -o %T | grep -q down; }
# slurmstepd of this cluster and all that descends from it.
step_processes() {
  local pid
  for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    if grep -qzxF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null \
      && grep -qzxF "SLURM_JOB_ID=$job" "/proc/$pid/environ" 2>/dev/null; then echo "$pid"; continue; fi
    case $({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null || true) in "slurmstepd: [$job."*) echo "$pid" ;; esac
  done
}

array_task_requeued() {
  local grid=(--train tiles --validation tiles --runs runs --prefix "$drill")
  job=$(sbatch --parsable --ntasks=1 --array=4,5 --output="$work/$drill-%a.log" "$source_dir/slurm/sweep.sbatch" "${grid[@]}" \
    --sample_frac 0.3 -- --num_epochs 3 --batch_size 16)
  wait_until 200 'an epoch of task 5' grep -qE 'epoch +1/3: train' "$work/$drill-5.log"
  fault
  scontrol requeue "${job}_5"
  wait_until 100 'task 5 to go on' grep -q 'going on with' "$work/$drill-5.log"
  recovery_s=$(minus "$(now)" "$fault_at")
  wait_until 300 "the end of $drill" job_has_ended "$job"
  [ "$(job_state "$job")" = COMPLETED ] || fail "the array ended as $(job_state "$job")"
  if grep -q 'restart 1' "$work/$drill-4.log"; then fail "task 4 was requeued too"; fi
  drill=array_reference
  job=$(sbatch --parsable --ntasks=1 --array=5 --output="$work/$drill-%a.log" "$source_dir/slurm/sweep.sbatch" \
    --train tiles --validation tiles --runs runs --prefix "$drill" --sample_frac 0.3 -- --num_epochs 3 --batch_size 16)
  wait_for_end
  cmp runs/array_reference_resnet18_all/model.safetensors runs/array_task_requeued_resnet18_all/model.safetensors \
    || fail "another model"
  drill=array_task_requeued
  row '`scontrol requeue` of one task of an array' "$recovery_s s; the other task ran on" "that task's work since its last epoch"
}

preempted_srun() {
  export QUADRAT_LAUNCHER=srun
  train
  wait_for_training
  fault
  scontrol requeue "$job"
  recovered 'going on with' 1
  wait_for_end
  unset QUADRAT_LAUNCHER
  same_training "$drill"
  row '`scontrol requeue` (as preemption does it), ranks started by srun, training' "$recovery_s s, of which Slurm waits 6 s" \
    "$lost_s s of training: saved within \`KillWait\`"
}

drill=undisturbed
train
wait_for_end
mv undisturbed.log undisturbed_training.log
score
wait_for_end

for each in "${drills[@]}"; do
  drill=$each
  "$each"
done

if [ -n "$table" ]; then
  {
    echo '| what was done | recovery: from the fault to work | lost |'
    echo '|---|---|---|'
    printf '%s\n' "${rows[@]}"
  } >"$table"
fi
echo "${#rows[@]} drills: the same results after each"
