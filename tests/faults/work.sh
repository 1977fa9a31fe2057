# shellcheck shell=bash
# Sourced by the tests here: namespaces of their own, a small piece of work, and whether its results are the same.

# The script again, with mounts and a network that nobody else sees and that end with it.
if [ -z "${QUADRAT_OWN_NAMESPACES-}" ]; then
  [ "$(id -u)" -eq 0 ] || { echo "FAILED: mounting needs root"; exit 1; }
  [ -c /dev/fuse ] || { echo "FAILED: there is no /dev/fuse"; exit 1; }
  export QUADRAT_OWN_NAMESPACES=1
  if unshare --mount true 2>/dev/null; then exec unshare --net --mount --propagation private bash "$0" "$@"; fi
  # In a chroot "/" is no mount that could be made private, and "ip netns exec" fails on that too: it becomes one first.
  exec unshare --net --mount --propagation unchanged bash -c \
    'mount --rbind / /mnt && mount --make-rprivate /mnt && exec chroot /mnt bash "$@"' bash "$(realpath "$0")" "$@"
fi

bin=${QUADRAT_BIN:?the folder of the programs}
# shellcheck disable=SC2034  # used by the tests
fixtures=$bin/../tests
ip link set lo up
folder=$(mktemp -d)
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
fixture_pids=()
clean_up() {
  local mount pid
  cd /
  for mount in "$folder"/mnt*; do umount -l "$mount" 2>/dev/null || true; done
  for pid in ${fixture_pids[@]+"${fixture_pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$folder"
}
trap clean_up EXIT
cd "$folder" || exit 1
fail() {
  echo "FAILED: $*"
  if [ -e out ]; then tail -n 20 out; fi
  exit 1
}
wait_until() { # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= end)); then fail "waited in vain for $what"; fi
    sleep 0.05
  done
}

make_tiles() { # IN: training tiles and, as more tiles to score, each several times
  "$bin/quadrat-synth" --output county --tiles_across 14 --seed 6 >/dev/null 2>&1
  "$bin/quadrat-cut" --image county/county6.tif --nlcd county/county6_nlcd.tif --output "$1/tiles" >/dev/null 2>&1
  mkdir "$1/many"
  local copy file
  for copy in 1 2 3; do
    for file in "$1"/tiles/*/*.png; do cp "$file" "$1/many/$copy-$(basename "$file")"; done
  done
}
train() { # FOLDER NAME
  mpirun -n 2 --oversubscribe "$bin/quadrat-finetune" --train "$1/tiles" --validation "$1/tiles" --sample_frac 0.2 -p resnet18 \
    -r all --num_epochs 3 --batch_size 16 --runs "$1/runs" -o "$2" >out 2>&1
}
score() { # FOLDER NAME
  mpirun -n 2 --oversubscribe "$bin/quadrat-score" --tiles "$1/many" --runs "$1/runs" -o whole --precision fp32 \
    --scores "$1/scores" --name "$2" >out 2>&1
}
# What an epoch computed; not how long it took.
epochs_of() { "$bin/quadrat-runs" export "$2" --runs "$1/runs" --csv | cut -d , -f 1-6; }
same_train() { # FOLDER NAME, against plain/runs/whole
  cmp plain/runs/whole/model.safetensors "$1/runs/$2/model.safetensors" || fail "another model in $1/runs/$2"
  cmp plain/runs/whole/predictions_validation.csv "$1/runs/$2/predictions_validation.csv" || fail "other predictions"
  diff <(epochs_of plain whole) <(epochs_of "$1" "$2") || fail "other epochs"
}
same_score() { # FOLDER NAME, against plain/scores/whole
  cmp plain/scores/whole/predictions.csv "$1/scores/$2/predictions.csv" || fail "other predictions in $1/scores/$2"
  h5diff plain/scores/whole/scores.h5 "$1/scores/$2/scores.h5" /predictions || fail "other probabilities in $1/scores/$2"
}
# Whatever bears a file's own name is whole, at every instant.
all_is_whole() { # FOLDER: its runs/ and scores/
  local file
  for file in "$1"/runs/*/run.h5 "$1"/scores/*/scores.h5; do
    if [ -e "$file" ]; then h5dump -H "$file" >/dev/null 2>&1 || fail "$file cannot be read"; fi
  done
  for file in "$1"/runs/*/model.safetensors "$1"/runs/*/checkpoint.safetensors; do
    if [ -e "$file" ]; then "$bin/quadrat-weights" show "$file" >/dev/null 2>&1 || fail "$file cannot be read"; fi
  done
}
