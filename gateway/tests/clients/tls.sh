#!/usr/bin/env bash
# TLS, HTTP/2 and HTTP/3 as curl, openssl, the h2 library and aioquic speak them: uploads and downloads of some size,
# cut ones that go on, limits, a certificate that changes and a stop during downloads.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

H2=$CLIENTS/http2.py
H3=$CLIENTS/http3.py
export BOXGATE_LIMITS__H2_CONNECTIONS=8 BOXGATE_SERVER__BODY_IDLE_TIMEOUT=4s BOXGATE_LOG__LEVEL=debug

# --- what a start refuses ---
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$WORK/key.pem" -out "$WORK/certificate.pem" 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$WORK/key2.pem" -out "$WORK/certificate2.pem" 2>/dev/null
# configured CERTIFICATE KEY: a configuration with a listener that speaks everything.
configured() {
    printf '[[listeners]]\naddress = "127.0.0.1:0"\ntls = true\nh3 = true\n[tls]\ncertificate = "%s"\nkey = "%s"\ncheck_every = "0"\n' \
        "$1" "$2" >"$WORK/boxgate.toml"
}
refused() { refuses "$1" "$2" timeout 20 "$GATEWAY" serve --config "$WORK/boxgate.toml" --data-dir "$WORK/other"; }
configured "" ""
refused "no certificate" 'tls.certificate: a listener with tls = true needs it'
configured "$WORK/none.pem" "$WORK/key.pem"
refused "a certificate that is not there" 'none.pem \(tls.certificate\)'
configured "$WORK/certificate.pem" "$WORK/certificate.pem"
refused "a key that is none" 'holds no private key in PEM \(tls.key\)'
configured "$WORK/certificate.pem" "$WORK/key2.pem"
refused "another certificate's key" 'key2.pem is not that of the certificate in .*certificate.pem \(tls.key, tls.certificate\)'

