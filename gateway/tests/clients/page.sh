#!/usr/bin/env bash
# The page in Chromium: first visit, signing in, a box made, 300 MB that outlive a lost network, a reload, a busy server and a
# session, digests, somebody who may not, lines to copy, webhooks, a plugin that fails, signing out; without scripts, narrow,
# and against stored scripts.
# PAGE_IMAGES=DIR has it write an image of each view there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# So that there is a middle to disturb.
export BOXGATE_LIMITS__BYTES_IN=40MiB
start_gateway
make_box "$WORK/big.box" 300000
mkdir -p "$DATA/plugins/broken"
: >"$DATA/plugins/broken/plugin.toml"
printf 'fn on_download(req, blob) {\n  let x = ;\n}\n' >"$DATA/plugins/broken/main.rhai"
curl -sS --fail -X POST -H "x-access-token: $ADMIN_TOKEN" -o "$WORK/reloaded.json" "$URL/api/admin/scripts/reload"

# What the journey tells is counted here: `ok` or `FAIL`, a tab, and the evidence.
while IFS=$'\t' read -r verdict told; do
    case $verdict in
        ok) ok "$told" ;;
        FAIL) fail "$told" ;;
        *) echo "$verdict $told" ;;
    esac
done < <(
    node "$CLIENTS/fixtures/page.cjs" "$URL" "$ORG" "$ADMIN" "$ADMIN_PASSWORD" "$ADMIN_TOKEN" "$WORK/big.box" "$(sha256 "$WORK/big.box")" \
        "${PAGE_IMAGES-}" 2>&1 || printf 'FAIL\tthe journey ended early\n'
)
equal "what was sent is what is stored" "$(sha256 "$WORK/big.box")" "$(stored_sha256 journey 1.0.0)"
SENT=$(curl -sS --fail "$URL/metrics" | awk '$1 == "boxgate_http_bytes_in_total" { print $2 }')
# What a cut request had sent beyond the last durable byte comes twice, no more.
((SENT < 2 * $(size "$WORK/big.box"))) && ok "it was gone on with, not begun anew: $SENT bytes came" || fail "$SENT bytes came"
finish
