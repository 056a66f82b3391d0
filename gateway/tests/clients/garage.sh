# Shared by the suites that need a real S3: one Garage node with one bucket, private to the suite, and `aws` to look
# into it. Sourced after lib.sh. What it stores is in $WORK/garage and survives stop_garage.
# shellcheck shell=bash disable=SC2034

GARAGE=$(dirname "$TOOLS")/bin/garage
AWS=$TOOLS/aws/bin/aws
BUCKET=boxes
GARAGE_PID=
S3_KEY=GK0123456789abcdef01234567
S3_SECRET=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
trap 'CODE=$?; [[ -z $GARAGE_PID ]] || kill -9 "$GARAGE_PID" 2>/dev/null || true; cleanup "$CODE"' EXIT

# start_garage: sets ENDPOINT; again after stop_garage with the same ports and bytes.
start_garage() {
    [[ -x $GARAGE ]] || { echo "no $GARAGE: .ci/test installs it" >&2; exit 2; }
    if [[ ! -d $WORK/garage ]]; then
        mkdir "$WORK/garage"
        read -r API_PORT RPC_PORT ADMIN_PORT < <(free_ports 3)
        ENDPOINT=http://127.0.0.1:$API_PORT
        cat >"$WORK/garage/garage.toml" <<END
metadata_dir = "$WORK/garage/meta"
data_dir = "$WORK/garage/data"
db_engine = "sqlite"
replication_factor = 1
rpc_secret = "$S3_SECRET"
rpc_bind_addr = "127.0.0.1:$RPC_PORT"
rpc_public_addr = "127.0.0.1:$RPC_PORT"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$API_PORT"
[admin]
api_bind_addr = "127.0.0.1:$ADMIN_PORT"
END
    fi
    GARAGE_DEFAULT_ACCESS_KEY=$S3_KEY GARAGE_DEFAULT_SECRET_KEY=$S3_SECRET GARAGE_DEFAULT_BUCKET=$BUCKET \
        "$GARAGE" -c "$WORK/garage/garage.toml" server --single-node --default-access-key --default-bucket \
        >>"$WORK/garage.log" 2>&1 &
    GARAGE_PID=$!
    eventually 60 curl -sSf -o /dev/null "http://127.0.0.1:$ADMIN_PORT/health" ||
        { echo "garage did not start:" >&2; tail -n 20 "$WORK/garage.log" >&2; exit 1; }
}

stop_garage() {
    kill -9 "$GARAGE_PID"
    wait "$GARAGE_PID" 2>/dev/null || true
    GARAGE_PID=
}

# of_garage PREFIX: gateways that are started from here on keep their boxes in the bucket, below the prefix.
of_garage() {
    export BOXGATE_STORES__MAIN__KIND=s3 BOXGATE_STORES__MAIN__ENDPOINT=$ENDPOINT BOXGATE_STORES__MAIN__REGION=garage
    export BOXGATE_STORES__MAIN__BUCKET=$BUCKET BOXGATE_STORES__MAIN__PREFIX=$1
    export BOXGATE_STORES__MAIN__ACCESS_KEY_ID=$S3_KEY BOXGATE_STORES__MAIN__SECRET_ACCESS_KEY=$S3_SECRET
}

aws() {
    env -u AWS_CA_BUNDLE AWS_ACCESS_KEY_ID=$S3_KEY AWS_SECRET_ACCESS_KEY=$S3_SECRET AWS_DEFAULT_REGION=garage \
        AWS_CONFIG_FILE=/dev/null AWS_REQUEST_CHECKSUM_CALCULATION=when_required \
        AWS_RESPONSE_CHECKSUM_VALIDATION=when_required "$AWS" --endpoint-url "$ENDPOINT" "$@"
}

s3() { aws s3 "$@"; }

# s3api VERB [FLAGS...]: of the bucket.
s3api() { aws s3api "$1" --bucket "$BUCKET" "${@:2}"; }

# objects: the name of every object in the bucket that holds bytes of boxes.
objects() {
    all_objects | { grep -v '/sidecars/' || true; }
}

# sidecars: of every object that stands beside one.
sidecars() {
    all_objects | { grep '/sidecars/' || true; }
}

all_objects() {
    s3api list-objects-v2 --query 'Contents[].[Key]' --output text | { grep -v '^None$' || true; }
}

# unfinished: name and id of every multipart upload that was begun and neither completed nor aborted.
unfinished() {
    s3api list-multipart-uploads --query 'Uploads[].[Key, UploadId]' --output text | { grep -v '^None' || true; }
}
