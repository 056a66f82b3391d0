#!/usr/bin/env bash
# `boxgate push` and `boxgate admin upload` against the gateway: whole, killed on either side and gone on with, told
# no in every way, and in memory that does not grow with the file.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

PART=$((8 << 20))
STREAMS=4

# one_line NAME: a failure is told in one line on standard error.
one_line() {
    equal "$1: in one line" 1 "$(grep -c . "$WORK/out")"
}

# push FILE VERSION [FLAGS...]
push() {
    "$GATEWAY" push "$1" "$ORG/demo" "$2" virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" "${@:3}"
}

# push_behind FILE VERSION [FLAGS...]: in the background, its words in $WORK/push.out; sets PUSH_PID.
push_behind() {
    "$GATEWAY" push "$1" "$ORG/demo" "$2" virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" "${@:3}" \
        >"$WORK/push.out" 2>&1 </dev/null &
    PUSH_PID=$!
}

# wait_push CODE NAME
wait_push() {
    local code=0
    wait "$PUSH_PID" || code=$?
    cp "$WORK/push.out" "$WORK/out"
    if ((code == $1)); then ok "$2: exit $code"; else fail "$2: exit $code, not $1: $(brief "$(tail -n 5 "$WORK/out")")"; fi
}

# held FILE: bytes that the gateway holds of the push that is kept beside the file, by its own GET.
held() {
    curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$(jq -r .upload "$1.boxgate-push")" 2>/dev/null |
        jq "if .state == \"done\" then .length else .offset + (.parts.held | length) * .parts.size end" 2>/dev/null
}

# reached FILE BYTES: whether the gateway holds so many.
reached() {
    local now
    [[ -s $1.boxgate-push ]] && now=$(held "$1") && ((${now:-0} >= $2))
}

# bytes_in: bytes of bodies that the gateway has taken since it started.
bytes_in() {
    curl -sS --fail "$URL/metrics" | awk '/^boxgate_http_bytes_in_total/ { printf "%d", $2 }'
}

start_gateway
LISTEN=${URL#http://}
"$GATEWAY" sample-box big.box --size 400MB >/dev/null
BIG=$(sha256 big.box)
LENGTH=$(size big.box)
printf 'a small box\n' >small.box

# --- whole ---
before=$(bytes_in)
run 0 "a push" push big.box 1.0.0
says "a push: sha256 at the end" "sha256  $BIG"
says "a push: the URL of the box" 'url     http://[^ ]+/vagrant\.box\?b3=[0-9a-f]{64}'
equal "a push: that URL has the box" "$BIG" \
    "$(curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$(sed -n 's/^url *//p' "$WORK/out")" | sha256sum | cut -d' ' -f1)"
equal "a push: no byte is sent twice" "$LENGTH" "$(($(bytes_in) - before))"
equal "a push: nothing is left beside the file" no "$([[ -e big.box.boxgate-push ]] && echo yes || echo no)"
run 0 "a push of a few bytes, by the guide's variables" env BOXVAULT_URL="$URL" BOXVAULT_CLIENT_ID="$CLIENT_ID" \
    BOXVAULT_CLIENT_SECRET="$CLIENT_SECRET" "$GATEWAY" push small.box "$ORG/demo" 1.0.1 virtualbox amd64
equal "a push of a few bytes: it is there" "$(sha256 small.box)" "$(stored_sha256 demo 1.0.1)"
run 0 "a push of a version that is there" push small.box 1.0.0 --streams 1
equal "a push of a version that is there: it is replaced" "$(sha256 small.box)" "$(stored_sha256 demo 1.0.0)"

# --- the client is killed in the middle, and goes on ---
before=$(bytes_in)
push_behind big.box 2.0.0 --streams "$STREAMS"
if eventually 60 reached big.box $((LENGTH / 2)); then ok "the gateway holds half of it"; else fail "half of it never came"; fi
kill -KILL "$PUSH_PID"
wait "$PUSH_PID" 2>/dev/null || true
equal "killed: the state beside the file is its owner's alone" 600 "$(stat -c %a big.box.boxgate-push)"
equal "killed: no credential is kept in it" 0 "$(grep -cE -e "$CLIENT_SECRET" big.box.boxgate-push || true)"
equal "killed: nothing is published" 404 \
    "$(curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box/demo/version/2.0.0")"
run 0 "killed: the same command goes on" push big.box 2.0.0 --streams "$STREAMS"
says "killed: it says so" 'goes on: the gateway holds [0-9.]+ MiB of'
again=$(($(bytes_in) - before - LENGTH))
if ((again >= 0 && again <= STREAMS * PART)); then
    ok "killed: $again bytes are sent twice, at most one part for each stream"
else
    fail "killed: $again bytes are sent twice, more than $((STREAMS * PART))"
fi
equal "killed: the box is whole" "$BIG" "$(stored_sha256 demo 2.0.0)"

