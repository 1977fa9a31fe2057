#!/bin/bash
# quadrat-score as its users see it: files of the contract, ranks, kills, restarts, bad input.
set -u
bin=${QUADRAT_BIN:?}
make_model=$bin/../tests/score_make_model
tiles=${QUADRAT_SHARED:?}/data/tiles/ucmerced6/validation
suite=$QUADRAT_SHARED/data/png/suite
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0

fail() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}
[ -d "$tiles" ] || { fail "there is no '$tiles'"; exit 1; }

# expect STATUS TEXT COMMAND...: its exit status, and a text that its stderr holds on one line
expect() {
  local wanted=$1 text=$2 status=0
  shift 2
  "$@" >out 2>err || status=$?
  [ "$status" -eq "$wanted" ] || fail "exit $status, not $wanted: $* ($(cat err))"
  grep -qF -- "$text" err || fail "stderr lacks '$text': $* ($(cat err))"
}
# same A B: the same classes in the same order, and the same probabilities to the last bit
same() {
  cmp "scores/$1/predictions.csv" "scores/$2/predictions.csv" &&
    h5diff "scores/$1/scores.h5" "scores/$2/scores.h5" /predictions
}
score() { "$bin/quadrat-score" "$@"; }
on_ranks() { mpirun -n "$1" "$bin/quadrat-score" "${@:2}"; }

mkdir -p runs/{model,short,other,nan,infinite}
"$make_model" runs/model/model.safetensors resnet18 agricultural beach chaparral denseresidential forest golfcourse
"$make_model" runs/other/model.safetensors alexnet A B C
head -c 1000000 runs/model/model.safetensors >runs/short/model.safetensors
{ head -c -4 runs/model/model.safetensors && printf '\0\0\300\177'; } >runs/nan/model.safetensors
{ head -c -4 runs/model/model.safetensors && printf '\0\0\200\377'; } >runs/infinite/model.safetensors

