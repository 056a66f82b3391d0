#!/usr/bin/env bash
# tus by tus-js-client on Node: whole, cut by the client, over a kill -9 of the gateway, in parallel pieces that are
# joined, of a length told late, with checksums, without PATCH, empty, unknown, terminated.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
LISTEN=${URL#http://} # after a kill it comes back where the client looks for it
KEY="Authorization: Bearer $CLIENT_SECRET"

# tus FILE JSON: one upload, its lines in $WORK/out; the exit code is the client's.
tus() {
    node "$CLIENTS/fixtures/tus.cjs" "$1" "$URL/files" "${TOKEN:-$CLIENT_SECRET}" "$2" >"$WORK/out" 2>&1
}

# to VERSION [FIELDS]: options that name the box.
to() {
    printf '{"target":"%s/tus/%s/virtualbox/amd64"%s}' "$ORG" "$1" "${2:+,$2}"
}

# is_box NAME FILE VERSION: what the gateway says and sends are the file's bytes.
is_box() {
    equal "$1: its digest" "$(sha256 "$2")" "$(info .checksum tus "$3")"
    equal "$1: its bytes" "$(sha256 "$2")" "$(stored_sha256 tus "$3")"
}

# passes NAME: the last upload ended well.
passes() {
    matches "$1" 'done http://[^ ]+/files/[0-9a-f]{32}' "$(tail -n 1 "$WORK/out")"
}

# fails NAME REGEX
fails() {
    matches "$1" "failed $2" "$(tail -n 1 "$WORK/out")"
}

# answers_of METHOD: the statuses that the client got for it, in order.
answers_of() {
    sed -n "s/^$1 \([0-9]*\) .*/\1/p" "$WORK/out" | tr '\n' ' '
}

# bytes_in: bytes of request bodies that the gateway has received, by its own count.
bytes_in() {
    curl -sS --fail "$URL/metrics" | awk '$1 == "boxgate_http_bytes_in_total" { print $2 }'
}

# received SINCE BYTES: whether exactly so many came since. The count moves when a request ends.
received() {
    (($(bytes_in) - $1 == $2))
}

# --- whole ---
make_box "$WORK/small.box" 3000
tus "$WORK/small.box" "$(to 1.0.0)" || true
passes "whole"
equal "whole: creation, then bytes" 'POST 201 PATCH 204 ' "$(sed -n 's/^\([A-Z]* [0-9]*\) .*/\1/p' "$WORK/out" | tr '\n' ' ')"
is_box "whole" "$WORK/small.box" 1.0.0
vagrant_add myorg/tus 1.0.0
tus "$WORK/small.box" "$(to 1.1.0 '"uploadDataDuringCreation":true')" || true
passes "with the creation"
equal "with the creation: one request" '201 ' "$(answers_of POST)"
is_box "with the creation" "$WORK/small.box" 1.1.0
tus "$WORK/small.box" "$(to 1.2.0 '"chunkSize":1000000,"overridePatchMethod":true')" || true
passes "without PATCH"
equal "without PATCH: POST for all" '201 204 204 204 204 ' "$(answers_of POST)"
is_box "without PATCH" "$WORK/small.box" 1.2.0
tus "$WORK/small.box" "$(to 1.3.0 '"stream":true,"chunkSize":1000000')" || true
passes "a length told late"
is_box "a length told late" "$WORK/small.box" 1.3.0

# --- checksums ---
tus "$WORK/small.box" "$(to 2.0.0 '"chunkSize":1000000,"checksum":"right"')" || true
passes "with checksums"
is_box "with checksums" "$WORK/small.box" 2.0.0
tus "$WORK/small.box" "$(to 2.1.0 '"checksum":"wrong"')" || true
fails "with a wrong checksum" '460'
http -I -H "$KEY" -H 'Tus-Resumable: 1.0.0' "$(sed -n 's/^url //p' "$WORK/out")"
equal "with a wrong checksum: nothing counts" '200 0' "$STATUS $(header upload-offset)"

# --- cut by the client ---
make_box "$WORK/big.box" 200000
BIG=$(size "$WORK/big.box")
BEFORE=$(bytes_in)
tus "$WORK/big.box" "$(to 3.0.0 "\"cutAt\":50000000,\"noticedAt\":\"$URL/metrics\",\"storage\":\"$WORK/urls\"")" || true
passes "cut, and gone on with from the URL storage"
equal "cut: one creation, one HEAD" '201 200 ' "$(answers_of POST)$(answers_of HEAD)"
matches "cut: HEAD tells what came" 'HEAD 200 [1-9][0-9]+' "$(cat "$WORK/out")"
eventually 30 received "$BEFORE" "$BIG" || true
equal "cut: no byte that counted came twice" "$BIG" "$(($(bytes_in) - BEFORE))"
is_box "cut" "$WORK/big.box" 3.0.0

# --- kill -9 of the gateway in the middle ---
node "$CLIENTS/fixtures/tus.cjs" "$WORK/big.box" "$URL/files" "$CLIENT_SECRET" "$(to 4.0.0 '"stopAt":50000000')" \
    >"$WORK/out" 2>&1 &