# --- the client is killed, and its machine with it: another one has the same file, and nothing beside it ---
before=$(bytes_in)
push_behind big.box 2.1.0 --streams "$STREAMS"
if eventually 60 reached big.box $((LENGTH / 2)); then ok "the gateway holds half of it"; else fail "half of it never came"; fi
kill -KILL "$PUSH_PID"
wait "$PUSH_PID" 2>/dev/null || true
rm big.box.boxgate-push
mkdir runner
cp big.box runner/built.box
run 0 "another machine: the same file goes on" push runner/built.box 2.1.0 --streams "$STREAMS" --json
says "another machine: it was found" '"event":"found"'
says "another machine: and is this file" '"event":"resumed"'
again=$(($(bytes_in) - before - LENGTH))
if ((again <= STREAMS * PART)); then
    ok "another machine: $again bytes are sent twice, at most one part for each stream"
else
    fail "another machine: $again bytes are sent twice, more than $((STREAMS * PART))"
fi
equal "another machine: the box is whole" "$BIG" "$(stored_sha256 demo 2.1.0)"
equal "another machine: nothing is left beside the file" built.box "$(ls runner)"
rm -r runner

# --- the gateway is killed in the middle, and comes back while the push tries again ---
push_behind big.box 3.0.0
eventually 60 reached big.box $((LENGTH / 4)) || fail "a quarter of it never came"
stop_gateway KILL
tries_again() {
    grep -q 'again in' "$WORK/push.out"
}
if eventually 30 tries_again; then ok "gateway killed: the push tries again"; else fail "gateway killed: $(brief "$(cat "$WORK/push.out")")"; fi
start_gateway
wait_push 0 "gateway killed: the push ends well once it is back"
equal "gateway killed: the box is whole" "$BIG" "$(stored_sha256 demo 3.0.0)"

# --- the gateway stays away ---
"$GATEWAY" sample-box cut.box --size 60MB >/dev/null
stop_gateway TERM
run 75 "no gateway" push cut.box 4.0.0 --tries 2
says "no gateway: what to do" 'cannot reach http://[0-9.:]+: .*the same command'
start_gateway

# --- administration: an upload in progress, seen and ended ---
push_behind big.box 5.0.0 --streams 1
eventually 60 reached big.box "$PART" || fail "the first part never came"
kill -STOP "$PUSH_PID"
admin=("$GATEWAY" admin upload)
as=(--url "$URL" --token "$ADMIN_TOKEN")
run 0 "admin upload list --json" "${admin[@]}" list "${as[@]}" --json
id=$(jq -r '.[0].id' "$WORK/out")
equal "admin upload list --json: one row, with what it is" \
    "[1,\"open\",\"$ORG\",\"demo\",\"5.0.0\",\"admin\",\"$CLIENT_ID\",$LENGTH]" \
    "$(jq -c '[length, (.[0] | .state, .organization.name, .target.box, .target.version, .owner.username, .owner.actor, .length)]' "$WORK/out")"
# What is still on its way in may be committed between two looks.
agree() {
    local sender
    sender=$(curl -sS -H "Authorization: Bearer $CLIENT_SECRET" "$(jq -r .upload big.box.boxgate-push)" | jq .offset)
    [[ $("${admin[@]}" show "${as[@]}" "$id" --json | jq .offset) == "$sender" ]]
}
if eventually 20 agree; then ok "its offset is what the sender is told"; else fail "its offset is not what the sender is told"; fi
run 0 "admin upload list" "${admin[@]}" list "${as[@]}" --organization "$ORG"
says "admin upload list: a table" "^ID +ORGANIZATION +TARGET +OWNER.*$id +$ORG +demo/5\.0\.0/virtualbox/amd64"
run 1 "admin upload list of an organization that is not there" "${admin[@]}" list "${as[@]}" --organization nowhere
one_line "admin upload list of an organization that is not there"
run 0 "admin upload show" "${admin[@]}" show "${as[@]}" "$id"
says "admin upload show: its state" 'state +open'
run 1 "admin upload show with a service account's key" "${admin[@]}" show --url "$URL" --token "$CLIENT_SECRET" "$id"
says "admin upload show with a service account's key" '403'
run 2 "admin upload abort asks, and nobody is there to answer" "${admin[@]}" abort "${as[@]}" "$id"
says "admin upload abort asks" '\-\-yes'
run 0 "admin upload abort --yes" "${admin[@]}" abort "${as[@]}" "$id" --yes --json
equal "admin upload abort --yes --json" "{\"id\":\"$id\",\"state\":\"aborted\"}" "$(cat "$WORK/out")"
run 1 "admin upload abort once more" "${admin[@]}" abort "${as[@]}" "$id" --yes
run 1 "admin upload abort of none" "${admin[@]}" abort "${as[@]}" 00000000000000000000000000000000 --yes
kill -CONT "$PUSH_PID"
wait_push 1 "the push that was given up"
says "the push that was given up: it says by whom" 'given up on the gateway'
run 0 "admin upload list: nothing" "${admin[@]}" list "${as[@]}" --json
equal "admin upload list --json: nothing" '[]' "$(cat "$WORK/out")"
run 0 "the same push begins afresh" push big.box 5.0.0
says "the same push begins afresh: it says so" 'begins afresh'
equal "the same push begins afresh: the box is whole" "$BIG" "$(stored_sha256 demo 5.0.0)"