# --- quickstart --tls self-signed: every door on every version ---
start_gateway --tls self-signed
CA=$(jq -r .certificate <<<"$READY")
export CURL_CA_BUNDLE=$CA SSL_CERT_FILE=$CA
KEY="Authorization: Bearer $CLIENT_SECRET"
PORT=${URL##*:}
matches "its URL" '^https://127' "$URL"
equal "its key is private" 600 "$(stat -c %a "$DATA/tls/self-signed-key.pem")"
make_box "$WORK/a.box" 68000
A=$(sha256 "$WORK/a.box")
N=$(size "$WORK/a.box")
# h3 METHOD PATH [ARGUMENTS...]: one request by aioquic; its report is $TOLD.
h3() { TOLD=$(timeout 150 python3 "$H3" "$CA" "$1" "$URL$2" "${@:3}" 2>"$WORK/h3.err") || TOLD="{\"error\":\"$(tail -n 1 "$WORK/h3.err" | tr -d '"\\')\"}"; }
# h2 PATH WHAT [ARGUMENTS...]
h2() { TOLD=$(timeout 100 python3 "$H2" "$CA" "$URL$1" "${@:2}" 2>"$WORK/h2.err") || TOLD="{\"error\":\"$(tail -n 1 "$WORK/h2.err" | tr -d '"\\')\"}"; }
told() { jq -r "$1" <<<"$TOLD"; }

for version in 1.1 2; do
    http "--http$version" "$URL/api/status"
    answers "status over HTTP/$version" 200 '"version"'
    matches "in that version" "^HTTP/$version 200" "$HEAD"
    equal "HTTP/3 is offered" "h3=\":$PORT\"; ma=86400" "$(header alt-svc)"
    http "--http$version" -X POST -H "$KEY" --upload-file "$WORK/a.box" "$(file_path demo "1.0.${version#1.}")/upload"
    answers "64 MiB come over HTTP/$version" 200
    equal "the same go" "$A" "$(curl -sS --fail "--http$version" -H "$KEY" "$(file_path demo "1.0.${version#1.}")/download" | sha256sum | cut -d' ' -f1)"
done
env BOXGATE_TOKEN="$CLIENT_SECRET" "$(dirname "$GATEWAY")/load-tests" --quick --dir "$WORK/load" \
    run downloads --url "$URL" --organization "$ORG" >"$WORK/out" 2>&1 || true # its memory is that of a cache here
matches "the load tests play against it" 'held: every answer right' "$(tail -n 20 "$WORK/out")"
matches "and tell what a GB cost it" '8 x 64 MiB at once.*[0-9]' "$(grep '8 x 64 MiB' "$WORK/out")"
env BOXGATE_TOKEN="$CLIENT_SECRET" "$(dirname "$GATEWAY")/load-tests" --dir "$WORK/load" compare --smoke --tools "${TOOLS%/clients}" \
    --only tls,metadata --url "$URL" --organization "$ORG" >"$WORK/out" 2>&1 || fail "beside others: $(brief "$(tail -n 5 "$WORK/out")")"
for row in 'Upload over TLS' 'Download over TLS' 'Metadata of a box'; do
    matches "$row beside others" "$row"'[^#]*\| boxgate \| [0-9.]+[^#]*\| nginx[a-z ]* \| [0-9.]+' "$(cat "$WORK/out")"
done
h3 GET /api/status
equal "status over HTTP/3" "200 whole" "$(told '"\(.status) \(.end)"')"
h3 POST "${BASE#"$URL"}/box/demo/version/1.0.3/provider/virtualbox/architecture/amd64/file/upload" -H "$KEY" --data "$WORK/a.box"
equal "64 MiB come over HTTP/3" 2 "$(told '.status // .error' | cut -c1)"
equal "they are what was sent" "$A" "$(info .sha256 demo 1.0.3)"
h3 GET "${BASE#"$URL"}/box/demo/version/1.0.3/provider/virtualbox/architecture/amd64/file/download" -H "$KEY"
equal "the same go" "200 $N $A" "$(told '"\(.status) \(.bytes) \(.sha256)"')"
make_public demo
FILE=$URL/$ORG/boxes/demo/versions/1.0.1/providers/virtualbox/amd64/vagrant.box
for version in 1.1 2; do
    http "--http$version" -r 1000-1999 "$FILE"
    answers "a range over HTTP/$version" 206
    equal "its bytes" "$(tail -c +1001 "$WORK/a.box" | head -c 1000 | sha256sum)" "$(sha256sum <"$WORK/body")"
    http "--http$version" -I "$FILE"
    equal "HEAD over HTTP/$version" "200 $N" "$STATUS $(header content-length)"
done
h3 GET "${FILE#"$URL"}" -H 'range: bytes=1000-1999'
equal "a range over HTTP/3" "206 $(tail -c +1001 "$WORK/a.box" | head -c 1000 | sha256sum | cut -d' ' -f1)" "$(told '"\(.status) \(.sha256)"')"
http --http2 -H 'Accept: application/json' "$URL/$ORG/demo"
answers "Vagrant's metadata over HTTP/2" 200 "\"url\":\"https://127.0.0.1:$PORT/"
succeeds "boxgate pull over TLS" "$GATEWAY" pull "$ORG/demo@1.0.1" -o "$WORK/pulled.box" --url "$URL"
equal "what it pulled" "$A" "$(sha256 "$WORK/pulled.box")"

# --- bodies without a length, which end with their stream ---

head -c 3000 /dev/urandom >"$WORK/short"
head -c 1000 "$WORK/short" >"$WORK/first"
tail -c +1001 "$WORK/short" >"$WORK/rest"
# lengthless VERSION METHOD PATH FILE [ARGUMENTS...]: sends it so; sets CAME to the status.
lengthless() {
    if [[ $1 == 3 ]]; then
        h3 "$2" "$3" --data "$4" --lengthless -H "$KEY" "${@:5}"
        CAME=$(told '.status // .error')
        AT=$(told '.headers.location // empty')
    else
        # curl tells no length of what it reads from a pipe.
        http --http2 -X "$2" -H "$KEY" "${@:5}" -T - "$URL$3" < <(cat "$4")
        CAME=$STATUS
        AT=$(header location)
    fi
}
PARTIAL=(-H 'content-type: application/partial-upload')
for version in 2 3; do
    of_box=${BASE#"$URL"}/box/lengthless/version/$version.0.0/provider/virtualbox/architecture/amd64/file/upload
    lengthless "$version" POST "$of_box" "$WORK/short"
    equal "a raw upload without a length over HTTP/$version" 200 "$CAME"
    equal "is whole" "$(sha256 "$WORK/short")" "$(info .sha256 lengthless "$version.0.0")"
    lengthless "$version" POST "/files?target=$ORG/lengthless/$version.1.0/virtualbox/amd64" "$WORK/first" -H 'upload-complete: ?0'
    equal "a beginning over HTTP/$version" 201 "$CAME"
    AT=/files/${AT##*/files/}
    lengthless "$version" PATCH "$AT" "$WORK/rest" "${PARTIAL[@]}" -H 'upload-offset: 1000' -H 'upload-complete: ?1'
    equal "and its end" 200 "$CAME"
    equal "are whole" "$(sha256 "$WORK/short")" "$(info .sha256 lengthless "$version.1.0")"
done
lengthless 3 POST "/files?target=$ORG/lengthless/4.0.0/virtualbox/amd64" "$WORK/first" -H 'upload-complete: ?0'
h3 PATCH "/files/${AT##*/files/}" --data "$WORK/rest" -H "$KEY" "${PARTIAL[@]}" -H 'upload-offset: 999' -H 'upload-complete: ?1'
equal "a refusal over HTTP/3 ends its stream alone, and tells the offset" "409 1000 whole" \
    "$(told '"\(.status) \(.headers["upload-offset"]) \(.end)"')"

# --- a refusal is read while gigabytes are still to come ---
http --http2 -X POST -H 'Authorization: Bearer nobody' -T "$WORK/a.box" "$BASE/box/refused/version/1.0.0/provider/virtualbox/architecture/amd64/file/upload"
equal "a refusal of a large body over HTTP/2 is no failure of the transfer" "401 0" "$STATUS $CURL_EXIT"
http --http2 -X POST -H "$KEY" -H 'Upload-Complete: ?0' -H 'Upload-Length: 1' -T "$WORK/a.box" "$URL/files?target=$ORG/refused/1.0.0/virtualbox/amd64"
equal "nor is one of its length" "400 0" "$STATUS $CURL_EXIT"

# --- TLS itself ---
# handshake ARGUMENTS...: what openssl says of one.
handshake() { openssl s_client -connect "127.0.0.1:$PORT" -CAfile "$CA" "$@" </dev/null 2>&1 || true; }
matches "1.3 and HTTP/2 by ALPN" 'ALPN protocol: h2' "$(handshake -alpn h2,http/1.1 -tls1_3)"
matches "HTTP/1.1 by ALPN" 'ALPN protocol: http/1.1' "$(handshake -alpn http/1.1)"
matches "1.2 as well" 'Protocol *: TLSv1.2' "$(handshake -tls1_2)"
matches "1.1 no more" 'alert|error|no protocols' "$(handshake -tls1_1)"
matches "no early data" 'Max Early Data: 0|Early data was not sent' "$(handshake -tls1_3)"

# --- uploads that are cut go on where they stopped ---
UPLOADED="$URL/files?target=$ORG/cut"
offset() { http -I -H "$KEY" "$URL$UPLOAD"; header upload-offset; }
APPEND=(-H "$KEY" -H 'content-type: application/partial-upload' -H 'upload-complete: ?1')
http -X POST -H "$KEY" -H 'Upload-Complete: ?0' -H "Upload-Length: $N" "$UPLOADED/2.0.0/virtualbox/amd64"
answers "an upload begins" 201
UPLOAD=$(header location)
h2 "$UPLOAD" cut PATCH "$WORK/a.box" 30000000 "authorization:Bearer $CLIENT_SECRET" 'content-type:application/partial-upload' \
    'upload-complete:?1' 'upload-offset:0'
equal "30 MB of it come over HTTP/2, then a reset" 30000000 "$(told '.sent // .error')"
GO=$(offset)
matches "what was read of it is kept" '^(30000000|2[0-9]{7})$' "$GO"
tail -c "+$((GO + 1))" "$WORK/a.box" >"$WORK/rest"
http --http2 -X PATCH "${APPEND[@]}" -H "upload-offset: $GO" --data-binary "@$WORK/rest" "$URL$UPLOAD"
answers "the rest over HTTP/2" 200 "$A"

h3 POST "/files?target=$ORG/cut/3.0.0/virtualbox/amd64" -H "$KEY" -H 'upload-complete: ?1' -H 'upload-draft-interop-version: 9' \
    --data "$WORK/a.box" --cut 30000000
equal "an upload over HTTP/3 is cut" "cut by us" "$(told '.end // .error')"
equal "104 told where it goes on" 104 "$(told '.interims[0].status')"
UPLOAD=$(told '[.interims[].headers.location // empty][0]')
matches "its place" '^/files/' "$UPLOAD"
eventually 20 sh -c "curl -sS -I -H '$KEY' --cacert '$CA' '$URL$UPLOAD' | grep -qi '^upload-offset: [1-9]'" || true
GO=$(offset)
differs "bytes of it are kept" 0 "$GO"
h3 PATCH "$UPLOAD" "${APPEND[@]}" -H "upload-offset: $GO" --data "$WORK/a.box" --from "$GO"
equal "the rest over HTTP/3" 200 "$(told '.status // .error')"
equal "it is the box" "$A" "$(curl -sS -H "$KEY" "$URL/api/organization/$ORG/box/cut/version/3.0.0/provider/virtualbox/architecture/amd64/file/download" | sha256sum | cut -d' ' -f1)"
http --http2 -v -X POST -H "$KEY" -H 'Upload-Complete: ?1' -H 'Upload-Draft-Interop-Version: 9' --data-binary "@$WORK/rest" "$UPLOADED/9.0.0/virtualbox/amd64"
answers "on HTTP/2 the same without 104" 201
equal "none" 0 "$(grep -c 'HTTP/2 104' "$WORK/curl.err" || true)"

# --- limits ---
h2 /api/status crowd 1000
equal "HTTP/2 tells its limits" '128 4194304 16384' "$(told '"\(.limits.MAX_CONCURRENT_STREAMS) \(.limits.INITIAL_WINDOW_SIZE) \(.limits.MAX_HEADER_LIST_SIZE)"')"
matches "1000 at once are not all taken" '(REFUSED_STREAM|PROTOCOL_ERROR|ENHANCE_YOUR_CALM)' "$(told '"\(.resets) \(.goaway) \(.error)"')"
h2 /api/status reset 1000
equal "1000 that are taken back end the connection" ENHANCE_YOUR_CALM "$(told '.goaway // .error')"
h2 /api/status flood 100
equal "too many fields" 431 "$(told '.statuses | keys[0]')"
h2 "${FILE#"$URL"}" stop
equal "who never reads is ended" '1' "$(told '.resets | length')"
h3 GET /api/status --streams 1000
equal "1000 over HTTP/3 come as they are allowed" '1000 200' "$(told '"\(.whole) \(.statuses | join(","))"')"
OPEN=()
# eight: that many connections of HTTP/2 stay open. One that found its place still held by what came before ended, and is
# opened again.
eight() {
    local pid running=()
    for pid in "${OPEN[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then running+=("$pid"); fi
    done
    OPEN=("${running[@]}")
    while ((${#OPEN[@]} < 8)); do
        coproc_in=$(mktemp -u "$WORK/in.XXXX")
        mkfifo "$coproc_in"
        openssl s_client -quiet -connect "127.0.0.1:$PORT" -CAfile "$CA" -alpn h2 <"$coproc_in" >/dev/null 2>&1 &
        OPEN+=("$!")
        exec {fd}>"$coproc_in"
    done
}
matched() {
    eight
    handshake -alpn h2,http/1.1 | grep -q 'ALPN protocol: http/1.1'
}
if eventually 8 matched; then ok "beyond limits.h2_connections, HTTP/1.1 is offered"; else fail "beyond limits.h2_connections: $(handshake -alpn h2,http/1.1 | grep ALPN)"; fi
kill "${OPEN[@]}" 2>/dev/null || true
wait "${OPEN[@]}" 2>/dev/null || true
http "$URL/metrics"
matches "that is counted" 'boxgate_connections_refused_total\{limit="h2"\} [1-9]' "$BODY"
matches "and requests by version" 'boxgate_http_requests_total\{version="3"\} [1-9]' "$BODY"
equal "nothing of ours broke" 'boxgate_http_panics_total 0' "$(grep '^boxgate_http_panics_total' <<<"$BODY")"

# --- a stop during downloads ---
curl -sS --fail --http2 --limit-rate 20M -o "$WORK/h2.box" "$FILE" &
BY_H2=$!
eventually 20 test -s "$WORK/h2.box" || true
h3 GET "${FILE#"$URL"}" --drain "$GATEWAY_PID"
equal "a download over HTTP/3 ends during a stop" "$N $A whole" "$(told '"\(.bytes) \(.sha256) \(.end)"')"
succeeds "one over HTTP/2, too" wait "$BY_H2"
equal "with all of its bytes" "$A" "$(sha256 "$WORK/h2.box")"
STOPPED_WITH=0
wait "$GATEWAY_PID" || STOPPED_WITH=$?
GATEWAY_PID=
equal "the gateway ended well" 0 "$STOPPED_WITH"

# --- another certificate during a download ---
unset CURL_CA_BUNDLE SSL_CERT_FILE
cat "$WORK/certificate.pem" "$WORK/certificate2.pem" >"$WORK/both.pem"
cp "$WORK/certificate.pem" "$WORK/in-use.pem"
cp "$WORK/key.pem" "$WORK/in-use-key.pem"
configured "$WORK/in-use.pem" "$WORK/in-use-key.pem"
LISTEN=127.0.0.1:0 start_gateway --config "$WORK/boxgate.toml"
CA=$WORK/both.pem
export CURL_CA_BUNDLE=$CA
PORT=${URL##*:}
FILE=$URL/${FILE#*//*/}
fingerprint() { openssl x509 -noout -fingerprint -sha256 -in "$1" | cut -d= -f2 | tr -d : | tr 'A-F' 'a-f'; }
served() { handshake -servername localhost | openssl x509 -noout -fingerprint -sha256 | cut -d= -f2 | tr -d : | tr 'A-F' 'a-f'; }
state() { curl -sS "$URL/api/status" | jq -r '"\(.tls.state) \(.tls.certificate_sha256)"'; }
CODE=0
printf 'a small box\n' >"$WORK/small.box"
WHY=$(cd "$WORK" && env -u SSL_CERT_FILE timeout 60 "$GATEWAY" push small.box "$ORG/untrusted" 1.0.0 virtualbox amd64 \
    --url "$URL" --token "$CLIENT_SECRET" 2>&1) || CODE=$?
equal "a push does not try a certificate again that it does not trust" 2 "$CODE"
matches "and says what to do" 'is an authority.s own' "$WHY"
equal "the certificate" "$(fingerprint "$WORK/certificate.pem")" "$(served)"
curl -sS --fail --http2 --limit-rate 20M -o "$WORK/h2.box" "$FILE" &
BY_H2=$!
eventually 20 test -s "$WORK/h2.box" || true
cp "$WORK/certificate2.pem" "$WORK/in-use.pem"
kill -HUP "$GATEWAY_PID"
broken() { [[ $(state) == "error $(fingerprint "$WORK/certificate.pem")" ]]; }
if eventually 20 broken; then ok "one without its key is not taken: $(state)"; else fail "one without its key: $(state)"; fi
equal "the old one stays in use" "$(fingerprint "$WORK/certificate.pem")" "$(served)"
matches "the log says so" 'the old one stays in use' "$(cat "$WORK/gateway.log")"
equal "metrics say so" 'boxgate_tls_certificate_ok 0' "$(curl -sS "$URL/metrics" | grep '^boxgate_tls_certificate_ok')"
cp "$WORK/key2.pem" "$WORK/in-use-key.pem"
kill -HUP "$GATEWAY_PID"
taken() { [[ $(state) == "ok $(fingerprint "$WORK/certificate2.pem")" ]]; }
if eventually 20 taken; then ok "with its key it is: $(state)"; else fail "with its key: $(state)"; fi
equal "new connections get it" "$(fingerprint "$WORK/certificate2.pem")" "$(served)"
h3 GET /api/status
equal "those of HTTP/3, too" 200 "$(told '.status // .error')"
succeeds "the download went on" wait "$BY_H2"
equal "to its end" "$A" "$(sha256 "$WORK/h2.box")"
stop_gateway
finish
