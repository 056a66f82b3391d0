#!/usr/bin/env bash
# The IETF's resumable uploads by plain curl: every exchange of the draft, what is wrong with one, and a cut upload
# of BoxVault's route that `curl -C` continues.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
KEY="Authorization: Bearer $CLIENT_SECRET"
PARTIAL='Content-Type: application/partial-upload'
make_box "$WORK/a.box" 20000
A=$(sha256 "$WORK/a.box")
N=$(size "$WORK/a.box")
head -c 9000000 "$WORK/a.box" >"$WORK/first"
tail -c +9000001 "$WORK/a.box" >"$WORK/rest"
# files VERSION: where an upload of that version is made.
files() { printf '%s/files?target=%s/ietf/%s/virtualbox/amd64' "$URL" "$ORG" "$1"; }
# digest FILE: its SHA-256 as RFC 9530 writes it.
digest() { python3 -c 'import base64, hashlib, sys
print("sha-256=:" + base64.b64encode(hashlib.sha256(open(sys.argv[1], "rb").read()).digest()).decode() + ":")' "$1"; }
# append OFFSET COMPLETE FILE [ARGUMENTS...]
append() {
    http -X PATCH -H "$KEY" -H "$PARTIAL" -H "Upload-Offset: $1" -H "Upload-Complete: $2" --data-binary "@$3" "${@:4}" \
        "$URL$UPLOAD"
}
# stands NAME OFFSET: what HEAD tells.
stands() {
    http -I -H "$KEY" "$URL$UPLOAD"
    equal "$1: HEAD" "204 $2 no-store" "$STATUS $(header upload-offset) $(header cache-control)"
}

# --- discover, create, append, complete ---
http -X OPTIONS "$URL/files"
matches "OPTIONS tells the limits" 'max-size=[0-9]+' "$(header upload-limit)"
http -X POST -H "$KEY" -H 'Upload-Complete: ?0' -H "Upload-Length: $N" "$(files 1.0.0)"
answers "a careful creation" 201
equal "it is not complete" '?0' "$(header upload-complete)"
UPLOAD=$(header location)
stands "nothing came" 0
append 0 '?0' "$WORK/first"
answers "the first bytes" 204
equal "their offset" 9000000 "$(header upload-offset)"
append 5 '?1' "$WORK/rest"
answers "from a wrong offset" 409 'mismatching-upload-offset'
equal "the right one is told" 9000000 "$(header upload-offset)"
equal "in the document, too" '9000000 5' "$(field '"\(."expected-offset") \(."provided-offset")"')"
append 9000000 '?1' "$WORK/rest" -H "Content-Digest: $(digest "$WORK/first")"
answers "another digest than the bytes have" 400 'digest'
stands "nothing of it was taken" 9000000
append 9000000 '?1' "$WORK/first"
answers "lengths that do not agree" 400 'inconsistent-upload-length'
stands "nothing of it was taken either" 9000000
http -X PATCH -H "$KEY" -H 'Content-Type: text/plain' -H 'Upload-Offset: 9000000' -H 'Upload-Complete: ?1' \
    --data-binary "@$WORK/rest" "$URL$UPLOAD"
answers "another media type" 415
append 9000000 '?1' "$WORK/rest" -H "Content-Digest: $(digest "$WORK/rest")"
answers "the rest" 200 "$A"
equal "it is complete" '?1' "$(header upload-complete)"
equal "its bytes" "$A" "$(stored_sha256 ietf 1.0.0)"
append "$N" '?1' /dev/null
answers "the end once more" 200 "$A"

# --- whole at once, with 104 before the answer ---
http -v -X POST -H "$KEY" -H 'Upload-Complete: ?1' -H 'Upload-Draft-Interop-Version: 9' -H "Repr-Digest: $(digest "$WORK/a.box")" \
    -H 'Expect: 100-continue' --data-binary "@$WORK/a.box" "$(files 1.1.0)"
answers "whole in one request" 201 "$A"
SEEN=$(grep -aio '^< HTTP/1.1 [0-9]*' "$WORK/curl.err" | cut -d' ' -f3 | sort -u | tr '\n' ' ')
equal "curl saw 100, 104 and the answer" '100 104 201 ' "$SEEN"
matches "104 tells where it goes on" 'HTTP/1.1 104 Upload Resumption Supported.*location: /files/' "$(tr -d '\r' <"$WORK/curl.err")"
http -v -X POST -H "$KEY" -H 'Upload-Complete: ?1' --data-binary "@$WORK/a.box" "$(files 1.2.0)"
answers "without the version" 201
equal "no 104" 0 "$(grep -c 'HTTP/1.1 104' "$WORK/curl.err" || true)"
http -X POST -H "$KEY" -H 'Upload-Complete: ?1' -H "Repr-Digest: $(digest "$WORK/first")" \
    --data-binary "@$WORK/a.box" "$(files 2.0.0)"
answers "another digest than the whole has" 422
http -H "$KEY" "$BASE/box/ietf/version/2.0.0"
answers "nothing of it is published" 404

# --- cut, continued; cancelled ---
CUT=0
curl -sS --limit-rate 6M --max-time 2 -X POST -H "$KEY" -H 'Upload-Complete: ?1' -H 'Upload-Draft-Interop-Version: 9' \
    -D "$WORK/cut" -o /dev/null --data-binary "@$WORK/a.box" "$(files 3.0.0)" 2>/dev/null || CUT=$?
equal "curl gave up in the middle" 28 "$CUT"
UPLOAD=$(tr -d '\r' <"$WORK/cut" | sed -n 's/^[Ll]ocation: //p' | head -n 1)
http -I -H "$KEY" "$URL$UPLOAD"
OFFSET=$(header upload-offset)
matches "what came is kept" '^[1-9][0-9]+$' "$OFFSET"
tail -c "+$((OFFSET + 1))" "$WORK/a.box" >"$WORK/rest.cut"
append "$OFFSET" '?1' "$WORK/rest.cut"
answers "the rest of it" 200 "$A"
equal "its bytes" "$A" "$(stored_sha256 ietf 3.0.0)"
http -X POST -H "$KEY" -H 'Upload-Complete: ?0' --data-binary "@$WORK/first" "$(files 4.0.0)"
UPLOAD=$(header location)
http -X DELETE -H "$KEY" "$URL$UPLOAD"
answers "cancelled" 204
http -I -H "$KEY" "$URL$UPLOAD"
answers "then it is gone" 410

# --- BoxVault's route, cut and continued by curl -C ---
F=$(file_path ietf 5.0.0)/upload
CUT=0
curl -sS --limit-rate 6M --max-time 2 -X POST -H "$KEY" -T "$WORK/a.box" -o /dev/null "$F" 2>/dev/null || CUT=$?
equal "a raw upload is cut" 28 "$CUT"
http -H "$KEY" -C 1 -T "$WORK/a.box" "$F"
answers "from a wrong byte" 409
OFFSET=$(header upload-offset)
matches "the right one is told" '^[1-9][0-9]+$' "$OFFSET"
http -H "$KEY" -C "$OFFSET" -T "$WORK/a.box" "$F"
answers "curl -C $OFFSET -T" 200 "$A"
equal "its bytes" "$A" "$(stored_sha256 ietf 5.0.0)"

finish
