#!/usr/bin/env bash
# A real NFS server under the data and run folders: the same results as on a local disk, also where the server is killed
# and started again in the middle of it. Reached through FUSE and libnfs, since not every kernel has an NFS client.
set -euo pipefail
# shellcheck source=tests/faults/work.sh
. "$(dirname "${BASH_SOURCE[0]}")/work.sh"
PATH=$PATH:/usr/sbin:/sbin
for program in ganesha.nfsd rpcbind; do
  if ! command -v "$program" >/dev/null; then
    if [ "${CI-}" = true ]; then fail "there is no $program; run tools/setup"; fi
    echo "SKIPPED: there is no $program"
    exit 0
  fi
done

# Sockets and lock files of a machine's own services are not ours to touch.
mount -t tmpfs none /run
mkdir -p /run/rpcbind /run/ganesha exported mnt
# The server looks for the mount that holds what it exports, which below a chroot is not in the list.
mount --bind exported exported
if [ ! -e /etc/mtab ]; then  # where nothing ever booted; the server looks its file systems up there
  cp -a /etc etc
  ln -s /proc/self/mounts etc/mtab
  mount --bind etc /etc
fi
rpcbind -f >rpcbind.log 2>&1 &
fixture_pids+=("$!")
cat >ganesha.conf <<CONF
NFS_CORE_PARAM { Protocols = 3; NFS_Port = 20490; MNT_Port = 20491; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
  Allow_Set_Io_Flusher_Fail = true; }
NFSv4 { Graceless = true; }
LOG { Default_Log_Level = WARN; }
EXPORT { Export_Id = 1; Path = $folder/exported; Pseudo = /data; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Protocols = 3; Transports = TCP; FSAL { Name = VFS; } }
CONF
start_server() {
  ganesha.nfsd -F -f ganesha.conf -L "$folder/ganesha.log" -p "$folder/ganesha.pid" >/dev/null 2>&1 &
  server=$!
}
kill_server() {
  [ -n "$server" ] || return 0
  kill -KILL "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}
server=
trap 'kill_server; umount -l "$folder/exported"; clean_up' EXIT
answers() { (exec 3<>/dev/tcp/127.0.0.1/20490) 2>/dev/null && (exec 3<>/dev/tcp/127.0.0.1/20491) 2>/dev/null; }
wait_until 10 'rpcbind' test -S /run/rpcbind.sock
start_server
wait_until 30 'the NFS server' answers
"$fixtures/nfsfs" "nfs://127.0.0.1$folder/exported?nfsport=20490&mountport=20491" mnt >nfsfs.log 2>&1 &
fixture_pids+=("$!")
wait_until 10 'the NFS mount' mountpoint -q mnt

mkdir plain
make_tiles plain
train plain whole || fail "training on a local disk"
score plain whole || fail "scoring on a local disk"

# Cutting to NFS gives the same tiles, and packed shards of them are sound.
"$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output mnt/tiles >out 2>&1 || fail "cutting to NFS"
diff -r --exclude tiles.json plain/tiles mnt/tiles || fail "other tiles on NFS"
"$bin/quadrat-pack" --tiles plain/many --output mnt/many >out 2>&1 || fail "packing to NFS"

# The server goes away for two seconds, in the middle of training and of scoring.
train mnt restarted &
job=$!
wait_until 120 'an epoch on NFS' grep -q 'epoch  1/3: train' out
kill_server
sleep 2
start_server
wait "$job" || fail "training on NFS whose server was restarted"
grep -q 'epoch  3/3' out || fail "it did not train to the end"
same_train mnt restarted
all_is_whole mnt

cp -r plain/runs/whole mnt/runs/whole
score mnt restarted &
job=$!
wait_until 60 'a journal on NFS' compgen -G 'exported/scores/restarted/*.journal'
kill_server
sleep 2
start_server
wait "$job" || fail "scoring on NFS whose server was restarted"
same_score mnt restarted
all_is_whole mnt
umount mnt
kill_server
echo "the same results on NFS, through two restarts of its server"
