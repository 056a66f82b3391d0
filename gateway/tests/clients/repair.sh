#!/usr/bin/env bash
# `boxgate fsck`, `boxgate gc` and `boxgate scrub`, as an operator uses them: after kill -9, with bytes that no row
# names, that are missing or that rotted, with the gateway running and stopped.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

export BOXGATE_GC__ORPHAN_AGE=1s

# asked VERB [FLAGS...]: by the running gateway, as its administrator.
asked() {
    "$GATEWAY" "$1" --url "$URL" --token "$ADMIN_TOKEN" "${@:2}"
}

# here VERB [FLAGS...]: in the data directory itself.
here() {
    "$GATEWAY" "$1" --data-dir "$DATA" "${@:2}"
}

# key: a fresh one.
key() {
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

# plant: bytes in the store that no row names; prints their file.
plant() {
    local key
    key=$(key)
    printf 'stray' >"$DATA/blobs/${key:0:2}/$key"
    printf '%s' "$DATA/blobs/${key:0:2}/$key"
}

# coming COUNT: whether so many files of the store hold more than a MiB.
coming() {
    (($(find "$DATA/blobs" -type f -size +1M 2>/dev/null | wc -l) >= $1))
}

# gone HOW FILE: sweeps until the file is gone.
gone() {
    "$1" gc && [[ ! -e $2 ]]
}

start_gateway
LISTEN=${URL#http://}
make_box a.box 3000
make_box b.box 2000
upload a.box a 1.0
upload b.box b 1.0

# --- nothing is wrong ---

run 0 "fsck, asked" asked fsck
says "fsck counts what it looked at" '2 blobs, 0 uploads in progress, 2 keys in stores: nothing is wrong'
run 0 "fsck --json" asked fsck --json
equal "its one document" '{"checked":{"blobs":2,"uploads":0,"stored":2,"findings":0}}' "$(jq -c . "$WORK/out")"
run 0 "gc" asked gc
says "gc has nothing to remove" 'Removed 0'

# --- who may, and where ---

run 2 "fsck on a directory in use, nobody said who asks" here fsck
says "it says what to say" 'a gateway runs on .* is to be asked: .*--url'
run 0 "fsck on a directory in use, with the gateway's address" \
    env BOXGATE_URL="$URL" BOXGATE_TOKEN="$ADMIN_TOKEN" "$GATEWAY" fsck --data-dir "$DATA"
run 2 "fsck by a service account" "$GATEWAY" fsck --url "$URL" --token "$CLIENT_SECRET"
says "it is refused" 'answers 403'
run 2 "fsck where nothing listens" "$GATEWAY" fsck --url http://127.0.0.1:1 --token x
run 2 "fsck of no installation" "$GATEWAY" fsck --data-dir "$WORK/nowhere"
equal "and makes none" no "$([[ -e $WORK/nowhere ]] && echo yes || echo no)"

# --- killed in the middle of uploads ---

head -c 30000000 /dev/urandom >big.bin
for round in 1 2 3; do
    senders=()
    for number in 1 2 3 4; do
        curl -sS --limit-rate 20M -X POST -H "Authorization: Bearer $CLIENT_SECRET" --upload-file big.bin \
            -o /dev/null "$(file_path "cut-$number" "1.$round")/upload" 2>/dev/null &
        senders+=("$!")
    done
    # Something of each is there.
    eventually 60 coming "$(((round * 4) + 2))" && ok "uploads come, round $round" || fail "no uploads come, round $round"
    stop_gateway KILL
    wait "${senders[@]}" 2>/dev/null || true
    run 0 "fsck after kill -9, round $round" here fsck
    says "round $round" 'nothing is wrong'
    start_gateway
    run 0 "fsck after the next start, round $round" asked fsck
done

# --- bytes without a row ---

stray=$(plant)
run 1 "fsck finds bytes without a row" asked fsck
says "and names them" "orphan +bytes ${stray##*/} in store main: no row names these 5 bytes"
says "and says what to do" 'next: .*boxgate gc'
run 0 "gc --dry-run" asked gc --dry-run
says "it would only look" 'Would remove 0'
run 0 "gc, first look" asked gc
says "it leaves them until they are known" 'no row names 1 of its .* keys \(5 B\)\. 0 went, 1 are left until'
equal "they are there" stray "$(cat "$stray")"
eventually 60 gone asked "$stray" && ok "gc, a later look: they are gone" || fail "gc leaves $stray"
run 0 "fsck afterwards" asked fsck

for number in 1 2 3 4; do strays[number]=$(plant); done
run 1 "gc with too many of them" asked gc
says "it says why it left them" 'They are too many \(gc.few_orphans'
says "and how to remove them" 'boxgate gc --remove-many-orphans'
run 1 "gc --json with too many" asked gc --json
equal "the brake in JSON" true "$(jq .collected.stores.main.stopped "$WORK/out")"
stop_gateway
equal "the gateway stopped" 0 "$STOPPED_WITH"
run 1 "the same with the gateway stopped" here gc
run 1 "fsck, stopped" here fsck
equal "four findings" 4 "$(grep -c '^orphan' "$WORK/out")"
many() { here gc --remove-many-orphans && [[ ! -e ${strays[1]} && ! -e ${strays[4]} ]]; }
eventually 60 many && ok "gc --remove-many-orphans: they are gone" || fail "gc --remove-many-orphans leaves them"
run 0 "fsck, stopped, afterwards" here fsck

# --- bits that rotted ---

# flip FILE BYTE: turns one bit of it.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    printf '%b' "\\x$(printf '%02x' $((byte ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# stored FILE: the file of the store that holds the same bytes.
stored() {
    find "$DATA/blobs" -type f -exec cmp -s "$1" {} \; -print | head -n 1
}

run 0 "scrub, stopped" here scrub --rate 0
says "it counts what it read" '2 blobs, .*: all are whole'
flip "$(stored b.box)" 1500000
run 0 "fsck does not read bytes" here fsck
run 1 "scrub finds a flipped bit" here scrub --rate 0
says "and names its MiB and its box" "damaged +blob .*: MiB 1 \\(from 0\\) are not what was hashed \\(held by $ORG/b/1.0/"
says "and says what to do" 'next: send the file again'
run 1 "fsck knows it now" here fsck
says "as out of service" 'quarantined'
start_gateway
http -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path b 1.0)/download"
answers "a download of it" 503 'Upload it again'
upload b.box b 1.0
equal "sent again, it is whole" "$(sha256 b.box)" "$(stored_sha256 b 1.0)"
flip "$(stored a.box)" 2500000
run 1 "scrub, asked" asked scrub --rate 0 --json
equal "the flipped bit in JSON" "damaged $ORG/a/1.0/virtualbox/amd64" \
    "$(jq -r 'select(.finding).finding | select(.text | contains("MiB 2 ")) | "\(.problem) \(.names[0])"' "$WORK/out")"
upload a.box a-copy 1.0
equal "an equal upload heals the other name, too" "$(sha256 a.box)" "$(stored_sha256 a 1.0)"
rm "$(stored b.box)"
upload b.box b-copy 1.0
equal "an equal upload is not taken for one that is missing" "$(sha256 b.box)" "$(stored_sha256 b-copy 1.0)"
equal "and heals it" "$(sha256 b.box)" "$(stored_sha256 b 1.0)"
run 0 "fsck, all is healed" asked fsck
stop_gateway

# --- bytes that are missing ---

rm "$(stored a.box)"
run 1 "fsck finds a blob without bytes" here fsck
says "with its name" "missing +blob .* are missing \(held by $ORG/a/1.0/virtualbox/amd64"
run 1 "fsck --json" here fsck --json
equal "the finding in JSON" 'blob missing main' "$(jq -r 'select(.finding).finding | "\(.subject) \(.problem) \(.store)"' "$WORK/out")"

finish
