#!/usr/bin/env bash
# The Sanbox Runtime API at /runtime/image, by curl as the vendor's page has it, and by two gateways that push to each other.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

KEY=$(random_hex 24)
OTHER_KEY=$(random_hex 24)
mkdir -p "$WORK/one" "$WORK/two"
IMAGE=$WORK/one/runtimeImage.sbimg

# set_runtime KEY=VALUE...: the settings of the default runtime, in variables of the gateway.
set_runtime() {
    local pair
    for pair in "$@"; do export "BOXGATE_RUNTIMES__DEFAULT__${pair?}"; done
}
set_runtime ENABLED=true API_KEY="$KEY" ALLOW_DEPLOYMENTS=true IMAGE_FILE_PATH="$IMAGE"

# Its input, output and open files are looked at, by whoever runs this.
export BOXGATE_SERVER__CORE_DUMPS=true
start_gateway
RUNTIME=$URL/runtime/image

# ask NAME STATUS [CURL ARGUMENTS...]: the status; the body is in $WORK/body, the head in $WORK/head.
ask() {
    local name=$1 status=$2
    shift 2
    : >"$WORK/body"
    equal "$name" "$status" "$(curl -sS -o "$WORK/body" -D "$WORK/head" -w '%{http_code}' "$@" || true)"
}
# empty NAME: the last answer had no body.
empty() { equal "$1: no body" 0 "$(size "$WORK/body")"; }
# said NAME REGEX: its text.
said() { matches "$1" "$2" "$(cat "$WORK/body")"; }
# field NAME: a header of the last answer.
field() { sed -n "s/^$1: //Ip" "$WORK/head" | tr -d '\r' | tail -n 1; }
# left: what is beside the image.
left() { ls -A "$(dirname "$IMAGE")"; }
good=(-H "Authorization: Bearer $KEY")

# --- who may ask (cases 4 to 8) ---

ask "no image yet" 500 "${good[@]}" "$RUNTIME"
said "no image yet" 'no image deployed'
head -c 300000 /dev/urandom >"$WORK/image"
SUM=$(sha256 "$WORK/image")
ask "deployed raw" 202 -X POST "${good[@]}" --data-binary "@$WORK/image" "$RUNTIME"
empty "deployed raw"
equal "the image is a plain file" "$SUM" "$(sha256 "$IMAGE")"
equal "and nothing is beside it" runtimeImage.sbimg "$(left)"

for scheme in bearer Bearer BEARER; do
    ask "$scheme" 200 -H "Authorization: $scheme $KEY" "$RUNTIME"
done
equal "its bytes" "$SUM" "$(sha256 "$WORK/body")"
ask "Basic" 200 -u "key:$KEY" "$RUNTIME"
ask "basic without padding" 200 -H "Authorization: basic $(printf 'key:%s' "$KEY" | base64 -w 0 | tr -d =)" "$RUNTIME"
for user in "Key:$KEY" "admin:$KEY" "key:${KEY}x" "key:wrong" "key:"; do
    ask "not ${user%%:*}:..." 401 -u "$user" "$RUNTIME"
done
matches "how to do better" 'Basic realm="runtime", Bearer' "$(field www-authenticate)"
said "a text that does not tell which" 'not authorized'
ask "two credentials" 401 "${good[@]}" "${good[@]}" "$RUNTIME"
ask "none" 401 "$RUNTIME"
ask "PUT" 401 -X PUT -d '{}' "$RUNTIME"
empty "401 of PUT"

for date in "$(date -u +%FT%TZ)" "$(date -u -d '-290 seconds' +%FT%TZ)" "$(date -u -d '+290 seconds' +%FT%TZ)" \
    "$(date -u '+%F %T')" "$(TZ=Asia/Tokyo date +%FT%T%:z)" "$(LC_ALL=C date -u '+%a, %d %b %Y %T GMT')"; do
    ask "Date: $date" 200 "${good[@]}" -H "Date: $date" "$RUNTIME"
done
for date in "$(date -u -d '-310 seconds' +%FT%TZ)" "$(date -u -d '+310 seconds' +%FT%TZ)" yesterday "$(date -u +%F)"; do
    ask "Date: $date" 401 "${good[@]}" -H "Date: $date" "$RUNTIME"
    said "it names the header" 'Date'
done

# --- reading (case 22) ---

ask "the whole" 200 "${good[@]}" "$RUNTIME"
matches "as a file" 'attachment; filename="runtimeImage.sbimg"' "$(field content-disposition)"
equal "of bytes" application/octet-stream "$(field content-type)"
TAG=$(field etag)
ask "a range" 206 "${good[@]}" -H 'Range: bytes=1000-1999' "$RUNTIME"
equal "its bytes" "$(tail -c +1001 "$WORK/image" | head -c 1000 | sha256sum)" "$(sha256sum <"$WORK/body")"
ask "past the end" 416 "${good[@]}" -H 'Range: bytes=900000-' "$RUNTIME"
ask "known already" 304 "${good[@]}" -H "If-None-Match: $TAG" "$RUNTIME"
ask "HEAD" 200 -I "${good[@]}" "$RUNTIME"
equal "its length" 300000 "$(field content-length)"
ask "with a slash" 200 "${good[@]}" "$RUNTIME/?a=b"
ask "another method" 405 -X DELETE "${good[@]}" "$RUNTIME"
matches "which there are" 'GET.*POST.*PUT|POST.*PUT.*GET|GET.*PUT.*POST' "$(field allow)"
ask "no such runtime" 404 "${good[@]}" "$URL/runtimes/other/image"
empty "no such runtime"

