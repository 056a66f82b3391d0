#!/usr/bin/env bash
# Plain curl at the BoxVault door: the real upload routes, what is refused and how it reads, and downloads with
# ranges and validators. Byte-level mischief that curl cannot do is in hostile.py.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A small limit, so that a body over it needs no gigabytes.
export BOXGATE_UPLOADS__MAX_LENGTH=32MiB
start_gateway
KEY="Authorization: Bearer $CLIENT_SECRET"
make_box "$WORK/a.box" 900
make_box "$WORK/b.box" 1100
A=$(sha256 "$WORK/a.box")
B=$(sha256 "$WORK/b.box")
F=$(file_path demo 1.0.0)
JSON='Content-Type: application/json'

# serves NAME DIGEST [BOX VERSION]: what a download brings now.
serves() {
    equal "$1: is served" "$2" "$(stored_sha256 "${3:-demo}" "${4:-1.0.0}" 2>&1)"
}

# no_version NAME VERSION: a refused upload leaves no version behind.
no_version() {
    http -H "$KEY" "$BASE/box/demo/version/$2"
    answers "$1: leaves no version" 404
}

# --- uploads ---
succeeds "curl --fail -X POST .../file/upload --upload-file" \
    curl -sS --fail -X POST "$F/upload" -H "$KEY" --upload-file "$WORK/a.box"
# shellcheck disable=SC2034
BODY=$(cat "$WORK/out")
equal "its message" 'File upload completed' "$(field .message)"
equal "its details" "[true,\"complete\",$(size "$WORK/a.box"),\"$A\"]" \
    "$(field '.details | [.isComplete, .status, .fileSize, .sha256] | tostring')"
matches "its BLAKE3" '^[0-9a-f]{64}$' "$(field .details.blake3)"
BLAKE3=$(field .details.blake3)
serves "raw POST" "$A"
http -X PUT -H "x-access-token: $CLIENT_SECRET" -T "$WORK/b.box" "$F/upload"
answers "PUT replaces" 200 'File updated successfully'
serves "PUT" "$B"
http -X PUT -H "$KEY" -T "$WORK/a.box" "$(file_path demo 1.0.1)/upload"
answers "PUT creates, too" 200 '"status": ?"complete"'
http -u "$CLIENT_ID:$CLIENT_SECRET" -X POST -T "$WORK/a.box" "$(file_path demo 1.0.2)"
answers "raw POST to the guide's route, Basic" 200 '"status": ?"complete"'
serves "raw to the guide's route" "$A" demo 1.0.2
for route in "" /upload; do
    http -H "$KEY" -F "file=@$WORK/a.box" "$F$route"
    answers "multipart to .../file$route" 200 "$A"
    http -H "$KEY" -F note=first -F "file=@$WORK/b.box" -F note=last "$F$route"
    answers "multipart to .../file$route, file between other fields" 200 "$B"
    serves "multipart to .../file$route" "$B"
done
http -X POST -H "$KEY" -H 'Transfer-Encoding: chunked' -T - "$F/upload" <"$WORK/a.box"
answers "raw without a length" 200 "$A"
serves "raw without a length" "$A"
http -X POST -H "$KEY" -H 'Expect: 100-continue' -T "$WORK/b.box" "$F/upload" -v
answers "with Expect: 100-continue" 200 "$B"
matches "100 comes first" '100 Continue' "$(cat "$WORK/curl.err")"

# --- digests ---
http -X POST -H "$KEY" -T "$WORK/a.box" "$F/upload"
for type in md5 sha1 sha256 sha512; do
    http -X POST -H "$KEY" -H "x-checksum: $("${type}sum" "$WORK/a.box" | cut -d' ' -f1)" -H "x-checksum-type: $type" \
        -T "$WORK/a.box" "$F/upload"
    answers "x-checksum $type" 200
    http -X POST -H "$KEY" -H "x-checksum: $("${type}sum" "$WORK/a.box" | cut -d' ' -f1)" -H "x-checksum-type: $type" \
        -T "$WORK/b.box" "$F/upload"
    answers "x-checksum $type of another file" 422 CHECKSUM_MISMATCH
