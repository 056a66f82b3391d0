#!/usr/bin/env bash
# The image of a Sanbox runtime in a bucket, on an S3 that nobody here wrote (Garage): deployed in each way, read, pushed to a
# runtime that keeps a file, copied, told of, and left whole by a kill.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/garage.sh"

KEY=$(random_hex 24)
start_garage
of_garage images/

# set_runtime NAME KEY=VALUE...: the settings of a runtime, in variables of the gateway.
set_runtime() {
    local name=$1 pair
    shift
    for pair in "$@"; do export "BOXGATE_RUNTIMES__${name}__${pair?}"; done
}
set_runtime DEFAULT ENABLED=true API_KEY="$KEY" ALLOW_DEPLOYMENTS=true IMAGE_FILE_PATH="$WORK/nowhere/shop.sbimg" STORE=main \
    ORGANIZATION=myorg BACKUP_BEFORE_DEPLOY=true BACKUP_DIRECTORY="$WORK/copies" RELOAD=command RELOAD_COMMAND="$WORK/reload"
mkdir "$WORK/two"
set_runtime TWO ENABLED=true API_KEY="$KEY" ALLOW_DEPLOYMENTS=true IMAGE_FILE_PATH="$WORK/two/image"
cat >"$WORK/reload" <<P
#!/bin/sh
printf '%s %s %s\n' "\${BOXGATE_IMAGE_PATH-none}" "\$BOXGATE_IMAGE_SIZE" "\${#BOXGATE_IMAGE_BLAKE3}" >>"$WORK/told"
P
chmod +x "$WORK/reload"

# ask NAME STATUS [CURL ARGUMENTS...]: the status; the body is in $WORK/body, the head in $WORK/head.
ask() {
    local name=$1 status=$2
    shift 2
    : >"$WORK/body"
    equal "$name" "$status" "$(curl -sS -o "$WORK/body" -D "$WORK/head" -w '%{http_code}' "$@" || true)"
}
field() { sed -n "s/^$1: //Ip" "$WORK/head" | tr -d '\r' | tail -n 1; }
good=(-H "Authorization: Bearer $KEY")
# image_is FILE: whether the runtime gives these bytes.
image_is() { [[ $(curl -sS --fail "${good[@]}" "$RUNTIME" | sha256sum) == "$(sha256sum <"$1")" ]]; }
told() { [[ $(wc -l <"$WORK/told") -ge $1 ]]; }

start_gateway
RUNTIME=$URL/runtime/image
ask "no image yet" 500 "${good[@]}" "$RUNTIME"
head -c 20000000 /dev/urandom >"$WORK/one"
head -c 9000000 /dev/urandom >"$WORK/next"
ask "deployed raw" 202 -X POST "${good[@]}" -T "$WORK/one" "$RUNTIME"
succeeds "it is there" image_is "$WORK/one"
equal "one object" 1 "$(objects | wc -l)"
succeeds "and no file" test ! -e "$WORK/nowhere"
succeeds "the runtime is told" eventually 60 told 1
equal "without a path" "none 20000000 64" "$(cat "$WORK/told")"
ask "HEAD" 200 -I "${good[@]}" "$RUNTIME"
equal "its length and name" '20000000 attachment; filename="shop.sbimg"' "$(field content-length) $(field content-disposition)"
TAG=$(field etag)
ask "a range" 206 "${good[@]}" -r 1000-1999 "$RUNTIME"
equal "its bytes" "$(tail -c +1001 "$WORK/one" | head -c 1000 | sha256sum)" "$(sha256sum <"$WORK/body")"
ask "known already" 304 "${good[@]}" -H "If-None-Match: $TAG" "$RUNTIME"
ask "past the end" 416 "${good[@]}" -r 30000000- "$RUNTIME"
ask "no key" 401 "$RUNTIME"
ask "another image is expected" 412 -X POST "${good[@]}" -H 'If-Match: "0"' -T "$WORK/next" "$RUNTIME"
ask "nothing" 400 -X POST "${good[@]}" "$RUNTIME"
ask "a form without a file" 400 "${good[@]}" -F note=hello "$RUNTIME"
succeeds "the image stays" image_is "$WORK/one"
ask "in a form, over the one that is expected" 202 "${good[@]}" -H "If-Match: $TAG" -F "Image=@$WORK/next" "$RUNTIME"
succeeds "it is the new one" image_is "$WORK/next"
equal "the one before was copied" "$(sha256 "$WORK/one")" "$(cat "$WORK"/copies/shop-*.sbimg | sha256sum | cut -d' ' -f1)"
equal "it is an ISO image of the organization" shop.sbimg "$(curl -sS -H "x-access-token: $ADMIN_TOKEN" "$BASE/iso" | jq -r '.[].name')"
both() { [[ $(objects | wc -l) == 2 ]]; }
succeeds "the one before waits in the bucket for its readers, and nothing else is there" eventually 90 both

