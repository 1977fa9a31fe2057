#!/usr/bin/env bash
# prep_nfs.sh: a dry run changes nothing, a second run changes nothing, and mistakes are named before any work.
set -euo pipefail

script=${QUADRAT_SOURCE:?}/data_prep/prep_nfs.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin"
# The server's own commands are noted down, not run; what is exported is what the file says.
for name in exportfs systemctl; do
  printf '#!/bin/sh\necho "%s $*" >>"%s/calls"\n' "$name" "$folder" >"$folder/bin/$name"
  chmod +x "$folder/bin/$name"
done
cat >>"$folder/bin/exportfs" <<STUB
[ "\$1" != -s ] || awk '/^\\// { for (i = 2; i <= NF; ++i) { sub("^n2\\\\(", "n2.cluster.example(", \$i); print \$1 "  " \$i } }' \
  "$folder"/exports.d/*.exports
STUB
# shellcheck disable=SC2016  # the stand-in's own words
printf '#!/bin/sh\n[ "$2" = n2 ] && echo "10.0.0.2 STREAM n2.cluster.example"\n' >"$folder/bin/getent"
chmod +x "$folder/bin/getent"
export_file=$folder/exports.d/quadrat$(tr / - <<<"$folder/data").exports
real_path=$PATH
export PATH=$folder/bin:$PATH
fail() { echo "$1"; exit 1; }
prep() { "$script" --data "$folder/data" --exports_dir "$folder/exports.d" --server files "$@"; }

prep --clients 10.0.0.0/24 --dry-run >"$folder/dry" || fail "the dry run failed"
grep -q 'would run: exportfs -ra' "$folder/dry" || fail "the dry run does not say what it would run"
for path in data exports.d calls; do
  [ ! -e "$folder/$path" ] || fail "the dry run made $path"
done

expect_usage() {
  local status=0
  "$script" --dry_run --exports_dir "$folder/none" "${@:2}" >"$folder/out" 2>&1 || status=$?
  [ "$status" -eq 1 ] || fail "status $status for: ${*:2}"
  [ "$(wc -l <"$folder/out")" -eq 1 ] || fail "not one line for: ${*:2}"
  grep -qF -- "$1" "$folder/out" || { cat "$folder/out"; fail "no '$1' for: ${*:2}"; }
}
expect_usage "--data is missing" --clients n1
expect_usage "--clients is missing" --data /srv/x
expect_usage "must be a path from the root" --data x --clients n1
expect_usage "whole network" --data /srv/x --clients '*'
expect_usage "no host" --data /srv/x --clients 'n1(rw)'
expect_usage "no option '--verbose'" --verbose

if [ "$(id -u)" -ne 0 ]; then
  echo "not root: the rest needs it"
  exit 0
fi
prep --clients '10.0.0.0/24,head.example.org' >"$folder/first" 2>/dev/null
grep -qxF "$folder/data 10.0.0.0/24(rw,sync,no_subtree_check,root_squash) head.example.org(rw,sync,no_subtree_check,root_squash)" \
  "$export_file" || fail "the export is wrong: $(cat "$export_file")"
grep -q "mount -t nfs -o .*hard.* files:$folder/data $folder/data" "$folder/first" || fail "no mount line"
for path in tiles shards runs scores weights; do
  [ -d "$folder/data/$path" ] || fail "there is no folder $path"
done
grep -q 'exportfs -ra' "$folder/calls" || fail "it was not exported"
echo kept >"$folder/data/tiles/mine"
before=$(stat -c '%Y %i' "$export_file")
prep --clients '10.0.0.0/24,head.example.org' >"$folder/second" 2>/dev/null
cmp "$folder/first" "$folder/second" || fail "the second run says something else"
[ "$before" = "$(stat -c '%Y %i' "$export_file")" ] || fail "the second run wrote the export anew"
[ "$(cat "$folder/data/tiles/mine")" = kept ] || fail "the second run touched the data"
[ -e "$folder/exports" ] || fail "exportfs would miss its main file"

# A second folder leaves the first exported; what an earlier version wrote is taken over, and only for its own folder.
"$script" --data "$folder/data2" --exports_dir "$folder/exports.d" --server files --clients n2 >/dev/null 2>"$folder/errors" \
  || fail "a host's short name: $(cat "$folder/errors")"
exportfs -s | grep -qF "$folder/data2  n2.cluster.example(" || fail "the second folder is not exported"
exportfs -s | grep -qF "$folder/data  10.0.0.0/24(" || fail "the first folder's export is lost"
mv "$export_file" "$folder/exports.d/quadrat.exports"
"$script" --data "$folder/data2" --exports_dir "$folder/exports.d" --server files --clients n2 >/dev/null 2>&1
[ ! -e "$export_file" ] || fail "another folder's export was taken over"
prep --clients '10.0.0.0/24,head.example.org' >/dev/null 2>"$folder/errors"
[ "$before" = "$(stat -c '%Y %i' "$export_file")" ] || fail "its own export was not taken over"
[ ! -e "$folder/exports.d/quadrat.exports" ] || fail "it is exported twice"
status=0
"$script" --data "$(dirname "$folder")/$(basename "$folder")-data" --exports_dir "$folder/exports.d" --clients n1 --dry_run \
  >/dev/null 2>"$folder/errors" || status=$?
[ "$status" -eq 2 ] || fail "status $status where another folder's file has the name"
grep -q "is in the way: it exports '$folder/data'" "$folder/errors" || fail "it does not say whose: $(cat "$folder/errors")"

# A server that does not take the export is an error, whatever its command's exit status.
sed -i '/-s/d' "$folder/bin/exportfs"
status=0
prep --clients n7 >"$folder/out" 2>"$folder/errors" || status=$?
[ "$status" -eq 2 ] || fail "status $status where nothing was exported"
grep -q "is not exported to 'n7'" "$folder/errors" || fail "it does not say to whom: $(cat "$folder/errors")"

# The real exportfs, where there is one: its table is a file, made here in a mount namespace without a server.
export PATH=$real_path
if ! command -v exportfs >/dev/null || ! unshare -m true 2>/dev/null; then
  echo "without the real exportfs (nfs-kernel-server)"
  exit 0
fi
mkdir -p "$folder/etc" "$folder/state"
export folder script
unshare -m bash -euo pipefail <<'NAMESPACE'
mount --bind "$folder/state" /var/lib/nfs
# /etc as it is, but writable without a trace.
mount -t tmpfs none "$folder/etc"
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts "$folder/etc/" 2>/dev/null || true
echo '127.0.0.9 node9.cluster.example node9' >>"$folder/etc/hosts"
mount --bind "$folder/etc" /etc
for _ in 1 2; do
  "$script" --data "$folder/real" --clients 10.0.0.0/24,127.0.0.1 --server files >"$folder/real.out" 2>"$folder/real.errors" \
    || { cat "$folder/real.errors"; exit 1; }
  exportfs -s >"$folder/table"
  [ "$(wc -l <"$folder/table")" -eq 2 ] || { cat "$folder/table"; exit 1; }
done
for wanted in rw sync no_subtree_check root_squash; do
  [ "$(grep -c "[(,]$wanted[,)]" "$folder/table")" -eq 2 ] || { echo "not $wanted:"; cat "$folder/table"; exit 1; }
done
# A short name is listed as the full one.
"$script" --data "$folder/real" --clients node9 --server files >/dev/null 2>"$folder/real.errors" || { cat "$folder/real.errors"; exit 1; }
[ "$(exportfs -s | cut -d'(' -f1)" = "$folder/real  node9.cluster.example" ] || { exportfs -s; exit 1; }
# Other clients the next time: the old ones are gone.
"$script" --data "$folder/real" --clients 10.1.0.0/16 --server files >/dev/null 2>&1
[ "$(exportfs -s | cut -d'(' -f1)" = "$folder/real  10.1.0.0/16" ] || { exportfs -s; exit 1; }
NAMESPACE
echo "and with the real exportfs"
