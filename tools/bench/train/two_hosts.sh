#!/usr/bin/env bash
# Runs a command on two ranks that reach each other only through a link of so many Mbit/s, as two hosts would: each in a
# network namespace of its own, with its own host name, joined by a virtual cable whose ends are shaped (tc tbf). Needs root.
#
# usage: tools/bench/train/two_hosts.sh MBIT COMMAND...
#   tools/bench/train/two_hosts.sh 1000 build/release/bin/quadrat-finetune --threads 1 --train ... -r all -o first
# What share of an epoch the ranks waited for each other is in the command's line for each epoch.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \?//p' "$0" >&2; exit 1; }
mbit=$1
shift
near=quadrat-near-$$ far=quadrat-far-$$
folder=$(mktemp -d)
remove() {
  ip netns del "$near" 2>/dev/null || true
  ip netns del "$far" 2>/dev/null || true
  rm -rf "$folder"
}
trap remove EXIT
ip netns add "$near"
ip netns add "$far"
ip -n "$near" link add cable type veth peer name cable netns "$far"
for end in "$near 10.77.0.1" "$far 10.77.0.2"; do
  read -r name address <<<"$end"
  ip -n "$name" address add "$address/24" dev cable
  ip -n "$name" link set lo up
  ip -n "$name" link set cable up
  # A bucket of 1 ms: without that much the kernel's timer, not the rate, would be the limit.
  ip netns exec "$name" tc qdisc add dev cable root tbf rate "${mbit}mbit" burst $((mbit * 125 + 3000)) latency 50ms
done
# mpirun starts the other host's daemon through this, as it would through ssh.
cat >"$folder/agent" <<AGENT
#!/bin/sh
shift
exec ip netns exec $far unshare --uts sh -c 'hostname far; exec sh -c "\$1"' agent "\$*"
AGENT
# One core a rank, as on two hosts.
cat >"$folder/rank" <<'RANK'
#!/bin/sh
exec taskset -c "$OMPI_COMM_WORLD_RANK" "$@"
RANK
chmod +x "$folder/agent" "$folder/rank"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ip netns exec "$near" unshare --uts sh -c 'hostname near; exec "$@"' mpirun mpirun --host 10.77.0.1:1,10.77.0.2:1 -n 2 \
  --bind-to none --mca plm_rsh_agent "$folder/agent" --mca pml ob1 --mca btl tcp,self \
  --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "$folder/rank" "$@"
