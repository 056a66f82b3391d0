#!/usr/bin/env bash
# What several nodes on PostgreSQL and a bucket (Garage) cost and how fast one takes over from another: 64 uploads at
# once, the first answer of a second node after the first one died in the middle of an upload, look-ups of names, and
# boxes that are taken from a directory to the bucket. CPU and memory are the gateway's own, by the kernel. Run by
# `.ci/long nodes`, with a release build in BOXGATE_BIN.
source "$(dirname "${BASH_SOURCE[0]}")/on_postgres.sh"
source "$CLIENTS/garage.sh"
MIB_EACH=${1:-64}
DEATHS=${2:-10}

# rss, cpu: peak MiB, and seconds so far, of a process.
rss() { awk '/VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15) / hz }' "/proc/$1/stat"; }
now() { date +%s.%N; }
passed() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

# node NAME: starts another gateway on the same rows and bucket; sets NODE_PID and NODE.
node() {
    "$GATEWAY" serve --data-dir "$WORK/$1" --listen 127.0.0.1:0 >"$WORK/$1.ready" 2>>"$WORK/$1.log" &
    NODE_PID=$!
    NODE=
    listens() {
        NODE=$(grep -ao 'http://127[0-9.:]*' "$WORK/$1.ready" | head -n 1)
        [[ -n $NODE ]] && curl -sf -o /dev/null "$NODE/readyz"
    }
    eventually 60 listens "$1" || { tail "$WORK/$1.log"; exit 1; }
}

start_garage
of_garage nodes/
export BOXGATE_UPLOADS__PART_BUDGET=128MiB BOXGATE_CACHE__SIZE=64MiB
export BOXGATE_METADATA__URL=$DATABASE BOXGATE_MASTER_KEY=$KEY BOXGATE_PUBLIC_URL=http://boxes.example.com

# --- many at once ---

start_gateway
head -c "$((MIB_EACH << 20))" /dev/urandom >one.bin
before=$(cpu "$GATEWAY_PID")
begun=$(now)
senders=()
for ((n = 0; n < 64; n++)); do
    # Four bytes of its own make each another box.
    { printf '%04d' "$n"; tail -c +5 one.bin; } | curl -sS --fail -o /dev/null -X POST -H "Authorization: Bearer $CLIENT_SECRET" \
        -H "Content-Length: $((MIB_EACH << 20))" -H 'Transfer-Encoding:' -T - "$(file_path "many-$n" 1.0)/upload" &
    senders+=("$!")
done
failed=0
for sender in "${senders[@]}"; do wait "$sender" || failed=$((failed + 1)); done
seconds=$(passed "$begun")
awk -v s="$seconds" -v c="$(cpu "$GATEWAY_PID")" -v b="$before" -v m="$MIB_EACH" -v r="$(rss "$GATEWAY_PID")" -v f="$failed" 'BEGIN {
    gb = 64 * m * 1048576 / 1e9
    printf "64 uploads of %d MiB at once: %.3f GB/s, %.2f CPU s/GB, peak RSS %d MiB, %d failed\n", m, gb / s, (c - b) / gb, r, f }'

# --- names ---

calls() {
    psql -qAt "$SERVER" -c "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'boxes'"
}
curl -sS --fail -I -o /dev/null -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path many-1 1.0)/download"
before=$(calls)
begun=$(now)
url=$(file_path many-1 1.0)/download
for ((n = 0; n < 20; n++)); do
    printf 'url = "%s"\noutput = /dev/null\n' $(for ((k = 0; k < 500; k++)); do echo "$url"; done) |
        curl -sS --fail -I -H "Authorization: Bearer $CLIENT_SECRET" -K -
done
seconds=$(passed "$begun")
# The server tells what its connections did within a second.
psql -q "$SERVER" -c 'SELECT pg_sleep(2)' >/dev/null
awk -v s="$seconds" -v a="$(calls)" -v b="$before" 'BEGIN {
    printf "10000 HEAD of one box in %.1f s: %d database calls, those of the background among them\n", s, a - b }'

# --- one dies ---

node b
B_PID=$NODE_PID
B=$NODE
head -c "$((48 << 20))" /dev/urandom >big.bin
: >times
for ((n = 0; n < DEATHS; n++)); do
    node a
    at -X POST "$NODE/files" -H 'Tus-Resumable: 1.0.0' -H "Upload-Length: $(size big.bin)" \
        -H "Upload-Metadata: target $(printf '%s' "$ORG/died/$n.0.0/virtualbox/amd64" | base64 -w0)"
    place=/files/$(header location | sed 's,.*/files/,,')
    curl -sS --limit-rate 20M "${PATCH[@]}" -H "Authorization: Bearer $CLIENT_SECRET" -H 'Upload-Offset: 0' -T big.bin \
        -w '%{size_upload}' -o /dev/null "$NODE$place" >sent 2>/dev/null &
    sender=$!
    comes() { [[ $(psql -qAt "$DATABASE" -c "SELECT byte_offset FROM uploads ORDER BY created_ms DESC LIMIT 1") -ge $((16 << 20)) ]]; }
    eventually 60 comes || { tail "$WORK/a.log"; exit 1; }
    kill -9 "$NODE_PID"
    wait "$sender" 2>/dev/null || true
    wait "$NODE_PID" 2>/dev/null || true
    took=$(curl -sS -I -o head -H "Authorization: Bearer $CLIENT_SECRET" -H 'Tus-Resumable: 1.0.0' -w '%{time_total}' "$B$place")
    offset=$(tr -d '\r' <head | sed -n 's/^[Uu]pload-[Oo]ffset: *//p')
    echo "$took $(($(cat sent) - offset))" >>times
    tail -c "+$((offset + 1))" big.bin >rest.bin
    at "${PATCH[@]}" -H "Upload-Offset: $offset" -T rest.bin "$B$place"
    [[ $STATUS == 204 ]] || { echo "it does not go on: $STATUS $BODY $(cat "$WORK/curl.err")"; tail -n 5 "$WORK/b.log"; exit 1; }
done
sort -n times | awk '{ t[NR] = $1 * 1000; if ($2 > most) most = $2 } END {
    printf "%d deaths: another node answers after %.0f ms (median), %.0f ms (longest); sent again: %.1f MiB at most, what the client had buffered among it\n",
        NR, t[int((NR + 1) / 2)], t[NR], most / 1048576 }'
kill "$B_PID"
wait "$B_PID" || true
stop_gateway

# --- a directory's boxes to the bucket ---

unset BOXGATE_METADATA__URL BOXGATE_MASTER_KEY BOXGATE_PUBLIC_URL
export BOXGATE_STORES__DISK__KIND=local BOXGATE_STORES__DISK__PATH=$WORK/disk
DATA=$WORK/moved
BOXGATE_UPLOADS__STORE=disk start_gateway
head -c 1G /dev/urandom >gib.bin
upload gib.bin moved 1.0
stop_gateway
BOXGATE_UPLOADS__STORE=main start_gateway
before=$(cpu "$GATEWAY_PID")
begun=$(now)
"$GATEWAY" admin copy-store --from disk --to main --url "$URL" --token "$ADMIN_TOKEN"
awk -v s="$(passed "$begun")" -v c="$(cpu "$GATEWAY_PID")" -v b="$before" -v r="$(rss "$GATEWAY_PID")" 'BEGIN {
    gb = 1073741824 / 1e9
    printf "copy-store of 1 GiB, read back there: %.3f GB/s, %.2f CPU s/GB, peak RSS %d MiB\n", gb / s, (c - b) / gb, r }'
stop_gateway
