# Shared by what drives several nodes: the cluster of load-tests/cluster, each node in a network of its own where root
# runs it. Sourced first; sources lib.sh. Sets what lib.sh's checks need (URL is nginx), NODE (the nodes' own addresses,
# from 1), STORE, and APART where nodes can be cut off.
# shellcheck shell=bash disable=SC2034,SC2154
if [[ -z ${CLUSTER_APART+set} ]]; then
    export CLUSTER_APART=
    if ((UID == 0)); then
        CLUSTER_APART=--apart exec unshare --net --mount -- bash "$0" "$@"
    fi
    echo "without root all nodes share one network: cuts are left out"
fi
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"
CLUSTER=/tmp/boxgate-nodes.$$

cluster() {
    BOXGATE_BIN=$GATEWAY BOXGATE_TOOLS=$(dirname "$TOOLS") BOXGATE_CLUSTER=$CLUSTER "$ROOT/load-tests/cluster" "$@"
}

end_cluster() {
    [[ -e $CLUSTER ]] || return 0
    touch "$WORK/enough" "$WORK/over"
    [[ -z $KEEP ]] || cp -r "$CLUSTER/logs" "$WORK/logs"
    cluster down || true
}
trap 'CODE=$?; end_cluster; cleanup "$CODE"' EXIT

# start_cluster [FLAGS...]
start_cluster() {
    cluster up $CLUSTER_APART "$@" >"$WORK/cluster.out" || { cat "$WORK/cluster.out"; exit 1; }
    source "$CLUSTER/cluster.env"
    NODE=("${NODE[@]/#/http://}")
    BASE=$URL/api/organization/$ORG
    export CURL_CA_BUNDLE=$CLUSTER/etc/boxes.pem SSL_CERT_FILE=$CLUSTER/etc/boxes.pem
    export NODE_EXTRA_CA_CERTS=$CLUSTER/etc/boxes.pem
}

# is_ready N: whether that node wants requests.
is_ready() {
    curl -sSf --max-time 10 "${NODE[$1]}/readyz"
}

# all_ready: whether every node does.
all_ready() {
    local n
    for ((n = 1; n <= NODES; n++)); do is_ready "$n" || return 1; done
}

# at_node N COMMAND...: a function of lib.sh, asking that node instead of nginx.
at_node() {
    local URL=${NODE[$1]}
    local BASE=$URL/api/organization/$ORG
    "${@:2}"
}

# --- load through nginx, and a ledger of what was acknowledged ---

declare -A LOADERS=() # name -> process id

# loader NAME: until the file `enough` is there, publishes one small box after the other and reads it back, and tries
# again what fails, as a job of CI does. Boxes that were acknowledged go to ledger.NAME with their digests, what was
# answered instead to refused.NAME.
loader() {
    local n=0 box got begun=$EPOCHSECONDS
    while [[ ! -e enough ]]; do
        n=$((n + 1)) box=$1-$begun-$n
        head -c $((RANDOM * 32 + 1)) /dev/urandom >"$box"
        until
            got=$(curl -sS --max-time 90 -X POST -H "Authorization: Bearer $CLIENT_SECRET" --upload-file "$box" \
                -o "$box.answer" -w '%{http_code} %header{retry-after}' "$(file_path "$box" 1.0)/upload" 2>"$box.error")
            [[ $got == 200* ]]
        do
            refused "$1" "upload of $box: $got $(cat "$box.error") $(head -c 300 "$box.answer" 2>/dev/null)"
        done
        echo "$box $(sha256 "$box")" >>"ledger.$1"
        until
            got=$(curl -sS --max-time 90 -H "Authorization: Bearer $CLIENT_SECRET" -o "$box.answer" \
                -w '%{http_code} %header{retry-after}' "$(file_path "$box" 1.0)/download" 2>"$box.error")
            [[ $got == 200* ]] && cmp -s "$box" "$box.answer"
        do
            # All of it, and other bytes: no try makes that right.
            [[ $got != 200* || -s $box.error ]] || { refused "$1" "download of $box: other bytes"; return 1; }
            refused "$1" "download of $box: $got $(cat "$box.error")"
        done
        rm -f "$box" "$box.answer" "$box.error"
    done
}

# refused NAME WHAT...: writes it down, and paces the next try, if there is to be one.
refused() {
    echo "${*:2} at $SECONDS s" >>"refused.$1"
    [[ ! -e over ]] || exit 1
    sleep 0.2
}

# load NAME...: starts a loader for each.
load() {
    local name
    rm -f enough refused.*
    for name; do
        : >"refused.$name"
        loader "$name" &
        LOADERS[$name]=$!
    done
    goes_on || fail "the load does not begin: $(brief "$(cat refused.*)")"
}

acknowledged() { cat ledger.* 2>/dev/null | wc -l; }

more_than() { (($(acknowledged) > $1)); }

# goes_on: whether boxes are published from now on.
goes_on() {
    eventually 150 more_than "$(($(acknowledged) + 3))"
}

# unload: lets them end.
unload() {
    local name
    touch enough
    for name in "${!LOADERS[@]}"; do
        wait "${LOADERS[$name]}" || fail "loader $name: $(brief "$(tail -n 1 "refused.$name")")"
    done
    LOADERS=()
}

# refused_only NAME REGEX: whether all that was not good is such.
refused_only() {
    local other
    other=$(cat refused.* | grep -Ev "$2" || true)
    if [[ -z $other ]]; then
        ok "$1: $(cat refused.* | wc -l) tries failed, as they may; $(acknowledged) boxes are acknowledged"
    else
        fail "$1: $(wc -l <<<"$other") others, such as: $(brief "$(head -n 3 <<<"$other")")"
    fi
}

# What a client may be told while a part is away: come again, or no answer at all from nginx.
AWAY='^(upload|download) of [^ ]+: (503 [0-9]+|000 ) '

# all_there NAME: whether each acknowledged box is at some node, each at another one, as it was sent.
all_there() {
    local box sha n=0 wrong=0 got
    while read -r box sha; do
        n=$((n + 1))
        got=$(at_node $((n % NODES + 1)) stored_sha256 "$box" 1.0) || true
        [[ $got == "$sha" ]] || { wrong=$((wrong + 1)); echo "$box at node $((n % NODES + 1)): $got, not $sha" >>wrong; }
    done < <(cat ledger.*)
    if ((wrong == 0 && n > 0)); then ok "$1: all $n acknowledged boxes are there"; else fail "$1: $wrong of $n are not: $(brief "$(head -n 3 wrong)")"; fi
}

# swept: whether the bytes that late writers left can be collected, and nothing else is wrong then.
swept() {
    "$GATEWAY" gc --url "${NODE[1]}" --token "$ADMIN_TOKEN" && "$GATEWAY" fsck --url "${NODE[NODES]}" --token "$ADMIN_TOKEN"
}

# clean NAME
clean() {
    if eventually 60 swept; then ok "$1: after gc fsck finds nothing"; else fail "$1: $(brief "$(swept 2>&1)")"; fi
}
