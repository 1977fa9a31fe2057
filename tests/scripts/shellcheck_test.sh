#!/usr/bin/env bash
# Every shell script of the project is free of shellcheck's findings; those that are not tests, which may want to go
# on and count, stop at the first failure.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

cd "$source_dir"
scripts=()
while IFS= read -r -d '' file; do
  case $file in
    *.sh | *.sbatch) scripts+=("$file") ;;
    *) if head -n 1 "$file" | grep -qE '^#!.*\b(ba)?sh$'; then scripts+=("$file"); fi ;;
  esac
done < <(find . \( -path ./.git -o -path ./build -o -path ./quickstart -o -path ./.cache \) -prune -o \
  -type f \( -name '*.sh' -o -name '*.sbatch' -o -perm -u+x \) -print0)

holds "${#scripts[@]}" -ge 8
exits 0 shellcheck --external-sources --source-path=SCRIPTDIR/../..:. "${scripts[@]}"
for script in "${scripts[@]}"; do
  # What is only sourced takes its settings from whoever sources it.
  case $script in ./tests/*) continue ;; esac
  if ! head -n 1 "$script" | grep -q '^#!'; then continue; fi
  grep -q '^set -euo pipefail$' "$script" || fail "$script does not say: set -euo pipefail"
  checks=$((checks + 1))
done
passed
