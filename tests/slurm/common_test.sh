#!/usr/bin/env bash
# slurm/common.sh without a Slurm: how many ranks go where by Slurm's variables, and what each exit code leads to.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/check.sh"

# Stand-ins that write down how they were called.
mkdir "$scratch/bin"
cat >"$scratch/bin/scontrol" <<'EOT'
#!/usr/bin/env bash
case $1 in
  show) if [ "$2" = hostnames ]; then printf '%s\n' n1 n2 n3 n4; else echo "JobState=${STATE:-RUNNING}"; fi ;;
  requeue) echo "requeue $2" >>"$CALLS"; [ ! -e "$CALLS.refuse" ] || { rm "$CALLS.refuse"; exit 1; } ;;
esac
EOT
cat >"$scratch/bin/mpirun" <<'EOT'
#!/usr/bin/env bash
echo "mpirun $*" >>"$CALLS"
echo "scripts: $QUADRAT_SLURM" >>"$CALLS"
while [ "$1" != --hostfile ]; do shift; done
sed 's/^/  /' "$2" >>"$CALLS"
exec "$STAND_IN"
EOT
chmod +x "$scratch/bin"/*
printf '#!/bin/sh\nexit 0\n' >"$scratch/done"
chmod +x "$scratch/done"
cat >"$scratch/bin/srun" <<'EOT'
#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
sort "$SLURM_HOSTFILE" | uniq -c >>"$CALLS"
EOT
cat >"$scratch/bin/squeue" <<'EOT'
#!/usr/bin/env bash
echo "$COMMAND"
EOT
chmod +x "$scratch/bin"/*
for name in finetune fit score; do ln -s "$scratch/done" "$scratch/bin/quadrat-$name"; done
export PATH=$scratch/bin:$PATH CALLS=$scratch/calls STAND_IN=$scratch/done QUADRAT_SLURM=$source_dir/slurm QUADRAT_BIN=$scratch/bin
unset "${!SLURM_@}" QUADRAT_LAUNCHER
cd "$scratch"
export SLURM_JOB_ID=7 SLURM_JOB_NAME=test SLURM_JOB_NODELIST='n[1-4]' SLURM_JOB_NUM_NODES=4

# job VARIABLE=VALUE... -- SCRIPT OPTIONS...
job() {
  local variables=()
  : >"$CALLS"
  while [ "$1" != -- ]; do
    variables+=("$1")
    shift
  done
  env "${variables[@]}" bash "$source_dir/slurm/$2.sbatch" "${@:3}"
}
# calls TEXT: what the stand-ins were called with holds it.
calls() {
  grep -qF -- "$1" "$CALLS" || fail "no '$1' in: $(cat "$CALLS")"
  checks=$((checks + 1))
}
starts() { holds "$(grep -c ^mpirun "$CALLS")" = "$1"; }

# --- ranks ---
exits 0 job SLURM_GPUS_ON_NODE=4 SLURM_JOB_CPUS_PER_NODE='32(x4)' -- score --tiles t
calls '-n 16'
calls 'n4 slots=4'
exits 0 job SLURM_JOB_CPUS_PER_NODE='2(x3),4' -- score --tiles t
calls '-n 10'
calls 'n3 slots=2'
calls 'n4 slots=4'
exits 0 job SLURM_NTASKS=3 SLURM_TASKS_PER_NODE='1(x3)' SLURM_JOB_CPUS_PER_NODE='32(x4)' -- score --tiles t
calls '-n 3'
# As many as a training takes, each with as many of a node's cores.
dealt() { holds "$(sed -n 's/.*slots=//p' "$CALLS" | tr '\n' ' ')" = "$1 "; }
exits 0 job SLURM_JOB_CPUS_PER_NODE='12(x4)' -- finetune --train t
calls '-n 16'
dealt '4 4 4 4'
exits 0 job SLURM_JOB_CPUS_PER_NODE='12(x4)' -- fit --train t -m logistic_regression
calls '-n 48'
for forest in '-m random_forest' --mmlspark_model_type=randomforest; do
  # shellcheck disable=SC2086  # two words
  exits 0 job SLURM_JOB_CPUS_PER_NODE='12(x4)' -- fit --train t $forest
  calls '-n 16'
done
exits 0 job SLURM_JOB_CPUS_PER_NODE='48(x2)' -- finetune --train t
dealt '8 8'
exits 0 job SLURM_JOB_CPUS_PER_NODE='32,64' -- finetune --train t
dealt '5 11'
exits 0 job SLURM_JOB_CPUS_PER_NODE='9(x3)' -- finetune --train t --shards=2
dealt '1 1'
exits 0 job SLURM_JOB_CPUS_PER_NODE='2(x3),4' -- finetune --train t
dealt '2 2 2 4'
exits 0 job SLURM_JOB_CPUS_PER_NODE='12(x4)' -- finetune --train t --shards 32
calls '-n 32'
calls 'quadrat-finetune --train t --shards 32'

# By srun, whose own counts are one number for all nodes.
exits 0 job QUADRAT_LAUNCHER=srun SLURM_JOB_CPUS_PER_NODE='32,64' -- score
calls 'srun --mpi=pmix --kill-on-bad-exit=1 --overlap --nodes=2 --ntasks=96 --distribution=arbitrary --cpu-bind=none'
calls '32 n1'
calls '64 n2'

# --- where the scripts are ---
# In a job what runs is a copy, and squeue has the original's name with its options behind.
installed="$scratch/a folder/slurm"
mkdir "$scratch/spool" "${installed%/*}"
cp -r "$source_dir/slurm" "$installed"
from_copy() { # SCRIPT OPTIONS...
  cp "$installed/$1" "$scratch/spool/slurm_script"
  : >"$CALLS"
  env -u QUADRAT_SLURM COMMAND="$installed/$1 ${*:2}" SLURM_JOB_CPUS_PER_NODE=2 "$scratch/spool/slurm_script" "${@:2}"
}
for script in finetune fit score; do
  exits 0 from_copy "$script.sbatch" --train 'tiles/a b' --runs /runs/here
  calls "quadrat-$script --train tiles/a b --runs /runs/here"
done
exits 0 from_copy pipeline --help
says out 'usage: slurm/pipeline --work DIR'
# In an allocation they are run as they are, and squeue has no name of theirs.
exits 0 env -u QUADRAT_SLURM COMMAND='(null)' "$installed/pipeline" --help
says out 'usage: slurm/pipeline --work DIR'
(cd "$installed/.." && exits 0 env -u QUADRAT_SLURM COMMAND='(null)' SLURM_JOB_CPUS_PER_NODE=2 slurm/score.sbatch)
calls "scripts: $installed"

# --- what an end leads to ---
ends_with() { printf '#!/bin/sh\n%s\n' "$1" >"$scratch/stand_in"; chmod +x "$scratch/stand_in"; }
cpus='SLURM_JOB_CPUS_PER_NODE=2(x4)'
export STAND_IN=$scratch/stand_in
# 126 and 127: the launcher or a library is not there.
for code in 1 2 126 127; do
  ends_with "exit $code"
  exits "$code" job "$cpus" -- score
  starts 1
  holds -z "$(grep requeue "$CALLS")"
done
# Killed twice: started again at once; killed for ever: three times, then it queues again.
ends_with "[ \$(grep -c ^mpirun $CALLS) -gt 2 ] || exit 137"
exits 0 job "$cpus" -- score
starts 3
ends_with 'exit 137'
exits 75 job "$cpus" -- score
starts 3
calls 'requeue 7'
exits 75 job "$cpus" SLURM_RESTART_COUNT=50 -- score
says err 'submit it again'
holds -z "$(grep requeue "$CALLS")"
# For a crash on whatever nodes it queues again three times; what comes to its time limit in between begins to count anew.
until_given_up() {
  for restart in 0 1 2; do
    exits 75 job "$cpus" SLURM_RESTART_COUNT=$restart -- score
    calls 'requeue 7'
  done
  exits 139 job "$cpus" SLURM_RESTART_COUNT=3 -- score
  holds -z "$(grep requeue "$CALLS")"
  says err 'queued again 3 times'
}
ends_with 'exit 139'
until_given_up
for _ in 1 2; do exits 75 job "$cpus" -- score; done
ends_with "trap 'exit 75' USR1; kill -USR1 \$PPID; while :; do sleep 0.1; done"
exits 75 job "$cpus" SLURM_RESTART_COUNT=9 -- score
ends_with 'exit 139'
until_given_up
holds -z "$(find . -name '.quadrat-crashes*')"
exits 2 job QUADRAT_BIN="$scratch/none" -- score
says err "there is no program '$scratch/none/quadrat-score'"
holds -z "$(grep requeue "$CALLS")"
# The time limit: the ranks are told, and this task of the array queues again, alone; a controller that restarts is waited for.
ends_with "trap 'exit 75' USR1; kill -USR1 \$PPID; while :; do sleep 0.1; done"
touch "$CALLS.refuse"
exits 75 job "$cpus" SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=3 -- score
starts 1
holds "$(grep -c 'requeue 5_3' "$CALLS")" = 2
# It saved too late, but it saved: complete is complete.
ends_with "trap 'exit 0' USR1; kill -USR1 \$PPID; while :; do sleep 0.1; done"
exits 0 job "$cpus" -- score
holds -z "$(grep requeue "$CALLS")"
# It ended by itself at the very moment that the signal came: bash has taken its status before the wait was over.
cat >"$scratch/wait_late" <<'EOT'
wait() { builtin wait "$@"; local status=$?; if [ -z "${late:-}" ]; then late=1; return 138; fi; return "$status"; }
EOT
ends_with 'exit 0'
exits 0 job "$cpus" BASH_ENV="$scratch/wait_late" -- score
starts 1
# Told to go: queued again where it is only a warning; left alone where the job is cancelled.
ends_with "trap 'exit 75' USR1; kill -TERM \$PPID; while :; do sleep 0.1; done"
exits 75 job "$cpus" -- score
calls 'requeue 7'
exits 75 job "$cpus" STATE=CANCELLED -- score
holds -z "$(grep requeue "$CALLS")"
passed
