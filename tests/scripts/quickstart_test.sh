#!/usr/bin/env bash
# tools/quickstart with programs that only say what they were asked: a step that fails or is interrupted ends it there,
# and the next start begins with it.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

repository=$scratch/repository
bin=$repository/build/release/bin
mkdir -p "$repository/tools" "$bin" "$scratch/path"
cp "$source_dir"/tools/{quickstart,common.sh} "$repository/tools"
# What ends with another code than 0 stands in $scratch/fail: a pattern of its command, the code.
cat >"$bin/quadrat-synth" <<END
#!/usr/bin/env bash
set -euo pipefail
asked="\${0##*/} \$*"
echo "\$asked" >>"$scratch/asked"
if [ -e "$scratch/fail" ]; then
  read -r pattern code <"$scratch/fail"
  [[ ! \$asked =~ \$pattern ]] || exit "\$code"
fi
END
for name in cut finetune score report runs; do cp "$bin/quadrat-synth" "$bin/quadrat-$name"; done
printf '#!/bin/sh\n' >"$scratch/path/cmake"
# shellcheck disable=SC2016  # the stand-in's own words
printf '#!/usr/bin/env bash\nuntil [[ $1 = */quadrat-* ]]; do shift; done\nexec "$@"\n' >"$scratch/path/mpirun"
chmod +x "$scratch/path"/* "$bin"/*
export PATH=$scratch/path:$PATH
quickstart() { rm -f "$scratch/asked"; "$repository/tools/quickstart" --no_setup; }
asked() { grep -c "$1" "$scratch/asked" || true; }

exits 0 quickstart
holds "$(asked synth)" = 3
holds "$(asked cut)" = 3
holds "$(asked finetune)" = 1
for code in 2 75; do
  echo "synth.*name.validation $code" >"$scratch/fail"
  exits "$code" quickstart
  holds "$(asked synth)" = 2
  holds "$(asked cut)" = 0
  for name in training:1 validation:2; do
    echo "cut.*tiles/${name%:*} $code" >"$scratch/fail"
    exits "$code" quickstart
    holds "$(asked cut)" = "${name#*:}"
    holds "$(asked finetune)" = 0
  done
done
says err 'interrupted; tools/quickstart goes on from there'
passed
