# Blocks of Markdown pages, run as they are printed: each sh block right after a line `<!-- test: NAME -->`, in the folder
# PLACE. Two things are not as printed: ports 3000, 3001 and 8083 are free ones, and /srv is a folder in PLACE.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir "$WORK/bin"
ln -s "$GATEWAY" "$WORK/bin/boxgate"
export PATH="$WORK/bin:$PATH" BOXGATE_LISTEN=127.0.0.1:0

# block_names PAGE: the marks, in order, into `names`.
block_names() {
    mapfile -t names < <(sed -n 's/^<!-- test: \([a-z0-9-]*\) -->$/\1/p' "$ROOT/$1.md")
}

# block PAGE NAME: the code that follows the mark, with this run's address and folders.
block() {
    awk -v mark="<!-- test: $2 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }' "$ROOT/$1.md" |
        sed -E -e "s#--listen 127\.0\.0\.1:300[01]#--listen 127.0.0.1:0#; s#http://(127\.0\.0\.1:300[01]|localhost:8083)#${URL:-}#g; s|/srv/boxgate|$PLACE/srv|g"
}

spoke() {
    grep -qE '127\.0\.0\.1:[0-9]+' "$PLACE.printed" || ! kill -0 "$GATEWAY_PID"
}

# service PAGE NAME: runs a block whose last command stays, in the place of one that ran before; sets URL.
service() {
    [[ -z $GATEWAY_PID ]] || stop_gateway TERM
    : >"$PLACE.printed"
    block "$1" "$2" | sed '$ s/^/exec /' >"$PLACE.sh"
    env -C "$PLACE" bash -euo pipefail "$PLACE.sh" >"$PLACE.printed" 2>"$WORK/gateway.log" </dev/null &
    GATEWAY_PID=$!
    eventually 60 spoke || true
    URL=http://$(grep -ohE '127\.0\.0\.1:[0-9]+' "$PLACE.printed" "$WORK/gateway.log" | head -n 1 || true)
    succeeds "$1, $2: it answers at $URL" \
        curl -sS --fail --retry 20 --retry-connrefused --retry-delay 1 "$URL/livez"
}
