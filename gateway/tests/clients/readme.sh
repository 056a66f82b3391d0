#!/usr/bin/env bash
# The README's commands as they are printed: each sh block right after a line `<!-- test: NAME -->`, in order and in
# one folder. A block that ends in `quickstart` or `serve` goes on running, and what follows talks to it. Then
# the lines that quickstart itself prints, in a folder of their own. Three things are not as printed: what cargo
# would build in release mode is the binary that is built already, port 3000 is a free one, /srv is a folder here.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$WORK/bin" "$WORK/place/target/release" "$WORK/paste"
cat >"$WORK/bin/cargo" <<SHIM
#!/usr/bin/env bash
[[ \$1 == build ]] && exit
while [[ \$1 != -- ]]; do shift; done
shift
exec "$GATEWAY" "\$@"
SHIM
chmod +x "$WORK/bin/cargo"
ln -s "$GATEWAY" "$WORK/place/target/release/boxgate"
ln -s "$GATEWAY" "$WORK/bin/boxgate"
export PATH="$WORK/bin:$PATH" BOXGATE_LISTEN=127.0.0.1:0

# block NAME: the code that follows the mark, with this run's address and folders.
block() {
    awk -v mark="<!-- test: $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }' "$ROOT/README.md" |
        sed -e "s|--listen 127\.0\.0\.1:3000|--listen 127.0.0.1:0|; s|http://127\.0\.0\.1:3000|${URL:-}|g; s|/srv/boxgate|$WORK/srv|g"
}

spoke() {
    grep -qE '127\.0\.0\.1:[0-9]+' "$WORK/printed" || ! kill -0 "$GATEWAY_PID"
}

# service NAME: runs a block whose last command stays; sets URL.
service() {
    [[ -z $GATEWAY_PID ]] || stop_gateway TERM
    : >"$WORK/printed"
    block "$1" | sed '$ s/^/exec /' >"$WORK/$1.sh"
    env -C "$WORK/place" bash -euo pipefail "$WORK/$1.sh" >"$WORK/printed" 2>"$WORK/gateway.log" </dev/null &
    GATEWAY_PID=$!
    eventually 60 spoke || true
    URL=http://$(grep -oE '127\.0\.0\.1:[0-9]+' "$WORK/printed" "$WORK/gateway.log" -h | head -n 1 || true)
    succeeds "README, $1: it answers at $URL" \
        curl -sS --fail --retry 20 --retry-connrefused --retry-delay 1 "$URL/livez"
}

mapfile -t names < <(sed -n 's/^<!-- test: \([a-z0-9-]*\) -->$/\1/p' "$ROOT/README.md")
matches "README.md has blocks to run, quickstart first" '^quickstart' "${names[*]:-none}"

for name in "${names[@]}"; do
    if [[ $(block "$name" | tail -n 1) =~ (quickstart|serve)( |$) ]]; then
        service "$name"
        [[ $name != quickstart ]] || cp "$WORK/printed" "$WORK/quickstart.printed"
    else
        block "$name" >"$WORK/$name.sh"
        succeeds "README, $name" env -C "$WORK/place" bash -euo pipefail "$WORK/$name.sh"
        matches "README, $name: a box is installed" 'myorg/demo' "$(vagrant box list 2>&1)"
        # Pasted lines: what is indented below a line that ends in a colon. A fresh Vagrant, as for a second person.
        awk '/:$/ { take = 1; next } /^[^ ]/ { take = 0 } take { sub(/^  /, ""); print }' \
            "$WORK/quickstart.printed" >"$WORK/paste.sh"
        rm -rf "$VAGRANT_HOME"
        matches "quickstart prints lines to paste" 'push .*vagrant box add .*curl ' "$(tr '\n' ' ' <"$WORK/paste.sh")"
        succeeds "quickstart's own lines" env -C "$WORK/paste" bash -euo pipefail "$WORK/paste.sh"
        matches "quickstart's own lines: a box is installed" 'myorg/demo' "$(vagrant box list 2>&1)"
    fi
done

stop_gateway TERM
equal "it stops when told" 0 "$STOPPED_WITH"
finish
