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
while [ "$1" != --hostfile ]; do shift; done
sed 's/^/  /' "$2" >>"$CALLS"
exec "$STAND_IN"
EOT
chmod +x "$scratch/bin"/*
printf '#!/bin/sh\nexit 0\n' >"$scratch/done"
chmod +x "$scratch/done"
export PATH=$scratch/bin:$PATH CALLS=$scratch/calls STAND_IN=$scratch/done QUADRAT_SLURM=$source_dir/slurm QUADRAT_BIN=/bin
unset "${!SLURM_@}" QUADRAT_LAUNCHER
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
exits 0 job SLURM_JOB_CPUS_PER_NODE='12(x4)' -- finetune --train t
calls '-n 16'
calls 'n2 slots=4'
holds "$(grep -c slots "$CALLS")" = 2
exits 0 job SLURM_JOB_CPUS_PER_NODE='12(x4)' -- finetune --train t --shards 32
calls '-n 32'
calls 'quadrat-finetune --train t --shards 32'

# --- what an end leads to ---
ends_with() { printf '#!/bin/sh\n%s\n' "$1" >"$scratch/stand_in"; chmod +x "$scratch/stand_in"; }
cpus='SLURM_JOB_CPUS_PER_NODE=2(x4)'
export STAND_IN=$scratch/stand_in
for code in 1 2; do
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
# Told to go: queued again where it is only a warning; left alone where the job is cancelled.
ends_with "trap 'exit 75' USR1; kill -TERM \$PPID; while :; do sleep 0.1; done"
exits 75 job "$cpus" -- score
calls 'requeue 7'
exits 75 job "$cpus" STATE=CANCELLED -- score
holds -z "$(grep requeue "$CALLS")"
passed
