#!/usr/bin/env bash
# The guide's Node.js client (axios, form-data), its class word for word. As printed, its usage cannot run: a
# script with `require` has no top-level await, and the constructor does not wait for its own login. So the
# usage stands in an async function that awaits the login; left unawaited it must get an answer it can read.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
export BOXVAULT_CLIENT_ID=$CLIENT_ID BOXVAULT_CLIENT_SECRET=$CLIENT_SECRET
make_box "$WORK/ubuntu.box" 3000

# wrapped LOGIN: the fixture with its usage in an async function; LOGIN stands after the constructor.
wrapped() {
    sed "s|https://boxvault.example.com|$URL|" "$CLIENTS/fixtures/guide/client.cjs" | awk -v login="$1" '
        /^\/\/ Usage/ { print; print "(async () => {"; usage = 1; next }
        { print }
        usage && /^\);/ && !done { print login; done = 1 }
        END {
            print "})().catch((error) => {"
            print "  console.error(error.response ? `${error.response.status} ${JSON.stringify(error.response.data)}` : error);"
            print "  process.exit(1);"
            print "});"
        }'
}
wrapped 'await client.authenticateServiceAccount(process.env.BOXVAULT_CLIENT_ID, process.env.BOXVAULT_CLIENT_SECRET);' \
    >"$WORK/client.cjs"
wrapped '' >"$WORK/unawaited.cjs"

succeeds "the client with its usage block" env -C "$WORK" node client.cjs
equal "it sees the box that it sent" "Found 1 boxes" "$(tail -n 1 "$WORK/out")"
equal "digest in the catalog" "$(sha256 "$WORK/ubuntu.box")" "$(info .checksum ubuntu-20.04 1.0.0)"
vagrant_add myorg/ubuntu-20.04 1.0.0
equal "the installed disk" "$(box_disk "$WORK/ubuntu.box")" "$(vagrant_disk myorg/ubuntu-20.04 1.0.0)"

# The refusal comes long before a large body is sent; closing at once would hide it behind a reset.
refuses "login not awaited, small box" '403 .*No token provided!' env -C "$WORK" node unawaited.cjs
make_box "$WORK/ubuntu.box" 100000
refuses "login not awaited, 100 MB box" '403 .*No token provided!' env -C "$WORK" node unawaited.cjs
succeeds "login awaited, 100 MB box" env -C "$WORK" node client.cjs
equal "digest of the 100 MB box" "$(sha256 "$WORK/ubuntu.box")" "$(info .checksum ubuntu-20.04 1.0.0)"

finish
