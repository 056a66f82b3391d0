# Shared by the shell suites: a gateway of their own, boxes to send, checks that are counted.
# Sourced, never run. A suite works in one temporary folder and stops what it started by process id.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

CLIENTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$CLIENTS/../../.." && pwd)
source "$CLIENTS/servers.sh"
GATEWAY=${BOXGATE_BIN:-$ROOT/target/debug/boxgate}
TOOLS=${BOXGATE_TOOLS:-$HOME/.cache/boxgate}/clients
KEEP=${BOXGATE_KEEP:-}
# To the gateway, every BOXGATE_ variable is a setting.
unset BOXGATE_BIN BOXGATE_TOOLS BOXGATE_KEEP
# To its clients, these name another one.
unset BOXGATE_URL BOXGATE_TOKEN BOXGATE_CLIENT_ID BOXGATE_CLIENT_SECRET BOXVAULT_URL BOXVAULT_CLIENT_ID BOXVAULT_CLIENT_SECRET
export PATH="$TOOLS/bin:$TOOLS/venv/bin:$PATH"
export NODE_PATH="$TOOLS/node/node_modules"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/boxgate-suite.XXXXXX")
DATA=$WORK/data
GATEWAY_PID=
PASSED=0
FAILED=0

# cleanup [CODE]: what a suite leaves; it ends with CODE, or as the last command did.
cleanup() {
    local code=${1-$?}
    [[ -z $GATEWAY_PID ]] || stop_gateway KILL 2>/dev/null || true
    if [[ -n $KEEP ]]; then
        echo "kept: $WORK"
    else
        rm -rf "$WORK"
    fi
    exit "$code"
}
trap cleanup EXIT
trap 'exit 143' TERM INT

# --- checks: one line each, with the evidence ---

ok() {
    PASSED=$((PASSED + 1))
    printf 'ok    %s\n' "$*"
}

fail() {
    FAILED=$((FAILED + 1))
    printf 'FAIL  %s\n' "$*"
}

# equal NAME WANT GOT
equal() {
    if [[ $2 == "$3" ]]; then ok "$1: $(brief "$3")"; else fail "$1: want $(brief "$2"), got $(brief "$3")"; fi
}

# differs NAME OTHER GOT
differs() {
    if [[ $2 != "$3" ]]; then ok "$1: $(brief "$3")"; else fail "$1: still $(brief "$3")"; fi
}

# matches NAME REGEX TEXT
matches() {
    if [[ $3 =~ $2 ]]; then ok "$1: $(brief "${BASH_REMATCH[0]}")"; else fail "$1: want /$2/, got $(brief "$3")"; fi
}

# succeeds NAME COMMAND...
succeeds() {
    local name=$1 code=0
    shift
    "$@" >"$WORK/out" 2>&1 || code=$?
    if ((code == 0)); then ok "$name: exit 0"; else fail "$name: exit $code: $(tail -c 600 "$WORK/out" | tr '\n' ' ')"; fi
}

# refuses NAME REGEX COMMAND...: the command must fail and say something that matches.
refuses() {
    local name=$1 pattern=$2 code=0
    shift 2
    "$@" >"$WORK/out" 2>&1 || code=$?
    if ((code == 0 || code == 124)); then
        fail "$name: exit $code"
    else
        matches "$name (exit $code)" "$pattern" "$(cat "$WORK/out")"
    fi
}

# run CODE NAME COMMAND...: the command ends with this code; its words are in $WORK/out.
run() {
    local want=$1 name=$2 code=0
    shift 2
    "$@" >"$WORK/out" 2>&1 </dev/null || code=$?
    if ((code == want)); then ok "$name: exit $code"; else fail "$name: exit $code, not $want: $(brief "$(tail -n 5 "$WORK/out")")"; fi
}

# says NAME REGEX: about the last run.
says() {
    matches "$1" "$2" "$(cat "$WORK/out")"
}

brief() {
    printf '%s' "$*" | tr '\n' ' ' | cut -c1-240
}

