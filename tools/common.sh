# shellcheck shell=bash
# Sourced by the scripts beside it: where things are, how they speak. They use what is set here:
# shellcheck disable=SC2034

program=${0##*/}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is not a Debian package goes below this folder, nothing of it elsewhere.
deps=${QUADRAT_DEPS:-${HOME:?is not set}/.local/share/quadrat}
site=$deps/site
python_env=$deps/python
export QUADRAT_DEPS=$deps

# Results go to stdout, all else here.
say() { printf '%s: %s\n' "$program" "$*" >&2; }
die() { say "$*"; exit 2; }
usage_error() { say "$* (see $program --help)"; exit 1; }

# The comment at the head of a script is its help.
print_help() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"; }

# Seconds as people read them: 47 s, 3 min 05 s.
duration() {
  if (($1 < 60)); then printf '%d s' "$1"; else printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); fi
}

# A compiler that has LibTorch's headers open takes up to 2 GB: cores, or fewer where memory is short.
build_jobs() {
  local cores by_memory
  cores=$(nproc)
  by_memory=$(awk '/^MemAvailable/ {print int($2 / 2000000)}' /proc/meminfo)
  if ((by_memory < 1)); then by_memory=1; fi
  if ((cores < by_memory)); then echo "$cores"; else echo "$by_memory"; fi
}

# A Python of our own, so that a machine's externally managed one is left alone. Sets $pip.
make_python() {
  local python
  if ! "$python_env/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(choose_python)
    rm -rf "$python_env"
    "$python" -m venv "$python_env" >&2 || die "cannot make a virtual environment with $python in $python_env"
  fi
  pip=("$python_env/bin/python" -m pip --disable-pip-version-check --no-input)
}

# The system's own first: python3-venv, installed above, belongs to it.
choose_python() {
  local python
  for python in /usr/bin/python3 "$(command -v python3 || true)"; do
    if [ -x "$python" ] && "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  die "found no python3 that has venv"
}
