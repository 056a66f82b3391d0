#!/usr/bin/env bash
# A database that is older than the boxes beside it, and one that is lost: `boxgate fsck --adopt` makes the names again
# of what stands beside the bytes, in a directory and in a bucket (Garage). What was acknowledged is there afterwards,
# byte for byte, and no sweep takes it for leftovers.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/garage.sh"
cd "$WORK"

export BOXGATE_GC__ORPHAN_AGE=1s

# here VERB [FLAGS...]: in the data directory itself.
here() {
    "$GATEWAY" "$1" --data-dir "$DATA" "${@:2}"
}

# whole FILE BOX VERSION: whether a download of it is that file.
whole() {
    curl -sSf -H "Authorization: Bearer $CLIENT_SECRET" -o "$WORK/got" "$(file_path "$2" "$3")/download"
    cmp -s "$1" "$WORK/got"
}

# all_are_whole WHEN: every box that was acknowledged by the end of `fill`.
all_are_whole() {
    local name
    for name in a:a:1.0 b:b:1.0 a:again:1.0 new:replaced:1.0 c:late:2.0 resumed:resumed:1.0; do
        IFS=: read -r file box version <<<"$name"
        if whole "$file.box" "$box" "$version"; then ok "$1: $box is whole"; else fail "$1: $box"; fi
    done
}

# rest_upload FILE BYTES: an upload by tus that stops after so many bytes; sets AT.
rest_upload() {
    http -X POST -H "Authorization: Bearer $CLIENT_SECRET" -H 'Tus-Resumable: 1.0.0' "$URL/files" \
        -H "Upload-Length: $(size "$1")" \
        -H "Upload-Metadata: target $(printf '%s' "$ORG/resumed/1.0/virtualbox/amd64" | base64 -w0)"
    answers "an upload begins" 201
    AT=$(header location)
    AT=${AT#"$URL"}
    send_rest "$1" 0 "$2"
}

# send_rest FILE FROM BYTES
send_rest() {
    dd if="$1" of="$WORK/slice" iflag=skip_bytes,count_bytes skip="$2" count="$3" bs=1M status=none
    http -X PATCH -H "Authorization: Bearer $CLIENT_SECRET" -H 'Tus-Resumable: 1.0.0' "$URL$AT" \
        -H 'Content-Type: application/offset+octet-stream' -H "Upload-Offset: $2" --data-binary "@$WORK/slice"
    answers "bytes $2 to $(($2 + $3))" 204
}

# fill: some boxes, a copy of the database of that moment in $WORK/backup, and some more.
fill() {
    start_gateway
    LISTEN=${URL#http://}
    upload a.box a 1.0
    upload old.box replaced 1.0
    upload b.box b 1.0
    rest_upload resumed.box 3000000
    # While the gateway runs: SQLite's own backup.
    python3 - "$DATA/boxgate.db" "$WORK/backup" <<'END'
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as live, sqlite3.connect(sys.argv[2]) as copy:
    live.backup(copy)
END
    send_rest resumed.box 3000000 "$(($(size resumed.box) - 3000000))"
    upload new.box replaced 1.0
    upload a.box again 1.0
    upload c.box late 2.0
    all_are_whole "before"
    stop_gateway
}

# restore: the database of the backup, and none of the files that belonged to the other.
restore() {
    rm -f "$DATA"/boxgate.db*
    cp "$WORK/backup" "$DATA/boxgate.db"
}

# an_older_one, and a_lost_one: the two bad days.
an_older_one() {
    restore
    # Whoever starts without looking loses nothing by it, whatever is swept.
    start_gateway
    run 1 "$1: fsck sees bytes that the backup does not know" "$GATEWAY" fsck --url "$URL" --token "$ADMIN_TOKEN"
    says "$1: and says what to do" 'next: if a backup of the database was restored, .boxgate fsck --adopt'
    stop_gateway
    run 0 "$1: fsck --adopt" here fsck --adopt
    says "$1: it names each" "adopted +$ORG/late/2.0/virtualbox/amd64: blob [0-9a-f]{32} in store main"
    for name in again/1.0 replaced/1.0 resumed/1.0; do
        says "$1: it names $name" "adopted +$ORG/$name/virtualbox/amd64"
    done
    says "$1: and counts them" '4 names and 3 blobs adopted'
    run 0 "$1: again" here fsck --adopt
    says "$1: there is nothing left to do" '0 names and 0 blobs adopted'
    start_gateway
    all_are_whole "$1"
    run 0 "$1: gc finds nothing to remove" "$GATEWAY" gc --url "$URL" --token "$ADMIN_TOKEN"
    says "$1: nothing" 'Removed 0'
    stop_gateway
}

# but_orphans NAME COMMAND...: it finds nothing but bytes without a row, one at most.
but_orphans() {
    "${@:2}" >"$WORK/out" 2>&1 </dev/null || (($? == 1))
    matches "$1" '^(orphan)?$' "$(jq -r 'select(.finding).finding.problem' "$WORK/out" | xargs)"
}

a_lost_one() {
    rm -f "$DATA"/boxgate.db*
    # Bytes that were replaced stay without a row where their successor was met first.
    but_orphans "$1: fsck --adopt --json" here fsck --adopt --json
    equal "$1: the names in JSON" "$ORG/a $ORG/again $ORG/b $ORG/late $ORG/replaced $ORG/resumed" \
        "$(jq -r 'select(.adopted).adopted.name' "$WORK/out" | cut -d/ -f1,2 | sort -u | xargs)"
    start_gateway
    all_are_whole "$1"
    but_orphans "$1: fsck, asked, with --adopt" "$GATEWAY" fsck --adopt --json --url "$URL" --token "$ADMIN_TOKEN"
    equal "$1: nothing more" "" "$(jq -r 'select(.adopted)' "$WORK/out")"
    http "$(file_path a 1.0)/download"
    equal "$1: boxes are private again" 404 "$STATUS"
    stop_gateway
}

for name in a:3000 b:2000 old:700 new:800 c:20000 resumed:9000; do
    make_box "${name%:*}.box" "${name#*:}"
done

# --- boxes in the data directory ---

fill
an_older_one "a directory, an older database"
a_lost_one "a directory, a lost database"
rm "$(find "$DATA/blobs" -type f -size "$(size b.box)c" -exec cmp -s b.box {} \; -print)"
printf 'rotten' >>"$(find "$DATA/blobs" -type f -size "$(size c.box)c" -exec cmp -s c.box {} \; -print)"
rm -f "$DATA"/boxgate.db*
run 1 "what is damaged is not adopted" here fsck --adopt
says "it is named" "length +bytes [0-9a-f]{32} .* \\(held by $ORG/late/2.0/virtualbox/amd64\\)"

# --- boxes in a bucket ---

DATA=$WORK/bucket
unset LISTEN
start_garage
of_garage restored/
fill
an_older_one "a bucket, an older database"
a_lost_one "a bucket, a lost database"

finish
