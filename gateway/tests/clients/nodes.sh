#!/usr/bin/env bash
# Two nodes at once on one PostgreSQL database and one bucket: any of them goes on with what the other began, a newer
# request at one ends an older one at the other, and what one takes away is gone at the other.
source "$(dirname "${BASH_SOURCE[0]}")/on_postgres.sh"
source "$CLIENTS/garage.sh"
start_garage
of_garage boxes/
export BOXGATE_METADATA__URL=$DATABASE BOXGATE_MASTER_KEY=$KEY BOXGATE_PUBLIC_URL=http://boxes.example.com
export BOXGATE_GC__ORPHAN_AGE=1s

# second FOLDER: another node, with a data directory of its own. Sets OTHER and OTHER_PID.
OTHER_PID=
second() {
    "$GATEWAY" serve --data-dir "$WORK/$1" --listen 127.0.0.1:0 >"$WORK/$1.ready" 2>>"$WORK/$1.log" &
    OTHER_PID=$!
    eventually 60 grep -q 'http://' "$WORK/$1.ready" || { cat "$WORK/$1.log"; exit 1; }
    OTHER=$(grep -o 'http://127[0-9.:]*' "$WORK/$1.ready" | head -n 1)
}
trap 'kill -KILL $OTHER_PID $GARAGE_PID 2>/dev/null || true; cleanup' EXIT

# begin BOX: an upload, made at the first node; sets UPLOAD to its path.
begin() {
    at -X POST "$FIRST/files" -H 'Tus-Resumable: 1.0.0' -H "Upload-Length: $LENGTH" \
        -H "Upload-Metadata: target $(printf '%s' "$ORG/$1/1.0/virtualbox/amd64" | base64 -w0)"
    answers "$1: an upload" 201
    UPLOAD=/files/$(header location | sed 's,.*/files/,,')
}

# send_slowly: a PATCH at the first node that sends what is written to descriptor 9; its answer is in slow.code.
send_slowly() {
    rm -f slow
    mkfifo slow
    curl -sS -o slow.out -w '%{http_code}' -H "Authorization: Bearer $CLIENT_SECRET" "${PATCH[@]}" -H 'Upload-Offset: 0' \
        -H 'Expect:' -H 'Transfer-Encoding: chunked' -T - "$FIRST$UPLOAD" <slow >slow.code 2>slow.err &
    SLOW=$!
    exec 9>slow
}

# hear_slow: lets it end.
hear_slow() {
    exec 9>&-
    wait "$SLOW" || true
}

# committed: whether the first node made some of the upload durable.
committed() {
    http -H "x-access-token: $ADMIN_TOKEN" "$FIRST/api/admin/uploads/${UPLOAD#/files/}"
    (($(field '.offset // 0') > 0))
}

# bytes_of NODE BOX: the digest of what a node sends.
bytes_of() {
    BASE=$1/api/organization/$ORG
    stored_sha256 "$2" 1.0
}

start_gateway
FIRST=$URL
LISTEN=${URL#http://}
second b
make_box a.box 20000
LENGTH=$(size a.box)

# --- one dies, the other goes on ---

begin died
at "${PATCH[@]}" -H 'Upload-Offset: 0' --data-binary @<(head -c 9000000 a.box) "$FIRST$UPLOAD"
answers "a node takes a piece" 204
equal "and tells how much it holds" 9000000 "$(header upload-offset)"
stop_gateway KILL
at -I "$OTHER$UPLOAD" -H 'Tus-Resumable: 1.0.0'
equal "the other one knows it" 9000000 "$(header upload-offset)"
at "${PATCH[@]}" -H 'Upload-Offset: 9000000' --data-binary @<(tail -c +9000001 a.box) "$OTHER$UPLOAD"
answers "and goes on" 204
equal "the box is whole" "$(sha256 a.box)" "$(bytes_of "$OTHER" died)"
start_gateway
equal "at the first one, too, when it is back" "$(sha256 a.box)" "$(bytes_of "$FIRST" died)"

# --- a newer request at one ends an older one at the other ---

begin raced
send_slowly
# Another file's bytes, more than a part of them.
head -c 17000000 /dev/zero >&9
eventually 30 committed || fail "nothing is committed: $BODY"
at -X DELETE "$OTHER$UPLOAD" -H 'Tus-Resumable: 1.0.0'
answers "the other node gives it up" 204
begin again
at "${PATCH[@]}" -H 'Upload-Offset: 0' --data-binary @a.box "$OTHER$UPLOAD"
answers "and takes all of another" 204
head -c 1000000 /dev/zero >&9 2>/dev/null || true
hear_slow
matches "the older request changes nothing" '^(404|409|410)$' "$(cat slow.code)"
equal "the box is whole" "$(sha256 a.box)" "$(bytes_of "$FIRST" again)"

begin taken
send_slowly
head -c 17000000 a.box >&9
eventually 30 committed || fail "nothing is committed: $BODY"
at -I "$OTHER$UPLOAD" -H 'Tus-Resumable: 1.0.0'
STANDS=$(header upload-offset)
matches "the other node tells what is durable" '^[1-9][0-9]+$' "$STANDS"
at "${PATCH[@]}" -H "Upload-Offset: $STANDS" --data-binary @<(tail -c "+$((STANDS + 1))" a.box) "$OTHER$UPLOAD"
answers "and takes the rest" 204
tail -c +17000001 a.box >&9 2>/dev/null || true
hear_slow
equal "nothing of the older request is in the box" "$(sha256 a.box)" "$(bytes_of "$FIRST" taken)"

# --- what one takes away is gone at the other ---

of_died=/api/organization/$ORG/box/died/version/1.0/provider/virtualbox/architecture/amd64/file/info
at "$OTHER$of_died"
answers "a box at the other node" 200
http -X DELETE -H "x-access-token: $ADMIN_TOKEN" "$FIRST/api/organization/$ORG/box/died"
answers "is deleted at the first" 200
at "$OTHER$of_died"
answers "and gone at the other" 404

# --- all together ---

for n in 1 2 3 4 5 6; do
    node=$FIRST
    ((n % 2)) || node=$OTHER
    curl -sS --fail-with-body -X POST -H "Authorization: Bearer $CLIENT_SECRET" --upload-file a.box -o "many$n" \
        "$node/api/organization/$ORG/box/many$n/version/1.0/provider/virtualbox/architecture/amd64/file/upload" &
    many[n]=$!
done
for n in 1 2 3 4 5 6; do
    if wait "${many[n]}"; then ok "upload $n of six at once"; else fail "upload $n: $(brief "$(cat "many$n")")"; fi
    node=$OTHER
    ((n % 2)) || node=$FIRST
    equal "and at the node that did not take it" "$(sha256 a.box)" "$(bytes_of "$node" "many$n")"
done
# What a late writer had under way when it was fenced off lies in the bucket until it is collected.
clean() {
    "$GATEWAY" gc --url "$FIRST" --token "$ADMIN_TOKEN" && "$GATEWAY" fsck --url "$OTHER" --token "$ADMIN_TOKEN"
}
if eventually 30 clean; then ok "after gc fsck finds nothing"; else fail "fsck: $(brief "$(clean 2>&1)")"; fi
kill -TERM "$OTHER_PID"
wait "$OTHER_PID" && ok "the second node stops" || fail "the second node stops badly"
OTHER_PID=
finish