# --- deploying (cases 10 to 13) ---

for form in "Image=@$WORK/image" "image=@$WORK/image" "file=@$WORK/image"; do
    head -c 200000 /dev/urandom >"$WORK/image"
    ask "form: ${form%%=*}" 202 "${good[@]}" -F "$form" "$RUNTIME"
    equal "its bytes" "$(sha256 "$WORK/image")" "$(sha256 "$IMAGE")"
done
head -c 100000 /dev/urandom >"$WORK/other"
ask "text first, another file beside it" 202 "${good[@]}" -F note=hello -F "other=@$WORK/other" -F "Image=@$WORK/image" -F end=1 "$RUNTIME"
equal "the part named Image" "$(sha256 "$WORK/image")" "$(sha256 "$IMAGE")"
# As .NET writes it: a name without quotes, filename* beside filename.
{
    printf -- '--b\r\nContent-Disposition: form-data; name=Image; filename=i.sbimg; filename*=utf-8%s%si.sbimg\r\n\r\n' "''" ""
    cat "$WORK/other"
    printf '\r\n--b--\r\n'
} >"$WORK/dotnet"
ask "a form of .NET" 202 "${good[@]}" -H 'Content-Type: multipart/form-data; boundary="b"' --data-binary "@$WORK/dotnet" "$RUNTIME"
equal "its bytes" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
ask "raw, called a form of words" 202 "${good[@]}" -H 'Content-Type: application/x-www-form-urlencoded' --data-binary "@$WORK/image" "$RUNTIME"
SUM=$(sha256 "$WORK/image")
equal "its bytes" "$SUM" "$(sha256 "$IMAGE")"

ask "a form without a file" 400 "${good[@]}" -F note=hello "$RUNTIME"
said "it says so" 'Image'
ask "two files" 400 "${good[@]}" -F "a=@$WORK/image" -F "b=@$WORK/other" "$RUNTIME"
ask "nothing" 400 -X POST "${good[@]}" "$RUNTIME"
ask "coded" 415 "${good[@]}" -H 'Content-Encoding: gzip' --data-binary "@$WORK/other" "$RUNTIME"
python3 - "$URL" "$KEY" <<'P'
import socket, sys, urllib.parse
url = urllib.parse.urlparse(sys.argv[1])
with socket.create_connection((url.hostname, url.port)) as s:
    s.sendall(f"POST /runtime/image HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {sys.argv[2]}\r\nContent-Length: 1000000\r\n\r\n".encode())
    s.sendall(b"x" * 500000)
P
alone() { [[ $(left) == runtimeImage.sbimg ]]; }
succeeds "what is cut leaves nothing" eventually 20 alone
equal "the image before is still there" "$SUM" "$(sha256 "$IMAGE")"

# A long one, in chunks and by length, in flat memory; a reader of the image before goes on with it (case 14).
head -c 1073741824 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 >"$WORK/long" 2>/dev/null
LONG=$(sha256 "$WORK/long")
# counts: bytes that the gateway read and wrote since its start, by files.
counts() { READ=$(awk '$1 == "rchar:" { print $2 }' "/proc/$GATEWAY_PID/io") WRITTEN=$(awk '$1 == "wchar:" { print $2 }' "/proc/$GATEWAY_PID/io"); }
counts
BEFORE_READ=$READ BEFORE_WRITTEN=$WRITTEN
ask "1 GiB by length" 202 -X POST "${good[@]}" -T "$WORK/long" "$RUNTIME"
counts
succeeds "it is written once ($(((WRITTEN - BEFORE_WRITTEN) >> 20)) MiB)" test "$((WRITTEN - BEFORE_WRITTEN))" -lt 1200000000
succeeds "and not read ($(((READ - BEFORE_READ) >> 20)) MiB)" test "$((READ - BEFORE_READ))" -lt 100000000
curl -sS --limit-rate 400M "${good[@]}" "$RUNTIME" | sha256sum >"$WORK/slow" &
READER=$!
reads() { ls -l "/proc/$GATEWAY_PID/fd" | grep -q runtimeImage.sbimg; }
succeeds "somebody reads it" eventually 20 reads
ask "1 GiB in chunks" 202 -X POST "${good[@]}" -H 'Transfer-Encoding: chunked' -T "$WORK/long" "$RUNTIME"
ask "a short one" 202 -X POST "${good[@]}" --data-binary "@$WORK/image" "$RUNTIME"
wait "$READER"
matches "the reader has the bytes from before" "$LONG" "$(cat "$WORK/slow")"
PEAK=$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$GATEWAY_PID/status")
succeeds "memory stays flat ($PEAK MiB)" test "$PEAK" -lt 320
equal "the short one" "$SUM" "$(sha256 "$IMAGE")"