done
http -X POST -H "$KEY" -H "x-checksum: ${A^^}" -H 'X-Checksum-Type: SHA-256' -T "$WORK/a.box" "$F/upload"
answers "x-checksum in capitals, type SHA-256" 200
http -X POST -H "$KEY" -H "x-checksum: $BLAKE3" -H 'x-checksum-type: blake3' -T "$WORK/a.box" "$F/upload"
answers "x-checksum blake3" 200
http -X POST -H "$KEY" -H 'x-checksum;' -H 'x-checksum-type: NULL' -T "$WORK/a.box" "$F/upload"
answers "an empty x-checksum of type NULL is none" 200
http -X POST -H "$KEY" -H "x-checksum: $A" -H 'x-checksum-type: crc32' -T "$WORK/b.box" "$F/upload"
answers "unknown checksum type" 400 'INVALID_REQUEST.*crc32|crc32.*INVALID_REQUEST'
http -X POST -H "$KEY" -H 'x-checksum: xyz' -H 'x-checksum-type: sha256' -T "$WORK/b.box" "$F/upload"
answers "a checksum that is none" 400 INVALID_REQUEST
http -H "$KEY" -F checksumType=sha256 -F "checksum=$A" -F "file=@$WORK/b.box" "$F"
answers "checksum field before the file, wrong" 422 CHECKSUM_MISMATCH
http -H "$KEY" -F "file=@$WORK/b.box" -F checksumType=sha256 -F "checksum=$A" "$F"
answers "checksum field after the file, wrong" 422 CHECKSUM_MISMATCH
serves "after all wrong digests the old box" "$A"
http -H "$KEY" -F "file=@$WORK/b.box" -F checksumType=SHA256 -F "checksum=$B" "$F"
answers "checksum field after the file, right" 200
serves "checksum field, right" "$B"

# --- refusals ---
http -X POST -H "$KEY" -H 'x-checksum-type: sha256' -H "x-checksum: $A" -T "$WORK/b.box" "$(file_path demo 7.0.0)/upload"
answers "wrong digest for a new version" 422 CHECKSUM_MISMATCH
no_version "wrong digest" 7.0.0
http -X POST -H "$KEY" --data-binary '' -H 'Content-Type: application/octet-stream' "$(file_path demo 7.0.0)/upload"
answers "empty body" 400 INVALID_REQUEST
http -H "$KEY" -F "file=@/dev/null" "$(file_path demo 7.0.0)"
answers "empty file part" 400 INVALID_REQUEST
http -X POST -H "$KEY" -H 'Transfer-Encoding: chunked' -T - "$(file_path demo 7.0.0)/upload" </dev/null
answers "empty chunked body" 400 INVALID_REQUEST
no_version "empty body" 7.0.0
http -X POST -T "$WORK/a.box" "$F/upload"
answers "no credentials" 403 'No token provided!'
http -X POST -H 'Authorization: Bearer 0123' -T "$WORK/a.box" "$F/upload"
answers "wrong credentials" 401 'Unauthorized!'
equal "their code" TOKEN_INVALID "$(field .error)"
http -X POST -H "x-access-token: ${CLIENT_SECRET//[0-9]/0}" -F "file=@$WORK/a.box" "$F"
answers "wrong credentials, guide's route" 401 'Unauthorized!'
http -X POST -T "$WORK/a.box" "${F/\/organization\/$ORG\//\/organization\/nobody\/}/upload"
answers "unknown organization, no credentials: no look-up" 403 'No token provided!'
http -X POST -H "$KEY" -T "$WORK/a.box" "${F/\/organization\/$ORG\//\/organization\/nobody\/}/upload"
answers "unknown organization" 404 'nobody|rganization'
for name in .hidden -rf 'a..b' 'a%20b' 'b%C3%BCcher' "$(printf 'x%.0s' {1..129})"; do
    http -X POST -H "$KEY" -T "$WORK/a.box" "$BASE/box/$name/version/1/provider/virtualbox/architecture/amd64/file/upload" --path-as-is
    answers "box name $(cut -c1-20 <<<"$name")" 400 '"[^"]*box'
done
for path in 'box/demo%2fx' 'box/..%2f..' 'box/demo%00' 'box/demo%5cx' 'box/%ff' 'box/..' '../../etc'; do
    http --path-as-is -X POST -H "$KEY" -T "$WORK/a.box" "$BASE/$path/version/1/provider/virtualbox/architecture/amd64/file/upload"
    answers "path with $path" 400
done
http --path-as-is -H "$KEY" "$URL//api///organization/$ORG//box"
answers "runs of / are one /" 200 '^\['