# --- a file that changes ---
push_behind big.box 6.0.0 --streams 1
eventually 60 reached big.box "$PART" || fail "the first part never came"
kill -KILL "$PUSH_PID"
wait "$PUSH_PID" 2>/dev/null || true
touch -d '2020-01-01' big.box
run 1 "a file that changed since" push big.box 6.0.0
says "a file that changed since: what to do" 'big\.box has changed .*--afresh'
one_line "a file that changed since"
run 1 "another target" push big.box 6.0.1
push_behind big.box 6.0.0 --streams 1 --afresh
eventually 60 reached big.box "$PART" || fail "the first part never came"
printf x >>big.box
wait_push 1 "a file that changes meanwhile"
says "a file that changes meanwhile: what to do" 'big\.box has changed .*--afresh'
equal "a file that changes meanwhile: nothing is published" 404 \
    "$(curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box/demo/version/6.0.0")"
run 0 "a file that changed, afresh" push big.box 6.0.0 --afresh
equal "a file that changed, afresh: the box is whole" "$(sha256 big.box)" "$(stored_sha256 demo 6.0.0)"
equal "what was begun before is given up" '[]' "$("${admin[@]}" list "${as[@]}" --json)"

# --- called wrongly ---
: >empty.box
run 2 "an empty file" push empty.box 7.0.0
one_line "an empty file"
run 2 "no file" push absent.box 7.0.0
one_line "no file"
run 2 "a folder" push "$DATA" 7.0.0
run 2 "no address" "$GATEWAY" push small.box "$ORG/demo" 7.0.0 virtualbox amd64 --token t
says "no address: what to do" 'BOXGATE_URL'
run 2 "no credential" "$GATEWAY" push small.box "$ORG/demo" 7.0.0 virtualbox amd64 --url "$URL"
says "no credential: what to do" 'BOXGATE_TOKEN'
run 2 "two credentials" env BOXGATE_TOKEN=a BOXGATE_CLIENT_SECRET=b \
    "$GATEWAY" push small.box "$ORG/demo" 7.0.0 virtualbox amd64 --url "$URL"
run 2 "no box in the name" "$GATEWAY" push small.box demo 7.0.0 virtualbox amd64 --url "$URL" --token t
run 2 "a name that no box can have" "$GATEWAY" push small.box "$ORG/a/b" 7.0.0 virtualbox amd64 --url "$URL" --token t
run 2 "too many streams" push small.box 7.0.0 --streams 17
run 1 "a wrong token" "$GATEWAY" push small.box "$ORG/demo" 7.0.0 virtualbox amd64 --url "$URL" --token "${CLIENT_SECRET//[0-9]/0}"
says "a wrong token: what to do" 'answers 401: .*Check the token'
one_line "a wrong token"
run 1 "an organization of others" "$GATEWAY" push small.box nowhere/demo 7.0.0 virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET"
says "an organization of others" 'answers 404'
run 1 "a server that is no gateway" "$GATEWAY" push small.box "$ORG/demo" 7.0.0 virtualbox amd64 --url "$URL/elsewhere" --token t
equal "nothing is left beside the file" no "$([[ -e small.box.boxgate-push ]] && echo yes || echo no)"

# --- what does not fit ---
stop_gateway TERM
BOXGATE_LIMITS__MIN_FREE=900TiB BOXGATE_UPLOADS__MAX_LENGTH=1MiB start_gateway
run 75 "no room at the gateway" push small.box 8.0.0
says "no room at the gateway: what to do" 'answers 507: .*goes on once there is room'
one_line "no room at the gateway"
run 1 "a file over the limit" push cut.box 8.0.0
says "a file over the limit" 'answers 413'
stop_gateway TERM
start_gateway

# --- memory ---
truncate -s 1G sparse.box
push_behind sparse.box 9.0.0
peak=0
while kill -0 "$PUSH_PID" 2>/dev/null; do
    now=$(awk '/^VmHWM/ { print $2 }' "/proc/$PUSH_PID/status" 2>/dev/null || true)
    ((${now:-0} <= peak)) || peak=$now
done
wait_push 0 "a GiB"
if ((peak > 0 && peak <= 128 * 1024)); then ok "a GiB: peak memory of the client $peak KiB"; else fail "a GiB: peak memory of the client $peak KiB"; fi
says "a GiB: its digest" "sha256  $(sha256 sparse.box)"

stop_gateway TERM
finish
