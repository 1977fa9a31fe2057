#!/usr/bin/env bash
# quadrat-synth told to stop, started again, and asked for what cannot be.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/check.sh"
cd "$scratch"

synth=("${QUADRAT_BIN:?}/quadrat-synth" --output county)
"${synth[@]}" --name large --tiles_across 60 >log 2>&1 &
background+=($!)
until [ -e "county/.large.tif.tmp.$(hostname).${background[0]}" ]; do kill -0 "${background[0]}"; done
kill -TERM "${background[0]}"
exits 75 wait "${background[0]}"
holds "$(ls -A county)" = large_nlcd.tif

# What a killed one leaves goes when it is a day old: a younger one may be another's at work.
touch -d '25 hours ago' county/.a.tif.tmp.host.1
touch county/.b.tif.tmp.host.2
exits 0 "${synth[@]}" --name small --tiles_across 2
holds "$(ls -A county)" = $'.b.tif.tmp.host.2\nlarge_nlcd.tif\nsmall.tif\nsmall_nlcd.tif'

exits 1 "${synth[@]}" --year 4294967296
says err '--year is 4294967296, but must be 0 or 1'
passed
