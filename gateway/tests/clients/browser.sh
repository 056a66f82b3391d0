#!/usr/bin/env bash
# Headless Chromium over HTTP/3: a box goes up and comes down, whole and in part, and the gateway saw no other version.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

start_gateway --tls self-signed
CA=$(jq -r .certificate <<<"$READY")
export CURL_CA_BUNDLE=$CA
SPKI=$(openssl x509 -in "$CA" -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64)
make_box a.box 20000
upload a.box demo 1.0.0
make_public demo
B3=$(info .blake3 demo 1.0.0)
FILE=/$ORG/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box
UPLOAD=/api/organization/$ORG/box/sent/version/1.0.0/provider/virtualbox/architecture/amd64/file/upload

# requests VERSION: how many came by it.
requests() {
    curl -sS --http1.1 "$URL/metrics" | awk -v of="boxgate_http_requests_total{version=\"$1\"}" '$1 == of { print $2 }'
}

DIGEST='const hex = async (answer) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", await answer.arrayBuffer()))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");'
H1=$(requests 1)
H2=$(requests 2)
succeeds "Chromium takes and sends" python3 "$CLIENTS/browser.py" "$WORK/profile" "$SPKI" "$URL/api/status" \
    "(async () => { $DIGEST const answer = await fetch('$FILE'); return [answer.status, await hex(answer)].join(' '); })()" \
    "(async () => { $DIGEST const answer = await fetch('/blobs/b3/$B3', { headers: { Range: 'bytes=1048000-5000000' } });
        return [answer.status, answer.headers.get('content-range'), await hex(answer)].join(' '); })()" \
    "(async () => { const body = await (await fetch('$FILE')).blob();
        const answer = await fetch('$UPLOAD', { method: 'POST', body, headers: { Authorization: 'Bearer $CLIENT_SECRET' } });
        return answer.status; })()" \
    "performance.getEntriesByType('resource').map((entry) => entry.nextHopProtocol).join(' ')"
line() { sed -n "$1p" "$WORK/out" | jq -r .; }
equal "all of it" "200 $(sha256 a.box)" "$(line 1)"
equal "a part of it" "206 bytes 1048000-5000000/$(size a.box) $(head -c 5000001 a.box | tail -c +1048001 | sha256sum | cut -d' ' -f1)" "$(line 2)"
matches "it sends the same back" '^20[01]$' "$(line 3)"
equal "what it sent" "$(sha256 a.box)" "$(info .sha256 sent 1.0.0)"
matches "by HTTP/3, Chromium says" '^h3( h3)*$' "$(line 4)"
matches "and the gateway" '^[4-9]$|^[1-9][0-9]' "$(requests 3)"
# Beside Chromium there were four looks by HTTP/1.1, this one among them, and one `info` by HTTP/2.
equal "by no other version" "$((H1 + 3)) $((H2 + 1))" "$(requests 1) $(requests 2)"
finish