# --- over the limit ---
truncate -s 33M "$WORK/big"
http -X POST -H "$KEY" -H 'Expect: 100-continue' --expect100-timeout 20 -T "$WORK/big" -v "$(file_path demo 7.0.0)/upload"
answers "declared length over the limit" 413 FILE_TOO_LARGE
equal "no 100 was sent" 0 "$(grep -c '100 Continue' "$WORK/curl.err" || true)"
equal "nothing of the body was sent" 0 "$(grep -c 'We are completely uploaded' "$WORK/curl.err" || true)"
equal "its numbers" "[$((33 << 20)),$((32 << 20))]" "$(field '.details | [.fileSize, .maxFileSize] | tostring')"
http -X POST -H "$KEY" -H 'Expect:' -T "$WORK/big" "$(file_path demo 7.0.0)/upload"
answers "the same without Expect" 413 FILE_TOO_LARGE
http -X POST -H "$KEY" -H 'Transfer-Encoding: chunked' -T - "$(file_path demo 7.0.0)/upload" <"$WORK/big"
answers "a body without length over the limit" 413 FILE_TOO_LARGE
http -H "$KEY" -F "file=@$WORK/big" "$(file_path demo 7.0.0)"
answers "a multipart body over the limit" 413 FILE_TOO_LARGE
no_version "over the limit" 7.0.0

# --- Content-Range on single requests ---
n=$(size "$WORK/a.box")
http -X PUT -H "$KEY" -H "Content-Range: bytes 0-$((n - 1))/$n" -T "$WORK/a.box" "$F/upload"
answers "Content-Range that spans all is a whole upload" 200
serves "Content-Range that spans all" "$A"
http -X PUT -H "$KEY" -C 1000 -T "$WORK/b.box" "$F/upload"
answers "a later range without an open upload" 409
equal "it says where to go on" 0 "$(header upload-offset)"
http -X PUT -H "$KEY" -H "Content-Range: bytes 5-1/$n" -T "$WORK/b.box" "$F/upload"
answers "a reversed range" 400 INVALID_REQUEST
http -X PUT -H "$KEY" -H "Content-Range: chapters 1-2/3" -T "$WORK/b.box" "$F/upload"
answers "another unit" 400 INVALID_REQUEST
http -X PUT -H "$KEY" -H "Content-Range: bytes 0-$((n - 1))/$n" -T "$WORK/b.box" "$F/upload"
answers "a range of another length than the body" 400 INVALID_REQUEST
head -c 1000 "$WORK/b.box" >"$WORK/fragment"
http -X PUT -H "$KEY" -H "Content-Range: bytes 0-999/$(size "$WORK/b.box")" -T "$WORK/fragment" "$F/upload"
differs "a first fragment is no finished upload" complete "$(field .details.status)"
serves "after all fragments the old box" "$A"

# --- downloads of a private box ---
http "$F/download"
answers "a stranger" 404
http "$F/info"
answers "a stranger's info" 404
http "$URL/$ORG/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box"
answers "a stranger at the Vagrant path" 404
http -H "$KEY" "$F/download"
answers "the owner" 200
equal "its type" application/octet-stream "$(header content-type)"
equal "its name" 'attachment; filename="vagrant.box"' "$(header content-disposition)"
equal "its length" "$n" "$(header content-length)"
equal "ranges are welcome" bytes "$(header accept-ranges)"
equal "its ETag is the digest" "\"$BLAKE3\"" "$(header etag)"
matches "it has a date" 'GMT$' "$(header last-modified)"
matches "caches keep out" 'private' "$(header cache-control)"
equal "its bytes" "$A" "$(sha256 "$WORK/body")"
http -H "$KEY" "$F/info"
answers "info" 200
equal "info's fields" "[\"vagrant.box\",\"$A\",\"SHA256\",$n]" \
    "$(field '[.fileName, .checksum, .checksumType, .fileSize] | tostring')"
http -X POST -H "$KEY" "$F/get-download-link"
answers "get-download-link" 200 "$URL"
link=$(field .downloadUrl)
http "$link"
answers "the link needs no credentials" 200
equal "the link's bytes" "$A" "$(sha256 "$WORK/body")"
http "${link%?}$([[ $link == *0 ]] && echo 1 || echo 0)"
matches "a changed link" '^40[134]$' "$STATUS"
http -X POST "$F/get-download-link"
answers "a stranger gets no link" 404
http -u "$CLIENT_ID:$CLIENT_SECRET" "$F/download"
answers "Basic" 200
http -u "$CLIENT_ID:wrong" "$F/download"
answers "wrong Basic" 401