CLIENT=$!
stopped() { [[ $(cut -d' ' -f3 "/proc/$CLIENT/stat") == T ]]; }
eventually 60 stopped || fail "the client never sent so much"
UPLOAD=$(sed -n 's/^url //p' "$WORK/out")
offset_now() { curl -sS --fail -H "$KEY" "$UPLOAD" | jq .offset; }
some() { (($(offset_now) > 0)); }
eventually 60 some || fail "nothing was committed"
stop_gateway KILL
start_gateway
OFFSET=$(offset_now)
kill -CONT "$CLIENT"
wait "$CLIENT" || true
passes "over a kill -9"
matches "over a kill -9: what was committed is there" '^[1-9][0-9]+$' "$OFFSET"
equal "over a kill -9: the client goes on there" "HEAD 200 $OFFSET" "$(grep '^HEAD' "$WORK/out")"
eventually 30 received 0 $((BIG - OFFSET)) || true
equal "over a kill -9: no byte that counted came twice" $((BIG - OFFSET)) "$(bytes_in)"
is_box "over a kill -9" "$WORK/big.box" 4.0.0

# --- parallel pieces, joined ---
BEFORE=$(bytes_in)
tus "$WORK/big.box" "$(to 5.0.0 '"parallelUploads":4')" || true
passes "four pieces at once"
equal "four pieces: each made, sent, and all joined" '201 201 201 201 201 204 204 204 204 ' "$(answers_of POST)$(answers_of PATCH)"
equal "four pieces: each byte once" "$BIG" "$(($(bytes_in) - BEFORE))"
is_box "four pieces" "$WORK/big.box" 5.0.0
FINAL=$(sed -n 's/^done //p' "$WORK/out")
http -I -H "$KEY" -H 'Tus-Resumable: 1.0.0' "$FINAL"
equal "the joined upload" "200 $BIG" "$STATUS $(header upload-offset)"
matches "the joined upload names its pieces" '^final;(http://[^ ]+ ?){4}$' "$(header upload-concat)"
node "$CLIENTS/fixtures/tus.cjs" "$WORK/big.box" "$URL/files" "$CLIENT_SECRET" \
    "$(to 5.1.0 '"parallelUploads":4,"stopAt":50000000')" >"$WORK/out" 2>&1 &
CLIENT=$!
eventually 60 stopped || fail "the client never sent so much"
stop_gateway KILL
start_gateway
kill -CONT "$CLIENT"
wait "$CLIENT" || true
passes "four pieces over a kill -9"
is_box "four pieces over a kill -9" "$WORK/big.box" 5.1.0

# --- kill -9 in the middle of a join ---
tus "$WORK/big.box" '{"headers":{"Authorization":"Bearer '"$CLIENT_SECRET"'","Upload-Concat":"partial"}}' || true
passes "a piece by itself"
PIECE=$(sed -n 's/^done //p' "$WORK/out")
# In the background, as it waits for its end; three times the piece, so that there is a middle.
curl -sS -o /dev/null -D "$WORK/final" -X POST -H "$KEY" -H 'Tus-Resumable: 1.0.0' \
    -H "Upload-Concat: final;$PIECE $PIECE $PIECE" \
    -H "Upload-Metadata: target $(printf '%s/tus/5.2.0/virtualbox/amd64' "$ORG" | base64 -w 0)" "$URL/files" 2>/dev/null &
CURL=$!
# joining: the one upload in progress, once some of it is joined.
joining() {
    curl -sS --fail -H "x-access-token: $ADMIN_TOKEN" "$URL/api/admin/uploads" |
        jq -e '[.[] | select(.offset > 0)] | .[0] | select(. != null) | "\(.id) \(.offset)"' -r >"$WORK/joining"
}
until joining || ! kill -0 "$CURL" 2>/dev/null; do :; done
stop_gateway KILL
wait "$CURL" || true
start_gateway
read -r FINAL OFFSET <"$WORK/joining" || fail "nobody saw the join"
joined() { [[ $(curl -sS --fail -H "$KEY" "$URL/files/$FINAL" | jq -r .state) == done ]]; }
eventually 60 joined || fail "the join did not go on"
ok "a join goes on by itself after a kill -9 at $OFFSET bytes"
equal "its length" $((3 * BIG)) "$(curl -sS -H "$KEY" "$URL/files/$FINAL" | jq .length)"
equal "its bytes" "$(cat "$WORK/big.box" "$WORK/big.box" "$WORK/big.box" | sha256sum | cut -d' ' -f1)" "$(stored_sha256 tus 5.2.0)"

# --- empty, unknown, another's, terminated ---
: >"$WORK/empty"
tus "$WORK/empty" '{}' || true
passes "an empty file without a box"
http -I -H "$KEY" -H 'Tus-Resumable: 1.0.0' "$(sed -n 's/^done //p' "$WORK/out")"
equal "an empty file: complete at once" '200 0 0' "$STATUS $(header upload-offset) $(header upload-length)"
tus "$WORK/empty" "$(to 6.0.0)" || true
fails "an empty box" '400 .*no box'
tus "$WORK/small.box" "{\"endpoint\":null,\"uploadUrl\":\"$URL/files/00000000000000000000000000000000\"}" || true
fails "an unknown upload" '404'
tus "$WORK/small.box" '{"target":"nobody/tus/1.0.0/virtualbox/amd64"}' || true
fails "a box of others" '404'
TOKEN=wrong tus "$WORK/small.box" "$(to 6.1.0)" || true
fails "a wrong credential" '401'
tus "$WORK/big.box" "$(to 6.2.0 '"cutAt":50000000,"terminate":true')" || true
passes "terminated in the middle"
equal "terminated: the server's word" '204 ' "$(answers_of DELETE)"
http -I -H "$KEY" -H 'Tus-Resumable: 1.0.0' "$(sed -n 's/^done //p' "$WORK/out")"
equal "terminated: it is gone" '410 ' "$STATUS $(header upload-offset)"
http -H "$KEY" "$BASE/box/tus/version/6.2.0"
answers "terminated: nothing is published" 404

stop_gateway TERM
finish
