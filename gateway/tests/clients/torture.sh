#!/usr/bin/env bash
# Three nodes behind nginx under load, and in each round something dies, sleeps, stops, is cut off or loses its
# connections, chosen at random: nothing that was acknowledged may be lost, no offset may go back, no other byte may
# come, and all goes on afterwards.
# Not in `.ci/test`: `.ci/long cluster` runs it.
#
#   torture.sh [ROUNDS] [SEED]    200 rounds; the seed makes the same choices again (what meets them is chance)
source "$(dirname "${BASH_SOURCE[0]}")/on_cluster.sh"
ROUNDS=${1:-200}
SEED=${2:-$((RANDOM * 32768 + RANDOM))}
GRACE=180 # seconds: a bound for what must not hang
echo "seed $SEED, $ROUNDS rounds"
# Not asked here is what an old backup does, so there may be any number of orphans.
start_cluster --with BOXGATE_GC__ORPHAN_AGE=1s --with BOXGATE_GC__FEW_ORPHANS=1000 --with BOXGATE_SERVER__DRAIN_ACCEPT=1s

# wrong NAME WHAT...: a broken promise.
wrong() {
    echo "$*" >>broken
    echo "WRONG $*"
}

# anywhere: sets WHERE to nginx or to a node.
anywhere() {
    local n=$((RANDOM % (NODES + 1)))
    WHERE=$URL
    ((n == 0)) || WHERE=${NODE[n]}
}

# tus NAME CURL-ARGUMENTS...: one call by the writer NAME; sets GOT to `STATUS OFFSET`.
tus() {
    GOT=$(curl -sS -o "$1.answer" -w '%{http_code} %header{upload-offset}' -H "Authorization: Bearer $CLIENT_SECRET" \
        -H 'Tus-Resumable: 1.0.0' "${@:2}" 2>"$1.error") || true
}

