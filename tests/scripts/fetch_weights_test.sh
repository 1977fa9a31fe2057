#!/usr/bin/env bash
# tools/fetch_weights against a server on loopback, and against none.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

fetch=$source_dir/tools/fetch_weights
cache=$scratch/cache
mkdir "$scratch/served"
# Any proxy there may be has no business here.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# A file whose SHA-256 begins with the digits in the name of torchvision's: found by trying 2.3e9 numbers.
resnet18='resnet18-f37072fd.pth'
printf 'stand-in for weights %s\n' 08b85f60d >"$scratch/served/$resnet18"
alexnet='alexnet-owt-7be5be79.pth'
echo 'not the weights' >"$scratch/served/$alexnet"

python3 -u -c '
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.HTTPServer(("127.0.0.1", 0), handler)
print(server.server_port)
server.serve_forever()' "$scratch/served" >"$scratch/port" 2>"$scratch/requests" &
server=$!
background+=("$server")
for _ in $(seq 100); do
  if [ -s "$scratch/port" ]; then break; fi
  sleep 0.1
done
port=$(cat "$scratch/port")
holds -n "$port"
export QUADRAT_WEIGHTS_URL=http://127.0.0.1:$port

# --- fetched, checked, kept ---
exits 0 "$fetch" --output "$cache" resnet18
holds "$(cat "$scratch/out")" = "$cache/$resnet18"
holds "$(cat "$cache/$resnet18")" = "$(cat "$scratch/served/$resnet18")"
holds "$(grep -c GET "$scratch/requests")" = 1
exits 0 "$fetch" --output "$cache" resnet18
says err 'there already'
holds "$(cat "$scratch/out")" = "$cache/$resnet18"
holds "$(grep -c GET "$scratch/requests")" = 1

# --- one that was damaged on this side is fetched again ---
echo x >>"$cache/$resnet18"
exits 0 "$fetch" --output "$cache" resnet18
says err 'is damaged'
holds "$(cat "$cache/$resnet18")" = "$(cat "$scratch/served/$resnet18")"

# --- one that is not what its name says is not kept ---
exits 2 "$fetch" --output "$cache" alexnet
says err "$alexnet is not what its name says"
says_not out "$alexnet"
holds "$(find "$cache" -type f | wc -l)" = 1

# --- not there; no server ---
rm "$scratch/served/$alexnet"
exits 2 "$fetch" --output "$cache" alexnet
says err 404
kill "$server"
wait "$server" 2>/dev/null || true
exits 2 "$fetch" --output "$cache" alexnet
says err "could not download $QUADRAT_WEIGHTS_URL/$alexnet"
says err '--pretrained_weights none'
holds "$(find "$cache" -type f | wc -l)" = 1

# --- the command line ---
exits 1 "$fetch" resnet50
says err "'resnet50' is neither"
exits 1 "$fetch" --output
exits 2 "$fetch" --output /proc/none resnet18
says err 'cannot write to /proc/none'
passed