# Whoever closes afterwards, and is slow, gets all of it.
head -c 40000000 /dev/urandom >"$WORK/next"
ask "40 MB" 202 -X POST "${good[@]}" -T "$WORK/next" "$RUNTIME"
equal "read slowly, to be closed" "$(sha256 "$WORK/next")" \
    "$(curl -sS --limit-rate 20M -H 'Connection: close' "${good[@]}" "$RUNTIME" | sha256sum | cut -d' ' -f1)"
equal "by HTTP/1.0" "$(sha256 "$WORK/next")" \
    "$(curl -sS -0 --limit-rate 20M "${good[@]}" "$RUNTIME" | sha256sum | cut -d' ' -f1)"
ask "a part of one" 400 -X POST "${good[@]}" -H 'Content-Range: bytes 1000-40000999/40001000' -T "$WORK/next" "$RUNTIME"
printf -- '--b\r\nContent-Disposition: form-data; name="Image"; filename="i"\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD\r\n--b--\r\n' >"$WORK/coded"
ask "base64 text" 400 "${good[@]}" -H 'Content-Type: multipart/form-data; boundary=b' --data-binary "@$WORK/coded" "$RUNTIME"
python3 -c 'print("[" * 20000, end="")' >"$WORK/deep"
ask "a document that is nested deep" 400 -X PUT "${good[@]}" --data-binary "@$WORK/deep" "$RUNTIME"
SUM=$(sha256 "$WORK/next")
equal "the image stays" "$SUM" "$(sha256 "$IMAGE")"

# --- a kill at any moment leaves the image before or the new one (case 15) ---

for round in 1 2 3 4 5 6; do
    head -c 40000000 /dev/urandom >"$WORK/next"
    NEXT=$(sha256 "$WORK/next")
    curl -sS -o /dev/null -X POST "${good[@]}" -T "$WORK/next" "$RUNTIME" 2>/dev/null &
    SENDER=$!
    perl -e "select undef, undef, undef, 0.0$((round * 13))"
    stop_gateway KILL
    wait "$SENDER" 2>/dev/null || true
    start_gateway
    RUNTIME=$URL/runtime/image
    GOT=$(curl -sS --fail "${good[@]}" "$RUNTIME" | sha256sum | cut -d' ' -f1)
    if [[ $GOT == "$SUM" || $GOT == "$NEXT" ]]; then ok "kill $round: one of the two"; else fail "kill $round: neither image"; fi
    equal "kill $round: nothing beside it" runtimeImage.sbimg "$(left)"
    SUM=$GOT
done

# --- over several requests: by the IETF's protocol, over a kill, and by tus ---

# offset: where the last answer says that the upload stands.
offset() { field upload-offset; }
# at URL-PATH: an upload's URL of the path that a Location gave.
at() { printf '%s%s' "$URL" "$1"; }
partial=(-H 'Content-Type: application/partial-upload')
head -c 30000000 /dev/urandom >"$WORK/next"
NEXT=$(sha256 "$WORK/next")
head -c 10000000 "$WORK/next" >"$WORK/first"
tail -c +10000001 "$WORK/next" >"$WORK/rest"
ask "the beginning" 201 -X POST "${good[@]}" -H 'Upload-Complete: ?0' -H 'Upload-Length: 30000000' --data-binary "@$WORK/first" "$RUNTIME"
UPLOAD=$(field location)
matches "where it goes on" '^/runtime/image/uploads/[0-9a-f]{32}$' "$UPLOAD"
equal "what is there" 10000000 "$(offset)"
differs "nothing is deployed yet" "$NEXT" "$(sha256 "$IMAGE")"
ask "no key, no upload" 401 -I "$(at "$UPLOAD")"
ask "where it stands" 204 -I "${good[@]}" "$(at "$UPLOAD")"
equal "it tells" '10000000 ?0 30000000' "$(offset) $(field upload-complete) $(field upload-length)"
ask "from elsewhere" 409 -X PATCH "${good[@]}" "${partial[@]}" -H 'Upload-Complete: ?1' -H 'Upload-Offset: 5' --data-binary "@$WORK/rest" "$(at "$UPLOAD")"
equal "from where" 10000000 "$(offset)"
curl -sS -o /dev/null --limit-rate 4M -X PATCH "${good[@]}" "${partial[@]}" -H 'Upload-Complete: ?1' -H 'Upload-Offset: 10000000' \
    --data-binary "@$WORK/rest" "$(at "$UPLOAD")" 2>/dev/null &
