#!/usr/bin/env bash
# Prepares a file server's data folder for quadrat and exports it over NFS to the compute nodes; prints the line that
# the nodes mount it with. Run it on the file server, as root. Safe to run again: what is right stays as it is.
#
# usage: data_prep/prep_nfs.sh --data DIR --clients NETWORK [options]
#
#   --data DIR         the folder to export, made if need be, with tiles/, shards/, runs/, scores/ and weights/ in it
#   --clients NETWORK  who may mount it: 10.0.0.0/24, node*.example.org; more than one, separated by commas
#   --mount_point DIR  where the nodes shall have it (default: as on the server)
#   --owner USER       who owns the folders (default: who called sudo, else root)
#   --exports_dir DIR  where the export is written down (default /etc/exports.d)
#   --server NAME      what the nodes call this server (default: its host name)
#   --dry_run          say what would be done, and do nothing
#   --help
#
# Exported read-write with `sync`: quadrat's checkpoints are fsynced, and that must mean the server's disk. The nodes
# mount `hard`, so that a server that restarts stalls a job and does not fail it.
# Exit status: 0 done, 1 wrong usage, 2 failed.
set -euo pipefail

program=prep_nfs.sh
data='' clients='' mount_point='' owner=${SUDO_USER:-root} exports_dir=/etc/exports.d server='' dry_run=false

usage_error() { echo "$program: error: $1 (see --help)" >&2; exit 1; }
die() { echo "$program: error: $1" >&2; exit 2; }
say() { echo "$program: $1" >&2; }

while [ $# -gt 0 ]; do
  name=${1//-/_}
  case $name in
    __help | _h) sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    __dry_run) dry_run=true; shift ;;
    __data | __clients | __mount_point | __owner | __exports_dir | __server)
      [ $# -ge 2 ] || usage_error "$1 wants a value"
      printf -v "${name#__}" '%s' "$2"
      shift 2 ;;
    *) usage_error "there is no option '$1'" ;;
  esac
done
[ -n "$data" ] || usage_error "--data is missing"
[ -n "$clients" ] || usage_error "--clients is missing: say which machines may mount the folder, such as 10.0.0.0/24"
case $data in
  /*) ;;
  *) usage_error "--data is '$data', but must be a path from the root, because the nodes mount it by that" ;;
esac
[[ $data != *[[:space:]\"\\]* ]] || usage_error "--data is '$data', and a path with spaces or quotes cannot be exported safely"
[ "$data" != / ] || usage_error "--data is '/', and the whole server is too much to export"
data=${data%/}
IFS=, read -ra client_list <<<"$clients"
for client in "${client_list[@]}"; do
  [ "$client" != '*' ] || usage_error "--clients '*' would export to the whole network; name the nodes"
  [[ $client =~ ^[A-Za-z0-9.:*?/@_-]+$ ]] || usage_error "--clients has '$client', which is no host, network or netgroup"
done
[ -n "$mount_point" ] || mount_point=$data
[ -n "$server" ] || server=$(hostname -f 2>/dev/null || hostname)
id -u "$owner" >/dev/null 2>&1 || usage_error "--owner is '$owner', and there is no such user"

run() {
  if $dry_run; then
    echo "would run: $*"
  else
    "$@" || die "'$*' failed"
  fi
}

if ! $dry_run; then
  [ "$(id -u)" -eq 0 ] || die "exporting a folder needs root; run it with sudo, or with --dry_run to see what it would do"
  command -v exportfs >/dev/null || die "there is no NFS server on this machine; install nfs-kernel-server (Debian, Ubuntu) or nfs-utils (Red Hat)"
fi

for folder in "$data" "$data"/{tiles,shards,runs,scores,weights}; do
  if [ ! -d "$folder" ]; then
    [ ! -e "$folder" ] || die "'$folder' is in the way: it is not a folder"
    run install -d -m 2775 -o "$owner" -g "$(id -gn "$owner")" "$folder"
  fi
done

# A file for each folder, so that a second one leaves the first exported.
exported_by() { sed -n 's|^\(/[^ ]*\) .*|\1|p' "$1"; } # FILE
export_file=$exports_dir/quadrat${data//\//-}.exports
if [ -e "$exports_dir/quadrat.exports" ] && [ "$(exported_by "$exports_dir/quadrat.exports")" = "$data" ]; then
  run mv "$exports_dir/quadrat.exports" "$export_file"
fi
if [ -e "$export_file" ] && [ "$(exported_by "$export_file")" != "$data" ]; then
  die "'$export_file' is in the way: it exports '$(exported_by "$export_file")'; rename it"
fi
line=$data
for client in "${client_list[@]}"; do
  line+=" $client(rw,sync,no_subtree_check,root_squash)"
done
text="# Written by quadrat's data_prep/prep_nfs.sh; run it again to change it.
$line"
if [ -e "$export_file" ] && [ "$(cat "$export_file")" = "$text" ]; then
  say "'$export_file' is as it should be"
elif $dry_run; then
  echo "would write $export_file:"
  echo "$text"
else
  mkdir -p "$exports_dir"
  temporary=$(mktemp "$exports_dir/.quadrat.XXXXXX")
  printf '%s\n' "$text" >"$temporary"
  chmod 644 "$temporary"
  mv "$temporary" "$export_file"
  say "wrote '$export_file'"
fi

# exportfs reads the folder's files only after this one, and fails without it.
main_file=${exports_dir%/*}/exports
if [ ! -e "$main_file" ]; then
  run touch "$main_file"
fi

if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
  run systemctl enable --now nfs-server
fi
run exportfs -ra
if ! $dry_run; then
  table=$(exportfs -s) || die "'exportfs -s' failed"
  for client in "${client_list[@]}"; do
    # A host is listed under its full name.
    read -r _ _ full_name < <(getent ahosts "$client") || full_name=$client
    grep -qF -e "$data  $client(" -e "$data  $full_name(" <<<"$table" \
      || die "'$data' is not exported to '$client'; see what exportfs says, and whether the name resolves"
  done
fi

options=rw,hard,noatime,nfsvers=4.2,nconnect=8,rsize=1048576,wsize=1048576
echo "On each node:"
echo "  mkdir -p $mount_point && mount -t nfs -o $options $server:$data $mount_point"
echo "or in its /etc/fstab:"
echo "  $server:$data $mount_point nfs $options,_netdev 0 0"
