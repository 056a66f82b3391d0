#!/usr/bin/env bash
# A bucket as the store, on an S3 that nobody here wrote (Garage), with `aws` looking into it: uploads of every kind,
# kill -9, going on in another process, the operator's commands, a store that goes away and comes back; and what is
# given up or expires leaves neither objects nor unfinished multipart uploads.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/garage.sh"
cd "$WORK"

export BOXGATE_GC__ORPHAN_AGE=1s
PREFIX=boxes/here/
PART=8388608

start_garage
of_garage "$PREFIX"
export BOXGATE_STORES__MAIN__TRIES=3 BOXGATE_STORES__MAIN__RETRY_FOR=3s

# asked VERB [FLAGS...]: by the running gateway, as its administrator.
asked() {
    # shellcheck disable=SC2086
    "$GATEWAY" $1 --url "$URL" --token "$ADMIN_TOKEN" "${@:2}"
}

# here VERB [FLAGS...]: in the data directory itself.
here() {
    "$GATEWAY" "$1" --data-dir "$DATA" "${@:2}"
}

# tus METHOD PATH [FLAGS...]
tus() {
    http -X "$1" -H "Authorization: Bearer $CLIENT_SECRET" -H 'Tus-Resumable: 1.0.0' "${@:3}" "$URL$2"
}

