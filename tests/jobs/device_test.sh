#!/usr/bin/env bash
# A machine without a GPU: programs built for one start there, and refuse --device cuda in one line.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/check.sh"

if [ -e /dev/nvidiactl ]; then
  echo 'note: this machine has a GPU; nothing to be refused'
  exit 0
fi

finetune=("$QUADRAT_BIN/quadrat-finetune" --train "$scratch/none" --validation "$scratch/none" -p resnet18
  -r all -o refused --runs "$scratch/runs")
exits 0 "$QUADRAT_BIN/quadrat-finetune" --version
exits 0 "$QUADRAT_BIN/quadrat-score" --version
exits 2 "$QUADRAT_BIN/quadrat-score" --tiles "$scratch/none" -o none --runs "$scratch/runs" --device cuda
holds "$(grep -c 'error: ' "$scratch/err")" = 1
says err 'use a GPU'
exits 2 "${finetune[@]}" --device cuda
holds "$(grep -c 'error: ' "$scratch/err")" = 1
says err 'use a GPU'
says err 'give --device cpu'
says_not err 'no such folder'
# On the CPU it gets as far as the folder, and loads nothing that only a GPU needs.
export LD_DEBUG=files
for device in cpu auto; do
  exits 2 "${finetune[@]}" --device $device
  says err 'no such folder'
  for library in libquadrat_cuda libtorch_cuda libcublas libnccl; do says_not err $library; done
done
if [ -e "$QUADRAT_BIN/../lib/libquadrat_cuda.so" ]; then
  exits 2 "${finetune[@]}" --device cuda
  says err 'file=libtorch_cuda.so'
  says err 'this machine has none that CUDA can use'
fi
passed
