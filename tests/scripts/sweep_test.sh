#!/usr/bin/env bash
# tools/sweep with programs that only say what they were asked: the grid, one entry of it, failures, interruptions.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

bin=$scratch/bin
runs=$scratch/runs
mkdir "$bin"
# A run whose name holds what `fail` holds ends with the exit code beside it; others leave a record.
cat >"$bin/quadrat-finetune" <<'END'
#!/usr/bin/env bash
set -euo pipefail
here=$(dirname "$0")
echo "${0##*/} $*" >>"$here/asked"
while (($#)); do
  case $1 in
    --runs) runs=$2 ;;
    --output_model_name) name=$2 ;;
  esac
  shift
done
if [ -e "$here/fail" ]; then
  read -r part code <"$here/fail"
  if [[ $name == *"$part"* ]]; then exit "$code"; fi
fi
mkdir -p "$runs/$name"
touch "$runs/$name/run.h5"
END
cp "$bin/quadrat-finetune" "$bin/quadrat-fit"
cat >"$bin/quadrat-runs" <<'END'
#!/usr/bin/env bash
echo "${0##*/} $*" >>"$(dirname "$0")/asked"
if [ "$1" = best ]; then echo "$2"; fi
END
chmod +x "$bin"/quadrat-*
asked() { cat "$bin/asked" 2>/dev/null || true; }
sweep() { "$source_dir/tools/sweep" --bin "$bin" --runs "$runs" --launch '' "$@"; }
data=(--train 'the train' --validation validation)

exits 0 sweep "${data[@]}" --list -- --num_epochs 3
holds "$(wc -l <"$scratch/out")" = 9
holds "$(sort -u "$scratch/out" | wc -l)" = 9
holds "$(grep -c 'quadrat-finetune .*--num_epochs 3$' "$scratch/out")" = 5
holds "$(grep -c 'quadrat-fit .*--features' "$scratch/out")" = 4
holds -z "$(grep 'resnet18.*fully_connected' "$scratch/out" || true)"
holds -z "$(asked)"
third=$(sed -n 3p "$scratch/out")

# What --list prints is what --only does.
exits 0 sweep "${data[@]}" --only 3 -- --num_epochs 3
printed=$(eval "set -- $third"; shift; echo "$*")
holds "$(asked)" = "quadrat-finetune $printed"
says_not out quadrat-runs
for wrong in 0 10 x ''; do exits 1 sweep "${data[@]}" --only "$wrong"; done
exits 1 sweep --list
exits 1 sweep "${data[@]}" --colour red
exits 1 sweep "${data[@]}" --prefix a/b

# One that fails does not stop the others, but shows in the end.
rm -r "$bin/asked" "$runs"
echo resnet18_all 2 >"$bin/fail"
exits 2 sweep "${data[@]}" --alexnet_weights a.pth --resnet18_weights r.pth --sample_frac 0.5 --seed 7
holds "$(asked | grep -c '^quadrat-fi')" = 9
holds "$(asked | grep -c 'alexnet --pretrained_weights a.pth --sample_frac 0.5 --seed 7')" = 5
holds "$(asked | grep -c 'resnet18 --pretrained_weights r.pth --sample_frac 0.5 --seed 7')" = 4
says err 'failed: sweep_resnet18_all'
holds "$(asked | tail -n 1)" = "quadrat-runs best sweep_alexnet_last_only sweep_alexnet_fully_connected \
sweep_alexnet_all sweep_resnet18_last_only sweep_alexnet_logistic_regression sweep_alexnet_random_forest \
sweep_resnet18_logistic_regression sweep_resnet18_random_forest --runs $runs"
holds "$(tail -n 1 "$scratch/out")" = sweep_alexnet_last_only
# So do a crash and the kernel's kill.
for code in 137 139; do
  rm -r "$bin/asked" "$runs"
  echo alexnet_all "$code" >"$bin/fail"
  exits 2 sweep "${data[@]}"
  holds "$(asked | grep -c '^quadrat-fi')" = 9
done

# One that is interrupted does.
for code in 75 130 143; do
  rm -r "$bin/asked" "$runs"
  echo alexnet_all "$code" >"$bin/fail"
  exits 75 sweep "${data[@]}"
  holds "$(asked | wc -l)" = 3
done
rm "$bin/fail"
exits 0 sweep "${data[@]}"
exits 0 sweep --compare
exits 2 sweep --compare --prefix other
says err 'no run called other_*'
passed