# finish: the suite's last line, and its exit code.
finish() {
    printf '%s: %d ok, %d failed\n' "$(basename "$0")" "$PASSED" "$FAILED"
    ((FAILED == 0 && PASSED > 0))
}

# --- the gateway ---

# start_gateway [FLAGS...]: quickstart on a free port (or on $LISTEN) over $DATA. Sets URL, ORG, CLIENT_ID, CLIENT_SECRET,
# ADMIN, ADMIN_PASSWORD, ADMIN_TOKEN, READY (the line itself) and GATEWAY_PID. Logs go to $WORK/gateway.log.
start_gateway() {
    [[ -x $GATEWAY ]] || { echo "no gateway at $GATEWAY: build it first (cargo build)" >&2; exit 2; }
    : >"$WORK/ready"
    "$GATEWAY" quickstart --data-dir "$DATA" --listen "${LISTEN:-127.0.0.1:0}" --json "$@" \
        >"$WORK/ready" 2>>"$WORK/gateway.log" &
    GATEWAY_PID=$!
    eventually 60 gateway_spoke_or_died || true
    READY=$(head -n 1 "$WORK/ready")
    if [[ -z $READY ]]; then
        echo "the gateway did not start:" >&2
        tail -n 20 "$WORK/gateway.log" >&2
        exit 1
    fi
    URL=$(jq -r .url <<<"$READY")
    ORG=$(jq -r .organization <<<"$READY")
    ADMIN=$(jq -r .admin.username <<<"$READY")
    ADMIN_PASSWORD=$(jq -r .admin.password <<<"$READY")
    ADMIN_TOKEN=$(jq -r .admin.token <<<"$READY")
    CLIENT_ID=$(jq -r .service_account.client_id <<<"$READY")
    CLIENT_SECRET=$(jq -r .service_account.client_secret <<<"$READY")
    BASE=$URL/api/organization/$ORG
}

gateway_spoke_or_died() {
    [[ $(wc -l <"$WORK/ready") -ge 1 ]] || ! kill -0 "$GATEWAY_PID"
}

# stop_gateway [SIGNAL]: sets STOPPED_WITH to the exit code.
stop_gateway() {
    STOPPED_WITH=0
    kill -"${1:-TERM}" "$GATEWAY_PID"
    wait "$GATEWAY_PID" 2>/dev/null || STOPPED_WITH=$?
    GATEWAY_PID=
}

# blobs: every file of the local store that holds bytes of boxes, sorted.
blobs() {
    [[ ! -d $DATA/blobs ]] || find "$DATA/blobs" -type f -not -name '*.json' | sort
}

# --- boxes and files ---

# make_box FILE [KIB] [TAR-FLAG]: a Vagrant box for VirtualBox, its disk random and KIB long; `-z` for gzip.
make_box() {
    local dir
    dir=$(mktemp -d "$WORK/box.XXXXXX")
    printf '{"provider":"virtualbox"}\n' >"$dir/metadata.json"
    printf 'Vagrant.configure("2") { |config| }\n' >"$dir/Vagrantfile"
    printf '<?xml version="1.0"?><Envelope/>\n' >"$dir/box.ovf"
    head -c "$((${2:-256} * 1024))" /dev/urandom >"$dir/disk.vmdk"
    tar -C "$dir" ${3:-} -cf "$1" metadata.json Vagrantfile box.ovf disk.vmdk
    rm -rf "$dir"
}

sha256() {
    sha256sum "$1" | cut -d' ' -f1
}

size() {
    stat -c %s "$1"
}

# file_path BOX VERSION [PROVIDER] [ARCHITECTURE]: the path of a box file at the BoxVault door.
file_path() {
    printf '%s/box/%s/version/%s/provider/%s/architecture/%s/file' "$BASE" "$1" "$2" "${3:-virtualbox}" "${4:-amd64}"
}

# upload FILE BOX VERSION [PROVIDER] [ARCHITECTURE]: a plain raw upload that must work.
upload() {
    curl -sS --fail-with-body -X POST -H "Authorization: Bearer $CLIENT_SECRET" --upload-file "$1" \
        -o "$WORK/upload.json" "$(file_path "${@:2}")/upload" ||
        fail "upload of $2 $3: $(brief "$(cat "$WORK/upload.json")")"
}

