#!/usr/bin/env bash
# Rows in PostgreSQL: what a node needs and says when it lacks it, another node that goes on where one died, and a
# database that loses its connections or stands still.
source "$(dirname "${BASH_SOURCE[0]}")/on_postgres.sh"

# --- what a node needs ---

serve() {
    timeout 30 "$GATEWAY" serve --data-dir "$WORK/none" --listen 127.0.0.1:0
}
export BOXGATE_METADATA__URL=$DATABASE
run 2 "a database that nodes share, and nothing to agree on" serve
says "the key is asked for" 'BOXGATE_MASTER_KEY.*openssl rand -hex 32'
says "and so is the address" 'public_url: must be set with metadata.url'
export BOXGATE_MASTER_KEY=$KEY BOXGATE_PUBLIC_URL=http://boxes.example.com
BOXGATE_METADATA__URL=mysql://a:hush@b/c run 2 "a database of another kind" serve
says "the one that works is named" 'metadata.url: expected .*postgres://USER@HOST/DATABASE'
BOXGATE_METADATA__URL=postgres://nobody@127.0.0.1:9/boxes run 1 "nobody answers" serve
says "the setting is named" 'cannot use the database of metadata.url.*refused'
BOXGATE_METADATA__URL=${SERVER/\/postgres\?//nowhere?} run 1 "no such database" serve
says "it is named" 'metadata.url.*"nowhere" does not exist'
run 0 "config print" "$GATEWAY" config print
BOXGATE_METADATA__URL=postgres://me:hush@db/boxes run 0 "a password in the URL" "$GATEWAY" config print
says "is not printed" 'me:\*\*\*@db/boxes'

# --- one node after the other, on one store ---

export BOXGATE_STORES__MAIN__PATH=$WORK/blobs
start_gateway
BOXGATE_MASTER_KEY=${KEY//[0-7]/8} run 1 "a node with another master key" serve
says "is refused" 'master key is not the one'
run 1 "a second one on the store" serve
says "is refused" 'another gateway keeps boxes in .*stores.main.path'

make_box a.box 20000
LENGTH=$(size a.box)

at -X POST "$URL/files" -H 'Tus-Resumable: 1.0.0' -H "Upload-Length: $LENGTH" \
    -H "Upload-Metadata: target $(printf '%s' "$ORG/died/1.0/virtualbox/amd64" | base64 -w0)"
answers "an upload" 201
UPLOAD=/files/$(header location | sed 's,.*/files/,,')
at "${PATCH[@]}" -H 'Upload-Offset: 0' --data-binary @<(head -c 9000000 a.box) "$URL$UPLOAD"
answers "a node takes a piece" 204
equal "and tells how much it holds" 9000000 "$(header upload-offset)"
stop_gateway KILL
DATA=$WORK/b
BOXGATE_PUBLIC_URL=http://others.example.com \
    "$GATEWAY" serve --data-dir "$DATA" --listen 127.0.0.1:0 >"$WORK/ready" 2>"$WORK/b.log" &
GATEWAY_PID=$!
listens() {
    URL=$(grep -ao 'http://127[0-9.:]*' "$WORK/ready" | head -n 1)
    [[ -n $URL ]] && curl -sf "$URL/readyz"
}
eventually 60 listens || { cat "$WORK/b.log"; fail "the second node does not start"; }
BASE=$URL/api/organization/$ORG
matches "a node with another address says so" 'public_url differs' "$(cat "$WORK/b.log")"
at -I "$URL$UPLOAD" -H 'Tus-Resumable: 1.0.0'
equal "another one, with a data directory of its own, knows it" 9000000 "$(header upload-offset)"
at "${PATCH[@]}" -H 'Upload-Offset: 9000000' --data-binary @<(tail -c +9000001 a.box) "$URL$UPLOAD"
answers "and goes on" 204
equal "the box is whole" "$(sha256 a.box)" "$(stored_sha256 died 1.0)"

# --- connections to the database are lost ---

psql -q "$SERVER" -c "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'boxes'" >/dev/null
make_box b.box 100
upload b.box after 1.0
equal "an upload right after it" "$(sha256 b.box)" "$(stored_sha256 after 1.0)"

# --- the database stands still ---

make_public after
PUBLIC=$(file_path after 1.0)
read_public() { curl -sS --fail --max-time 20 "$PUBLIC/download" | sha256sum | cut -d' ' -f1; }
read_private() { curl -sS --fail --max-time 20 -H "Authorization: Bearer $CLIENT_SECRET" "$PUBLIC/download" | sha256sum | cut -d' ' -f1; }
equal "a public box" "$(sha256 b.box)" "$(read_public)"
equal "by a credential" "$(sha256 b.box)" "$(read_private)"
curl -sS --fail -o before.json "$URL/$ORG/after"
# Its first process, too: it would answer new connections by new ones.
STOPPED=$(ps -o ppid= -p "$(psql -At "$SERVER" -c "SELECT min(pid) FROM pg_stat_activity WHERE datname = 'boxes'")" | tr -d ' ')
kill -STOP "$STOPPED"
STOPPED="$STOPPED $(pgrep -P "$STOPPED" | tr '\n' ' ')"
kill -STOP $STOPPED 2>/dev/null || true
equal "what was read a moment ago is read on" "$(sha256 b.box)" "$(read_public)"
equal "by who was known a moment ago, too" "$(sha256 b.box)" "$(read_private)"
curl -sS --fail --max-time 20 -o meanwhile.json "$URL/$ORG/after"
succeeds "and Vagrant's metadata" cmp before.json meanwhile.json
http "$URL/$ORG/none"
answers "what was not read is not made up" 503
at -X POST --upload-file b.box "$(file_path stands 1.0)/upload"
answers "a change is refused for now" 503
matches "and may be tried again" '^[0-9]+$' "$(header retry-after)"
kill -CONT $STOPPED 2>/dev/null || true
again() {
    at -X POST --upload-file b.box "$(file_path stands 1.0)/upload"
    [[ $STATUS == 200 || $STATUS == 201 ]]
}
if eventually 30 again; then ok "and works when it goes on: $STATUS"; else fail "no upload after the stop: $STATUS $BODY"; fi
equal "the box is whole" "$(sha256 b.box)" "$(stored_sha256 stands 1.0)"

run 0 "fsck" "$GATEWAY" fsck --url "$URL" --token "$ADMIN_TOKEN"
says "finds nothing" 'nothing is wrong'
stop_gateway

# --- an installation that grew on SQLite moves here ---

unset BOXGATE_METADATA__URL BOXGATE_MASTER_KEY BOXGATE_STORES__MAIN__PATH
DATA=$WORK/grown
start_gateway
make_box grown.box 9000
upload grown.box grown 1.0
upload b.box grown 2.0
at -X POST "$URL/files" -H 'Tus-Resumable: 1.0.0' -H "Upload-Length: $LENGTH" \
    -H "Upload-Metadata: target $(printf '%s' "$ORG/moved/1.0/virtualbox/amd64" | base64 -w0)"
answers "an upload begins" 201
UPLOAD=/files/$(header location | sed 's,.*/files/,,')
at "${PATCH[@]}" -H 'Upload-Offset: 0' --data-binary @<(head -c 9000000 a.box) "$URL$UPLOAD"
answers "and rests" 204
psql -q "$SERVER" -c 'CREATE DATABASE moved' >/dev/null
export BOXGATE_METADATA__URL=${SERVER/\/postgres\?//moved?}
move() { "$GATEWAY" admin migrate --from sqlite --to postgres --data-dir "$DATA"; }
BOXGATE_MASTER_KEY=$KEY run 1 "while the gateway runs" move
says "nothing moves" 'another boxgate runs on it'
stop_gateway
BOXGATE_MASTER_KEY=$KEY run 2 "with another master key" move
says "it is told where the right one is" 'grown/master.key holds it'
export BOXGATE_MASTER_KEY=$(<"$DATA/master.key")
run 0 "all rows move" move
says "and are counted" '[0-9]+ rows are in PostgreSQL'
run 1 "a second time" move
says "it is refused" 'holds rows already'
start_gateway
equal "a box is there" "$(sha256 grown.box)" "$(stored_sha256 grown 1.0)"
at -I "$URL$UPLOAD" -H 'Tus-Resumable: 1.0.0'
equal "and the upload rests where it did" 9000000 "$(header upload-offset)"
at "${PATCH[@]}" -H 'Upload-Offset: 9000000' --data-binary @<(tail -c +9000001 a.box) "$URL$UPLOAD"
answers "it goes on" 204
equal "to its end" "$(sha256 a.box)" "$(stored_sha256 moved 1.0)"
run 0 "fsck after the move" "$GATEWAY" fsck --url "$URL" --token "$ADMIN_TOKEN"
says "finds nothing, either" 'nothing is wrong'
stop_gateway
finish
