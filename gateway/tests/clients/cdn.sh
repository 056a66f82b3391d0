#!/usr/bin/env bash
# nginx with `slice` and `proxy_cache` in front, as CDNs do it: aligned ranges are kept and joined, validators save
# bytes, what is private is kept by nobody, and a replaced box is seen at once under its new URL.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/edge.sh"
cd "$WORK"

export BOXGATE_DOWNLOADS__NAME_MAX_AGE=1s
start_gateway
KEY="Authorization: Bearer $CLIENT_SECRET"
make_box a.box 5000
make_box b.box 3000
SHA_A=$(sha256 a.box)
SHA_B=$(sha256 b.box)
SLICES=$((($(size a.box) + (1 << 20) - 1) >> 20))

NGINX_PID=
trap 'CODE=$?; kill $NGINX_PID 2>/dev/null || true; cleanup "$CODE"' EXIT
start_edge_nginx

# cdn PATH [FLAGS...]: through nginx; sets STATUS, and leaves head and body in $WORK/head and $WORK/body.
cdn() {
    STATUS=$(curl -sS --unix-socket cdn.sock -D head -o body -w '%{http_code}' "${@:2}" "http://cdn.test$1")
}

# field NAME: of the last head.
field() {
    tr -d '\r' <head | awk -F': ' -v name="$1" 'tolower($1) == name { print substr($0, length($1) + 3) }'
}

# origin STATUS: how many downloads the gateway has answered like that.
origin() {
    curl -sS --fail "$URL/metrics" |
        awk -v status="$1" '/^boxgate_http_request_seconds_count/ && /route="download"/ && index($0, "\"" status "\"") { n += $2 } END { print n + 0 }'
}

upload a.box demo 1.0.0
B3_A=$(info .blake3 demo 1.0.0)
NAMED=/$ORG/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box

# --- private ---
for _ in 1 2; do
    cdn "$NAMED?b3=$B3_A" -H "$KEY"
    equal "a private box, by its key" "200 $SHA_A" "$STATUS $(sha256 body)"
    equal "a private box is never kept" MISS "$(field x-cache)"
done
cdn "$NAMED?b3=$B3_A"
equal "a private box, by nobody" 404 "$STATUS"
make_public demo

# --- aligned ranges are kept and joined ---
before=$(origin 2xx)
cdn "$NAMED?b3=$B3_A"
equal "the box, joined from its ranges" "200 $SHA_A" "$STATUS $(sha256 body)"
equal "the gateway answered each range once" "$SLICES" "$(($(origin 2xx) - before))"
equal "purge tags come through" "org/$ORG,box/$ORG/demo,version/$ORG/demo/1.0.0,b3/$B3_A" "$(field cache-tag)"
equal "how long it may be kept comes through" 'public, max-age=31536000, immutable, no-transform' "$(field cache-control)"
before=$(origin 2xx)
for range in 0-9 1048570-1048590 1500000-4500000 -7; do
    cdn "$NAMED?b3=$B3_A" -r "$range"
    first=${range%-*} last=${range#*-}
    if [[ -z $first ]]; then
        tail -c "$last" a.box >want
    else
        head -c $((last + 1)) a.box | tail -c $((last - first + 1)) >want
    fi
    equal "range $range of it" "206 $(sha256 want)" "$STATUS $(sha256 body)"
done
cdn "$NAMED?b3=$B3_A" -H "If-None-Match: \"$B3_A\""
equal "its validator" 304 "$STATUS"
cdn "$NAMED?b3=$B3_A"
equal "the box again" "200 $SHA_A HIT" "$STATUS $(sha256 body) $(field x-cache)"
equal "none of them reached the gateway" "$before" "$(origin 2xx)"

# --- a name is asked for again, and its bytes are not sent again ---
cdn "$NAMED" -r 0-9
before=$(origin 2xx)
revalidated() {
    cdn "$NAMED" -r 0-9
    [[ $(field x-cache) == REVALIDATED ]]
}
if eventually 30 revalidated; then ok "a name is asked for again once its time is over"; else fail "never asked again: $(field x-cache)"; fi
equal "and answered without a byte" "$before" "$(origin 2xx)"
differs "by 304" 0 "$(origin 3xx)"

# --- replaced ---
upload b.box demo 1.0.0
B3_B=$(info .blake3 demo 1.0.0)
cdn "/$ORG/demo" -H 'Accept: application/json'
LISTED=$(jq -r '.versions[0].providers[0].url' body)
equal "a replaced box: its metadata names the new URL" "$NAMED?b3=$B3_B" "/${LISTED#*://*/}"
cdn "$NAMED?b3=$B3_B"
equal "its new URL has the new bytes at once" "200 $SHA_B" "$STATUS $(sha256 body)"
cdn "$NAMED?b3=$B3_A"
equal "its former URL has the former ones" "200 $SHA_A" "$STATUS $(sha256 body)"
renewed() {
    # nginx cuts an answer whose ranges have different validators; what is whole must be one or the other.
    cdn "$NAMED" || return 1
    [[ $(sha256 body) == "$SHA_A" || $(sha256 body) == "$SHA_B" ]] || echo "$STATUS $(sha256 body)" >>mixed
    [[ $STATUS == 200 && $(sha256 body) == "$SHA_B" ]]
}
if eventually 30 renewed; then ok "its name leads to the new bytes once its time is over"; else fail "its name: $STATUS $(brief "$(cat nginx.log)")"; fi
equal "never a mixture of both" '' "$(cat mixed 2>/dev/null || true)"

finish