# writer NAME SEED: one tus upload after the other, in pieces of any length at any node, some of them cut by the client;
# keeps what it was told.
writer() {
    local n=0 box size told piece path begun=$EPOCHSECONDS
    RANDOM=$2
    while [[ ! -e enough ]]; do
        n=$((n + 1)) box=$1-$begun-$n size=$((RANDOM * 900 + 1)) told=0
        head -c "$size" /dev/urandom >"$box"
        until
            anywhere
            tus "$1" --max-time 30 -X POST "$WHERE/files" -D "$1.head" -H "Upload-Length: $size" \
                -H "Upload-Metadata: target $(printf '%s' "$ORG/$box/1.0/virtualbox/amd64" | base64 -w0)"
            [[ $GOT == 201* ]]
        do
            refused "$1" "creation of $box: $GOT $(cat "$1.error")"
        done
        path=/files/$(tr -d '\r' <"$1.head" | sed -n 's,^[Ll]ocation:.*/files/,,p')
        while ((told < size)); do
            piece=$((RANDOM * 400 + 1))
            anywhere
            tus "$1" --max-time $((RANDOM % 20 + 1)) --limit-rate $((RANDOM % 20 + 1))M -X PATCH "$WHERE$path" \
                -H 'Content-Type: application/offset+octet-stream' -H "Upload-Offset: $told" -H 'Expect:' \
                --data-binary @<(tail -c "+$((told + 1))" "$box" | head -c "$piece")
            if [[ $GOT != 204* ]]; then
                [[ $GOT =~ ^(000|408|409|503) ]] || { wrong "$box: PATCH at $told says $GOT: $(head -c 300 "$1.answer")"; return; }
                until
                    anywhere
                    tus "$1" --max-time 20 -I "$WHERE$path"
                    [[ $GOT == 200* ]]
                do
                    [[ $GOT =~ ^(000|503) ]] || { wrong "$box, $path: HEAD at $told says $GOT"; return; }
                    refused "$1" "offset of $box: $GOT $(cat "$1.error")"
                done
            fi
            ((${GOT#* } >= told)) || wrong "$box: $told was told, now it is ${GOT#* }"
            told=${GOT#* }
            echo "$box $told" >>"told.$1"
        done
        echo "$box $(sha256 "$box")" >>"ledger.$1"
        until
            anywhere
            GOT=$(curl -sS --max-time 60 -H "Authorization: Bearer $CLIENT_SECRET" -o "$1.answer" -w '%{http_code}' \
                "$WHERE/api/organization/$ORG/box/$box/version/1.0/provider/virtualbox/architecture/amd64/file/download" \
                2>"$1.error") && [[ $GOT == 200 ]]
        do
            [[ $GOT =~ ^(000|200|503) ]] || { wrong "$box: published, and says $GOT"; return; }
            refused "$1" "download of $box: $GOT $(cat "$1.error")"
        done
        cmp -s "$box" "$1.answer" || wrong "$box: other bytes at $WHERE"
        rm -f "$box" "$1.answer"
    done
}

# pusher NAME: one `boxgate push` after the other.
pusher() {
    local n=0 box code begun=$EPOCHSECONDS
    while [[ ! -e enough ]]; do
        n=$((n + 1)) box=$1-$begun-$n
        head -c 40000000 /dev/urandom >"$box"
        until
            code=0
            "$GATEWAY" push "$box" "$ORG/$box" 1.0 virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" >"$1.out" 2>&1 || code=$?
            ((code == 0))
        do
            ((code == 75)) || { wrong "push of $box: exit $code: $(tail -n 2 "$1.out")"; return; }
            refused "$1" "push of $box: not now"
        done
        echo "$box $(sha256 "$box")" >>"ledger.$1"
        rm -f "$box"
    done
}

# --- disasters ---

# pick VARIABLE CHOICE...: not by $(...), where the seed is forgotten.
pick() { printf -v "$1" %s "${@:RANDOM % ($# - 1) + 2:1}"; }

# A disaster lasts so long: long enough for a limit to be reached now and then (10 s).
lasts() { sleep "$((RANDOM % 14)).$((RANDOM % 10))"; }

ready_again() {
    eventually "$GRACE" all_ready || wrong "round $ROUND: not all are ready again"
}

disaster() {
    local node=node$((RANDOM % NODES + 1)) kinds=(kill sleep stop db store front two) kind peer way
    [[ -z $CLUSTER_APART ]] || kinds+=(cut cut cut cut loss reset)
    pick kind "${kinds[@]}"
    WHAT="$kind $node"
    case $kind in
        kill)
            cluster end "$node" KILL
            lasts
            cluster start "$node"
            ;;
        sleep)
            cluster signal "$node" STOP
            lasts
            cluster signal "$node" CONT
            ;;
        stop)
            cluster end "$node"
            lasts
            cluster start "$node"
            ;;
        two)
            peer=node$((${node#node} % NODES + 1))
            WHAT+=" $peer"
            cluster signal "$node" STOP
            cluster end "$peer" KILL
            lasts
            cluster start "$peer"
            cluster signal "$node" CONT
            ;;
        db)
            pick way QUIT INT
            WHAT="db $way"
            cluster end db "$way"
            lasts
            cluster start db
            ;;
        store)
            WHAT=store
            cluster end store KILL
            lasts
            cluster start store
            ;;
        front)
            WHAT=front
            cluster end front
            lasts
            cluster start front
            ;;
        loss)
            WHAT=loss
            cluster lose 5
            lasts
            cluster mend
            ;;
        reset)
            pick peer db store
            WHAT+=" $peer"
            for way in 1 2 3; do
                cluster reset "$node" "$peer"
                lasts
            done
            ;;
        cut)
            pick peer db store
            pick way to from both
            WHAT+=" $way $peer"
            [[ $way == from ]] || cluster cut "$node" "$peer" to
            [[ $way == to ]] || cluster cut "$node" "$peer" from
            lasts
            cluster mend
            ;;
    esac
}

load one two
for name in three four; do
    : >"refused.$name"
    writer "$name" "$((SEED % 10000 + ${#LOADERS[@]}))" &
    LOADERS[$name]=$!
done
: >refused.five
pusher five &
LOADERS[five]=$!
: >broken
RANDOM=$SEED
for ((ROUND = 1; ROUND <= ROUNDS; ROUND++)); do
    begun=$SECONDS
    disaster
    ready_again
    [[ -s broken ]] || goes_on || wrong "round $ROUND: nothing goes on after $WHAT: $(tail -qn 1 refused.*)"
    echo "round $ROUND: $WHAT, $((SECONDS - begun)) s, $(acknowledged) boxes"
    [[ ! -s broken ]] || break
done
unload
[[ ! -s broken ]] && ok "$((ROUND - 1)) rounds, seed $SEED, $(cat told.* | wc -l) offsets told" || fail "seed $SEED: $(brief "$(cat broken)")"
# nginx is away in some rounds.
refused_only "what failed" '^(upload|download|creation|offset|push) of [^ ]+: (503|000|200|not now)'
all_there "at the end"
clean "at the end"
finish
