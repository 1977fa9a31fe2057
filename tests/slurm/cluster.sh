# shellcheck shell=bash
# Sourced by the tests here: a Slurm of one node from Debian's packages, its daemons started by this test, in a folder of
# its own, on free ports of the loopback interface, and ended by their process numbers. Jobs work in $work, with the
# programs in $QUADRAT_BIN.

[ "$(id -u)" -eq 0 ] || { echo "FAILED: Slurm's daemons need root here"; exit 1; }
for program in munged slurmctld slurmd sbatch; do
  if ! PATH=$PATH:/usr/sbin command -v "$program" >/dev/null; then
    if [ "${CI-}" = true ]; then echo "FAILED: there is no $program; run tools/setup"; exit 1; fi
    echo "SKIPPED: there is no $program"
    exit 0
  fi
done
PATH=$PATH:/usr/sbin
export QUADRAT_BIN=${QUADRAT_BIN:?the folder of the programs}
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_btl_vader_single_copy_mechanism=none
unset QUADRAT_SLURM
# shellcheck disable=SC2034  # used by the tests
source_dir=${QUADRAT_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
cluster=$(mktemp -d)
work=$cluster/work
declare -A daemon=()
trap stop_cluster EXIT
mkdir "$work"
cd "$work" || exit 1

fail() {
  printf 'FAILED: %s%s\n' "${drill:+$drill: }" "$*" >&2
  # What jobs said last, and the daemons.
  find "$work" -name '*.log' -printf '%T@ %p\n' | sort -rn | head -n 2 | cut -d ' ' -f 2 | xargs -r tail -n 30 >&2
  tail -n 15 "$cluster"/*.log "$cluster"/*.out >&2 || true
  exit 1
}

free_port() {
  python3 -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])'
}

# wait_until SECONDS WHAT COMMAND...
wait_until() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= end)); then fail "waited in vain for $what"; fi
    sleep 0.1
  done
}

start_controller() {
  slurmctld -D -f "$SLURM_CONF" >>"$cluster/slurmctld.out" 2>&1 &
  daemon[slurmctld]=$!
}

start_node() {
  slurmd -D -f "$SLURM_CONF" >>"$cluster/slurmd.out" 2>&1 &
  daemon[slurmd]=$!
}

node_is_up() { sinfo -h -o %T | grep -qxE 'idle|mixed|allocated|completing'; }

start_cluster() {
  local host
  host=$(hostname)
  export SLURM_CONF=$cluster/slurm.conf
  mkdir -m 755 "$cluster/state" "$cluster/spool" "$cluster/munge"
  chmod 755 "$cluster"
  head -c 1024 /dev/urandom >"$cluster/munge/key"
  chmod 400 "$cluster/munge/key"
  munged --foreground --force --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" \
    --pid-file="$cluster/munge/pid" --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed" \
    >"$cluster/munged.out" 2>&1 &
  daemon[munged]=$!
  wait_until 20 "munged's socket" test -S "$cluster/munge/socket"
  # Jobs that were requeued wait for cred_expire, 120 s unless it is set.
  cat >"$SLURM_CONF" <<CONF
ClusterName=quadrat
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$cluster/munge/socket,cred_expire=5
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.log
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=500000,bf_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
KillWait=10
SlurmdTimeout=10
ReturnToService=2
MaxArraySize=100
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=patient Nodes=$host MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=2
CONF
  # Where no control groups are mounted, in a chroot say, slurmd starts only if it is told not to look which kind they are.
  case $(stat -f -c %T /sys/fs/cgroup 2>/dev/null) in
    cgroup2fs | tmpfs) ;;
    *) echo CgroupPlugin=cgroup/v1 >"$cluster/cgroup.conf" ;;
  esac
  start_controller
  start_node
  wait_until 60 'the node to come up' node_is_up
}

end_daemon() { # NAME [SIGNAL]
  local pid=${daemon[$1]:-}
  [ -n "$pid" ] || return 0
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  unset "daemon[$1]"
}

stop_cluster() {
  local i name
  # Jobs of a test that failed end before their daemons do: nobody would end them afterwards.
  if [ -n "${daemon[slurmctld]:-}" ] && scancel --user=root 2>/dev/null; then
    for ((i = 0; i < 150; ++i)); do
      [ -n "$(squeue -h 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  # Steps that outlive their slurmd are slurmstepd's, known by this cluster's spool folder.
  for name in slurmd slurmctld munged; do end_daemon "$name"; done
  rm -rf "$cluster"
}

job_state() { scontrol -o show job "$1" 2>/dev/null | grep -o 'JobState=[A-Z_]*' | cut -d= -f2 | sort -u | tr '\n' ' ' | sed 's/ $//'; }
job_restarts() { scontrol -o show job "$1" | grep -o 'Restarts=[0-9]*' | cut -d= -f2 | head -n 1; }
job_has_ended() { [[ $(job_state "$1") =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY|BOOT_FAIL| )+$ ]]; }
# ends_complete ID SECONDS WHAT: the job ends, and all of it as it should.
ends_complete() {
  wait_until "$2" "the end of $3" job_has_ended "$1"
  [ "$(job_state "$1")" = COMPLETED ] || fail "$3 ended as $(job_state "$1")"
}