SENDER=$!
grows() { [[ -n $(find "$WORK/one" -name '.*arriving-*' -size +12000000c) ]]; }
succeeds "more comes" eventually 60 grows
stop_gateway KILL
wait "$SENDER" 2>/dev/null || true
start_gateway
RUNTIME=$URL/runtime/image
ask "after the kill" 204 -I "${good[@]}" "$(at "$UPLOAD")"
AT=$(offset)
succeeds "what was told is there ($AT)" test "$AT" -ge 10000000 -a "$AT" -lt 30000000
tail -c "+$((AT + 1))" "$WORK/next" >"$WORK/rest"
ask "the rest" 202 -X PATCH "${good[@]}" "${partial[@]}" -H 'Upload-Complete: ?1' -H "Upload-Offset: $AT" --data-binary "@$WORK/rest" "$(at "$UPLOAD")"
empty "the rest"
equal "it is complete" '?1' "$(field upload-complete)"
equal "a deployment as any other" "$NEXT" "$(sha256 "$IMAGE")"
ask "whoever lost the answer" 204 -I "${good[@]}" "$(at "$UPLOAD")"
equal "is told" '30000000 ?1' "$(offset) $(field upload-complete)"
ask "it is forgotten" 204 -X DELETE "${good[@]}" "$(at "$UPLOAD")"
ask "and is gone" 404 -I "${good[@]}" "$(at "$UPLOAD")"
equal "nothing is left beside the image" runtimeImage.sbimg "$(left)"

ask "all at once, that might be cut" 202 -X POST "${good[@]}" -H 'Upload-Complete: ?1' -H "Repr-Digest: sha-256=:$(openssl dgst -sha256 -binary "$WORK/other" | base64 -w 0):" \
    --data-binary "@$WORK/other" "$RUNTIME"
equal "its bytes" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
ask "another digest" 422 -X POST "${good[@]}" -H 'Upload-Complete: ?1' -H "Repr-Digest: sha-256=:$(openssl dgst -sha256 -binary "$WORK/image" | base64 -w 0):" \
    --data-binary "@$WORK/next" "$RUNTIME"
ask "another digest of the whole in one request" 422 -X POST "${good[@]}" -H "Repr-Digest: sha-256=:$(openssl dgst -sha256 -binary "$WORK/image" | base64 -w 0):" \
    --data-binary "@$WORK/next" "$RUNTIME"
ask "of the body" 422 -X POST "${good[@]}" -H "Content-Digest: sha-256=:$(openssl dgst -sha256 -binary "$WORK/image" | base64 -w 0):" \
    --data-binary "@$WORK/next" "$RUNTIME"