# --- over several requests ---

node "$CLIENTS/fixtures/tus.cjs" "$WORK/one" "$RUNTIME" "$KEY" '{"chunkSize":7000000}' >"$WORK/out" 2>&1 || true
matches "tus-js-client deploys" 'done http' "$(tail -n 1 "$WORK/out")"
succeeds "its bytes" image_is "$WORK/one"
equal "they wait nowhere any more" 0 "$(find "$DATA/runtimes" -type f -size +10k | wc -l)"
ask "by the IETF's protocol" 202 -X POST "${good[@]}" -H 'Upload-Complete: ?1' -T "$WORK/next" "$RUNTIME"
succeeds "its bytes, too" image_is "$WORK/next"

# --- pushed to a runtime that keeps a file, and back ---

ask "pushed" 202 -X PUT "${good[@]}" -d "{\"targetUrl\":\"$URL/runtimes/two/image\",\"targetAPIKey\":\"$KEY\"}" "$RUNTIME"
equal "the other has it" "$(sha256 "$WORK/next")" "$(sha256 "$WORK/two/image")"
ask "the other gets one" 202 -X POST "${good[@]}" -T "$WORK/one" "$URL/runtimes/two/image"
ask "and pushes it back" 202 -X PUT "${good[@]}" -d "{\"targetUrl\":\"$URL\",\"targetAPIKey\":\"$KEY\"}" "$URL/runtimes/two/image"
succeeds "it came" image_is "$WORK/one"

# --- a kill leaves one of the two, and nothing unfinished ---

curl -sS -o "$WORK/body" --limit-rate 1M -X POST "${good[@]}" -H 'Transfer-Encoding: chunked' -T "$WORK/next" "$RUNTIME" 2>/dev/null &
SENDER=$!
comes() { [[ $(curl -sS "$URL/metrics" | awk '$1 == "boxgate_uploads_in_progress" { print $2 }') == 1 ]]; }
succeeds "one comes" eventually 60 comes
stop_gateway KILL
wait "$SENDER" 2>/dev/null || true
start_gateway
RUNTIME=$URL/runtime/image
succeeds "the image is the one before" image_is "$WORK/one"
ask "the next comes" 202 -X POST "${good[@]}" -T "$WORK/next" "$RUNTIME"
succeeds "and is there" image_is "$WORK/next"
run 0 "fsck" "$GATEWAY" fsck --url "$URL" --token "$ADMIN_TOKEN"
stop_gateway

set_runtime DEFAULT ROLLBACK_ON_RELOAD_FAILURE=true
refuses "what a store cannot do" 'runtimes.default.rollback_on_reload_failure' timeout 60 "$GATEWAY" serve --data-dir "$DATA"
set_runtime DEFAULT STORE=elsewhere ORGANIZATION= IMAGE_FILE_PATH='not a name'
refuses "a store that is not there" 'runtimes.default.store.*elsewhere' timeout 60 "$GATEWAY" serve --data-dir "$DATA"
matches "whose it is" 'runtimes.default.organization' "$(cat "$WORK/out")"
finish
