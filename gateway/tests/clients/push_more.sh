#!/usr/bin/env bash
# What `boxgate push` and `boxgate pull` do beyond one file: several at once, by what boxes say of themselves, told to
# programs; bytes that are there already, through proxies, through what takes no large bodies, to whom only a file trusts.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"
PIDS=()
trap 'CODE=$?; for PID in "${PIDS[@]}"; do kill "$PID" 2>/dev/null || true; done; cleanup "$CODE"' EXIT

push() { "$GATEWAY" push --url "$URL" --token "$CLIENT_SECRET" "$@"; }
pull() { "$GATEWAY" pull --url "$URL" --token "$CLIENT_SECRET" "$@"; }
# events FILTER: of the lines of the last run.
events() { grep '^{' "$WORK/out" | jq -rs "$1"; }
# status VERSION: of version VERSION of the box more.
as_member() { curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$@"; }
bytes_in() { curl -sS --fail "$URL/metrics" | awk '/^boxgate_http_bytes_in_total/ { printf "%d", $2 }'; }
# middleman NAME UPSTREAM MOST: starts one; its address is in NAME.
middleman() {
    python3 "$CLIENTS/middleman.py" "$2" "$3" "$WORK/$1.notes" >"$1" 2>"$1.err" </dev/null &
    PIDS+=($!)
    eventually 30 test -s "$1" || { cat "$1.err" >&2; exit 1; }
}

start_gateway
LISTEN=${URL#http://}
for name in one two three; do
    mkdir "in.$name"
    head -c 3000000 /dev/urandom >"in.$name/disk.img"
    printf '{"provider":"virtualbox","architecture":"amd64"}' >"in.$name/metadata.json"
    tar -C "in.$name" -cf "$name.box" disk.img metadata.json
done
gzip -k <two.box >zipped.box

# --- several, as each says itself ---
run 0 "three files by a template" push --to "$ORG/{stem}/1.0.0" one.box two.box three.box
says "three files: each is told" "$ORG/two 1\.0\.0 for virtualbox on amd64 is published"
says "three files: one line for all" '3 of 3 files are published'
equal "three files: they are there" "$(sha256 two.box)" "$(stored_sha256 two 1.0.0)"
run 0 "provider and architecture are left out" push zipped.box "$ORG/zipped" 1.0.0
says "left out: they are those of the box" "$ORG/zipped 1\.0\.0 for virtualbox on amd64"
"$GATEWAY" sample-box sample.box >/dev/null
run 0 "a sample box by a template" push --to "$ORG/{stem}/1.0.0" sample.box
says "a sample box: as it says itself" "$ORG/sample 1\.0\.0 for virtualbox on amd64 is published"
run 2 "two files that would be one" push --to "$ORG/web/1.0.0" one.box two.box
says "two files that would be one: what to do" 'would both become'
head -c 100 /dev/zero >mute.box
run 2 "a box that says nothing" push mute.box "$ORG/mute" 1.0.0
says "a box that says nothing: what to do" 'nothing says the provider'
run 0 "it is said in its place" push mute.box "$ORG/mute" 1.0.0 virtualbox amd64

# --- for programs ---
run 2 "of three files one is not there" push --json --to "$ORG/{stem}/2.0.0/virtualbox/amd64" one.box absent.box three.box
equal "each file begins" "one.box absent.box three.box" "$(events '[.[] | select(.event == "started") | .file] | join(" ")')"
equal "each ends once" "finished failed finished" "$(events '[.[] | select(.event == "finished" or .event == "failed") | .event] | join(" ")')"
equal "the one that failed says why" "absent.box 2" "$(events '.[] | select(.event == "failed") | "\(.file) \(.exit_code)"')"
equal "what ended well says what it is" "$(sha256 three.box)" "$(events '[.[] | select(.event == "finished")][1].sha256')"
equal "parts are told" "$ORG/one/2.0.0/virtualbox/amd64" "$(events '[.[] | select(.event == "part")][0].target')"
equal "every line is a document with an event" 0 "$(grep -vc '^{"event":"' out || true)"

# --- released, and described ---
cat >about.json <<JSON
{"name": "$ORG/more", "version": "1.0.0", "description": "What it is, **at length**.", "short_description": "In brief.",
 "version_description": "What is new."}
JSON
http -X POST "$URL/api/v1/boxes" -H "Authorization: Bearer $CLIENT_SECRET" -H 'Content-Type: application/json' \
    -d "{\"box\":{\"username\":\"$ORG\",\"name\":\"more\",\"is_private\":true}}"
answers "a box by Vagrant Cloud's API" 200
http -X POST "$URL/api/v1/box/$ORG/more/versions" -H "Authorization: Bearer $CLIENT_SECRET" -H 'Content-Type: application/json' \
    -d '{"version":{"version":"1.0.0"}}'
answers "a version that is not released" 200
cloud() { as_member "$URL/api/v1/box/$ORG/more/version/1.0.0" | jq -r "$1"; }
run 0 "a push into it" push one.box "$ORG/more" 1.0.0
equal "it stays unreleased" unreleased "$(cloud .status)"
run 0 "a push by a document" push --box-metadata about.json --release one.box
equal "it is released" active "$(cloud .status)"
equal "the version is described" "What is new." "$(cloud .description_markdown)"
equal "so is the box" "In brief. What it is, **at length**." \
    "$(as_member "$URL/api/v1/box/$ORG/more" | jq -r '"\(.short_description) \(.description_markdown)"')"
run 0 "words say it otherwise than the document" push --box-metadata about.json one.box "$ORG/other" 3.0.0
equal "they win" "$(sha256 one.box)" "$(stored_sha256 other 3.0.0)"
run 2 "a file that is not there is no box" push --box-metadata about.json one.box out/absent.box
echo '{"box": "typo"}' >typo.json
run 2 "a document with a key that there is not" push --box-metadata typo.json one.box
says "a key that there is not: it is named" 'unknown field `box`'

# --- bytes that are there ---
before=$(bytes_in)
run 0 "the same bytes under another name, by digest" push --digest-first two.box "$ORG/again" 1.0.0
says "by digest: it says so" 'holds these bytes already'
equal "by digest: no byte is sent" 0 "$(($(bytes_in) - before))"
equal "by digest: it is there" "$(sha256 two.box)" "$(stored_sha256 again 1.0.0)"
equal "by digest: bytes are stored once" 1 "$(blobs | xargs sha256sum | grep -c "^$(sha256 two.box)")"
head -c 2000000 /dev/urandom >new.box
run 0 "bytes that nobody has, by digest" push --json --digest-first new.box "$ORG/new" 1.0.0 virtualbox amd64
equal "nobody had them: all are sent" "2000000 false" "$(events '.[] | select(.event == "finished") | "\(.sent) \(.was_known)"')"

# --- what takes no large bodies ---
head -c 20000000 /dev/urandom >large.box
middleman narrow "$LISTEN" 600000
run 0 "past what takes 600 kB" "$GATEWAY" push --json large.box "$ORG/narrow" 1.0.0 virtualbox amd64 \
    --url "http://$(cat narrow)" --token "$CLIENT_SECRET"
equal "600 kB: requests were halved until they fit" 524288 "$(events '[.[] | select(.event == "halved")][-1].bytes')"
equal "600 kB: it is there" "$(sha256 large.box)" "$(stored_sha256 narrow 1.0.0)"
middleman closed "$LISTEN" 1000
run 1 "past what takes a kilobyte" "$GATEWAY" push large.box "$ORG/closed" 1.0.0 virtualbox amd64 \
    --url "http://$(cat closed)" --token "$CLIENT_SECRET"
says "a kilobyte: it ends" 'answers 413'
equal "a kilobyte: nothing is published" 404 \
    "$(curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box/closed/version/1.0.0")"
rm -f large.box.boxgate-push

# --- proxies ---
middleman proxy "$LISTEN" 1000000000
run 0 "through a proxy" env http_proxy="http://$(cat proxy)" "$GATEWAY" push one.box "$ORG/proxied" 1.0.0 --url "$URL" --token "$CLIENT_SECRET"
matches "the proxy was asked" "POST $LISTEN" "$(cat proxy.notes)"
: >proxy.notes
run 0 "a host that is reached without" env http_proxy="http://$(cat proxy)" NO_PROXY=127.0.0.1 \
    "$GATEWAY" push one.box "$ORG/direct" 1.0.0 --url "$URL" --token "$CLIENT_SECRET"
equal "the proxy was not asked" '' "$(cat proxy.notes)"

run 75 "a proxy that is not there" env http_proxy="http://me:hush@127.0.0.1:1" \
    "$GATEWAY" push one.box "$ORG/direct" 1.0.1 --url "$URL" --token "$CLIENT_SECRET" --tries 1
says "a proxy that is not there: it is named" 'cannot reach .* \(through the proxy http://127\.0\.0\.1:1\)'

# --- several to fetch ---
run 0 "two boxes, told to a program" pull --json "$ORG/one@1.0.0" "$ORG/two" virtualbox
equal "both end well" "one-1.0.0-virtualbox-amd64.box two-1.0.0-virtualbox-amd64.box" \
    "$(events '[.[] | select(.event == "finished") | .file] | join(" ")')"
equal "they are those" "$(sha256 one.box)" "$(sha256 one-1.0.0-virtualbox-amd64.box)"
run 1 "two boxes of which one is not there" pull "$ORG/two" "$ORG/nowhere"
says "one is not there: how many are" '1 of 2 boxes are here'
run 2 "two boxes to one file" pull "$ORG/one" "$ORG/two" -o both.box

# --- whom a file trusts ---
stop_gateway TERM
unset LISTEN
DATA=$WORK/tls start_gateway --tls self-signed
CA=$(jq -r .certificate <<<"$READY")
run 2 "a certificate that nobody trusts" env -u SSL_CERT_FILE "$GATEWAY" push one.box "$ORG/trusted" 1.0.0 --url "$URL" --token "$CLIENT_SECRET"
says "nobody trusts it: what to do" '\-\-cacert'
run 0 "one that a file trusts" push --cacert "$CA" one.box "$ORG/trusted" 1.0.0
run 0 "through a tunnel" env HTTPS_PROXY="http://$(cat proxy)" BOXGATE_CACERT="$CA" \
    "$GATEWAY" pull "$ORG/trusted" -o tunnelled.box --url "$URL" --token "$CLIENT_SECRET"
matches "the proxy made one" "CONNECT ${URL#https://}" "$(cat proxy.notes)"
equal "it is what was sent" "$(sha256 one.box)" "$(sha256 tunnelled.box)"
echo none >none.pem
run 2 "a file without certificates" push --cacert none.pem one.box "$ORG/trusted" 1.0.0
says "without certificates: it is named" 'none\.pem: no certificate'

# --- a certificate by openssl, which the gateway and a file have alike ---
# by_openssl NAME FLAGS...: starts a gateway that shows such a one; it is in $CA.
by_openssl() {
    stop_gateway TERM
    mkdir -p "$WORK/$1/tls"
    CA=$WORK/$1/tls/self-signed.pem
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 "${@:2}" \
        -keyout "$WORK/$1/tls/self-signed-key.pem" -out "$CA" 2>/dev/null
    DATA=$WORK/$1 start_gateway --tls self-signed
}
by_openssl authority
run 2 "a certificate of an authority's" push --cacert "$CA" one.box "$ORG/trusted" 1.0.0
says "of an authority's: what to do" 'addext basicConstraints=critical,CA:FALSE'
by_openssl server -addext basicConstraints=critical,CA:FALSE
run 0 "one that was made so" push --cacert "$CA" one.box "$ORG/trusted" 1.0.0

finish
