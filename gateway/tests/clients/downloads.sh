#!/usr/bin/env bash
# Downloads as a CDN and curl ask for them: immutable URLs, who may keep what, purge tags, digests, ranges that are
# not right.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export BOXGATE_DOWNLOADS__NAME_CDN_MAX_AGE=1h
start_gateway
KEY="Authorization: Bearer $CLIENT_SECRET"
make_box "$WORK/a.box" 3000
make_box "$WORK/b.box" 900
SHA=$(sha256 "$WORK/a.box")
upload "$WORK/a.box" demo 1.0.0
B3=$(info .blake3 demo 1.0.0)

# sha_field HEX: as digest fields write it.
sha_field() {
    # shellcheck disable=SC2059
    printf 'sha-256=:%s:' "$(printf "$(sed 's/../\\x&/g' <<<"$1")" | base64)"
}

NAMED=$URL/$ORG/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box
BLOB=$URL/blobs/b3/$B3
BY_SHA=$URL/blobs/sha256/$SHA
N=$(size "$WORK/a.box")

# --- who may read ---
http "$URL/blobs/b3/$(printf 'ab%.0s' {1..32})"
answers "a blob that nobody stored" 404 'or you may not read it'
ABSENT=$BODY
for url in "$BLOB" "$BY_SHA" "$BLOB/" "${BLOB}0" "$URL/blobs/b3/x"; do
    http "$url"
    equal "without a right: 404 ($url)" 404 "$STATUS"
done
http "$BLOB"
equal "a private blob is as absent as no blob" "$ABSENT" "$BODY"
for url in "$BLOB" "$BY_SHA"; do
    http -H "$KEY" "$url"
    answers "with a right" 200
    equal "its bytes" "$SHA" "$(sha256 "$WORK/body")"
    equal "are the caller's alone" 'private, no-cache, no-transform' "$(header cache-control)"
    equal "and bear no tags" '' "$(header surrogate-key)$(header cache-tag)$(header cdn-cache-control)"
done
make_public demo

# --- who may keep it ---
FOREVER='public, max-age=31536000, immutable, no-transform'
for url in "$BLOB" "$BY_SHA" "$NAMED?b3=$B3"; do
    http "$url"
    answers "anyone, $url" 200
    equal "its bytes" "$SHA" "$(sha256 "$WORK/body")"
    equal "are kept for ever" "$FOREVER" "$(header cache-control)"
    equal "by CDNs, too" "$FOREVER" "$(header cdn-cache-control)"
    matches "bear the digest's tag" "(^|,)b3/$B3(,|$)" "$(header cache-tag)"
    matches "and the box's" "(^| )box/$ORG/demo( |$)" "$(header surrogate-key)"
    equal "the ETag is the digest" "\"$B3\"" "$(header etag)"
    equal "ranges are welcome" bytes "$(header accept-ranges)"
done
http "$NAMED"
equal "a name is kept for a minute" 'public, max-age=60, no-transform' "$(header cache-control)"
equal "by a CDN as long as configured" 'public, max-age=3600, no-transform' "$(header cdn-cache-control)"
equal "and says where the bytes stay" "${NAMED#"$URL"}?b3=$B3" "$(header content-location)"
http "$(file_path demo 1.0.0)/download"
equal "so does BoxVault's name" "${BLOB#"$URL"}" "$(header content-location)"

# --- digests ---
http -I "$BLOB"
matches "HEAD tells the digests of the whole" "$(sha_field "$SHA" | sed s/+/./g), blake3=:" "$(header repr-digest)"
http -H 'Want-Repr-Digest: sha-256=1' -H 'Want-Content-Digest: sha-256=1' -r 5-9 "$BLOB"
answers "a range with its digest" 206
equal "of the whole" "$(sha_field "$SHA")" "$(header repr-digest)"
equal "and of the range" "$(sha_field "$(sha256 "$WORK/body")")" "$(header content-digest)"

# --- validators and ranges ---
http -H "If-None-Match: \"$B3\"" "$BLOB"
answers "304" 304
equal "304 says how long, too" "$FOREVER" "$(header cache-control)"
http -H 'If-Match: "x"' "$BLOB"
answers "412" 412
equal "412 is nobody's to keep" 'private, no-store, no-transform' "$(header cache-control)"
http -r "$N-" "$BLOB"
answers "416 past the end of a blob" 416
equal "416 says how long it is" "bytes */$N" "$(header content-range)"
equal "416 is nobody's to keep" 'private, no-store, no-transform' "$(header cache-control)"
http -r "$N-" "$NAMED"
answers "a box file past its end is whole" 200
http -H "Range: bytes=$(printf '%s-,' {1..1000})" "$BLOB"
answers "a thousand ranges are none" 200
for range in 9-5 99999999999999999999999-99999999999999999999999 --5 0x1-2 1; do
    http -H "Range: bytes=$range" "$BLOB"
    [[ $range = 9999* ]] && want=416 || want=200
    answers "Range: bytes=$range" "$want"
done
http -r 0-9 -H "If-Range: W/\"$B3\"" "$BLOB"
answers "a weak If-Range is no match" 200

# --- links and their keys ---
LINK=$(info .downloadUrl demo 1.0.0)
TOKEN=${LINK#*token=}
http "$LINK"
answers "a link, by nobody" 200
# key COMMAND...: of `boxgate admin link-key`, by an administrator.
key() {
    "$GATEWAY" admin link-key "$@" --url "$URL" --token "$ADMIN_TOKEN"
}
matches "a new key signs" '^Key [0-9]+ signs download links from now on' "$(key rotate)"
differs "the links made then" "${TOKEN%%.*}" "$(info .downloadUrl demo 1.0.0 | sed 's/.*token=//; s/[.].*//')"
http "$LINK"
answers "a link of the former key" 200
run 2 "a key is not revoked unasked" key revoke "${TOKEN%%.*}"
says "unasked: what to say" '\-\-yes'
matches "its key is revoked" "The links of key ${TOKEN%%.*} are ended" "$(key revoke "${TOKEN%%.*}" --yes)"
http "$LINK"
answers "and its links with it" 403 'was revoked'
matches "and listed so" "^${TOKEN%%.*}  made .*  revoked " "$(key list | tail -n 1)"
equal "no link is logged" 0 "$(grep -cF -e "${TOKEN##*.}" "$WORK/gateway.log" || true)"

# --- a replaced file ---
upload "$WORK/b.box" demo 1.0.0
http "$NAMED?b3=$B3"
answers "the former digest still leads to its bytes" 200
equal "those" "$SHA" "$(sha256 "$WORK/body")"
http "$BLOB"
answers "no box holds the blob any more" 404
http -X DELETE -H "x-access-token: $ADMIN_TOKEN" "$BASE/box/demo"
answers "the box is deleted" 200
http "$NAMED?b3=$B3"
answers "and so is its former digest" 404

finish
