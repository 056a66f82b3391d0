#!/usr/bin/env bash
# What an operator sees and does: metrics by promtool's rules, health pages, log lines, a stop in the middle of a
# download, a second start, a kill -9 in the middle of an upload.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A variable that names no setting is warned about, as a log line like all others.
BOXGATE_NO_SUCH__SETTING=1 start_gateway
KEY="Authorization: Bearer $CLIENT_SECRET"
make_box "$WORK/old.box" 40000
make_box "$WORK/new.box" 40000
OLD=$(sha256 "$WORK/old.box")
upload "$WORK/old.box" demo 1.0.0
make_public demo
http -H 'Range: bytes=0-99' "$(file_path demo 1.0.0)/download"
http "$(file_path demo 9.9.9)/download"

# --- pages ---
for page in /health /livez /readyz /api/health /api/status; do
    http "$URL$page"
    answers "$page" 200 '^\{'
    matches "$page is JSON" '^application/json' "$(header content-type)"
done
http "$URL/health"
equal "/health: status" ok "$(field .status)"
http "$URL/api/health"
equal "/api/health: fields" true "$(field 'has("status") and has("timestamp") and has("version") and has("services")')"
http "$URL/api/status"
equal "/api/status: fields" true "$(field 'has("version") and ([paths | join(".")] | any(test("free")))')"

# --- metrics ---
http "$URL/metrics"
answers "/metrics" 200
matches "its type" '^(text/plain|application/openmetrics-text)' "$(header content-type)"
succeeds "promtool check metrics" sh -c 'promtool check metrics <"$1"' _ "$WORK/body"
METRICS=$(cat "$WORK/body")
for name in boxgate_http_request_seconds_bucket boxgate_http_request_seconds_count boxgate_ingest_copied_bytes_total \
    boxgate_store_free_bytes boxgate_dependency_state; do
    matches "metric $name" "(^|$(printf '\n'))${name}[{ ]" "$METRICS"
done
matches "requests are counted by route and status class" 'boxgate_http_request_seconds_count\{[^}]*2xx' "$METRICS"

# --- logs ---
plain=$(grep -cv '^{.*}$' "$WORK/gateway.log" || true)
equal "log lines that are no JSON" 0 "$plain"
((plain == 0)) || grep -v '^{.*}$' "$WORK/gateway.log" | head -n 3
equal "an unknown BOXGATE_ variable is warned about" yes \
    "$(grep -q NO_SUCH__SETTING "$WORK/gateway.log" && echo yes || echo no)"
log() {
    grep '^{.*}$' "$WORK/gateway.log" | jq "$@"
}
succeeds "each has time and level" log -es 'all(has("time") and has("level"))'
logged() {
    log -es 'any(.status == 206 and has("route"))'
}
if eventually 5 logged; then ok "the access log has the ranged download"; else fail "no access log line with status 206"; fi
access=$(log -c 'select(has("route") and .status == 206)' | head -n 1 || true)
equal "its fixed keys" \
    '["bytes_in","bytes_out","client_ip","duration_ms","level","plugins","principal","request_id","route","status","time","upload_id"]' \
    "$(jq -c '[keys[] | select(IN("time","level","request_id","principal","client_ip","route","status","bytes_in","bytes_out","duration_ms","upload_id","plugins"))] | sort' <<<"${access:-null}" 2>&1)"
equal "its numbers" '[206,100,"127.0.0.1"]' "$(jq -c '[.status, .bytes_out, .client_ip]' <<<"${access:-null}" 2>&1)"
equal "every request has its line" true \
    "$(log -s 'map(select(has("route"))) | (map(.request_id) | unique | length) == length')"
for secret in "$CLIENT_SECRET" "$ADMIN_TOKEN" "$ADMIN_PASSWORD"; do
    equal "no log line holds the secret ${secret:0:4}…" 0 "$(grep -cF -- "$secret" "$WORK/gateway.log" || true)"
done

# --- SIGTERM during a download ---
curl -sS --limit-rate 8M -o "$WORK/slow.box" "$(file_path demo 1.0.0)/download" 2>"$WORK/slow.err" &
slow=$!
started() {
    [[ -s $WORK/slow.box ]]
}
eventually 20 started || fail "the slow download did not start"
before=$READY
begun=$SECONDS
stop_gateway TERM
equal "SIGTERM: exit code" 0 "$STOPPED_WITH"
code=0
wait "$slow" || code=$?
equal "SIGTERM: the download under way ends well" 0 "$code"
equal "SIGTERM: its bytes" "$OLD" "$(sha256 "$WORK/slow.box")"
if ((SECONDS - begun < 60)); then ok "SIGTERM: stopped after $((SECONDS - begun)) s"; else fail "SIGTERM: took $((SECONDS - begun)) s"; fi

