#!/usr/bin/env bash
# Runs a command in a fresh clone of HEAD on a bare tree of another system, to see that the project needs nothing that
# was installed by hand and builds with that system's compiler and libraries. Started by hand: 20 to 30 minutes.
#
# usage: tests/systems/on_system.sh [options] SUITE MIRROR [COMMAND]
#   SUITE            bookworm (Debian 12), trixie (Debian 13), noble (Ubuntu 24.04)
#   MIRROR           where its packages are, as in /etc/apt/sources.list
#   COMMAND          in the clone; default: tools/quickstart && tools/test
#   --keyring FILE   that the suite is signed with (for Ubuntu's, from its package ubuntu-keyring)
#   --tree DIR       the tree; one that is there is used again, with what was installed and built in it, and it is left
#                    there. Without: a temporary one
#   --help           this text
#
# Needs root and debootstrap. Real tiles are taken from $QUADRAT_SHARED/data (default ../shared). The command sees this
# machine's network, processes and devices, and of its files only name resolution, certificates and pip's settings.
# Exit code: the command's; 1 usage, 2 the system could not be made.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"

# Mounts of our own, gone with the process.
if [ -z "${ON_SYSTEM_MOUNTS-}" ]; then ON_SYSTEM_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"; fi

keyring=()
tree=
while (($#)); do
  case $1 in
    --keyring | --tree)
      [ -n "${2-}" ] || usage_error "$1 needs a value"
      if [ "$1" = --tree ]; then tree=$2; else keyring=(--keyring="$2"); fi
      shift
      ;;
    -h | --help) print_help; exit 0 ;;
    -*) usage_error "unknown option '$1'" ;;
    *) break ;;
  esac
  shift
done
(($# == 2 || $# == 3)) || usage_error "name a suite and a mirror"
suite=$1 mirror=$2 command=${3:-tools/quickstart && tools/test}
# debootstrap knows suites by name; newer ones than itself are made as these are.
case $suite in
  bookworm | trixie) family=sid areas=main; sections=("$suite-updates") ;;
  noble) family=gutsy areas=main,universe; sections=("$suite-updates" "$suite-security") ;;
  *) usage_error "unknown suite '$suite'" ;;
esac
((EUID == 0)) || die "only root can make another system's tree"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"

if [ -z "$tree" ]; then
  tree=$(mktemp -d -t "quadrat_$suite.XXXXXX")
  trap 'umount -R -l "$tree"/{sys,dev,proc} 2>/dev/null || true; rm -rf --one-file-system "$tree"' EXIT
fi
if [ ! -e "$tree/etc/debian_version" ]; then
  say "$suite into $tree ..."
  debootstrap --variant=minbase --include=ca-certificates,git --components="$areas" "${keyring[@]}" \
    "$suite" "$tree" "$mirror" "/usr/share/debootstrap/scripts/$family" >"$tree.log" 2>&1 \
    || { tail -5 "$tree.log" >&2; die "debootstrap failed (above; all of it in $tree.log)"; }
  rm "$tree.log"
  for section in "$suite" "${sections[@]}"; do echo "deb $mirror $section ${areas//,/ }"; done >"$tree/etc/apt/sources.list"
fi
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  if [ -e "$file" ]; then cp "$file" "$tree$file"; fi
done
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount --rbind /sys "$tree/sys"

project=$tree/work/project
if [ -d "$project/.git" ]; then
  git -C "$project" fetch -q "$root" HEAD
  git -C "$project" reset -q --hard FETCH_HEAD
else
  mkdir -p "$tree/work"
  git clone -q "$root" "$project"
fi
shared=${QUADRAT_SHARED:-$root/../shared}
if [ -d "$shared/data" ]; then mkdir -p "$tree/work/shared" && cp -r "$shared/data" "$tree/work/shared/"; fi

start=$SECONDS
status=0
env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
  chroot "$tree" bash -c "cd /work/project && $command" </dev/null || status=$?
say "$suite: exit code $status after $(duration $((SECONDS - start)))"
exit "$status"
