#!/usr/bin/env bash
# An image of so many MiB (4096) is deployed to a runtime and pushed on to another gateway's: bytes that the first reads from
# files and writes to them, the time of each, and the memory of both, beside that after an image of 64 MiB. Run by
# `.ci/long runtime`, with a release build in BOXGATE_BIN.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
MIB=${1:-4096}
KEY=$(random_hex 24)
mkdir -p "$WORK/one" "$WORK/two"
export BOXGATE_SERVER__CORE_DUMPS=true BOXGATE_RUNTIMES__DEFAULT__ENABLED=true BOXGATE_RUNTIMES__DEFAULT__API_KEY=$KEY
export BOXGATE_RUNTIMES__DEFAULT__ALLOW_DEPLOYMENTS=true BOXGATE_RUNTIMES__DEFAULT__IMAGE_FILE_PATH=$WORK/one/image
start_gateway
(
    export BOXGATE_RUNTIMES__DEFAULT__IMAGE_FILE_PATH=$WORK/two/image
    exec "$GATEWAY" quickstart --data-dir "$WORK/data2" --listen 127.0.0.1:0 --json >"$WORK/ready2" 2>>"$WORK/gateway2.log"
) &
TWO_PID=$!
trap 'CODE=$?; kill -KILL "$TWO_PID" 2>/dev/null || true; cleanup "$CODE"' EXIT
eventually 60 test -s "$WORK/ready2"
TWO=$(head -n 1 "$WORK/ready2" | jq -r .url)
good=(-H "Authorization: Bearer $KEY")

# io FIELD: of the first gateway; rchar is what it read from files, write_bytes what it wrote to them.
io() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$GATEWAY_PID/io"; }
peak() { awk '/VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
# measured NAME LENGTH COMMAND...
measured() {
    local name=$1 length=$2 read written begun
    shift 2
    read=$(io rchar) written=$(io write_bytes) begun=$(date +%s.%N)
    equal "$name" 202 "$("$@")"
    awk -v name="$name" -v read="$(($(io rchar) - read))" -v written="$(($(io write_bytes) - written))" -v length_="$length" \
        -v seconds="$(echo "$(date +%s.%N) - $begun" | bc)" \
        'BEGIN { printf "%s: read %.3f, written %.3f times its bytes; %.1f s, %.0f MiB/s\n", name, read / length_, written / length_, seconds, length_ / seconds / 1048576 }'
}
status() { curl -sS -o "$WORK/body" -w '%{http_code}' "${good[@]}" "$@"; }

for mib in 64 "$MIB"; do
    head -c "$((mib << 20))" /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 >"$WORK/image" 2>/dev/null
    measured "$mib MiB deployed" "$((mib << 20))" status -X POST -T "$WORK/image" "$URL/runtime/image"
    rm "$WORK/image"
    measured "$mib MiB pushed" "$((mib << 20))" status -X PUT -d "{\"targetUrl\":\"$TWO\",\"targetAPIKey\":\"$KEY\"}" "$URL/runtime/image"
    echo "peak RSS: $(peak "$GATEWAY_PID") MiB, and $(peak "$TWO_PID") MiB where it was pushed to"
    succeeds "the same image" cmp "$WORK/one/image" "$WORK/two/image"
done
finish