# --- second start ---
start_gateway
equal "second start: the same credentials" "$(jq -c 'del(.url)' <<<"$before")" "$(jq -c 'del(.url)' <<<"$READY")"
equal "second start: the box is still there" "$OLD" "$(stored_sha256 demo 1.0.0)"
equal "the credentials' file is for its owner alone" 600 "$(stat -c %a "$DATA/quickstart.json")"
equal "the master key is, too" 600 "$(stat -c %a "$DATA/master.key")"
refuses "a second gateway over the same data" 'another boxgate|lock|in use' timeout 20 \
    "$GATEWAY" quickstart --data-dir "$DATA" --listen 127.0.0.1:0 --json

# --- kill -9 during an upload ---
for version in 1.0.0 9.9.9; do
    blobs >"$WORK/blobs.before"
    curl -sS --limit-rate 8M -X POST -H "$KEY" -T "$WORK/new.box" "$(file_path demo "$version")/upload" >"$WORK/cut.out" 2>&1 &
    cut=$!
    more_on_disk() {
        [[ $(blobs) != "$(cat "$WORK/blobs.before")" ]]
    }
    eventually 20 more_on_disk || fail "kill -9 ($version): the upload never reached the disk"
    stop_gateway KILL
    code=0
    wait "$cut" || code=$?
    differs "kill -9 ($version): the client is told" 0 "$code"
    start_gateway
    equal "kill -9 ($version): the old box serves" "$OLD" "$(stored_sha256 demo 1.0.0)"
    http -H "$KEY" "$BASE/box/demo/version/9.9.9"
    answers "kill -9 ($version): no version came" 404
    # What came before the kill rests for its sender: one file more at most, and none less.
    no_orphan() {
        local lost more
        lost=$(comm -23 <(sort "$WORK/blobs.before") <(blobs | sort) | wc -l)
        more=$(comm -13 <(sort "$WORK/blobs.before") <(blobs | sort) | wc -l)
        ((lost == 0 && more <= 1))
    }
    if eventually 30 no_orphan; then
        ok "kill -9 ($version): no orphan stays"
    else
        fail "kill -9 ($version): $(blobs | diff "$WORK/blobs.before" - | tr '\n' ' ')"
    fi
    upload "$WORK/new.box" demo 2.0.0
    equal "kill -9 ($version): uploads go on" "$(sha256 "$WORK/new.box")" "$(stored_sha256 demo 2.0.0)"
done

# --- SIGTERM during an upload that does not end in time ---
stop_gateway
export BOXGATE_SERVER__DRAIN_REQUESTS=1s
start_gateway
blobs >"$WORK/blobs.before"
curl -sS --limit-rate 2M -X POST -H "$KEY" -T "$WORK/new.box" -o "$WORK/drained.json" -D "$WORK/drained.head" -w '%{http_code}' \
    "$(file_path demo 3.0.0)/upload" >"$WORK/drained" 2>"$WORK/drained.err" &
drained=$!
eventually 20 more_on_disk || fail "SIGTERM, no time left: the upload never reached the disk"
stop_gateway TERM
equal "SIGTERM, no time left: exit code" 0 "$STOPPED_WITH"
wait "$drained" || true
equal "SIGTERM, no time left: the upload is told" 503 "$(cat "$WORK/drained")"
matches "SIGTERM, no time left: why" 'DRAINING' "$(cat "$WORK/drained.json")"
matches "SIGTERM, no time left: when to come again" '[Rr]etry-[Aa]fter: [0-9]+' "$(cat "$WORK/drained.head")"
unset BOXGATE_SERVER__DRAIN_REQUESTS
start_gateway
rests() { curl -sS -H "$KEY" "$(file_path demo 3.0.0)/upload" | jq -e '[.uploads[] | select(.kind == "raw")][0].offset > 0'; }
if eventually 20 rests; then ok "SIGTERM, no time left: what came is kept"; else fail "SIGTERM, no time left: nothing is kept"; fi

finish
