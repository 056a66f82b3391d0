#!/usr/bin/env bash
# docs/ADAPTERS.md as it is printed: its files, and each sh block right after a line `<!-- test: NAME -->`, in order and in one
# folder. Ports 8080 and 3000 are free ones.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PAGE=$ROOT/docs/ADAPTERS.md
PORT=0
mkdir -p "$WORK/bin" "$WORK/place"
ln -s "$GATEWAY" "$WORK/bin/boxgate"
export PATH="$WORK/bin:$PATH" BOXGATE_LISTEN=127.0.0.1:0

# block MARK: the code that follows the mark, with this run's ports.
block() {
    awk -v mark="<!-- $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }' "$PAGE" | sed -e "s|http://127\.0\.0\.1:3000|${URL:-}|g; s|127\.0\.0\.1:8080|127.0.0.1:$PORT|g"
}
# page NAME: runs a block.
page() {
    block "test: $1" >"$WORK/$1.sh"
    succeeds "ADAPTERS.md, $1" env -C "$WORK/place" bash -euo pipefail "$WORK/$1.sh"
}

page begin
says "what begins is good" 'mycloud [0-9a-f]{16} is good'
says "its tests pass" '[1-9][0-9]* passed, 0 failed'

# Its last line, but for the port: which one it got is printed.
block "file: cloud.py" | sed '$ d' >"$WORK/place/cloud.py"
matches "the page has a cloud" 'serve_forever' "$(block "file: cloud.py" | tail -n 1)"
printf 'server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cloud)\nprint(server.server_port, flush=True)\nserver.serve_forever()\n' \
    >>"$WORK/place/cloud.py"
python3 "$WORK/place/cloud.py" >"$WORK/port" 2>/dev/null &
CLOUD=$!
stop_cloud() {
    local code=$?
    kill "$CLOUD" 2>/dev/null || true
    return "$code"
}
trap 'CODE=$?; stop_cloud; cleanup "$CODE"' EXIT
eventually 20 test -s "$WORK/port"
PORT=$(cat "$WORK/port")
block "file: boxgate.toml" >"$WORK/place/boxgate.toml"

block "test: serve" | sed '$ s/^/exec /' >"$WORK/serve.sh"
env -C "$WORK/place" bash -euo pipefail "$WORK/serve.sh" >"$WORK/printed" 2>"$WORK/gateway.log" </dev/null &
GATEWAY_PID=$!
spoke() { grep -qE '127\.0\.0\.1:[0-9]+' "$WORK/printed" || ! kill -0 "$GATEWAY_PID"; }
eventually 60 spoke || true
URL=http://$(grep -ohE '127\.0\.0\.1:[0-9]+' "$WORK/printed" | head -n 1 || true)
page ask
says "the catalogue has the size" '"id":"small"'
says "a server is ordered" '\{"id":"1"\}'
says "it is on its way" '"status":"creating"'
says "it is ready" '"status":"active".*"internal_ip":"10\.0\.0\.7"'

finish
