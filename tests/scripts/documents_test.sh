#!/usr/bin/env bash
# Files of this repository that its documents name are there.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

cd "$source_dir"
mapfile -t documents < <(find . \( -path ./.git -o -path ./build -o -path ./quickstart -o -path ./.cache \) -prune -o \
  -type f -name '*.md' -print)
holds "${#documents[@]}" -ge 4
# In backquotes, from one of the folders at the top up to a blank; of <names in brackets> and $variables what is before them.
named='`(\$\()?(data_prep|include|jobs|slurm|src|tests|tools|cmake)/[A-Za-z0-9_./*-]+'
for document in "${documents[@]}"; do
  while IFS=: read -r line path; do
    compgen -G "${path##*[\`\(]}" >/dev/null || fail "$document:$line names $path\`, which is not there"
    checks=$((checks + 1))
  done < <(grep -noE "$named" "$document")
done
holds "$checks" -gt 30
passed