# begin LENGTH VERSION: a tus upload of that version; sets AT to its path.
begin() {
    tus POST /files -H "Upload-Length: $1" \
        -H "Upload-Metadata: target $(printf '%s' "$ORG/tus/$2/virtualbox/amd64" | base64 -w0)"
    answers "tus: an upload of $1 bytes begins" 201
    AT=$(header location)
    AT=${AT#"$URL"}
}

# append FILE FROM TO [FLAGS...]: bytes FROM..TO of the file.
append() {
    range_of "$1" "$2" "$(($3 - 1))" >"$WORK/slice"
    tus PATCH "$AT" -H 'Content-Type: application/offset+octet-stream' -H "Upload-Offset: $2" \
        --data-binary "@$WORK/slice" "${@:4}"
}

# range_of FILE FIRST LAST: those bytes.
range_of() {
    dd if="$1" iflag=skip_bytes,count_bytes skip="$2" count="$(($3 - $2 + 1))" bs=1M status=none
}

# parts COUNT: whether so many parts of unfinished uploads are in the bucket.
parts() {
    local key id more count=0
    while read -r key id; do
        # It may be completed meanwhile.
        more=$(s3api list-parts --key "$key" --upload-id "$id" --query 'Parts[].[PartNumber]' --output text | grep -c '^[0-9]') || true
        count=$((count + ${more:-0}))
    done < <(unfinished)
    ((count >= $1))
}

# nothing_but COUNT: whether the bucket holds so many objects and nothing unfinished.
nothing_but() {
    [[ $(objects | wc -l) == "$1" && -z $(unfinished) ]]
}

# --- what the bucket is found to do, and what cannot be used ---

starts_not() {
    local name=$1 setting=$2
    shift 2
    run 1 "start with $name" env "$@" "$GATEWAY" serve --data-dir "$WORK/other" --listen 127.0.0.1:0
    says "it names the setting" "stores\\.main\\.$setting"
}
starts_not "another bucket" bucket BOXGATE_STORES__MAIN__BUCKET=nowhere
starts_not "an unknown key" access_key_id BOXGATE_STORES__MAIN__ACCESS_KEY_ID=GKffffffffffffffffffffffff
starts_not "a wrong secret" secret_access_key \
    BOXGATE_STORES__MAIN__SECRET_ACCESS_KEY="$(printf '0%.0s' {1..64})"
starts_not "another region" region BOXGATE_STORES__MAIN__REGION=elsewhere
starts_not "nothing that listens" endpoint BOXGATE_STORES__MAIN__ENDPOINT=http://127.0.0.1:1
equal "nothing of that is in the bucket" "" "$(objects)"

start_gateway
LISTEN=${URL#http://}
matches "what the bucket does is logged" '"checksum":"[a-z0-9-]+"' "$(grep 'bucket opened' gateway.log)"
equal "and leaves nothing in it" "" "$(objects)$(unfinished)"

# --- uploads of every kind ---

make_box small.box 100
make_box a.box 21000
make_box b.box 18000
upload small.box small 1.0
equal "a small box comes back" "$(sha256 small.box)" "$(stored_sha256 small 1.0)"
upload a.box raw 1.0
equal "a raw upload comes back" "$(sha256 a.box)" "$(stored_sha256 raw 1.0)"
http -H "Authorization: Bearer $CLIENT_SECRET" -F file=@b.box "$(file_path form 1.0)"
answers "a form" 200
equal "it comes back" "$(sha256 b.box)" "$(stored_sha256 form 1.0)"
http -X POST -H "Authorization: Bearer $CLIENT_SECRET" -H 'Transfer-Encoding: chunked' -T - \
    "$(file_path lengthless 1.0)/upload" <b.box
answers "a body without a length" 200
eventually 60 nothing_but 3 && ok "equal bytes are stored once, and nothing is unfinished" ||
    fail "stored: $(brief "$(objects)" "$(unfinished)")"
for range in "0 0" "8388600 8388700" "21000000 $(($(size a.box) - 1))"; do
    read -r first last <<<"$range"
    equal "range $first-$last" "$(range_of a.box "$first" "$last" | sha256sum | cut -d' ' -f1)" \
        "$(curl -sS --fail -r "$first-$last" -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path raw 1.0)/download" |
            sha256sum | cut -d' ' -f1)"
done
key=$(objects | head -n 1)
s3 cp "s3://$BUCKET/$key" object >/dev/null
matches "aws reads the same bytes" "$(sha256 object)" "$(sha256 small.box) $(sha256 a.box) $(sha256 b.box)"

# --- BoxVault's page, in its order and at once ---

for order in in-turn --parallel; do
    page=$(file_path "page$order" 1.0)
    succeeds "the page's calls, $order" node "$CLIENTS/fixtures/chunks.cjs" a.box "$page" "$CLIENT_SECRET" "$order"
    matches "the last of them completes" 'complete true' "$(head -n 1 "$WORK/out")"
    equal "its bytes" "$(sha256 a.box)" "$(stored_sha256 "page$order" 1.0)"
done
eventually 60 nothing_but 3 && ok "and nothing is left of the pieces" || fail "stored: $(brief "$(objects)" "$(unfinished)")"

# --- killed within a part, and gone on with in another process ---

head -c $((5 * PART + 77)) /dev/urandom >big.bin
begin "$(size big.bin)" 1.0
append big.bin 0 $((PART + 1000))
answers "up to within the second part" 204
equal "its offset" "$((PART + 1000))" "$(header upload-offset)"
equal "its tail is an object of its own" 4 "$(objects | wc -l)"
run 0 "the check knows whose it is" asked fsck
tail -c "+$((PART + 1001))" big.bin >rest.bin
curl -sS --limit-rate 5M -X PATCH -H "Authorization: Bearer $CLIENT_SECRET" -H 'Tus-Resumable: 1.0.0' \
    -H 'Content-Type: application/offset+octet-stream' -H "Upload-Offset: $((PART + 1000))" \
    -T rest.bin -o /dev/null "$URL$AT" 2>/dev/null &
sender=$!
eventually 60 parts 3 && ok "three parts are in the bucket" || fail "no parts come"
stop_gateway KILL
wait "$sender" 2>/dev/null || true
run 0 "fsck after kill -9" here fsck
start_gateway
tus HEAD "$AT" -I
at=$(header upload-offset)
((at >= PART + 1000 && at <= $(size big.bin))) && ok "it rests at $at" || fail "it rests at $at"
append big.bin "$at" "$(size big.bin)"
answers "the rest" 204
equal "it is whole" "$(sha256 big.bin)" "$(stored_sha256 tus 1.0)"
eventually 60 nothing_but 4 && ok "its tail is gone" || fail "left: $(brief "$(objects)" "$(unfinished)")"

# A raw upload that curl was cut in goes on by curl.
timeout 3 curl -sS --limit-rate 8M -X PUT -H "Authorization: Bearer $CLIENT_SECRET" -T big.bin \
    -o /dev/null "$(file_path cut 1.0)/upload" 2>/dev/null || true
rests() {
    http -X PUT -H "Authorization: Bearer $CLIENT_SECRET" -C "$(size small.box)" -T big.bin "$(file_path cut 1.0)/upload"
    at=$(header upload-offset)
    [[ $STATUS == 409 && $at -gt 0 ]]
}
eventually 60 rests && ok "a raw upload that was cut rests at $at" || fail "it does not rest: $STATUS $at"
http -X PUT -H "Authorization: Bearer $CLIENT_SECRET" -C "$at" -T big.bin "$(file_path cut 1.0)/upload"
answers "and goes on by curl -C $at -T" 200
equal "it is whole" "$(sha256 big.bin)" "$(stored_sha256 cut 1.0)"

# --- the operator's commands ---

run 0 "fsck, asked" asked fsck
run 0 "scrub, asked" asked scrub --rate 0
says "it reads all of them" '4 blobs, .*: all are whole'
stray=$PREFIX"blobs/$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')"
printf stray | s3 cp - "s3://$BUCKET/$stray"
run 1 "fsck finds an object without a row" asked fsck
says "and names it" "orphan +bytes ${stray##*/} in store main"
collected() { asked gc && ! objects | grep -qxF "$stray"; }
eventually 60 collected && ok "gc removes it at a later look" || fail "gc leaves $stray"

# The blob of the form, damaged in the bucket: found, taken out of service, healed by the same bytes.
blob=
for key in $(objects); do
    s3 cp "s3://$BUCKET/$key" object >/dev/null
    cmp -s object b.box && blob=$key
done
python3 -c 'b = bytearray(open("b.box", "rb").read()); b[9000000] ^= 4; open("bad", "wb").write(b)'
s3 cp bad "s3://$BUCKET/$blob" >/dev/null
run 1 "scrub finds a flipped bit" asked scrub --rate 0
says "and its MiB" 'MiB 8 '
http -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path form 1.0)/download"
answers "a download of it" 503
upload b.box form 1.0
equal "sent again, it is whole" "$(sha256 b.box)" "$(stored_sha256 form 1.0)"
run 0 "fsck, all is healed" asked fsck