# 480 tiles in two folders, and three that cannot be scored.
mkdir -p many/a many/b
i=0
for _ in 1 2 3 4; do
  for file in "$tiles"/*/*.png; do
    i=$((i + 1))
    if [ $((i % 2)) -eq 0 ]; then ln -s "$file" "many/a/t$i.png"; else ln -s "$file" "many/b/t$i.png"; fi
  done
done
echo garbage >many/a/u_garbage.png
cp "$suite/basn2c08.png" many/a/a_small.png
ln -s /nowhere many/b/u_gone.png

# The contract's files, on two ranks; labels from the folders.
on_ranks 2 --tiles "$tiles" -o model --precision fp32 >out 2>err || fail "two ranks: $(cat err)"
grep -q '^error [0-9.]* %$' out || fail "no error rate: $(cat out)"
[ "$(head -1 scores/model/predictions.csv)" = filepath,pred_label ] || fail "header of predictions.csv"
[ "$(wc -l <scores/model/predictions.csv)" -eq 121 ] || fail "lines of predictions.csv"
h5dump -a /status scores/model/scores.h5 | grep -q '"complete"' || fail "status is not complete"
ls scores/model/*.journal >/dev/null 2>&1 && fail "journals were left behind"
expect 0 "is complete" score --tiles "$tiles" -o model --precision fp32

# Rejected tiles are listed, and the result does not depend on the ranks.
on_ranks 2 --tiles many -o model --name reference >out 2>err || fail "many: $(cat err)"
grep -q '480 tiles scored, 3 rejected' out || fail "counts: $(cat out)"
h5dump -d /rejected scores/reference/scores.h5 >rejected
for name in a/u_garbage.png a/a_small.png b/u_gone.png; do
  grep -q "$name" rejected || fail "$name is not listed as rejected"
  [ "$(grep -c "'$name' is not scored: " err)" -eq 1 ] || fail "$name is not named once: $(cat err)"
done
on_ranks 3 --tiles many -o model --name three >out 2>err || fail "three ranks: $(cat err)"
same reference three || fail "three ranks differ from two"

# More shards than files may be open: none of the tiles is to blame.
"$bin/quadrat-pack" --tiles "$tiles" --output shards --tiles_per_shard 1 >out 2>err || fail "packing: $(cat err)"
(ulimit -n 90 && score --tiles shards -o model --name shards) >out 2>err || fail "many shards: $(cat err)"
grep -q '120 tiles scored, 0 rejected' out || fail "many shards: $(cat out)"

score --tiles many -o model --name other_precision --precision fp32 >out 2>err || fail "fp32: $(cat err)"
h5dump -a /environment/precision scores/reference/scores.h5 | grep -q bf16 && same reference other_precision >differences &&
  fail "bf16 and fp32 give the same to the last bit: the comparison is blind"

# Another folder of tiles with the same names; and the run's own, when it is gone.
cp -a many later
expect 2 "--tiles was 'many' and is 'later'" score --tiles later -o model --name reference
rm -r later
mv many gone
expect 0 "is complete" score --tiles many -o model --name reference
mv gone many

# Other settings under the same name.
if h5dump -a /environment/precision scores/reference/scores.h5 | grep -q bf16; then
  expect 2 "--precision was" score --tiles many -o model --name reference --precision fp32
elif grep -qw avx512f /proc/cpuinfo; then
  expect 2 "--precision was" score --tiles many -o model --name reference --precision bf16
fi
expect 2 "other tiles" score --tiles many -o model --name reference --sample_frac 0.5

# What of a complete scoring is gone comes back from its record.
mv scores/reference/predictions.csv predictions.csv
expect 0 "was gone and is written again" score --tiles many -o model --name reference
cmp predictions.csv scores/reference/predictions.csv || fail "predictions.csv came back otherwise"

# A folder whose tiles have changed is told so, and may be scored anew.
mkdir few
cp "$tiles"/forest/*.png few
count=$(find few -name '*.png' | wc -l)
score --tiles few -o model >out 2>err --name few || fail "few: $(cat err)"
rm few/forest_40.png
expect 2 "the tiles in 'few' are others now, $((count - 1)) of them" score --tiles few -o model --name few
score --tiles few -o model --name few --resume never >out 2>err || fail "anew: $(cat err)"
grep -q "$((count - 1)) tiles scored" out || fail "anew: $(cat out)"
expect 2 "another model" score --tiles many -o other --name reference
same reference three || fail "a refused command changed the results"

# Features are made or refused, never left out in silence.
expect 2 "they were made without --features" score --tiles "$tiles" -o model --precision fp32 --features f.h5
features=(--tiles "$tiles" -o model --name features --sample_frac 0.1 --features)
expect 2 "there is no folder 'nowhere'" score "${features[@]}" nowhere/f.h5
[ -e scores/features ] && fail "a scoring began whose features could not be written"
score "${features[@]}" f.h5 >out 2>err || fail "features: $(cat err)"
expect 0 "is complete" score "${features[@]}" f.h5
mv f.h5 earlier.h5
expect 0 "'f.h5' is not there" score "${features[@]}" f.h5
h5diff f.h5 earlier.h5 /features || fail "other features the second time"
expect 2 "they were made with --features" score --tiles "$tiles" -o model --name features --sample_frac 0.1

# Tiles that were cut again under the same names, by what quadrat-cut says of its work, if it does.
cp -r "$tiles" cut
score --tiles cut -o model --name cut_again --sample_frac 0.1 >out 2>err || fail "$(cat err)"
echo '{"created": "then"}' >cut/tiles.json
expect 0 "is complete" score --tiles cut -o model --name cut_again --sample_frac 0.1
score --tiles cut -o model --name cut_again1 --sample_frac 0.1 >out 2>err || fail "$(cat err)"
expect 0 "is complete" score --tiles cut -o model --name cut_again1 --sample_frac 0.1
echo '{"created": "later"}' >cut/tiles.json
expect 2 "the tiles in 'cut' have been cut again since" score --tiles cut -o model --name cut_again1 --sample_frac 0.1
rm cut/tiles.json
expect 0 "is complete" score --tiles cut -o model --name cut_again1 --sample_frac 0.1

# A file server dies between two units: the last tile of the first is not to blame, and neither is the next. A socket
# cannot be opened, as little as what lies on a device that is gone.
mkdir lost
cp "$tiles"/[a-d]*/*.png lost/
names=(lost/*.png)
names=("${names[@]#lost/}")
[ "${#names[@]}" -gt 65 ] || fail "${#names[@]} tiles are not enough for a unit of 64 and a second one"
score --tiles lost -o model --name found --precision fp32 >out 2>err || fail "$(cat err)"
mkdir safe
for name in "${names[@]:63:2}"; do mv "lost/$name" safe/; done
(cd lost && python3 -c 'import socket, sys; [socket.socket(socket.AF_UNIX).bind(name) for name in sys.argv[1:]]' \
  "${names[@]:63:2}")
expect 2 "start the same command again" score --tiles lost -o model --name lost --precision fp32
h5dump -a /status scores/lost/scores.h5 | grep -q '"failed"' || fail "a scoring that failed is not called so"
for name in "${names[@]:63:2}"; do mv "safe/$name" lost/; done
score --tiles lost -o model --name lost --precision fp32 >out 2>err || fail "after the file server: $(cat err)"
same found lost || fail "tiles that a file server lost between two units are not scored"

# int8, calibrated where there are no training tiles.
has_int8=false has_choice=false
if grep -qw avx2 /proc/cpuinfo; then has_choice=true; else echo "this CPU has no AVX2: there is no choice of precisions"; fi
if grep -qw avx512_vnni /proc/cpuinfo; then
  has_int8=true
  expect 0 "calibrated on the tiles to score" score --tiles "$tiles" -o model --name bytes --precision int8
  h5dump -a /environment/calibrated_on scores/bytes/scores.h5 | grep -q '96 tiles' || fail "calibration is not recorded"
else
  echo "this CPU has no AVX-512 VNNI: int8 is not tried"
  expect 1 "has AVX-512 VNNI" score --tiles "$tiles" -o model --name bytes --precision int8
fi

# auto measures once what each precision costs on the validation tiles, and keeps it beside the model.
# The folder's name is not UTF-8.
ln -s "$tiles" $'validation\xe9'
"$bin/quadrat-finetune" --train "${tiles%validation}train" --validation $'validation\xe9' -p resnet18 -r last_only --num_epochs 1 \
  --sample_frac 0.1 --pretrained_weights none -o trained >out 2>err || fail "training: $(cat err)"
if $has_choice; then
  QUADRAT_NO_AVX512=1 "$bin/quadrat-score" --tiles "$tiles" -o trained --name avx2 >out 2>err || fail "without AVX-512: $(cat err)"
  h5dump -a /environment/precision_reason scores/avx2/scores.h5 | grep -Eq 'fp32 [0-9.]+ % wrong at [0-9]+ tiles/s, int16 [0-9.]+ % wrong at [0-9]+ tiles/s"' ||
    fail "without AVX-512 int16 was not tried alone: $(h5dump -a /environment/precision_reason scores/avx2/scores.h5)"
  grep -q '"calibration_groups": 0' runs/trained/score_trial.json || fail "it was calibrated for int8, which was not tried"
  rm runs/trained/score_trial.json
  expect 0 "measuring once" on_ranks 2 --tiles "$tiles" -o trained --name first
  h5dump -a /environment/precision_reason scores/first/scores.h5 | grep -q 'within 0.3 points of fp32.s error on 120 tiles' ||
    fail "the choice of precision is not recorded: $(h5dump -a /environment/precision_reason scores/first/scores.h5)"
  [ -s runs/trained/score_trial.json ] || fail "what was measured is not kept"
  score --tiles "$tiles" -o trained --name second >out 2>err || fail "what was kept: $(cat err)"
  grep -q "measuring" err && fail "it was measured a second time"
  same first second || fail "one rank with what was kept differs from two that measured"
  [ -e scores/first/.lock ] && fail "the lock was left behind"
  expect 0 "not to be found" score --tiles "$tiles" -o model --name unmeasured
fi

# A cascade: thresholds are set on these very tiles, so that the promise about the error holds to the tile.
error_of() { sed -n 's/^error //p' out; }
score --tiles "$tiles" -o trained --name whole --precision fp32 >out 2>err || fail "whole: $(cat err)"
whole=$(error_of)
expect 0 "measuring what a quick look costs" \
  on_ranks 2 --tiles "$tiles" -o trained --name cascade --precision fp32 --cascade --cascade_points 5
awk -v a="$(error_of)" -v b="$whole" 'BEGIN { exit !(a <= b + 0.05) }' ||
  fail "a cascade of 5 points has an error of $(error_of), the whole network $whole"
h5dump -a /environment/look_reason scores/cascade/scores.h5 | grep -q 'settles .* of 120 validation tiles' ||
  fail "what the look settles is not recorded: $(h5dump -a /environment/look_reason scores/cascade/scores.h5)"
same whole cascade >/dev/null && fail "no tile was settled by the look: the comparison is blind"
score --tiles "$tiles" -o trained --name cascade1 --precision fp32 --cascade --cascade_points 5 >out 2>err || fail "$(cat err)"
grep -q "measuring" err && fail "the cascade was measured a second time"
same cascade cascade1 || fail "a cascade on one rank differs from two"
# A look that is larger than the tile was found by nobody.
sed -i 's/"side_px": [0-9]*/"side_px": 512/' runs/trained/score_trial.json
expect 0 "measuring what a quick look costs" \
  score --tiles "$tiles" -o trained --name cascade_anew --precision fp32 --cascade --cascade_points 5
score --tiles "$tiles" -o trained --name none --precision fp32 --cascade --cascade_points 0 >out 2>err || fail "$(cat err)"
awk -v a="$(error_of)" -v b="$whole" 'BEGIN { exit !(a <= b) }' || fail "a cascade of 0 points costs: $(error_of), whole $whole"
expect 2 "--cascade was used with --cascade_points 5" score --tiles "$tiles" -o trained --name cascade --precision fp32
expect 2 "are not to be found" score --tiles "$tiles" -o model --name unmeasured_cascade --cascade
expect 1 "any size" score --tiles "$tiles" -o other --name alexnet --cascade
expect 1 "leave out one" score --tiles "$tiles" -o trained --cascade --test_time_augmentation

# What was found out before stays known, and a model's own training tiles are as good as any.
if $has_choice; then
  rm runs/trained/score_trial.json
  if $has_int8; then
    score --tiles "${tiles%validation}train" -o trained --name own --precision int8 --sample_frac 0.1 >out 2>err || fail "$(cat err)"
    grep -q "calibrated on the tiles to score" err && fail "training tiles are taken for others: $(cat err)"
    [ -s runs/trained/score_trial.json ] || fail "a calibration on training tiles that are also scored is not kept"
  fi
  expect 0 "measuring what a quick look costs" \
    score --tiles "$tiles" -o trained --name cascade2 --precision fp32 --cascade --cascade_points 5
  expect 0 "measuring once" score --tiles "$tiles" -o trained --name third
  score --tiles "$tiles" -o trained --name cascade3 --precision fp32 --cascade --cascade_points 5 >out 2>err || fail "$(cat err)"
  grep -q "measuring" err && fail "the cascade was measured again after the precisions"

  # Asked to stop while precisions are tried.
  rm runs/trained/score_trial.json
  mpirun -n 2 "$bin/quadrat-score" --tiles "$tiles" -o trained --name early >out 2>early.err &
  launcher=$!
  for _ in $(seq 600); do
    grep -q "measuring once" early.err && break
    sleep 0.1
  done
  kill -USR1 "$launcher"
  wait "$launcher"
  status=$?
  [ "$status" -eq 75 ] || fail "SIGUSR1 while precisions are tried: exit $status, not 75: $(cat early.err)"
  grep -q "start the same command again" early.err || fail "no word of going on: $(cat early.err)"
  [ -e runs/trained/score_trial.json ] && fail "precisions were tried to their end"
  [ -e scores/early/scores.h5 ] && fail "the scoring was begun"
  expect 0 "measuring once" on_ranks 2 --tiles "$tiles" -o trained --name early
fi

# Other views and features are part of what a run is.
score --tiles "$tiles" -o model --name views --sample_frac 0.1 --test_time_augmentation >out 2>err || fail "views: $(cat err)"
expect 2 "8 views" score --tiles "$tiles" -o model --name views --sample_frac 0.1
expect 1 "--features is" score --tiles "$tiles" -o model --features file.txt

# A sample is seeded and has the size asked for.
score --tiles many -o model --name half --sample_frac 0.25 --seed 3 >out 2>err || fail "sample: $(cat err)"
grep -Eq '(119|120|121) tiles scored' out || fail "sample size: $(cat out)"

# SIGKILL to mpirun and its ranks at some instants, then to one rank; each time less is left to do.
kill_after() {
  mpirun -n 2 "$bin/quadrat-score" --tiles many -o model --name killed >/dev/null 2>&1 &
  local launcher=$! children
  sleep "$1"
  children=$(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null)
  if [ "$2" = all ]; then kill -KILL "$launcher" 2>/dev/null; fi
  for child in $children; do
    kill -KILL "$child" 2>/dev/null
    [ "$2" = all ] || break
  done
  wait "$launcher" 2>/dev/null
}
for instant in 1 3 4; do kill_after "$instant" all; done
kill_after 3 one
on_ranks 1 --tiles many -o model --name killed >out 2>err || fail "after kills: $(cat err)"
same reference killed || fail "killed runs give another result"

# Asked to stop: exit 75, whole files, and the same command goes on.
mpirun -n 2 "$bin/quadrat-score" --tiles many -o model --name stopped >stopped.out 2>stopped.err &
launcher=$!
for _ in $(seq 600); do
  ls scores/stopped/*.journal >/dev/null 2>&1 && break
  sleep 0.1
done
# As long as another asks, it must not come to its end.
ranks=$(cat "/proc/$launcher/task/$launcher/children")
# shellcheck disable=SC2086  # several
kill -STOP $ranks
# Of a rank's threads one takes SIGINT, SIGUSR1 and SIGTERM, and it computes nothing: see src/base/signals.cpp.
for rank in $ranks; do
  taking=0
  for task in "/proc/$rank/task"/*/status; do
    blocked=$(sed -n 's/^SigBlk:\t//p' "$task")
    ((0x${blocked} & 0x4202)) || taking=$((taking + 1))
  done
  [ "$taking" -eq 1 ] || fail "$taking threads of rank $rank take stop signals"
  ((0x$(sed -n 's/^SigBlk:\t//p' "/proc/$rank/task/$rank/status") & 0x4202)) || fail "the main thread takes stop signals"
done
expect 2 "it is in use by process " score --tiles many -o model --name stopped
# shellcheck disable=SC2086
kill -CONT $ranks
kill -USR1 "$launcher"
wait "$launcher"
status=$?
[ "$status" -eq 75 ] || fail "SIGUSR1: exit $status, not 75: $(cat stopped.err)"
h5dump -a /status scores/stopped/scores.h5 | grep -q '"interrupted"' || fail "status is not interrupted"
[ -e scores/stopped/predictions.csv ] && fail "an interrupted run wrote predictions.csv"
expect 0 "going on" on_ranks 2 --tiles many -o model --name stopped
same reference stopped || fail "a stopped run gives another result"

# AMX is used where every rank has it, and a run goes on as it began.
if grep -qw amx_int8 /proc/cpuinfo; then
  begin() { # NAME VARIABLE: and stop at the first unit
    env "$2" mpirun -n 2 "$bin/quadrat-score" --tiles many -o model --name "$1" >out 2>err &
    local launcher=$!
    for _ in $(seq 600); do
      ls scores/"$1"/*.journal >/dev/null 2>&1 && break
      sleep 0.1
    done
    kill -USR1 "$launcher"
    wait "$launcher"
  }
  none=QUADRAT_NO_AMX=1
  score --tiles "$tiles" -o model --name integers --precision int16 --sample_frac 0.1 >out 2>err || fail "int16: $(cat err)"
  h5dump -a /environment/amx scores/integers/scores.h5 | grep -q '"no"' || fail "int16, which has no use for AMX, is said to use it"
  env "$none" mpirun -n 2 "$bin/quadrat-score" --tiles many -o model --name plain >out 2>err || fail "without AMX: $(cat err)"
  same reference plain >differences && fail "with AMX and without the last digits are the same: the comparison is blind"
  # shellcheck disable=SC2016  # each rank's own
  mpirun -n 2 sh -c 'if [ "$OMPI_COMM_WORLD_RANK" = 0 ]; then export QUADRAT_NO_AMX=1; fi; exec "$@"' rank \
    "$bin/quadrat-score" --tiles many -o model --name mixed >out 2>err || fail "one rank without AMX: $(cat err)"
  same plain mixed || fail "one rank used AMX that another has not"
  begin begun_plain "$none"
  on_ranks 2 --tiles many -o model --name begun_plain >out 2>err || fail "going on without AMX: $(cat err)"
  same plain begun_plain || fail "a run begun without AMX went on with it"
  begin begun_amx OTHER=1
  expect 2 "not every rank's CPU has it now" env "$none" "$bin/quadrat-score" --tiles many -o model --name begun_amx
  on_ranks 2 --tiles many -o model --name begun_amx >out 2>err || fail "going on with AMX: $(cat err)"
  same reference begun_amx || fail "a run begun with AMX gives another result"
fi

# A journal cut off in the middle of a unit, and one with a flipped byte, cost what they held and nothing else.
mpirun -n 2 "$bin/quadrat-score" --tiles many -o model --name cut >out 2>err &
launcher=$!
for _ in $(seq 600); do
  [ "$(cat scores/cut/*.journal 2>/dev/null | wc -c)" -gt 900 ] && break
  sleep 0.1
done
kill -USR1 "$launcher"
wait "$launcher"
for journal in scores/cut/*.journal; do
  truncate -s -7 "$journal"
  break
done
on_ranks 2 --tiles many -o model --name cut >out 2>err || fail "cut journal: $(cat err)"
same reference cut || fail "a cut journal changed the result"

# Bad input: one clear line, the right status, nothing left behind.
expect 1 "--tiles is missing" score -o model
expect 1 "--precision is 'fp64'" score --tiles many -o model --precision fp64
expect 1 "--sample_frac" score --tiles many -o model --sample_frac 0
expect 1 "--output_model_name" score --tiles many -o ../model
expect 2 "there is no" score --tiles many -o nothing
expect 2 "there is no such folder" score --tiles nowhere -o model
mkdir empty small
expect 2 "no .png file" score --tiles empty -o model
cp "$suite/basn2c08.png" small/
expect 2 "32x32 px" score --tiles small -o model
expect 2 "runs/short/model.safetensors" score --tiles many -o short
expect 2 "holds values that are not finite" score --tiles many -o nan
expect 2 "holds values that are not finite" score --tiles many -o infinite
expect 2 "there is no" on_ranks 2 --tiles many -o nothing
[ "$(grep -c error: err)" -eq 1 ] || fail "an error of all ranks is printed more than once: $(cat err)"
for name in nothing short; do [ -e "scores/$name" ] && fail "scores/$name was made for nothing"; done
mkdir garbage
for n in 1 2 3; do echo garbage >garbage/$n.png; done
expect 2 "none of the 3 tiles could be read" score --tiles garbage -o model --name garbage
h5dump -a /status scores/garbage/scores.h5 | grep -q '"failed"' || fail "a scoring that found nothing to read is not failed"
[ "$(h5dump -d /rejected scores/garbage/scores.h5 | grep -c '[123]\.png')" -eq 3 ] || fail "the tiles are not listed as rejected"
for n in 1 2 3; do cp "lost/${names[$n]}" garbage/$n.png; done
score --tiles garbage -o model --name garbage >out 2>err || fail "tiles that were mended: $(cat err)"
grep -q '3 tiles scored, 0 rejected' out || fail "tiles that were mended: $(cat out)"

[ "$failures" -eq 0 ] || exit 1
echo "all passed"
