# shellcheck shell=bash
# Sourced by the batch scripts beside it: how many ranks go where, how they are started, and what becomes of the job when
# they end.

slurm_dir=$(cd "${slurm_dir:?"the folder of these scripts is to be set"}" && pwd)
# shellcheck source=slurm/site.conf
. "$slurm_dir/site.conf"
bin=${quadrat_bin:-$(cd "$slurm_dir/.." && pwd)/build/release/bin}
export QUADRAT_SLURM=$slurm_dir
if [ -n "$mpi_interfaces" ]; then
  export OMPI_MCA_btl_tcp_if_include=$mpi_interfaces OMPI_MCA_oob_tcp_if_include=$mpi_interfaces
fi
if [ -n "$nccl_interfaces" ]; then export NCCL_SOCKET_IFNAME=$nccl_interfaces; fi

say() { printf '%s %s: %s\n' "$(date '+%F %T')" "${SLURM_JOB_NAME:-quadrat}" "$*" >&2; }

# "2(x3),4" as Slurm writes it: 2 2 2 4, a line each.
expand_counts() {
  local part
  for part in ${1//,/ }; do
    if [[ $part =~ ^([0-9]+)\(x([0-9]+)\)$ ]]; then
      yes "${BASH_REMATCH[1]}" | head -n "${BASH_REMATCH[2]}"
    else
      echo "$part"
    fi
  done
}

# Sets $rank_counts, a number a node, from Slurm's variables: the tasks that were asked for; else a rank a GPU; else a
# rank a core.
count_ranks() {
  local count
  if [ -n "${SLURM_NTASKS:-}" ]; then
    mapfile -t rank_counts < <(expand_counts "${SLURM_TASKS_PER_NODE:-$SLURM_NTASKS}")
  elif [ -n "${SLURM_GPUS_ON_NODE:-}" ] && [ "$SLURM_GPUS_ON_NODE" != 0 ]; then
    mapfile -t rank_counts < <(expand_counts "$SLURM_GPUS_ON_NODE(x${SLURM_JOB_NUM_NODES:-1})")
  else
    rank_counts=()
    for count in $(expand_counts "${SLURM_JOB_CPUS_PER_NODE:-$(nproc)}"); do
      rank_counts+=($((count / threads_per_core > 0 ? count / threads_per_core : 1)))
    done
  fi
}

# limit_ranks N: no more than N in all, dealt so that each rank has as large a part of a node as can be: a training, which
# has a rank a virtual shard at most, shares a node's cores among its ranks.
limit_ranks() {
  local limit=$1 ranks=0 i next dealt=()
  for i in "${!rank_counts[@]}"; do
    ranks=$((ranks + rank_counts[i]))
    dealt+=(0)
  done
  if ((ranks <= limit)); then return; fi
  for ((ranks = 0; ranks < limit; ++ranks)); do
    next=0
    for i in "${!rank_counts[@]}"; do
      if ((rank_counts[i] * (dealt[next] + 1) > rank_counts[next] * (dealt[i] + 1))); then next=$i; fi
    done
    dealt[next]=$((dealt[next] + 1))
  done
  rank_counts=("${dealt[@]}")
}

# Sets $launch, the command that programs go behind.
hostfile=
trap 'rm -f "$hostfile"' EXIT
plan_launch() {
  local hosts=() i rank ranks=0 nodes=0
  mapfile -t hosts < <(scontrol show hostnames "${SLURM_JOB_NODELIST:-localhost}")
  if [ -z "$hostfile" ]; then hostfile=$(mktemp "${TMPDIR:-/tmp}/quadrat-hosts.XXXXXX"); fi
  : >"$hostfile"
  for i in "${!rank_counts[@]}"; do
    if ((rank_counts[i] == 0)); then continue; fi
    if [ "$launcher" = srun ]; then
      for ((rank = 0; rank < rank_counts[i]; ++rank)); do echo "${hosts[i]}"; done
    else
      echo "${hosts[i]} slots=${rank_counts[i]}"
    fi >>"$hostfile"
    ranks=$((ranks + rank_counts[i]))
    nodes=$((nodes + 1))
  done
  if [ "$launcher" = srun ]; then
    # The host file has a line a rank: --ntasks-per-node knows one number for all nodes. One that dies takes the others along.
    export SLURM_HOSTFILE=$hostfile
    launch=(srun "${srun_options[@]}" --kill-on-bad-exit=1 --overlap --nodes="$nodes" --ntasks="$ranks"
      --distribution=arbitrary --cpu-bind=none)
  else
    # Slurm counts tasks, which nobody asked for; the host file counts ranks.
    launch=(mpirun --mca ras ^slurm --hostfile "$hostfile" -n "$ranks" "${mpirun_options[@]}")
    if ((EUID == 0)); then launch+=(--allow-run-as-root); fi
  fi
  say "$ranks ranks on $nodes of ${SLURM_JOB_NUM_NODES:-1} nodes, restart ${SLURM_RESTART_COUNT:-0}"
}

# The time limit or, in its GraceTime, preemption is near (USR1), or Slurm wants the node back (TERM): the ranks save and
# end with 75.
stop_signal=
launcher_pid=
on_signal() {
  stop_signal=$1
  if [ -n "$launcher_pid" ]; then kill -USR1 "$launcher_pid" 2>/dev/null || true; fi
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM

# One attempt. Its exit code, also where a signal for this script came in between.
attempt() {
  local status=0
  "$@" &
  launcher_pid=$!
  if [ -n "$stop_signal" ]; then kill -USR1 "$launcher_pid" 2>/dev/null || true; fi
  while :; do
    status=0
    wait "$launcher_pid" || status=$?
    if ! kill -0 "$launcher_pid" 2>/dev/null; then break; fi
  done
  # What a signal interrupted was not the program's own code.
  status=0
  wait "$launcher_pid" 2>/dev/null || status=$?
  launcher_pid=
  return "$status"
}

# Of an array, this task alone: its number by itself may stand for all of them.
job_id=${SLURM_JOB_ID:-}
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

# How often this job was queued again because ranks were killed or hung: a line each, in the folder that it was submitted
# from, since a job that is queued again keeps nothing but its number.
crashes=.quadrat-crashes.$job_id

job_is_running() {
  case $(scontrol show job "$job_id" 2>/dev/null) in *JobState=RUNNING*) return 0 ;; esac
  return 1
}

# requeue WHY: back into the queue. Ends the script.
requeue() {
  local try
  trap '' TERM USR1
  if ((${SLURM_RESTART_COUNT:-0} >= max_requeues)); then
    rm -f "$crashes"
    say "it was requeued $max_requeues times; submit it again to go on"
    exit 75
  fi
  # The controller may just be restarting.
  for try in 1 2 3 4 5 6 7 8 9 10; do
    if scontrol requeue "$job_id"; then
      say "requeued ($1)"
      exit 75
    fi
    sleep $((try * 3))
  done
  say "could not be requeued; submit it again to go on"
  exit 75
}

# end_of_crashes PROGRAM STATUS: back into the queue, unless that has not helped before. Ends the script.
end_of_crashes() {
  local count=0
  if [ -e "$crashes" ]; then count=$(wc -l <"$crashes"); fi
  if ((count >= max_crash_requeues)); then
    rm -f "$crashes"
    say "$1 ended with $2 whenever it was started, and the job was queued again $count times for it; submit it again to go on"
    exit "$2"
  fi
  echo "$1 ended with $2" >>"$crashes" || say "'$crashes' cannot be written: crashes are not counted"
  requeue "$1 ended with $2, $max_failures times"
}

# run PROGRAM OPTIONS...: on all ranks, to its end. Returns where it is complete; ends the script where it is not.
run() {
  local failures=0 status
  prepare_node
  if [ ! -x "$bin/$1" ]; then
    say "there is no program '$bin/$1'; build it, or set quadrat_bin in '$slurm_dir/site.conf'"
    exit 2
  fi
  count_ranks
  if [ -n "${max_ranks:-}" ]; then limit_ranks "$max_ranks"; fi
  plan_launch
  while :; do
    status=0
    attempt "${launch[@]}" "$bin/$1" "${@:2}" || status=$?
    # What ends by itself or comes to its time limit is past the crashes there were.
    if ((status <= 2)) || [ -n "$stop_signal" ]; then rm -f "$crashes"; fi
    if ((status == 0)); then return 0; fi
    if [ "$stop_signal" = USR1 ]; then requeue 'the time limit or preemption is near'; fi
    if [ "$stop_signal" = TERM ]; then
      # Cancelled, or preempted and requeued by Slurm itself: nothing is left to do, unless only a warning came.
      if job_is_running; then requeue 'the node is wanted'; fi
      exit 75
    fi
    # The same mistake or the same full disk would be met again, and so would a launcher or a library that is not there.
    if ((status == 1 || status == 2 || status == 126 || status == 127)); then
      say "$1 ended with $status"
      exit "$status"
    fi
    failures=$((failures + 1))
    if ((failures >= max_failures)); then end_of_crashes "$1" "$status"; fi
    say "$1 ended with $status; starting it again"
  done
}

# set_max_ranks PROGRAM OPTIONS...: a training has at most as many ranks as virtual shards; of a random forest each rank holds
# all features, a gigabyte for 65,000 tiles of AlexNet.
set_max_ranks() {
  local forest=
  if [ "$1" = quadrat-finetune ]; then max_ranks=16; fi
  while (($#)); do
    case $1 in
      --shards) max_ranks=${2:-16} ;;
      --shards=*) max_ranks=${1#*=} ;;
      random_forest | randomforest | --*=random_forest | --*=randomforest) forest=1 ;;
    esac
    shift
  done
  if [ -n "$forest" ]; then max_ranks=16; fi
}