equal "the image stays" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
ask "one that expects another image" 412 -X POST "${good[@]}" -H 'Upload-Complete: ?1' -H 'If-Match: "0"' --data-binary "@$WORK/next" "$RUNTIME"
ask "one that nobody can tell what it expects" 400 -X POST "${good[@]}" -H 'If-None-Match: 0' --data-binary "@$WORK/next" "$RUNTIME"
ask "given up" 201 -X POST "${good[@]}" -H 'Upload-Complete: ?0' --data-binary "@$WORK/first" "$RUNTIME"
ask "its end" 204 -X DELETE "${good[@]}" "$(at "$(field location)")"
done_only() { ! left | grep arriving | grep -qv json; }
succeeds "no bytes are left" done_only
interims() { python3 - "$URL" "$KEY" "$WORK/other" <<'P'
import socket, sys, urllib.parse
url = urllib.parse.urlparse(sys.argv[1])
body = open(sys.argv[3], "rb").read()
with socket.create_connection((url.hostname, url.port)) as s:
    s.sendall(f"POST /runtime/image HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {sys.argv[2]}\r\n"
              f"Upload-Draft-Interop-Version: 9\r\nUpload-Complete: ?1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    said = b"".join(iter(lambda: s.recv(65536), b"")).decode()
heads = [head for head in said.split("\r\n\r\n") if head]
print(heads[0].split()[1], heads[-1].split()[1], "location: /runtime/image/uploads/" in heads[0].lower())
P
}
equal "where it goes on is told before all came" "104 202 True" "$(interims)"

# tus FILE JSON: one upload by tus-js-client, its lines in $WORK/out.
tus() { node "$CLIENTS/fixtures/tus.cjs" "$1" "$RUNTIME" "$KEY" "$2" >"$WORK/out" 2>&1 || true; }
tus "$WORK/next" '{"chunkSize":7000000}'
matches "tus-js-client deploys" 'done http://[^ ]+/runtime/image/uploads/[0-9a-f]{32}$' "$(tail -n 1 "$WORK/out")"
equal "in five requests behind the creation" 'POST 201 PATCH 204 PATCH 204 PATCH 204 PATCH 204 PATCH 204 ' "$(sed -n 's/^\([A-Z]* [0-9]*\) .*/\1/p' "$WORK/out" | tr '\n' ' ')"
equal "its bytes" "$NEXT" "$(sha256 "$IMAGE")"
tus "$WORK/image" '{"chunkSize":40000,"checksum":true}'
matches "with checksums" 'done http' "$(tail -n 1 "$WORK/out")"
tus "$WORK/other" '{"uploadDataDuringCreation":true}'
matches "with the creation" 'done http' "$(tail -n 1 "$WORK/out")"
equal "its bytes" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
tus "$WORK/next" '{"chunkSize":7000000,"stream":true}'
matches "of a length that is told at the end" 'done http' "$(tail -n 1 "$WORK/out")"
equal "its bytes" "$NEXT" "$(sha256 "$IMAGE")"
LISTEN=${URL#http://} # it comes back where the client looks for it
node "$CLIENTS/fixtures/tus.cjs" "$WORK/long" "$RUNTIME" "$KEY" '{"stopAt":300000000}' >"$WORK/out" 2>&1 &
SENDER=$!
stopped() { [[ $(ps -o stat= -p "$SENDER") == T* ]]; }
succeeds "it sends a long one" eventually 60 stopped
stop_gateway KILL
start_gateway
RUNTIME=$URL/runtime/image
kill -CONT "$SENDER"
wait "$SENDER" || true
LISTEN=
matches "tus-js-client goes on after a kill" 'done http' "$(tail -n 1 "$WORK/out")"
equal "it did not begin anew" 1 "$(grep -c '^POST 201' "$WORK/out")"
equal "its bytes" "$LONG" "$(sha256 "$IMAGE")"
python3 - "$RUNTIME" "$KEY" "$WORK/next" <<'P' && ok "tuspy deploys" || fail "tuspy deploys"
import sys
from tusclient.client import TusClient
client = TusClient(sys.argv[1], headers={"Authorization": f"Bearer {sys.argv[2]}"})
uploader = client.uploader(sys.argv[3], chunk_size=8 << 20, upload_checksum=True)
uploader.upload()
assert uploader.offset == 30000000, uploader.offset
P
equal "its bytes" "$NEXT" "$(sha256 "$IMAGE")"
for upload in "$WORK"/one/.boxgate-*.arriving-*.json; do
    id=${upload##*arriving-}
    ask "forgotten" 204 -X DELETE -H 'Tus-Resumable: 1.0.0' "${good[@]}" "$RUNTIME/uploads/${id%.json}"
done
equal "nothing is beside the image" runtimeImage.sbimg "$(left)"
SUM=$NEXT

# --- two gateways push to each other (cases 16 and 17) ---

ONE_PID=$GATEWAY_PID ONE=$URL
(
    set_runtime API_KEY="$OTHER_KEY" IMAGE_FILE_PATH="$WORK/two/image.bin"
    exec "$GATEWAY" quickstart --data-dir "$WORK/data2" --listen 127.0.0.1:0 --json >"$WORK/ready2" 2>>"$WORK/gateway2.log"
) &
TWO_PID=$!
stop_two() { kill -KILL "$TWO_PID" 2>/dev/null || true; }
trap 'CODE=$?; stop_two; cleanup "$CODE"' EXIT
eventually 60 test -s "$WORK/ready2"
TWO=$(head -n 1 "$WORK/ready2" | jq -r .url)
{
    printf '{\n  "targetUrl": "%s",\n  "targetAPIKey": "%s",\n}\n' "$TWO" "$OTHER_KEY"
} >"$WORK/push.json"
counts
BEFORE_READ=$READ
ask "pushed, comma and all" 202 -X PUT "${good[@]}" -H 'Content-Type: application/json' -d "@$WORK/push.json" "$RUNTIME"
empty "pushed"
counts
succeeds "its 40 MB are read once ($(((READ - BEFORE_READ) >> 20)) MiB)" test "$((READ - BEFORE_READ))" -lt 60000000
equal "the target serves it" "$SUM" "$(curl -sS -H "Authorization: Bearer $OTHER_KEY" "$TWO/runtime/image" | sha256sum | cut -d' ' -f1)"
head -c 500000 /dev/urandom >"$WORK/image"
ask "the other gets a new one" 202 -X POST -H "Authorization: Bearer $OTHER_KEY" --data-binary "@$WORK/image" "$TWO/runtime/image"
printf '{"TARGETURL":"%s/runtime/image/","targetapikey":"%s"}' "$ONE" "$KEY" >"$WORK/back.json"
ask "and pushes it back" 202 -X PUT -H "Authorization: Bearer $OTHER_KEY" -d "@$WORK/back.json" "$TWO/runtime/image"
SUM=$(sha256 "$WORK/image")
equal "it came" "$SUM" "$(sha256 "$IMAGE")"

push() { ask "$1" 500 -X PUT "${good[@]}" -d "{\"targetUrl\":\"$2\",\"targetAPIKey\":\"${3:-$OTHER_KEY}\"}" "$RUNTIME"; }
push "a wrong key" "$TWO" "not-the-key-of-that-runtime-at-all-0"
said "the target's word" '^target answered 401: .*not authorized'
push "no runtime there" "$TWO/elsewhere"
said "the target's word" '^target answered 404'
read -r DEAD < <(free_ports 1)
push "nobody there" "http://127.0.0.1:$DEAD"
said "why" 'refused'
push "a link-local address" "http://169.254.169.254"
said "which setting would open it" 'allow_networks'
python3 - >"$WORK/port" 2>/dev/null <<'P' &
import http.server
class Odd(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        # Whoever closes before all came may take its answer back by that.
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(302 if "away" in self.path else 200)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Odd)
print(server.server_port, flush=True)
server.serve_forever()
P
ODD=$!
trap 'CODE=$?; kill "$ODD" 2>/dev/null; stop_two; cleanup "$CODE"' EXIT
eventually 20 test -s "$WORK/port"
push "200 is no success" "http://127.0.0.1:$(cat "$WORK/port")"
said "the target's word" '^target answered 200'
push "a redirect is not followed" "http://127.0.0.1:$(cat "$WORK/port")/away"
said "the target's word" '^target answered 302'
for body in '' '{' '[]' '{"targetUrl":"http://a.example"}' '{"targetUrl":1,"targetAPIKey":"k"}' '{"targetUrl":"ftp://a.example","targetAPIKey":"k"}' \
    '{"targetUrl":"http://u:p@a.example","targetAPIKey":"k"}'; do
    ask "no target: $body" 400 -X PUT "${good[@]}" -d "$body" "$RUNTIME"
done
if grep -qF -e "$KEY" -e "$OTHER_KEY" -e not-the-key-of-that "$WORK/gateway.log" "$WORK/gateway2.log"; then fail "a key is in a log"; else ok "no key is in a log"; fi
stop_two

# --- what is not there, or not allowed (cases 1 to 3), and 500 for all ---

stop_gateway
set_runtime ALLOW_DEPLOYMENTS=false
start_gateway
RUNTIME=$URL/runtime/image
ask "GET, not allowed" 503 "${good[@]}" "$RUNTIME"
said "GET, not allowed" 'AllowDeployments'
ask "POST, not allowed" 503 "${good[@]}" --data-binary "@$WORK/other" "$RUNTIME"
said "POST, not allowed" 'AllowDeployments'
ask "PUT, not allowed" 503 -X PUT "${good[@]}" -d "@$WORK/push.json" "$RUNTIME"
empty "PUT, not allowed"
ask "a wrong key is said first" 401 -H 'Authorization: Bearer no' "$RUNTIME"
stop_gateway

set_runtime ENABLED=false ALLOW_DEPLOYMENTS=true
start_gateway
RUNTIME=$URL/runtime/image
for method in GET HEAD POST PUT DELETE PATCH; do
    how=(-X "$method")
    [[ $method != HEAD ]] || how=(-I)
    for who in "Authorization: Bearer $KEY" 'Authorization: Bearer no' 'X-Nobody: here'; do
        ask "switched off: $method" 404 "${how[@]}" -H "$who" "$RUNTIME"
        [[ $method == HEAD ]] || empty "switched off: $method"
        equal "no way in is told" "" "$(field www-authenticate)"
    done
done
stop_gateway

# --- the runtime is told after the answer (cases 18 and 19) ---

set_runtime ENABLED=true STRICT_STATUSES=true RELOAD=command RELOAD_COMMAND="$WORK/reload" ROLLBACK_ON_RELOAD_FAILURE=true
cat >"$WORK/reload" <<P
#!/bin/sh
printf '%s %s %s %s\n' "\$BOXGATE_IMAGE_PATH" "\$BOXGATE_IMAGE_SIZE" "\${#BOXGATE_IMAGE_BLAKE3}" "\${#BOXGATE_DEPLOY_ID}" >>"$WORK/told"
[ ! -e "$WORK/refuse" ] || { echo 'not this one' >&2; exit 3; }
P
chmod +x "$WORK/reload"
start_gateway
RUNTIME=$URL/runtime/image
admin() { curl -sS -H "x-access-token: $ADMIN_TOKEN" "$URL/api/admin/runtimes"; }
reload_is() { [[ $(admin | jq -r '.runtimes[0].reload') == "$1" ]]; }
ask "a deployment" 202 -X POST "${good[@]}" --data-binary "@$WORK/other" "$RUNTIME"
succeeds "the runtime is told" eventually 30 reload_is ok
equal "what it is told" "$IMAGE 100000 64 32" "$(cat "$WORK/told")"
touch "$WORK/refuse"
ask "one that it does not take" 202 -X POST "${good[@]}" --data-binary "@$WORK/image" "$RUNTIME"
succeeds "the image before comes back" eventually 30 reload_is rolled_back
equal "its bytes" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
equal "and it is told of both" "$IMAGE 500000 64 32
$IMAGE 100000 64 32" "$(tail -n 2 "$WORK/told")"
matches "why is kept" 'not this one' "$(admin | jq -r '.runtimes[0].reloadError')"
ask "500 for all" 500 -X POST "${good[@]}" "$RUNTIME"

# One that was never told of its image, since the gateway was killed meanwhile, is told at the next start.
cat >"$WORK/reload" <<P
#!/bin/sh
env | grep -E '^(BOXGATE_RUNTIMES|BOXGATE_MASTER)' >>"$WORK/leaked"
echo started >>"$WORK/begun"
while [ -e "$WORK/hang" ]; do sleep 0.1; done
[ ! -e "$WORK/refuse" ] || exit 3
P
touch "$WORK/hang"
ask "one whose runtime hangs" 202 -X POST "${good[@]}" --data-binary "@$WORK/image" "$RUNTIME"
succeeds "it is being told" eventually 30 test -s "$WORK/begun"
stop_gateway KILL
rm "$WORK/hang"
start_gateway
RUNTIME=$URL/runtime/image
succeeds "told again, it does not take it: the image before comes back" eventually 30 reload_is rolled_back
equal "its bytes" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
equal "no setting of ours is told" "" "$(cat "$WORK/leaked")"
stop_gateway
rm "$WORK/refuse"

# --- a key that is changed, an image that nobody else replaced, and what plugins say ---

set_runtime PREVIOUS_API_KEY="$OTHER_KEY" RELOAD=script STRICT_STATUSES=false
start_gateway
RUNTIME=$URL/runtime/image
ask "the key of now" 200 "${good[@]}" "$RUNTIME"
TAG=$(field etag)
ask "the key before" 200 -u "key:$OTHER_KEY" "$RUNTIME"
ask "neither" 401 -u "key:${OTHER_KEY}x" "$RUNTIME"
uses_it() { grep -q '"principal":"runtime:default:previous-key"' "$WORK/gateway.log"; }
succeeds "the log tells who still uses it" eventually 30 uses_it

# Nobody is there whom reload = "script" could ask.
head -c 150000 /dev/urandom >"$WORK/odd"
ask "one that nobody takes" 202 -X POST "${good[@]}" --data-binary "@$WORK/odd" "$RUNTIME"
succeeds "no plugin takes it: the image before comes back" eventually 30 reload_is rolled_back
matches "why is kept" 'no plugin defines on_image_deployed' "$(admin | jq -r '.runtimes[0].reloadError')"

mkdir -p "$DATA/plugins"
cat >"$DATA/plugins/images.rhai" <<P
fn on_image_deploy(req, image) {
    if image.filename == "odd.sbimg" { throw "never seen"; }
    if image.size > 400000 { return reject(\`\${image.runtime} takes no \${image.size} bytes of \${image.principal.name} (\${image.checksum.len()})\`); }
}
fn on_image_deployed(event) {
    if event.data.size == 150000 && event.name == "image.deployed" { throw "not this one"; }
}
fn on_image_push(req, push) {
    if push.target_host == "forbidden.example" { return deny("nothing goes there"); }
    if push.target_host == "elsewhere.example" && push.image.size == 100000 { return #{ target: "$URL" }; }
}
P
curl -sS -o "$WORK/body" -X POST -H "x-access-token: $ADMIN_TOKEN" "$URL/api/admin/scripts/reload"
# has PATTERN ARGUMENTS...: whether what curl fetches has such a line. Not a pipe: grep would hang up on curl.
has() { local told; told=$(curl -sS "${@:2}") && grep -q "$1" <<<"$told"; }
loaded() { has '"images"' -H "x-access-token: $ADMIN_TOKEN" "$URL/api/admin/scripts"; }
succeeds "a plugin is there" eventually 60 loaded
head -c 120000 /dev/urandom >"$WORK/next"
NEXT=$(sha256 "$WORK/next")
ask "a tag of another image" 412 -X POST "${good[@]}" -H 'If-Match: "0"' --data-binary "@$WORK/next" "$RUNTIME"
said "nothing is changed" 'If-Match.*Nothing was deployed'
ask "only where there is none" 412 -X POST "${good[@]}" -H 'If-None-Match: *' --data-binary "@$WORK/next" "$RUNTIME"
equal "the image stays" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
# Two know the same image: whoever is done first wins, whoever is done later is told.
mkfifo "$WORK/slowly"
curl -sS -o "$WORK/late" -w '%{http_code}' -X POST "${good[@]}" -H "If-Match: $TAG" -T - "$RUNTIME" <"$WORK/slowly" >"$WORK/late.status" &
LATE=$!
exec 7>"$WORK/slowly"
echo beginning >&7
begun() { left | grep -q '\.staged'; }
succeeds "one begins" eventually 60 begun
ask "another comes first" 202 -X POST "${good[@]}" -H "If-Match: $TAG" --data-binary "@$WORK/next" "$RUNTIME"
exec 7>&-
wait "$LATE" || true
equal "who comes late is told" 412 "$(cat "$WORK/late.status")"
equal "and replaces nothing" "$NEXT" "$(sha256 "$IMAGE")"
succeeds "its runtime takes it" eventually 30 reload_is ok

ask "an image that it refuses" 500 -X POST "${good[@]}" --data-binary "@$WORK/image" "$RUNTIME"
said "its word" '^default takes no 500000 bytes of runtime:default \(64\)'
ask "one that it fails at" 500 "${good[@]}" -F "Image=@$WORK/next;filename=odd.sbimg" "$RUNTIME"
said "no image passes it" 'script'
equal "nothing is deployed" "$NEXT" "$(sha256 "$IMAGE")"
equal "nothing is left" runtimeImage.sbimg "$(left)"
ask "one that it has nothing against" 202 -X POST "${good[@]}" --data-binary "@$WORK/other" "$RUNTIME"
succeeds "it tells the runtime" eventually 30 reload_is ok
ask "one that it cannot have the runtime take" 202 -X POST "${good[@]}" --data-binary "@$WORK/odd" "$RUNTIME"
succeeds "the image before comes back by it, too" eventually 30 reload_is rolled_back
matches "its word is kept" 'not this one' "$(admin | jq -r '.runtimes[0].reloadError')"
equal "its bytes" "$(sha256 "$WORK/other")" "$(sha256 "$IMAGE")"
push "a push that it refuses" http://forbidden.example
said "its word" '^nothing goes there'
ask "one that it sends elsewhere" 202 -X PUT "${good[@]}" -d "{\"targetUrl\":\"http://elsewhere.example\",\"targetAPIKey\":\"$KEY\"}" "$RUNTIME"
counted() { eventually 60 has "^boxgate_runtime_$1 [1-9]" "$URL/metrics"; }
succeeds "pushes are counted" counted 'requests_total{operation="push",outcome="ok",runtime="default"}'
succeeds "and what failed" counted 'requests_total{operation="deploy",outcome="failed",runtime="default"}'
succeeds "and what a runtime did not take" counted 'reloads_total{outcome="rolled_back",runtime="default"}'
stop_gateway
rm "$DATA/plugins/images.rhai"
set_runtime PREVIOUS_API_KEY=

# --- copies by the clock (case 20), and another's configuration (cases 9 and 21) ---

mkdir "$WORK/three"
read -r PORT < <(free_ports 1)
cat >"$WORK/three/runtime.json" <<P
{
  "Image": {
    "ImageFilePath": "$WORK/three/shop.sbimg", "DoBackups": true, "BackupFrequency": "@every_second", "BackupRetentionCount": 3,
    "BackupDirectory": "$WORK/three/Copies", "AllowDeployments": true
  },
  "RuntimeAPI": { "Enabled": true, "APIKey": "$KEY" },
  "HttpWebServer": { "Http": { "Port": $PORT }, "GlobalHeaders": { "X-Frame-Options": "DENY", "Content-Security-Policy": "default-src 'none'" } }
}
P
set_runtime RELOAD=none IMPORT="$WORK/three/runtime.json" IMPORT_WEB_SERVER=true API_KEY=
mkdir "$WORK/three/Copies"
echo mine >"$WORK/three/Copies/notes.txt"
start_gateway
RUNTIME=$URL/runtime/image
ask "deployed" 202 -X POST "${good[@]}" --data-binary "@$WORK/other" "$RUNTIME"
copies() { find "$WORK/three/Copies" -name 'shop-*Z*.sbimg' | sort; }
first() { [[ $(copies | wc -l) -ge 1 ]]; }
succeeds "copies are made" eventually 30 first
FIRST=$(copies | head -n 1)
gone() { [[ ! -e $FIRST ]]; }
succeeds "the oldest goes" eventually 30 gone
equal "three are kept" 3 "$(copies | wc -l)"
equal "whole" "$(sha256 "$WORK/other")" "$(sha256 "$(copies | head -n 1)")"
equal "what is not ours stays" mine "$(cat "$WORK/three/Copies/notes.txt")"
ask "its image" 200 "${good[@]}" "$RUNTIME"
ask "at its own port" 200 "${good[@]}" "http://127.0.0.1:$PORT/runtime/image"
ask "where nothing else is" 404 "http://127.0.0.1:$PORT/livez"
matches "which shows its key to the network" 'by plain http' "$(grep -F 'runtimes are reached' "$WORK/gateway.log" | tail -n 1)"
equal "without headers for pages" "" "$(field x-frame-options)$(field content-security-policy)"
stop_gateway

# Copies are the image's, whether or not anybody may ask for it.
sed -i 's/"Enabled": true/"Enabled": false/' "$WORK/three/runtime.json"
rm "$WORK/three/Copies/"shop-*
start_gateway
ask "it answers nothing" 404 "${good[@]}" "$URL/runtime/image"
succeeds "copies are made all the same" eventually 30 first
succeeds "and counted" counted 'backups_total{outcome="ok",runtime="default"}'
stop_gateway

set_runtime IMPORT= IMPORT_WEB_SERVER=false API_KEY="$(random_hex 18 | head -c 35)"
refuses "a key of 35 characters" 'runtimes.default.api_key.*36' timeout 20 "$GATEWAY" serve --data-dir "$DATA"
set_runtime API_KEY='RANDOM STRING HERE'
refuses "the sample's key" 'runtimes.default.api_key' timeout 20 "$GATEWAY" serve --data-dir "$DATA"
set_runtime API_KEY="$KEY" BACKUP_FREQUENCY='@never'
refuses "a frequency that is none" 'runtimes.default.backup_frequency' timeout 20 "$GATEWAY" serve --data-dir "$DATA"

finish
