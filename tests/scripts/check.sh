# shellcheck shell=bash
# Sourced by the tests in this folder: a scratch folder of their own, and checks that say what was found.

# shellcheck disable=SC2034  # used by the tests
source_dir=${QUADRAT_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
scratch=$(mktemp -d)
background=()
checks=0

# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local pid
  for pid in ${background[@]+"${background[@]}"}; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap clean_up EXIT

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  if [ -e "$scratch/out" ]; then sed 's/^/  stdout: /' "$scratch/out" >&2; fi
  if [ -e "$scratch/err" ]; then sed 's/^/  stderr: /' "$scratch/err" >&2; fi
  exit 1
}

# exits CODE COMMAND...: runs it and checks its exit code. What it wrote is in $scratch/out and $scratch/err.
exits() {
  local wanted=$1 status=0
  shift
  "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || status=$?
  ((status == wanted)) || fail "exit code $status, not $wanted: $*"
  checks=$((checks + 1))
}

# says out|err TEXT and says_not out|err TEXT: what the last command wrote.
says() {
  grep -qF -- "$2" "$scratch/$1" || fail "std$1 does not have '$2'"
  checks=$((checks + 1))
}
says_not() {
  if grep -qF -- "$2" "$scratch/$1"; then fail "std$1 has '$2'"; fi
  checks=$((checks + 1))
}

# holds EXPRESSION...: a test(1) expression.
holds() {
  test "$@" || fail "not so: $*"
  checks=$((checks + 1))
}

passed() { echo "$checks checks passed"; }
