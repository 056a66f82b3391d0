#!/usr/bin/env bash
# A thousand clients at once ask a gateway that just started for 64 MiB ranges of one blob of so many MiB (1024) in a
# bucket, for so many seconds (60): how often is each of its bytes read from the store? Counted by a relay before it.
# Run by `.ci/long cold`, with a release build in BOXGATE_BIN.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/garage.sh"
cd "$WORK"
MIB=${1:-1024}
SECONDS_LONG=${2:-60}
ulimit -n "$(ulimit -Hn)"

start_garage
python3 "$CLIENTS/counting.py" "127.0.0.1:$API_PORT" "$WORK/counted" >port 2>counting.err &
COUNTING_PID=$!
trap 'CODE=$?; kill "$COUNTING_PID" 2>/dev/null || true; [[ -z $GARAGE_PID ]] || kill -9 "$GARAGE_PID" 2>/dev/null || true; cleanup "$CODE"' EXIT
eventually 20 test -s port
ENDPOINT=http://127.0.0.1:$(cat port)
of_garage cold/
export BOXGATE_LIMITS__CONNECTIONS_PER_ADDRESS=4096
start_gateway
head -c "$((MIB << 20))" /dev/urandom >file.box
upload file.box cold 1.0.0
make_public cold
stop_gateway
start_gateway
# The counter is written now and then: what the upload read back is in it by now, or soon is.
settled() { [[ $(cat counted) == "$(sleep 0.5; cat counted)" ]]; }
eventually 20 settled
before=$(cat counted)
cat >ranges.lua <<END
local h = { Host = "localhost" }
request = function()
    local at = math.random(0, $((MIB / 64)) - 1) * 67108864
    h["Range"] = "bytes=" .. string.format("%d", at) .. "-" .. string.format("%d", at + 67108863)
    return wrk.format("GET", nil, h)
end
END
P=$(curl -sS -H 'Accept: application/json' "$URL/$ORG/cold" | jq -r '.versions[0].providers[0].url')
wrk -t2 -c1000 "-d${SECONDS_LONG}s" --timeout 300s -s ranges.lua "$P" >wrk.txt
grep -E 'requests in|Socket errors|Non-2xx|Transfer' wrk.txt
eventually 20 settled
awk -v read="$(($(cat counted) - before))" -v length_="$((MIB << 20))" -v rss="$(awk '/VmHWM/ { print $2 / 1024 }' "/proc/$GATEWAY_PID/status")" \
    'BEGIN { printf "read from the store: %.4f times its bytes; peak RSS %.0f MiB\n", read / length_, rss }'
