#!/usr/bin/env bash
# Varnish with xkey, and nginx, keep public boxes for an hour; what is replaced, made private or deleted leaves them as
# soon as its event names it, and nothing else does. Scripts and webhooks are what will call them; here a reader of the
# events stands for those.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/edge.sh"
cd "$WORK"

export BOXGATE_DOWNLOADS__NAME_MAX_AGE=1h BOXGATE_DOWNLOADS__NAME_CDN_MAX_AGE=1h
start_gateway
VARNISH=127.0.0.1:$(free_ports 1)
mkdir varnish
from_cdn_page vcl >cdn.vcl
NGINX_PID= VARNISH_PID= PURGE_PID=
trap 'CODE=$?; kill $NGINX_PID $VARNISH_PID $PURGE_PID 2>/dev/null || true; cleanup "$CODE"' EXIT
varnishd -F -j none -a "$VARNISH" -f "$WORK/cdn.vcl" -n "$WORK/varnish" -s malloc,64m >varnish.log 2>&1 &
VARNISH_PID=$!
start_edge_nginx
python3 "$CLIENTS/purge.py" "$DATA/boxgate.db" --varnish "$VARNISH" --nginx "$WORK/cdn" >purged 2>purge.err &
PURGE_PID=$!
succeeds "Varnish is up" eventually 30 curl -sS -o /dev/null "http://$VARNISH/livez"

# through CACHE PATH [FLAGS...]: sets STATUS, and leaves head and body in $WORK/head and $WORK/body.
through() {
    local way=(--unix-socket cdn.sock) base=http://cdn.test
    [[ $1 != varnish ]] || way=() base=http://$VARNISH
    STATUS=$(curl -sS "${way[@]}" -D head -o body -w '%{http_code}' "${@:3}" "$base$2")
}
cached() { tr -d '\r' <head | awk -F': ' 'tolower($1) == "x-cache" { print $2 }'; }

# seen CACHE PATH STATUS [SHA256]: the cache gives that now.
seen() {
    through "$1" "$2"
    [[ $STATUS == "$3" && (-z ${4:-} || $(sha256 body) == "$4") ]]
}

# soon NAME CACHE PATH STATUS [SHA256]: within a few seconds, and says how long it took.
soon() {
    local begun
    begun=$(date +%s%N)
    if eventually 40 seen "${@:2}"; then
        ok "$1, by $2: $4 after $((($(date +%s%N) - begun) / 1000000)) ms"
    else
        fail "$1, by $2: $STATUS $(cached) $(tail -n 2 purge.err)"
    fi
}

make_box a.box 3000
make_box b.box 2000
make_box c.box 1000
for cache in varnish nginx; do
    upload a.box "$cache" 1.0.0
    upload c.box "$cache-other" 1.0.0
    make_public "$cache"
    make_public "$cache-other"
    named=/$ORG/boxes/$cache/versions/1.0.0/providers/virtualbox/amd64/vagrant.box
    blob=/blobs/b3/$(info .blake3 "$cache" 1.0.0)
    other=/$ORG/boxes/$cache-other/versions/1.0.0/providers/virtualbox/amd64/vagrant.box
    # What made them public may still be on its way to the caches.
    succeeds "the last event came" eventually 20 grep -q "box.updated box/$ORG/$cache-other" purged
    for path in "$named" "$blob" "$other"; do
        through "$cache" "$path"
        equal "$cache: first" "200 MISS" "$STATUS $(cached)"
        through "$cache" "$path"
        equal "$cache: again" "200 HIT" "$STATUS $(cached)"
    done

    upload b.box "$cache" 1.0.0
    soon "replaced" "$cache" "$named" 200 "$(sha256 b.box)"
    through "$cache" "$other"
    equal "$cache: another box stays" "200 HIT $(sha256 c.box)" "$STATUS $(cached) $(sha256 body)"
    through "$cache" "$named"
    equal "$cache: the new bytes are kept" "200 HIT" "$STATUS $(cached)"

    curl -sS --fail -X PUT -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' \
        -d '{"isPublic":false}' -o /dev/null "$BASE/box/$cache"
    soon "made private" "$cache" "$named" 404
    soon "its blob, which no public box holds" "$cache" "$blob" 404

    curl -sS --fail -X DELETE -H "x-access-token: $ADMIN_TOKEN" -o /dev/null "$BASE/box/$cache-other"
    soon "deleted" "$cache" "$other" 404
done

finish