# make_public BOX
make_public() {
    curl -sS --fail-with-body -X PUT -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' \
        -d '{"isPublic":true,"published":true}' -o "$WORK/public.json" "$BASE/box/$1" ||
        fail "make $1 public: $(brief "$(cat "$WORK/public.json")")"
}

# stored_sha256 BOX VERSION: what the gateway says and what it sends must agree; prints the digest sent.
stored_sha256() {
    curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path "$@")/download" | sha256sum | cut -d' ' -f1
}

# info FILTER BOX VERSION [PROVIDER] [ARCHITECTURE]: one field of file/info.
info() {
    curl -sS -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path "${@:2}")/info" | jq -r "$1"
}

# http ARGUMENTS...: one curl call; sets STATUS, BODY, HEAD (lower-case names) and CURL_EXIT.
http() {
    CURL_EXIT=0
    : >"$WORK/body"
    : >"$WORK/head"
    STATUS=$(curl -sS --max-time 60 -o "$WORK/body" -D "$WORK/head" -w '%{http_code}' "$@" 2>"$WORK/curl.err") || CURL_EXIT=$?
    BODY=$(head -c 65536 "$WORK/body" | tr -d '\0')
    HEAD=$(tr -d '\r' <"$WORK/head" | sed -E 's/^([A-Za-z0-9-]+):/\L\1:/')
}

# at CURL-ARGUMENTS...: one call with the service account's key; PATCH are those of a tus upload's bytes.
at() {
    http -H "Authorization: Bearer $CLIENT_SECRET" "$@"
}
PATCH=(-X PATCH -H 'Tus-Resumable: 1.0.0' -H 'Content-Type: application/offset+octet-stream')

# header NAME: its value in the last answer.
header() {
    sed -n "s/^$1: *//p" <<<"$HEAD" | tail -n 1
}

# field FILTER: a field of the last answer's JSON, `null` if there is none.
field() {
    jq -r "$1" 2>/dev/null <<<"$BODY" || echo "not JSON"
}

# answers NAME STATUS [REGEX]: about the last call; the body must match when a pattern is given.
answers() {
    if [[ $STATUS != "$2" ]]; then
        fail "$1: want $2, got $STATUS (curl $CURL_EXIT) $(brief "$BODY")"
    elif [[ -n ${3:-} && ! $BODY =~ $3 ]]; then
        fail "$1: $STATUS, but want /$3/ in $(brief "$BODY")"
    else
        ok "$1: $STATUS$(grep -ao '^[[{].\{0,150\}' <<<"$BODY" | head -n 1 | sed 's/^/ /' || true)"
    fi
}

# --- Vagrant ---

export VAGRANT_HOME=$WORK/vagrant-home
export VAGRANT_CHECKPOINT_DISABLE=1
unset VAGRANT_CLOUD_TOKEN ATLAS_TOKEN VAGRANT_SERVER_ACCESS_TOKEN_BY_URL

# vagrant_add NAME VERSION: adds a private box with the service account's key, and looks that it is there.
vagrant_add() {
    succeeds "vagrant box add $1 --box-version $2" \
        env VAGRANT_SERVER_URL="$URL" VAGRANT_CLOUD_TOKEN="$CLIENT_SECRET" \
        vagrant box add "$1" --box-version "$2" --provider virtualbox
    vagrant_has "$1" "$2"
}

# vagrant_has NAME VERSION
vagrant_has() {
    matches "vagrant box list has $1 $2" "$1 +\(virtualbox, $2" "$(vagrant box list 2>&1)"
}

# vagrant_disk NAME VERSION: the digest of the installed disk.
vagrant_disk() {
    sha256 "$VAGRANT_HOME/boxes/${1/\//-VAGRANTSLASH-}/$2/virtualbox/disk.vmdk"
}

# box_disk FILE: the digest of the disk inside a box that make_box made.
box_disk() {
    tar -xOf "$1" disk.vmdk | sha256sum | cut -d' ' -f1
}
