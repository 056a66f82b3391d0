#!/usr/bin/env bash
# Two nodes on one PostgreSQL: what one was sending when it was killed, the other one sends, under the same id.
source "$(dirname "${BASH_SOURCE[0]}")/on_postgres.sh"
PIDS=()
trap 'CODE=$?; for pid in "${PIDS[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done; cleanup "$CODE"' EXIT

read -r PORT1 PORT2 < <(free_ports 2)
# start N PORT: a node with a store of its own, as nothing is uploaded here.
start() {
    mkdir -p "node$1"
    cat >"node$1.toml" <<TOML
public_url = ["http://127.0.0.1:$2"]
[metadata]
url = "$DATABASE"
[stores.disk$1]
kind = "local"
path = "$WORK/node$1/blobs"
[uploads]
store = "disk$1"
[webhooks]
allow_networks = ["127.0.0.0/8"]
TOML
    BOXGATE_MASTER_KEY=$KEY "$GATEWAY" serve --config "node$1.toml" --data-dir "$WORK/node$1" --listen "127.0.0.1:$2" \
        >"node$1.out" 2>>"node$1.log" &
    PIDS[$1]=$!
    eventually 60 curl -sf "http://127.0.0.1:$2/readyz" || { tail -n 5 "node$1.log" >&2; exit 1; }
}
admin() { BOXGATE_URL=$URL BOXGATE_TOKEN=$ADMIN_TOKEN "$GATEWAY" admin webhook "$@"; }
has() { (($(wc -l <held.log) >= $1)); }

touch held.log
node "$CLIENTS/fixtures/webhooks.cjs" hold held.log >held.port 2>held.err </dev/null &
PIDS[9]=$!
eventually 20 test -s held.port || { cat held.err >&2; exit 1; }
start 1 "$PORT1"
URL=http://127.0.0.1:$PORT1
printf 'secret-of-root' >password
succeeds "an administrator" env BOXGATE_MASTER_KEY="$KEY" "$GATEWAY" admin bootstrap --config node1.toml --data-dir "$WORK/node1" \
    --username root --password-file password --json
http -X POST "$URL/api/auth/signin" -H 'Content-Type: application/json' -d '{"username":"root","password":"secret-of-root"}'
answers "signs in" 200
ADMIN_TOKEN=$(field .accessToken)
run 0 "an endpoint that does not answer" admin create "http://127.0.0.1:$(cat held.port)/" --event 'user.*' --json
ENDPOINT=$(jq -r .id out)
http -X POST "$URL/api/admin/users" -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' -d '{"username":"dora","password":"secret-of-dora"}'
answers "something happens" 201
eventually 30 has 1 && ok "the first node sends it" || fail "nobody sends it"
start 2 "$PORT2"
kill -KILL "${PIDS[1]}"
wait "${PIDS[1]}" 2>/dev/null || true
touch held.log.open
URL=http://127.0.0.1:$PORT2
eventually 100 has 2 && ok "the second node takes it over" || fail "nobody takes it over: $(brief "$(tail -n 3 node2.log)")"
equal "under the same id" 1 "$(cut -d' ' -f1 held.log | sort -u | wc -l)"
taken() { admin deliveries "$ENDPOINT" --limit 1 | grep -q delivered; }
eventually 30 taken && ok "and it is taken" || fail "it is not taken"
# A node that stops gives back at once what it sends.
start 1 "$PORT1"
kill -TERM "${PIDS[2]}"
wait "${PIDS[2]}" 2>/dev/null || true
URL=http://127.0.0.1:$PORT1
http -X POST "$URL/api/admin/users" -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' -d '{"username":"emil","password":"secret-of-emil"}'
answers "something else happens" 201
eventually 20 has 3 && ok "after a stop another node sends at once" || fail "nobody sends it"
finish
