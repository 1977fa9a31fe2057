#!/usr/bin/env bash
# quadrat-runs and quadrat-report as a user meets them: output, exit status, one line of error.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$QUADRAT_BIN/../tests/make_records" . 12
mkdir runs/foreign runs/deleted
echo "no record" > runs/foreign/run.h5

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# says STATUS TEXT COMMAND...: the command ends with STATUS and says TEXT in one line on stderr
says() {
  local status=$1 text=$2 got=0
  shift 2
  "$@" > out.txt 2> err.txt || got=$?
  [ "$got" = "$status" ] || fail "$*: exit $got, not $status: $(cat err.txt)"
  grep -qF -- "$text" err.txt || fail "$*: says '$(cat err.txt)', not '$text'"
  [ "$(wc -l < err.txt)" = 1 ] || fail "$*: more than one line: $(cat err.txt)"
  [ ! -s out.txt ] || fail "$*: something on stdout"
}

runs="$QUADRAT_BIN/quadrat-runs"
report="$QUADRAT_BIN/quadrat-report"

"$runs" list > list.txt
grep -q '^made *complete *resnet18 last_only' list.txt || fail "list: $(cat list.txt)"
grep -q '^foreign: unreadable: .*no HDF5 file' list.txt || fail "list: the foreign record is not named"
grep -q '^deleted: unreadable: .*no run.h5' list.txt || fail "list: the deleted record is not named"
[ "$("$runs" best)" = made ] || fail "best"
[ "$("$runs" best made)" = made ] || fail "best of those named"
[ "$("$runs" best --metric train_loss)" = made ] || fail "best --metric"
"$runs" show made | grep -q 'true \\ predicted' || fail "show"
"$runs" compare made made > /dev/null || fail "compare"
"$runs" compare > compare.txt || fail "compare all"
grep -q '^foreign: unreadable' compare.txt || fail "compare: the foreign record is not named"
[ "$("$runs" export made --csv | wc -l)" = 11 ] || fail "export"
"$runs" --help | grep -q 'compare' || fail "--help"

# A result that does not arrive is no success.
[ "$("$runs" export made --table predictions | wc -c)" -gt 65536 ] || fail "no output is longer than a buffer"
for command in "$runs list" "$runs export made --table predictions" "$runs --help" "$report --run made --output full"; do
  status=0
  $command > /dev/full 2> err.txt || status=$?
  [ "$status" = 2 ] || fail "$command > /dev/full: exit $status: $(cat err.txt)"
  grep -q "cannot write 'standard output': No space left" err.txt || fail "$command > /dev/full: $(cat err.txt)"
done
says 1 "did you mean list" "$runs" lsit
says 1 "say what to do" "$runs"
says 1 "wants the name of one run" "$runs" show
says 1 "--metric is 'speed'" "$runs" best --metric speed
says 1 "there is no option '--colour'" "$runs" list --colour red
says 2 "did you mean 'made'" "$runs" show mad
says 2 "cannot read run record" "$runs" show foreign
says 2 "cannot list runs in 'nowhere'" "$runs" list --runs nowhere
mkdir none
says 2 "cannot name the best run" "$runs" best --runs none

"$report" --run made --scores year2 --versus year1 --output report > files.txt 2> notes.txt
while read -r file; do [ -s "$file" ] || fail "report: no $file"; done < files.txt
[ "$(head -n 1 files.txt)" = report/index.html ] || fail "report: $(cat files.txt)"
grep -q 'pictures of mistakes were not found' notes.txt || fail "report: $(cat notes.txt)"

"$report" --run made --scores year2 --output report >files.txt 2>/dev/null
[ ! -e report/changes.csv ] || fail "report: an earlier report's changes.csv lies beside it"
grep -q changes.csv files.txt && fail "report: $(cat files.txt)"
says 1 "name two scorings" "$report" --scores year2 --versus year2 --output r
says 1 "--output is missing" "$report" --run made
says 1 "name what to report on" "$report" --output r
says 1 "--versus needs --scores" "$report" --run made --versus year1 --output r
says 2 "did you mean 'year1'" "$report" --scores year --output r
says 2 "no HDF5 file" "$report" --run foreign --output r
echo text > file
says 2 "cannot create folder 'file'" "$report" --run made --output file
if [ "$(id -u)" != 0 ]; then
  mkdir -m 555 closed
  says 2 "Permission denied" "$report" --run made --output closed/r
fi
echo "all fine"
