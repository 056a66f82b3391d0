#!/usr/bin/env bash
# What an upload into a bucket costs: one file of so many GiB (4) through the gateway, as one raw stream and as
# `boxgate push`, against `aws s3 cp` straight into the same store, in turns. CPU and memory are the gateway's own, by
# the kernel; the wall clock is Garage's. Run by `.ci/long s3`, with a release build in BOXGATE_BIN.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/garage.sh"
cd "$WORK"
GIB=${1:-4}
ROUNDS=${2:-3}

# cpu: user and system seconds of the gateway so far.
cpu() {
    awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15) / hz }' "/proc/$GATEWAY_PID/stat"
}

# metric NAME: its value.
metric() {
    curl -sS "$URL/metrics" | awk -v name="$1" '$1 ~ "^" name "({|$)" { sum += $NF } END { print sum + 0 }'
}

start_garage
of_garage numbers/
export BOXGATE_UPLOADS__PART_BUDGET=128MiB BOXGATE_CACHE__SIZE=64MiB
head -c "$((GIB << 30))" /dev/urandom >file.box

echo "| round | way | GB/s | CPU s/GB | copied bytes per byte | peak RSS MiB |"
echo "|---|---|---|---|---|---|"

# row ROUND WAY SECONDS CPU COPIED RSS
row() {
    awk -v bytes="$((GIB << 30))" -v r="$1" -v w="$2" -v s="$3" -v c="$4" -v n="$5" -v m="$6" 'BEGIN {
        printf "| %s | %s | %.3f | %.2f | %.2f | %s |\n", r, w, bytes / 1e9 / s, c / (bytes / 1e9), n / bytes, m }'
}
now() { date +%s.%N; }
passed() { awk -v a="$1" -v b="$(now)" 'BEGIN { print b - a }'; }

for ((round = 1; round <= ROUNDS; round++)); do
    begun=$(now)
    s3 cp --no-progress file.box "s3://$BUCKET/direct/$round" >/dev/null
    awk -v bytes="$((GIB << 30))" -v s="$(passed "$begun")" -v r="$round" \
        'BEGIN { printf "| %s | aws s3 cp | %.3f | | | |\n", r, bytes / 1e9 / s }'
    s3 rm --quiet "s3://$BUCKET/direct/$round"
    for way in raw push; do
        # A process of its own each time, so that its peak is this upload's.
        DATA=$WORK/data-$round-$way
        BOXGATE_STORES__MAIN__PREFIX=$round-$way/ start_gateway
        before=$(cpu)
        begun=$(now)
        if [[ $way == raw ]]; then
            upload file.box numbers "$round.0"
        else
            "$GATEWAY" push file.box "$ORG/numbers" "$round.0" virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" >push.log 2>&1 ||
                { tail push.log; exit 1; }
        fi
        seconds=$(passed "$begun")
        row "$round" "$way" "$seconds" "$(awk -v a="$before" -v b="$(cpu)" 'BEGIN { print b - a }')" \
            "$(metric boxgate_ingest_copied_bytes_total)" "$(awk '/VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$GATEWAY_PID/status")"
        stop_gateway
        s3 rm --quiet --recursive "s3://$BUCKET/$round-$way/"
    done
done
