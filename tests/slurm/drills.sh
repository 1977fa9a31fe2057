#!/usr/bin/env bash
# What goes wrong on a cluster, done on purpose to jobs of slurm/*.sbatch on a Slurm of one node: after each the job ends
# complete, by itself, with the very results of a job that nobody disturbed.
#
# usage: tests/slurm/drills.sh [--all] [--table FILE] [DRILL...]       (default: the short ones)
# Needs $QUADRAT_BIN. The table, in Markdown, says what was done, how long recovery took and what was lost; where FILE, the
# operator's README say, has one already, it is replaced.
# shellcheck disable=SC2016  # backticks in the rows are Markdown's
set -euo pipefail

# shellcheck source=tests/slurm/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

short=(rank_killed rank_stopped requeued)
long=(time_limit preempted preempted_with_grace requeued_srun cancelled array_task_requeued node_lost slurmd_killed
  controller_restarted)
table=
drills=()
while (($#)); do
  case $1 in
    --all) drills=("${short[@]}" "${long[@]}") ;;
    --table) table=$(cd "$OLDPWD" && realpath "$2"); shift ;;
    *) drills+=("$1") ;;
  esac
  shift
done
if ((${#drills[@]} == 0)); then drills=("${short[@]}"); fi

now() { date +%s.%N; }
minus() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; printf "%.1f", d < 0 ? 0 : d }'; }

"$QUADRAT_BIN/quadrat-synth" --output county --tiles_across 14 --seed 6 >/dev/null 2>&1
"$QUADRAT_BIN/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output tiles >/dev/null 2>&1
# Each tile many times over: what is tested is not the classes.
mkdir many
i=0
for copy in $(seq 15); do
  for file in tiles/*/*.png; do
    i=$((i + 1))
    ln -s "$(realpath "$file")" "many/$copy-$i.png"
  done
done

start_cluster

epochs=8
training=(--train tiles --validation tiles --pretrained_model_type resnet18 --retraining_type all --batch_size 16 --runs runs
  --sample_frac 0.6 --watchdog_seconds 4)
scoring=(--tiles many --runs runs -o undisturbed --precision fp32 --scores scores --watchdog_seconds 4)
grid=(--train tiles --validation tiles --runs runs --sample_frac 0.3)

# submit SCRIPT OPTIONS OF sbatch... -- OPTIONS OF THE PROGRAM...: sets $job.
submit() {
  local script=$1 options=()
  shift
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  job=$(sbatch --parsable --output="$work/$drill.log" "${options[@]}" "$source_dir/slurm/$script.sbatch" "${@:2}")
}
train() { submit finetune --exclusive "$@" -- "${training[@]}" --num_epochs "$epochs" -o "$drill"; }
score() { submit score --exclusive -- "${scoring[@]}" --name "$drill"; }

wait_for_end() { ends_complete "$job" 240 'the job'; }
was_requeued() {
  wait_for_end
  [ "$(job_restarts "$job")" -ge 1 ] || fail "it was not requeued"
}
was_left_alone() {
  wait_for_end
  [ "$(job_restarts "$job")" -eq 0 ] || fail "it was requeued for nothing"
}
# What an epoch computed; not how long it took.
epochs_of() { "$QUADRAT_BIN/quadrat-runs" export "$1" --runs runs --csv | cut -d , -f 1-6; }
same_training() { # [RUN [AS]]: another run than the drill's, another than the undisturbed one
  local run=${1:-$drill} other=${2:-undisturbed}
  cmp "runs/$other/model.safetensors" "runs/$run/model.safetensors" || fail "another model"
  cmp "runs/$other/predictions_validation.csv" "runs/$run/predictions_validation.csv" || fail "other predictions"
  diff <(epochs_of "$other") <(epochs_of "$run") || fail "other epochs"
  [ ! -e "runs/$run/checkpoint.safetensors" ] || fail "a checkpoint was left behind"
}
same_scores() {
  cmp scores/undisturbed/predictions.csv "scores/$drill/predictions.csv" || fail "other predictions"
  h5diff scores/undisturbed/scores.h5 "scores/$drill/scores.h5" /predictions || fail "other probabilities"
}

log_has() { grep -qE "$1" "$work/$drill.log"; }
# Training is two epochs in, with a checkpoint, and at work on the next; scoring has a unit in a journal.
wait_for_training() {
  wait_until 120 'two epochs' log_has "epoch +2/$epochs: train"
  sleep 0.7
}
wait_for_scoring() {
  wait_until 120 'a journal' compgen -G "scores/$drill/*.journal"
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

# fault: notes the instant.
fault() { fault_at=$(now); }
# When the work was saved that is gone on with.
saved_at() {
  { stat -c %.Y runs/"$drill"{,_resnet18_all}/checkpoint.safetensors scores/"$drill"/*.journal 2>/dev/null || true; } \
    | sort -n | tail -n 1
}
# recovered TEXT [LOG]: the log says so, so work goes on. Sets $recovery_s, $lost_s and, in words for a training, $lost.
recovered() {
  local log=${2:-$drill.log} saved
  wait_until 200 "'$1' in $log" grep -qE "$1" "$log"
  recovery_s=$(minus "$(now)" "$fault_at")
  saved=$(saved_at)
  lost_s=$(minus "$fault_at" "$saved")
  lost="$lost_s s of training: since the last epoch's checkpoint"
  # What was saved after the fault is the answer to it.
  if [ "$lost_s" = 0.0 ]; then lost="nothing: saved $(minus "$saved" "$fault_at") s after it"; fi
}
rows=()
row() { # WHAT RECOVERY LOST
  rows+=("| $1 | $2 | $3 |")
  echo "$drill: $2; lost: $3"
}

rank_killed() {
  local last_rank
  train
  wait_for_training
  last_rank=$(ranks_of quadrat-finetune | tail -n 1)
  fault
  kill -KILL "$last_rank"
  recovered 'going on with'
  log_has 'signal 9 \(Killed\)' || fail "nobody says that a rank was killed"
  was_left_alone
  same_training
  row 'a rank killed (SIGKILL), training' "$recovery_s s, in the same job" "$lost"
}

rank_stopped() {
  local last_rank
  train
  wait_for_training
  last_rank=$(ranks_of quadrat-finetune | tail -n 1)
  fault
  kill -STOP "$last_rank"
  recovered 'going on with'
  log_has "rank [01] on host '$(hostname)' has given no sign of life" || fail "the watchdog does not name the rank"
  was_left_alone
  same_training
  row 'a rank stopped (SIGSTOP), training, watchdog at 4 s (default: 60 s)' "$recovery_s s, in the same job" "$lost"
}

requeued() {
  score
  wait_for_scoring
  fault
  scontrol requeue "$job"
  recovered 'going on:'
  was_requeued
  same_scores
  row '`scontrol requeue`, scoring' "$recovery_s s, of which Slurm waits 6 s" \
    "at most a unit a rank: $lost_s s since the last one"
}

time_limit() {
  # Slurm counts in minutes and looks at limits every 30 s: a warning 45 s ahead comes within 45 s. The training is to last
  # longer than that.
  epochs=$(epochs_in 55)
  train --time=1 --signal=B:USR1@45
  wait_until 120 'the warning' log_has 'requeued \(the time limit or preemption is near'
  fault  # from queueing again: Slurm does not say when it warns
  recovered 'going on with'
  was_requeued
  local count
  count=$(job_restarts "$job")
  drill=time_limit_never
  train
  wait_for_end
  drill=time_limit
  same_training "$drill" time_limit_never
  row "time limit near (SIGUSR1), $count times in one training" "$recovery_s s, of which Slurm waits 6 s" \
    "nothing: saved $lost_s s before it queued again"
  epochs=8
}
# How many epochs take so many seconds, by the undisturbed run's.
epochs_in() {
  "$QUADRAT_BIN/quadrat-runs" export undisturbed --runs runs --csv \
    | awk -F , -v wanted_s="$1" 'NR > 1 { s += $7; n++ } END { printf "%d\n", wanted_s * n / s + 1 }'
}

# Another partition's job comes and takes the node. preempt PARTITION
preempt() {
  train --partition="$1"
  wait_for_training
  fault
  sbatch --exclusive --partition=urgent --output=/dev/null --wrap 'sleep 3' >/dev/null
  recovered 'going on with'
  was_requeued
  same_training
}
preempted() {
  preempt main
  row 'preempted by a job of 3 s in a partition above, training' "$recovery_s s, of which Slurm waits 6 s" "$lost"
}
# GraceTime alone tells tasks that srun started; a batch script and its mpirun hear of it only so.
preempted_with_grace() {
  echo SlurmctldParameters=preempt_send_user_signal >>"$SLURM_CONF"
  scontrol reconfigure
  preempt patient
  row 'preempted, with `GraceTime` and `SlurmctldParameters=preempt_send_user_signal`, training' \
    "$recovery_s s, of which Slurm waits 6 s" "$lost"
}

requeued_srun() {
  export QUADRAT_LAUNCHER=srun
  train
  wait_for_training
  fault
  scontrol requeue "$job"
  recovered 'going on with'
  unset QUADRAT_LAUNCHER
  was_requeued
  same_training
  row '`scontrol requeue`, ranks started by srun, training' "$recovery_s s, of which Slurm waits 6 s" "$lost"
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
  recovered 'going on with'
  was_left_alone
  same_training
  row '`scancel`, the same command submitted again, training' "$recovery_s s" "$lost"
}

# sweep_tasks ARRAY: those entries of the grid, a log a task.
sweep_tasks() {
  job=$(sbatch --parsable --ntasks=1 --array="$1" --output="$work/$drill-%a.log" "$source_dir/slurm/sweep.sbatch" \
    "${grid[@]}" --prefix "$drill" -- --num_epochs 6 --batch_size 16)
}
array_task_requeued() {
  sweep_tasks 4,5
  wait_until 200 'a checkpoint of task 5' test -e "runs/${drill}_resnet18_all/checkpoint.safetensors"
  fault
  scontrol requeue "${job}_5"
  recovered 'going on with' "$drill-5.log"
  wait_for_end
  if grep -q 'restart 1' "$work/$drill-4.log"; then fail "task 4 was requeued too"; fi
  drill=array_reference
  sweep_tasks 5
  wait_for_end
  drill=array_task_requeued
  same_training "${drill}_resnet18_all" array_reference_resnet18_all
  row '`scontrol requeue` of one task of an array, training' "$recovery_s s; the other task ran on" "$lost"
}

# As when the power goes: slurmd, its steps and the ranks are gone at once, and nobody says goodbye.
node_lost() {
  local pid victims
  train
  wait_for_training
  victims=$(step_processes)
  fault
  end_daemon slurmd KILL
  for pid in $victims; do kill -KILL "$pid" 2>/dev/null || true; done
  wait_until 90 'Slurm to see that the node is down' node_is_down
  start_node
  recovered 'going on with'
  was_requeued
  same_training
  row 'node lost: slurmd and all of the job killed, back when Slurm has seen it (`SlurmdTimeout` 10 s), training' \
    "$recovery_s s" "$lost"
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

# without DAEMON START COMMAND...: it is killed under a scoring job and started again 3 s later, when COMMAND succeeds.
without() {
  fault
  end_daemon "$1" KILL
  sleep 3
  "$2"
  wait_until 60 "$1" "${@:3}"
  recovery_s=$(minus "$(now)" "$fault_at")
  [ -n "$(ranks_of quadrat-score)" ] || fail "the job was over before $1 was back: nothing was tried"
  was_left_alone
  same_scores
  row "$1 killed, started again 3 s later, scoring" "none needed: the job ran on ($1 back after $recovery_s s)" 'nothing'
}
slurmd_killed() {
  score
  wait_for_scoring
  without slurmd start_node node_is_up
}
controller_restarted() {
  score
  touch submitted
  wait_for_scoring
  # It saves its jobs every 5 s: killed before, it would not know this one.
  wait_until 20 "the controller's state" test "$cluster/state/job_state" -nt submitted
  without slurmctld start_controller scontrol ping
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
  } >rows
  if [ -e "$table" ]; then
    awk '/^\| what was done/ { while ((getline line < "rows") > 0) print line; skips = 1 }
      !/^\|/ { skips = 0 }
      !skips' "$table" >"$table.new"
    mv "$table.new" "$table"
  else
    cp rows "$table"
  fi
fi
echo "${#rows[@]} drills: the same results after each"
