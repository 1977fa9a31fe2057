#!/usr/bin/env bash
# Training and scoring killed (SIGKILL to mpirun and all ranks, or to one rank) at random instants, on changing numbers of
# ranks where that changes nothing, end with the very bytes of runs that nobody disturbed.
#
# usage: tests/faults/kill.sh [--kills N]      N kills in all, half of them of trainings (default 6)
set -euo pipefail

bin=${QUADRAT_BIN:?}
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
wanted=6
if [ "${1-}" = --kills ]; then wanted=$2; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
fail() { echo "FAILED: $*"; tail -n 20 out; exit 1; }

"$bin/quadrat-synth" --output county --tiles_across 14 --seed 6 >/dev/null 2>&1
"$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output tiles >/dev/null 2>&1
mkdir many
for copy in 1 2 3; do
  for file in tiles/*/*.png; do ln -s "$folder/$file" "many/$copy-$(basename "$file")"; done
done

# Two ranks throughout: another number is another order of summation.
train() { # NAME
  exec mpirun -n 2 --oversubscribe "$bin/quadrat-finetune" --train tiles --validation tiles --sample_frac 0.2 -p resnet18 -r all \
    --num_epochs 3 --batch_size 16 --runs runs -o "$1"
}
score() { # NAME
  exec mpirun -n "${ranks:-2}" --oversubscribe "$bin/quadrat-score" --tiles many --runs runs -o whole --precision fp32 \
    --scores scores --name "$1"
}
# What an epoch computed; not how long it took.
epochs_of() { "$bin/quadrat-runs" export "$1" --runs runs --csv | cut -d , -f 1-6; }
same_train() {
  cmp runs/whole/model.safetensors "runs/$1/model.safetensors" || fail "another model after kills"
  cmp runs/whole/predictions_validation.csv "runs/$1/predictions_validation.csv" || fail "other predictions after kills"
  diff <(epochs_of whole) <(epochs_of "$1") || fail "other epochs after kills"
  h5diff runs/whole/run.h5 "runs/$1/run.h5" /predictions/validation || fail "other probabilities after kills"
}
same_score() {
  cmp scores/whole/predictions.csv "scores/$1/predictions.csv" || fail "other predictions after kills"
  h5diff scores/whole/scores.h5 "scores/$1/scores.h5" /predictions || fail "other probabilities after kills"
}

RANDOM=${SEED:-1}
# disturb WHAT KILLS: the same command over and over, killed at random parts of what an undisturbed one takes.
disturb() {
  local what=$1 wanted_here=$2 kills=0 finished=0 from whole_ns job part
  from=$(date +%s%N)
  ("$what" whole) >out 2>&1 || fail "the undisturbed $what"
  whole_ns=$(($(date +%s%N) - from))
  while ((kills < wanted_here)); do
    ranks=$((1 + RANDOM % 3))
    "$what" killed >out 2>&1 &
    job=$!
    part=$((RANDOM % 100))
    sleep "$(awk -v ns="$whole_ns" -v part="$part" 'BEGIN { printf "%.3f", ns * part / 1e11 }')"
    if kill -0 "$job" 2>/dev/null; then
      kill_tree "$job" $((RANDOM % 3))
      wait "$job" 2>/dev/null || true
      kills=$((kills + 1))
    elif wait "$job"; then
      # It got to its end first: the next begins from nothing.
      "same_$what" killed
      finished=$((finished + 1))
      rm -rf runs/killed scores/killed
    else
      fail "$what after $kills kills"
    fi
  done
  ("$what" killed) >out 2>&1 || fail "$what after $kills kills"
  "same_$what" killed
  echo "$what: the same bytes after $kills kills, $((finished + 1)) times complete; undisturbed it takes $((whole_ns / 1000000)) ms"
}
# kill_tree MPIRUN WHICH: 0: one rank, of which mpirun tells the others; else mpirun and all ranks at once.
kill_tree() {
  local children=()
  read -r -a children <"/proc/$1/task/$1/children" 2>/dev/null || true
  if (($2 == 0 && ${#children[@]} > 0)); then
    kill -KILL "${children[$((RANDOM % ${#children[@]}))]}" 2>/dev/null || true
  else
    kill -KILL "$1" "${children[@]}" 2>/dev/null || true
  fi
}

disturb train $(((wanted + 1) / 2))
disturb score $((wanted / 2))