# --- what is given up and what expires ---

begin "$(size big.bin)" 2.0
append big.bin 0 $((2 * PART + 1000))
answers "two parts and a tail" 204
differs "they are in the bucket" "" "$(unfinished)"
tus DELETE "$AT"
answers "given up" 204
equal "nothing of it is in the bucket" "" "$(unfinished)"
begin "$(size big.bin)" 3.0
append big.bin 0 $((2 * PART + 1000))
answers "two parts and a tail of another" 204
stop_gateway
equal "the gateway stopped" 0 "$STOPPED_WITH"
BOXGATE_UPLOADS__IDLE_TIMEOUT=1s start_gateway
expired() { [[ -z $(unfinished) ]]; }
eventually 90 expired && ok "what expired is not in the bucket" || fail "left: $(brief "$(unfinished)")"
stop_gateway
start_gateway
http -X DELETE -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box/tus"
answers "a box is deleted" 200
http -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path tus 1.0)/download"
answers "and not found" 404
run 0 "fsck afterwards" asked fsck

# --- a store that goes away ---

begin "$(size big.bin)" 4.0
append big.bin 0 "$PART"
answers "one part before" 204
stop_garage
append big.bin "$PART" $((3 * PART))
answers "bytes while the store is away" 503
matches "with a time to come again" '^[0-9]+$' "$(header retry-after)"
http -X POST -H "Authorization: Bearer $CLIENT_SECRET" -T small.box "$(file_path away 1.0)/upload"
answers "a new upload" 503
matches "with a time to come again, too" '^[0-9]+$' "$(header retry-after)"
http -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path raw 1.0)/info"
answers "what needs no bytes goes on" 200
start_garage
tus HEAD "$AT" -I
equal "nothing that was told is lost" "$PART" "$(header upload-offset)"
append big.bin "$PART" "$(size big.bin)"
answers "the rest, once it is back" 204
equal "it is whole, too" "$(sha256 big.bin)" "$(stored_sha256 tus 4.0)"
run 0 "fsck at the end" asked fsck
run 0 "gc at the end" asked gc
stop_gateway
equal "nothing is unfinished at the end" "" "$(unfinished)"

# --- clients read from the bucket itself ---

BOXGATE_STORES__MAIN__REDIRECT_FOR=1h start_gateway
at "$(file_path small 1.0)/download"
answers "a download is redirected" 302
LOCATION=$(header location)
equal "the bucket takes the signature" "$(sha256 small.box)" "$(curl -sS --fail "$LOCATION" | sha256sum | cut -d' ' -f1)"
equal "and a range" "$(range_of small.box 100 299 | sha256sum)" "$(curl -sS --fail -r 100-299 "$LOCATION" | sha256sum)"
http "${LOCATION/X-Amz-Signature=/X-Amz-Signature=0}"
answers "and no other one" 403
equal "curl -L gets the box" "$(sha256 small.box)" \
    "$(curl -sSL --fail -H "Authorization: Bearer $CLIENT_SECRET" "$(file_path small 1.0)/download" | sha256sum | cut -d' ' -f1)"
stop_gateway

# --- boxes go from a directory to the bucket ---

export BOXGATE_STORES__DISK__PATH=$WORK/disk
BOXGATE_UPLOADS__STORE=disk start_gateway
make_box disk.box 30000
upload disk.box disk 1.0
make_box disk2.box 100
upload disk2.box disk 2.0
equal "a directory beside the bucket" 2 "$(find "$WORK/disk" -type f -not -name store-id -not -name '*.json' | wc -l)"
stop_gateway
run 0 "both go to the bucket" "$GATEWAY" admin copy-store --from disk --to main --data-dir "$DATA" --json
equal "two of them" "2 0 0" "$(jq -r '.copied // empty | "\(.blobs) \(.damaged) \(.left)"' "$WORK/out")"
start_gateway
equal "one is read from there" "$(sha256 disk.box)" "$(stored_sha256 disk 1.0)"
run 0 "again, by the gateway that runs" asked "admin copy-store" --from disk --to main
says "nothing is left to do" '^0 blobs'
run 0 "fsck of the bucket" asked fsck --store main
run 0 "fsck of the directory" asked fsck --store disk
run 2 "a store that is not there" asked fsck --store nowhere
stop_gateway
equal "nothing is unfinished after it" "" "$(unfinished)"
finish