# --- downloads of a public box ---
make_public demo
http "$F/download"
answers "anyone" 200
at_vagrant=$URL/$ORG/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box
for where in "$F/download" "$at_vagrant"; do
    kind=${where##*/}
    http "$where"
    answers "$kind: whole" 200
    matches "$kind: short-lived" '^public, max-age=60(, no-transform)?$' "$(header cache-control)"
    [[ $where != "$at_vagrant" ]] || matches "$kind: names the lasting address" "\?b3=$BLAKE3\$" "$(header content-location)"
    equal "$kind: bytes" "$A" "$(sha256 "$WORK/body")"
    http -I "$where"
    answers "$kind: HEAD" 200
    equal "$kind: HEAD has the length" "$n" "$(header content-length)"
    # NAME RANGE STATUS LENGTH CONTENT-RANGE
    while read -r name range status length content_range; do
        http -H "Range: $range" "$where"
        equal "$kind: $name ($range)" "$status $length $content_range" "$STATUS $(size "$WORK/body") $(header content-range | tr -d ' ')"
    done <<RANGES
first bytes=0-99 206 100 bytes0-99/$n
open bytes=1000- 206 $((n - 1000)) bytes1000-$((n - 1))/$n
suffix bytes=-100 206 100 bytes$((n - 100))-$((n - 1))/$n
long-suffix bytes=-99999999 206 $n bytes0-$((n - 1))/$n
past-the-end bytes=10-99999999 206 $((n - 10)) bytes10-$((n - 1))/$n
from-the-end bytes=$n- 200 $n
beyond bytes=$((n + 10))- 200 $n
set bytes=0-9,20-29 200 $n
reversed bytes=9-3 200 $n
nonsense bytes=abc 200 $n
unit lines=0-9 200 $n
overflow bytes=99999999999999999999999- 200 $n
RANGES
    http -H "If-None-Match: \"$BLAKE3\"" "$where"
    answers "$kind: If-None-Match" 304
    equal "$kind: 304 has the ETag" "\"$BLAKE3\"" "$(header etag)"
    http -H "If-None-Match: \"x\", W/\"$BLAKE3\"" "$where"
    answers "$kind: If-None-Match, weak and in a list" 304
    http -H 'If-None-Match: "x"' "$where"
    answers "$kind: If-None-Match of another" 200
    http -H 'If-Match: "x"' "$where"
    answers "$kind: If-Match of another" 412
    http -H 'Range: bytes=0-9' -H "If-Range: \"$BLAKE3\"" "$where"
    answers "$kind: If-Range" 206
    http -H 'Range: bytes=0-9' -H 'If-Range: "x"' "$where"
    answers "$kind: If-Range of another" 200
    http -H 'Range: bytes=0-9' -H "If-Range: W/\"$BLAKE3\"" "$where"
    answers "$kind: If-Range, weak" 200
done
http "${at_vagrant%/amd64/vagrant.box}.box"
answers "by the provider's name alone: the default architecture" 200
equal "by the provider's name alone: bytes" "$A" "$(sha256 "$WORK/body")"
http "$at_vagrant?b3=$BLAKE3"
answers "by digest" 200
matches "by digest: for ever" '^public, max-age=31536000, immutable' "$(header cache-control)"
http "$at_vagrant?b3=${A}"
answers "by a digest that it never had" 404
http -X POST -H "$KEY" -T "$WORK/b.box" "$F/upload"
http "$at_vagrant?b3=$BLAKE3"
answers "by its former digest, after a new upload" 200
equal "by its former digest: bytes" "$A" "$(sha256 "$WORK/body")"
http "$at_vagrant"
equal "the plain address has the new bytes" "$B" "$(sha256 "$WORK/body")"

# --- counting ---
counted() {
    [[ $(info .downloadCount demo 1.0.0) == "$1" ]]
}
before=$(info '.downloadCount // 0' demo 1.0.0)
http -I "$F/download"
http -H 'Range: bytes=100-199' "$F/download"
http "$F/download"
if eventually 5 counted $((before + 1)); then
    ok "one download counts once; HEAD and later ranges do not"
else
    fail "downloads: $before before, $(info .downloadCount demo 1.0.0) after one more"
fi

# --- the other shapes ---
http "$URL/$ORG/demo" -H 'Accept: application/json'
answers "metadata" 200 "\"name\": ?\"$ORG/demo\""
matches "metadata is JSON" '^application/json' "$(header content-type)"
matches "metadata has an ETag" '^"' "$(header etag)"
matches "metadata varies" 'ccept' "$(header vary)"
http "$URL/$ORG/demo" -H 'Accept: application/json' -H "If-None-Match: $(header etag)"
answers "metadata: If-None-Match" 304
for path in "$at_vagrant" "${at_vagrant/1.0.0/v1.0.0}"; do
    http -A 'Mozilla/5.0' -H 'Accept: text/html' "$path"
    answers "a box file is a box file for every client" 200
    equal "its bytes" "$B" "$(sha256 "$WORK/body")"
done
http "$URL/api/no/such/route"
answers "an unknown route" 404 '^\{'
http -X POST -H "$JSON" -d '{' "$URL/api/auth/signin"
answers "bad JSON" 400 '"error"'

# --- ISO images: people's alone, but for downloads ---
I=$BASE/iso
ADMINS="x-access-token: $ADMIN_TOKEN"
head -c 3000000 /dev/urandom >"$WORK/debian.iso"
head -c 2000000 /dev/urandom >"$WORK/other.iso"
http -X POST -H "$KEY" -H 'x-file-name: debian-12.iso' -T "$WORK/debian.iso" "$I"
answers "a service account brings no ISO image" 403
http -X POST -H "$ADMINS" -H 'x-file-name: debian-12.iso' -T "$WORK/debian.iso" "$I"
answers "POST iso" 201
ISO=$(field .id)
equal "its row" "[\"debian-12.iso\",3000000,\"$(sha256 "$WORK/debian.iso")\",\"sha256\",\"$(sha256 "$WORK/debian.iso").iso\",false]" \
    "$(field '[.filename, .size, .checksum, .checksumType, .storagePath, .isPublic] | tostring')"
http "$I/$ISO/download"
answers "a private one is nobody's" 404
http -H "$KEY" "$I/$ISO/download"
answers "a service account downloads it" 200
equal "its bytes" "$(sha256 "$WORK/debian.iso")" "$(sha256 "$WORK/body")"
matches "its file name" 'filename="debian-12.iso"' "$(header content-disposition)"
ISO_TAG=$(header etag)
http -H "$KEY" -H "If-None-Match: $ISO_TAG" "$I/$ISO/download"
answers "its validator" 304
http -X POST -H "$ADMINS" "$I/$ISO/download-link"
answers "a link" 200 "\"downloadUrl\": ?\"/api/organization/$ORG/iso/$ISO/download\?token="
LINK=$(field .downloadUrl)
http -r 1000000-1999999 "$URL$LINK"
answers "a range by the link" 206
equal "its bytes" "$(tail -c +1000001 "$WORK/debian.iso" | head -c 1000000 | sha256sum | cut -d' ' -f1)" "$(sha256 "$WORK/body")"
http -X PUT -H "$ADMINS" -H "$JSON" -d '{"isPublic":true,"description":"netinst"}' "$I/$ISO"
answers "PUT" 200 '"isPublic": ?true'
for list in "$BASE/public-isos" "$URL/api/isos/discover"; do
    http "$list"
    equal "listed for everybody" 'debian-12.iso netinst' "$(field '.[] | "\(.name) \(.description)"')"
done
succeeds "by name, with nothing" curl -sS --fail -o "$WORK/got.iso" "$I/name/debian-12.iso/download"
equal "its bytes" "$(sha256 "$WORK/debian.iso")" "$(sha256 "$WORK/got.iso")"
head -c 700000 "$WORK/other.iso" >"$WORK/first"
http -X POST -H "$ADMINS" -H 'x-file-name: debian-12.iso' -H 'Content-Range: bytes 0-699999/2000000' -T "$WORK/first" "$I"
answers "the first bytes of another" 200 '"offset": ?700000'
http "$I/$ISO/download" -r 0-0
answers "the one before is served" 206
http -H "$ADMINS" "$I/uploads?name=debian-12.iso"
equal "where it goes on" 700000 "$(field '.uploads[0].offset')"
http -X POST -H "$ADMINS" -H 'x-file-name: debian-12.iso' -C 700000 -T "$WORK/other.iso" "$I"
answers "the rest, as curl -C sends it" 201
equal "in the place of the one before" "$ISO true $(sha256 "$WORK/other.iso")" "$(field '"\(.id) \(.isPublic) \(.checksum)"')"
http -X DELETE -H "$ADMINS" "$I/$ISO"
answers "DELETE" 200 message
http "$I/$ISO/download"
answers "after that" 404

# --- deletion ---
http -X DELETE -H "$KEY" "$F/delete"
answers "delete" 200 message
http -X DELETE -H "$KEY" "$F/delete"
answers "delete again" 200 message
http "$F/download"
answers "after that" 404
gone() {
    http "$at_vagrant?b3=$BLAKE3"
    [[ $STATUS == 404 ]]
}
if eventually 5 gone; then ok "by digest after that: $STATUS"; else fail "by digest after that: still $STATUS"; fi
equal "and Vagrant is not told of it" false \
    "$(curl -sS -H 'Accept: application/json' "$URL/$ORG/demo" | jq '[.versions[].version] | contains(["1.0.0"])')"

finish
