#!/usr/bin/env bash
# Uploads in pieces by clients that know nothing of us: BoxVault's page (its calls by axios, in its order and at
# once), and parts put by parallel curls, over a kill -9 of the gateway.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
KEY="Authorization: Bearer $CLIENT_SECRET"

# --- BoxVault's page ---
make_box "$WORK/page.box" 13000
PAGE=$(sha256 "$WORK/page.box")
succeeds "the page's calls" node "$CLIENTS/fixtures/chunks.cjs" "$WORK/page.box" "$(file_path page 1.0.0)" "$CLIENT_SECRET"
equal "each piece counted, the last one complete" 'complete true, counted 1 2 all' "$(head -n 1 "$WORK/out")"
equal "its bytes" "$PAGE" "$(stored_sha256 page 1.0.0)"
succeeds "the same all at once, last first" \
    node "$CLIENTS/fixtures/chunks.cjs" "$WORK/page.box" "$(file_path page 1.1.0)" "$CLIENT_SECRET" --parallel
matches "it completes" 'complete true' "$(head -n 1 "$WORK/out")"
equal "its bytes" "$PAGE" "$(stored_sha256 page 1.1.0)"
vagrant_add myorg/page 1.1.0

# A page that was closed after two of three pieces, then opened again: the server tells what it has.
split -b 5M -d -a 1 "$WORK/page.box" "$WORK/chunk."
F=$(file_path page 2.0.0)/upload
chunk() { # INDEX [FILE]
    http -X POST -H "$KEY" -H "x-chunk-index: $1" -H 'x-total-chunks: 3' -H "x-checksum: $PAGE" \
        -H 'x-checksum-type: SHA256' -H 'Content-Type: application/octet-stream' \
        --data-binary "@${2:-$WORK/chunk.$1}" "$F"
}
chunk 0
answers "chunk 0" 200 '"chunksReceived": ?1'
chunk 2
answers "chunk 2" 200 '"chunksReceived": ?2'
http -H "$KEY" "$F"
equal "what is held" '[0,2] of 3' "$(field '.uploads[0] | "\(.chunks | tostring) of \(.totalChunks)"')"
stop_gateway KILL
start_gateway
F=$(file_path page 2.0.0)/upload
http -H "$KEY" "$F"
equal "what is held after kill -9" '[0,2]' "$(field '.uploads[0].chunks | tostring')"
chunk 1 "$WORK/chunk.0"
answers "other bytes of the right size" 422 CHECKSUM_MISMATCH
http -H "$KEY" "$(file_path page 2.0.0)/info"
answers "a whole with another checksum is not published" 404
chunk 0
chunk 1
chunk 2
answers "the right ones from the start" 200 '"isComplete": ?true'
equal "its bytes" "$PAGE" "$(stored_sha256 page 2.0.0)"

# --- parts by parallel curls ---
make_box "$WORK/parts.box" 90000
PARTS=$(sha256 "$WORK/parts.box")
http -X POST -H "$KEY" -H "Upload-Length: $(size "$WORK/parts.box")" -H "Repr-Digest: sha-256=:$(
    python3 -c 'import base64, sys; print(base64.b64encode(bytes.fromhex(sys.argv[1])).decode())' "$PARTS"
):" "$URL/files?target=$ORG/parts/1.0.0/virtualbox/amd64"
answers "an upload in parts" 201
UPLOAD=$(header location)
P=$(header upload-part-size)
equal "the size of a part" 8388608 "$P"
split -b "$P" -d -a 2 "$WORK/parts.box" "$WORK/part."
# put PART...: all at once; prints the statuses.
put() {
    local k
    local -a arguments=()
    for k; do
        arguments+=(-H "$KEY" -o /dev/null -w '%{http_code} ' -T "$WORK/part.$(printf %02d "$k")" "$URL$UPLOAD/parts/$k" --next)
    done
    unset 'arguments[-1]'
    curl -sS --parallel --parallel-immediate "${arguments[@]}" 2>"$WORK/curl.err"
}
equal "parts 7, 2, 5 and 0 at once" '204 204 204 204 ' "$(put 7 2 5 0)"
http -H "$KEY" "$URL$UPLOAD"
equal "what is held beyond the offset" "[2,5,7] beyond $P" "$(field '"\(.parts.held | tostring) beyond \(.offset)"')"
stop_gateway KILL
start_gateway
http -H "$KEY" "$URL$UPLOAD"
equal "the same after kill -9" "[2,5,7] beyond $P" "$(field '"\(.parts.held | tostring) beyond \(.offset)"')"
matches "the other parts at once" '201' "$(put 1 3 4 6 8 9 10)"
equal "its bytes" "$PARTS" "$(stored_sha256 parts 1.0.0)"
http -H "$KEY" -T "$WORK/part.03" "$URL$UPLOAD/parts/3"
answers "a part once more, its answer lost" 201 "$PARTS"
http -H "$KEY" -T "$WORK/part.04" "$URL$UPLOAD/parts/3"
answers "another part in its place" 409 PART_DIFFERS
equal "files in the store, its id among them" 3 "$(blobs | wc -l)"

finish
