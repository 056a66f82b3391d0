#!/usr/bin/env bash
# Three nodes behind nginx, as docs/deploy shows them: any of them goes on with what another began, a newer request at
# one ends an older one at another, what one takes away is gone at all; and while nodes die, hang, are cut off and
# drained, and database and store go away and come back, nothing that was acknowledged is lost and no other byte comes.
source "$(dirname "${BASH_SOURCE[0]}")/on_cluster.sh"
start_cluster --with BOXGATE_GC__ORPHAN_AGE=1s --with BOXGATE_SERVER__DRAIN_ACCEPT=1s
FIRST=${NODE[1]}
OTHER=${NODE[2]}
GRACE=90 # seconds: a bound for what must not hang

# begin BOX [URL]: an upload, made at the first node, or through nginx; sets UPLOAD to its path.
begin() {
    at -X POST "${2:-$FIRST}/files" -H 'Tus-Resumable: 1.0.0' -H "Upload-Length: $LENGTH" \
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

# bytes_of N BOX: the digest of what a node sends.
bytes_of() {
    at_node "$1" stored_sha256 "$2" 1.0
}

make_box a.box 20000
LENGTH=$(size a.box)

# --- one dies, the other goes on ---

begin died
at "${PATCH[@]}" -H 'Upload-Offset: 0' --data-binary @<(head -c 9000000 a.box) "$FIRST$UPLOAD"
answers "a node takes a piece" 204
equal "and tells how much it holds" 9000000 "$(header upload-offset)"
at -X POST "$FIRST/files?target=$ORG/found/1.0/virtualbox/amd64" -H "Upload-Length: $LENGTH"
answers "an upload in parts" 201
at -X PUT --data-binary @<(head -c "$(header upload-part-size)" a.box) "$FIRST/files/$(header location | sed 's,.*/files/,,')/parts/0"
answers "a node takes a part" 204
cluster end node1 KILL
run 0 "a push that another node takes is known by the file alone" "$GATEWAY" push a.box "$ORG/found" 1.0 virtualbox amd64 \
    --url "$URL" --token "$CLIENT_SECRET"
says "and goes on with what is held" "they are this file's"
equal "that box is whole" "$(sha256 a.box)" "$(bytes_of 2 found)"
at -I "$OTHER$UPLOAD" -H 'Tus-Resumable: 1.0.0'
equal "the other one knows it" 9000000 "$(header upload-offset)"
at "${PATCH[@]}" -H 'Upload-Offset: 9000000' --data-binary @<(tail -c +9000001 a.box) "$OTHER$UPLOAD"
answers "and goes on" 204
equal "the box is whole" "$(sha256 a.box)" "$(bytes_of 2 died)"
cluster start node1
eventually 60 is_ready 1 || fail "the first node is not ready"
equal "at the first one, too, when it is back" "$(sha256 a.box)" "$(bytes_of 1 died)"

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
equal "the box is whole" "$(sha256 a.box)" "$(bytes_of 1 again)"

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
equal "nothing of the older request is in the box" "$(sha256 a.box)" "$(bytes_of 1 taken)"

# --- what one takes away is gone at the other ---

of_died=/api/organization/$ORG/box/died/version/1.0/provider/virtualbox/architecture/amd64/file/info
at "$OTHER$of_died"
answers "a box at the other node" 200
http -X DELETE -H "x-access-token: $ADMIN_TOKEN" "$FIRST/api/organization/$ORG/box/died"
answers "is deleted at the first" 200
# What a node read a moment ago it keeps until it hears of the change, and for a second at most.
is_gone() {
    at "$OTHER$of_died"
    [[ $STATUS == 404 ]]
}
if eventually 40 is_gone; then ok "and gone at the other"; else fail "deleted at the first: $STATUS at the other"; fi
make_box b.box 300
BEFORE=$(bytes_of 2 again)
differs "a box is another one" "$(sha256 b.box)" "$BEFORE"
at_node 1 upload b.box again 1.0
is_replaced() { [[ $(bytes_of 2 again) == "$(sha256 b.box)" ]]; }
if eventually 40 is_replaced; then ok "what is replaced at one is so at the other"; else fail "replaced at one: $(bytes_of 2 again)"; fi

# --- what changes at one is seen at another in time ---

# replacements WORDS: each time one node reads a name until another replaced what it leads to, and until it has the new
# digest. NOTIFY makes it a matter of milliseconds, and an age of a second bounds it.
replacements() {
    local times=() want began
    for _ in {1..20}; do
        make_box c.box 1
        at_node 1 upload c.box "seen" 1.0
        want=$(sha256 c.box)
        began=$(date +%s%N)
        until [[ $(at_node 2 stored_sha256 seen 1.0) == "$want" ]] || (($(date +%s%N) - began > 40000000000)); do :; done
        times+=($((($(date +%s%N) - began) / 1000000)))
    done
    mapfile -t times < <(printf '%s\n' "${times[@]}" | sort -n)
    if ((times[19] < 40000)); then
        ok "20 replacements are seen at the other node$1, in milliseconds: half within ${times[9]}, all within ${times[19]}"
    else
        fail "replacements are seen$1 after ${times[*]} ms"
    fi
}

# deafened: ends the connections by which nodes hear of changes; prints how many.
deafened() {
    psql -qAt "$DB_ADMIN" -c "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
}

replacements ""
rm -f hear
while [[ ! -e hear ]]; do
    deafened
    sleep 0.05
done >deaf 2>&1 &
DEAFENER=$!
replacements ", which hears of none"
touch hear
wait "$DEAFENER" || true
deaf=$(awk '{ ended += $1 } END { print ended + 0 }' deaf)
if ((deaf >= NODES)); then ok "$deaf connections ended for that"; else fail "the nodes were not deaf: $(brief "$(sort -u deaf)")"; fi

# seen STATUS PATH [CURL-ARGUMENTS...]: whether the other node answers so.
seen() {
    http "${@:3}" "$OTHER/api/organization/$ORG$2"
    [[ $STATUS == "$1" ]]
}
at_node 1 make_public again
if eventually 40 seen 200 /box/again; then ok "a box made public at one is so at the other"; else fail "made public: $STATUS"; fi
http -X PUT -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' -d '{"isPublic":false}' \
    "$FIRST/api/organization/$ORG/box/again"
answers "it is made private again" 200
if eventually 40 seen 404 /box/again; then ok "and is so at the other"; else fail "made private: $STATUS"; fi
http -H "x-access-token: $ADMIN_TOKEN" "$FIRST/api/organization/$ORG"
http -X POST -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' \
    -d "{\"organizationId\":$(field .id)}" "$FIRST/api/service-accounts"
answers "a service account" 201
KEY=$(field .token) ACCOUNT=$(field .id)
if seen 200 /box/again -H "Authorization: Bearer $KEY"; then ok "is known at the other"; else fail "its key: $STATUS"; fi
http -X DELETE -H "x-access-token: $ADMIN_TOKEN" "$FIRST/api/service-accounts/$ACCOUNT"
answers "is deleted" 200
if eventually 40 seen 401 /box/again -H "Authorization: Bearer $KEY"; then ok "and its key ends at the other"; else fail "a deleted key: $STATUS"; fi

# --- all together ---

for n in 1 2 3 4 5 6; do
    curl -sS --fail-with-body -X POST -H "Authorization: Bearer $CLIENT_SECRET" --upload-file a.box -o "many$n" \
        "${NODE[n % 3 + 1]}/api/organization/$ORG/box/many$n/version/1.0/provider/virtualbox/architecture/amd64/file/upload" &
    many[n]=$!
done
for n in 1 2 3 4 5 6; do
    if wait "${many[n]}"; then ok "upload $n of six at once"; else fail "upload $n: $(brief "$(cat "many$n")")"; fi
    equal "and at another node" "$(sha256 a.box)" "$(bytes_of $(((n + 1) % 3 + 1)) "many$n")"
done

# --- BoxVault's chunks, each to another node ---

split -b 5M -d -a 1 a.box chunk.
CHUNKS=(chunk.?)

# chunk BOX K: sends it to one of the nodes; its answer is in BOX.K.
chunk() {
    curl -sS -o "$1.$2" -X POST -H "Authorization: Bearer $CLIENT_SECRET" -H "x-chunk-index: $2" \
        -H "x-total-chunks: ${#CHUNKS[@]}" -H 'Content-Type: application/octet-stream' --data-binary "@chunk.$2" \
        "${NODE[$2 % NODES + 1]}/api/organization/$ORG/box/$1/version/1.0/provider/virtualbox/architecture/amd64/file/upload"
}

# is_joined BOX: one of the answers told that all is there, and it is, at each node.
is_joined() {
    local n
    if grep -qE '"isComplete": ?true' "$1".?; then ok "$1: all chunks are there"; else fail "$1: $(tail -qc 200 "$1".?)"; fi
    for ((n = 1; n <= NODES; n++)); do
        equal "$1 is whole at node $n" "$(sha256 a.box)" "$(bytes_of "$n" "$1")"
    done
}
for ((k = 0; k < ${#CHUNKS[@]}; k++)); do
    chunk in-turn "$k" || fail "chunk $k: $(brief "$(cat "in-turn.$k")")"
done
is_joined in-turn
chunking=()
for ((k = ${#CHUNKS[@]} - 1; k >= 0; k--)); do
    chunk at-once "$k" &
    chunking+=($!)
done
wait "${chunking[@]}" || fail "a chunk of those at once"
is_joined at-once

# --- kill -9 in the middle of an upload, through nginx ---

# holder: sets N to the node to which nginx sends what is about the upload.
holder() {
    local line
    at "$URL$UPLOAD"
    line=$(grep -F "GET $UPLOAD " "$CLUSTER/logs/nginx-access.log" | tail -n 1)
    for ((N = 1; N <= NODES; N++)); do
        [[ $line != *" ${NODE[N]#http://} 200 "* ]] || return 0
    done
    return 1
}

# revive N
revive() {
    cluster start "node$1"
    eventually "$GRACE" is_ready "$1" || fail "node $1 is not ready after its start"
}

make_box big.box 60000
node "$CLIENTS/fixtures/tus.cjs" big.box "$URL/files" "$CLIENT_SECRET" \
    "{\"target\":\"$ORG/tus-js/1.0/virtualbox/amd64\",\"stopAt\":30000000}" >tus.out 2>&1 &
CLIENT=$!
stopped() { [[ $(cut -d' ' -f3 "/proc/$CLIENT/stat") == T ]]; }
eventually 60 stopped || fail "the client never sent so much: $(brief "$(cat tus.out)")"
UPLOAD=$(sed -n 's,^url .*/files/,/files/,p' tus.out)
eventually 60 committed || fail "nothing of it is committed"
eventually 60 holder || fail "nobody holds it"
cluster end "node$N" KILL
ok "node $N dies with an upload of tus-js-client"
kill -CONT "$CLIENT"
wait "$CLIENT" || true
matches "the client goes on through nginx" 'done http' "$(tail -n 1 tus.out)"
equal "its box is whole" "$(sha256 big.box)" "$(bytes_of $((N % 3 + 1)) tus-js)"
revive "$N"

# pushed BYTES: whether so much of the push is held.
pushed() {
    local now
    now=$(curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$(jq -r .upload big.box.boxgate-push)" |
        jq '.offset + (.parts.held | length) * .parts.size') && ((now >= $1))
}
"$GATEWAY" push big.box "$ORG/pushed" 1.0 virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" --streams 2 \
    >push.out 2>&1 </dev/null &
CLIENT=$!
eventually 60 pushed 16000000 || fail "the push does not come so far: $(brief "$(cat push.out)")"
kill -STOP "$CLIENT"
UPLOAD=/files/$(jq -r .upload big.box.boxgate-push | sed 's,.*/files/,,')
eventually 60 holder || fail "nobody holds it"
cluster end "node$N" KILL
ok "node $N dies, to which a push goes"
kill -CONT "$CLIENT"
if wait "$CLIENT"; then ok "the push ends well"; else fail "the push: $(brief "$(tail -n 3 push.out)")"; fi
equal "its box is whole" "$(sha256 big.box)" "$(bytes_of $((N % 3 + 1)) pushed)"
revive "$N"

# --- a node that sleeps while others go on ---

begin slept
send_slowly
head -c 17000000 a.box >&9
eventually 60 committed || fail "nothing is committed: $BODY"
cluster signal node1 STOP
at -I "$OTHER$UPLOAD" -H 'Tus-Resumable: 1.0.0'
STANDS=$(header upload-offset)
matches "while a node sleeps another tells what is durable" '^[1-9][0-9]+$' "$STANDS"
at "${PATCH[@]}" -H "Upload-Offset: $STANDS" --data-binary @<(tail -c "+$((STANDS + 1))" a.box) "$OTHER$UPLOAD"
answers "and takes the rest" 204
equal "the box is whole" "$(sha256 a.box)" "$(bytes_of 2 slept)"
cluster signal node1 CONT
# Bytes of another file, as many as were missing.
head -c "$((LENGTH - 17000000))" /dev/zero >&9 2>/dev/null || true
hear_slow
matches "awake, it is told that it changes nothing" '^(404|409|410)$' "$(cat slow.code)"
equal "and the box is as it was" "$(sha256 a.box)" "$(bytes_of 1 slept)"

# --- under load ---

load one two three

cluster end db QUIT
not_ready() { ! is_ready 1; }
if eventually 60 not_ready; then ok "a node is not ready without the database"; else fail "a node without a database says it is ready"; fi
cluster start db
if goes_on; then ok "the database died and is back: boxes are published"; else fail "nothing goes on without the database: $(brief "$(tail -qn 1 refused.*)")"; fi
eventually "$GRACE" all_ready || fail "not all nodes are ready again"

cluster end store KILL
cluster start store
if goes_on; then ok "the store died and is back: boxes are published"; else fail "nothing goes on without the store: $(brief "$(tail -qn 1 refused.*)")"; fi
eventually "$GRACE" all_ready || fail "not all nodes are ready again"
unload
refused_only "without database and store" "$AWAY"

# --- drained ---

# asked_since LINE N: whether nginx got a good answer of that node behind that line of its log.
asked_since() {
    tail -n "+$(($1 + 1))" "$CLUSTER/logs/nginx-access.log" | grep -qF " ${NODE[$2]#http://} 200 "
}

# send_on: sends a.box to the first node, and elsewhere as a client does that is told to go on there; the answers are in
# drained.code, where it went on is in drained.at.
send_on() {
    local at=0 code= to=$FIRST
    while [[ $code != 204 ]]; do
        tail -c "+$((at + 1))" a.box | curl -sS --limit-rate 1M -o drained.out -D drained.head -w '%{http_code}' \
            -H "Authorization: Bearer $CLIENT_SECRET" "${PATCH[@]}" -H "Upload-Offset: $at" -T - "$to$UPLOAD" \
            >drained.now 2>drained.err || true
        code=$(cat drained.now)
        echo "$code" >>drained.code
        [[ $code == 503 ]] || break
        at=$(sed -n 's/^upload-offset: *\([0-9]*\).*/\1/ip' drained.head)
        [[ $at ]] || break
        echo "$at" >>drained.at
        to=$URL
    done
}

load one two
begin drained
touch drained.at
send_on &
CLIENT=$!
eventually 60 committed || fail "nothing of it is committed"
curl -sS --limit-rate 3M -o slow.box -w '%{http_code}' -H "Authorization: Bearer $CLIENT_SECRET" \
    "$(file_path many1 1.0)/download" >slow.code &
READER=$!
for ((n = 1; n <= NODES; n++)); do
    cluster end "node$n"
    ok "node $n is drained"
    revive "$n"
    # nginx leaves a node alone for a while that failed: the next one goes when this one is asked again.
    mark=$(wc -l <"$CLUSTER/logs/nginx-access.log")
    eventually 60 asked_since "$mark" "$n" || fail "nginx asks node $n no more"
done
wait "$CLIENT" || true
equal "an upload under way goes on at other nodes" 204 "$(tail -n 1 drained.code)"
matches "each of which it left at the end of a part" '^[1-9]' "$(cat drained.at)"
equal "and at none but that" '' "$(awk '$1 % 8388608' drained.at)"
wait "$READER" || true
equal "and so does a download" "200 $(sha256 a.box)" "$(cat slow.code) $(sha256 slow.box)"
unload
refused_only "drained one after the other" '^$'

# --- cut off ---

if [[ -n $CLUSTER_APART ]]; then
    load one two
    for peer in db store; do
        for way in to from; do
            name=cut-$way-$peer
            begin "$name"
            send_slowly
            head -c 17000000 a.box >&9
            eventually 60 committed || fail "nothing is committed: $BODY"
            cluster cut node1 "$peer" "$way"
            tail -c +17000001 a.box >&9 2>/dev/null &
            at -I "$OTHER$UPLOAD" -H 'Tus-Resumable: 1.0.0'
            STANDS=$(header upload-offset)
            matches "cut $way the $peer: another node tells what is durable" '^[1-9][0-9]+$' "$STANDS"
            at "${PATCH[@]}" -H "Upload-Offset: $STANDS" --data-binary @<(tail -c "+$((STANDS + 1))" a.box) "$OTHER$UPLOAD"
            answers "and takes the rest" 204
            if goes_on; then ok "and boxes are published through nginx"; else fail "cut $way the $peer, at $SECONDS s nothing goes on: $(tail -qn 5 refused.* | sed -E 's/\{.*\}//' | tr '\n' ' ')"; fi
            cluster mend
            eventually "$GRACE" is_ready 1 || fail "the node is not ready again"
            hear_slow
            matches "what the node was sent meanwhile changes nothing" '^(000|404|408|409|410|503)$' "$(cat slow.code)"
            equal "and the box is whole there, too" "$(sha256 a.box)" "$(bytes_of 1 "$name")"
        done
    done
    unload
    refused_only "while a node was cut off" "$AWAY"
fi

all_there "at the end"
clean "at the end"
finish
