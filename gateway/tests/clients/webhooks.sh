#!/usr/bin/env bash
# Webhooks go out: to the guide's Express receiver word for word, to the library of Standard Webhooks, and to nobody whom
# an operator did not open the way to; while secrets change, boxes come in any number, and the gateway is killed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"
HOOKS=()

# node_receiver NAME COMMAND...: runs a receiver; its port is in NAME.port.
node_receiver() {
    local name=$1
    shift
    "$@" >"$name.port" 2>"$name.err" </dev/null &
    HOOKS+=($!)
    eventually 20 test -s "$name.port" || { cat "$name.err" >&2; exit 1; }
}
stop_receivers() {
    local pid
    for pid in "${HOOKS[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
trap 'CODE=$?; stop_receivers; cleanup "$CODE"' EXIT

# A plugin whose events have what nobody would name a box: scripts, quotes, emoji, control characters, odd numbers.
mkdir -p "$DATA/plugins/odd"
cat >"$DATA/plugins/odd/plugin.toml" <<'TOML'
[events]
names = ["x.odd.note"]
[webhook_in.go]
verify = "none"
TOML
cat >"$DATA/plugins/odd/main.rhai" <<'RHAI'
fn webhook_in(req) {
    event::emit("x.odd.note", #{
        names: ["Übung", "日本語", "العربية", "Ελληνικά", "हिन्दी", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "👩‍👩‍👧‍👦🎉"],
        quotes: "\"double\" 'single' `back` \\ / </script>",
        controls: "\x00\x01\x07\x08\x09\x0a\x0b\x0c\x0d\x1b\x1f\x7f", separators: "\u2028\u2029\ufeff",
        large: 9007199254740993, small: -9007199254740993, safe: 9007199254740991,
        by_number: #{ "10": "ten", "2": "two", "01": "one" }, __proto__: "x", empty: #{},
    });
}
RHAI
cat >boxgate.toml <<'TOML'
[scripts]
check_every = "0s"
[scripts.grants.odd]
events = ["x.odd.note"]
unverified = ["go"]
TOML
start_gateway --config boxgate.toml
ADMIN_API=$URL/api/admin/webhooks
as_admin() { http -H "x-access-token: $ADMIN_TOKEN" "$@"; }
admin() { BOXGATE_URL=$URL BOXGATE_TOKEN=$ADMIN_TOKEN "$GATEWAY" admin webhook "$@"; }
# queued ID: what waits for an endpoint.
queued() { curl -sS -H "x-access-token: $ADMIN_TOKEN" "$ADMIN_API/$1" | jq .queued; }
idle() { [[ $(queued "$1") == 0 ]]; }
has() { grep -qF -- "$2" "$1"; }
make_box web.box

# --- the guide, end to end ---
SECRET=webhook-secret
{ cat "$CLIENTS/fixtures/guide/receiver.cjs"; echo 'const server = app.listen(0, "127.0.0.1", () => console.error(server.address().port));'; } >receiver.cjs
WEBHOOK_SECRET=$SECRET node receiver.cjs >guide.log 2>guide.port </dev/null &
HOOKS+=($!)
eventually 20 test -s guide.port
GUIDE=http://127.0.0.1:$(cat guide.port)/webhooks/boxvault
http -X POST "$URL/api/admin/webhooks" -H "x-access-token: $ADMIN_TOKEN" -H "Content-Type: application/json" -d '{
"url": "'"$GUIDE"'",
"events": ["box.uploaded", "box.deleted", "user.created"],
"secret": "webhook-secret"
}'
answers "the guide makes a webhook" 201 '"warnings":\["weak_secret"\]'
GUIDE_ID=$(field .id)
upload web.box ubuntu-server 1.0.0
eventually 20 has guide.log 'Box uploaded: myorg/ubuntu-server v1.0.0' && ok "the guide's receiver logs the box" || fail "it logged $(brief "$(cat guide.log)")"
as_admin -X POST "$URL/api/admin/users" -H 'Content-Type: application/json' -d '{"username":"dora","password":"secret-of-dora"}'
answers "an account" 201
as_admin -X DELETE "$BASE/box/ubuntu-server"
eventually 20 has guide.log 'New user: dora' && ok "and the account" || fail "it logged $(brief "$(cat guide.log)")"
eventually 20 has guide.log 'Box deleted: myorg/ubuntu-server' && ok "and the deletion" || fail "it logged $(brief "$(cat guide.log)")"
eventually 20 idle "$GUIDE_ID" || true
run 0 "the log of what was sent" admin deliveries "$GUIDE_ID"
says "it was taken" 'delivered  #1  box.uploaded.*'
equal "all three were answered 200" 3 "$(grep -c 'attempt 1 .* 200$' out || true)"

# --- every example, in both forms ---
KEY=whsec_$(openssl rand -base64 32)
WEBHOOK_SECRETS=$KEY node_receiver standard node "$CLIENTS/fixtures/webhooks.cjs" standard standard.log
STANDARD=http://127.0.0.1:$(cat standard.port)/
run 0 "create" admin create "$STANDARD" --event '*' --secret "$KEY" --set format=standard --json
STANDARD_ID=$(jq -r .id out)
as_admin "$ADMIN_API/events"
answers "the catalogue" 200 'json-schema.org'
EVENTS=$(field '.data[].event')
run 0 "all events" admin update "$GUIDE_ID" --event '*'
refused=0
for event in $EVENTS; do
    for id in "$GUIDE_ID" "$STANDARD_ID"; do
        as_admin -X POST "$ADMIN_API/$id/test" -H 'Content-Type: application/json' -d "{\"event\":\"$event\"}"
        [[ $STATUS == 200 && $(field .error) == null ]] || { refused=$((refused + 1)); fail "$event: $(brief "$BODY")"; }
    done
done
equal "the guide's receiver and the library refused so many examples" 0 "$refused"
equal "the library verified each" "$(wc -w <<<"$EVENTS")" "$(grep -c ' good$' standard.log || true)"
http -X POST "$URL/hooks/odd/go" -H 'Content-Type: application/json' -d '{}'
answers "a plugin tells something odd" 204
eventually 20 has standard.log 'x.odd.note good' && ok "the library verifies it" || fail "the library got $(brief "$(tail -n 2 standard.log)")"
eventually 20 idle "$GUIDE_ID" || true
run 0 "its deliveries" admin deliveries "$GUIDE_ID" --event x.odd.note
says "the guide's receiver, which hashes what it parsed, takes it" 'delivered .*x.odd.note'

# --- the secret changes ---
NEXT=another-secret-of-good-length
run 0 "rotate" admin rotate "$STANDARD_ID" --secret "$NEXT"
run 0 "a test while both count" admin test "$STANDARD_ID"
says "the secret before still verifies" 'taken \(204\)'
kill "${HOOKS[-1]}"
wait "${HOOKS[-1]}" 2>/dev/null || true
WEBHOOK_SECRETS=$KEY,$NEXT node_receiver rotated node "$CLIENTS/fixtures/webhooks.cjs" standard rotated.log
run 0 "it moved" admin update "$STANDARD_ID" --endpoint "http://127.0.0.1:$(cat rotated.port)/"
run 0 "a test while both count" admin test "$STANDARD_ID"
equal "both secrets verify" 'webhook.test good good' "$(tail -n 1 rotated.log)"
run 1 "a third secret meanwhile" admin rotate "$STANDARD_ID"
says "is refused" 'just being replaced'
run 0 "finish" admin rotate "$STANDARD_ID" --finish
run 0 "a test afterwards" admin test "$STANDARD_ID"
matches "only the new one verifies" '^webhook.test bad .* good$' "$(tail -n 1 rotated.log)"

# --- in order by box, while others go on ---
node_receiver order node "$CLIENTS/fixtures/webhooks.cjs" order order.log
run 0 "an endpoint in order" admin create "http://127.0.0.1:$(cat order.port)/" --event box.uploaded --set ordering=key --set rate_per_s=1000 --json
ORDER_ID=$(jq -r .id out)
for version in 1 2 3 4 5 6; do
    for box in a b c d; do upload web.box "$box" "1.$version" & done
    wait $(jobs -rp | grep -vxF "$GATEWAY_PID" | grep -vxF "$(printf '%s\n' "${HOOKS[@]}")") || true
done
ended() { (($(grep -c '^end ' order.log) >= 24)); }
eventually 60 ended && ok "all were sent" || fail "$(queued "$ORDER_ID") wait"
python3 - order.log <<'PYTHON' >order.out
import sys
under_way, last, most, wrong = {}, {}, 0, 0
for line in open(sys.argv[1]):
    what, box, version = line.split()
    if what == "begin":
        wrong += box in under_way or version <= last.get(box, "")
        under_way[box] = last[box] = version
        most = max(most, len(under_way))
    else:
        del under_way[box]
print(f"{len(last)} boxes, {wrong} wrong, {'several' if most > 1 else 'one'} at once")
PYTHON
equal "no two of one box overlap or turn round" '4 boxes, 0 wrong, several at once' "$(cat order.out)"

# --- killed between commit and delivery ---
node_receiver hold node "$CLIENTS/fixtures/webhooks.cjs" hold hold.log
run 0 "an endpoint that does not answer" admin create "http://127.0.0.1:$(cat hold.port)/" --event box.uploaded --set rate_per_s=1000 --json
HOLD_ID=$(jq -r .id out)
touch hold.log
for round in 1 2 3 4 5; do
    upload web.box killed "$round.0"
    # Right after the answer, then later and later: before the event is spread, before it is sent, while it is on its way.
    sleep "0.$(((round - 1) * 4))"
    stop_gateway KILL
    start_gateway --config boxgate.toml
    ADMIN_API=$URL/api/admin/webhooks
done
touch hold.log.open
all_came() {
    local round
    for round in 1 2 3 4 5; do has hold.log " killed $round.0" || return 1; done
}
# What a killed process had claimed is free at once.
eventually 60 all_came && ok "after kill -9 each event of an upload that was answered arrives" || fail "came: $(brief "$(cat hold.log)")"
eventually 60 idle "$HOLD_ID" || true
equal "a repeat has the id of the first" 5 "$(sort -u hold.log | wc -l)"

# --- what was sent, sent once more ---
rm hold.log.open
SINCE=$(date -u +%Y-%m-%dT%H:%M:%SZ)
run 0 "one attempt only" admin update "$HOLD_ID" --set 'delays_s=[0]' --set timeout_ms=500
upload web.box again 1.0
failed_once() { admin deliveries "$HOLD_ID" --status failed | grep -q failed; }
eventually 30 failed_once && ok "it failed" || fail "it did not fail"
touch hold.log.open
run 0 "recover" admin recover "$HOLD_ID" --since "$SINCE"
says "counts" '^1 are sent once more'
eventually 30 idle "$HOLD_ID" || true
run 0 "deliveries" admin deliveries "$HOLD_ID" --since "$SINCE"
says "taken at the second attempt" 'delivered .*attempt 2 '
DELIVERY=$(grep -o 'dl_[0-9a-f]*' out | head -n 1)
run 0 "redeliver" admin redeliver "$DELIVERY"
eventually 30 idle "$HOLD_ID" || true
equal "the same id again" 3 "$(grep -c "$(grep ' again 1.0$' hold.log | head -n 1 | cut -d' ' -f1)" hold.log)"
run 0 "disable" admin disable "$HOLD_ID"
says "says why" 'disabled \(disabled by an administrator\)'
run 0 "enable" admin enable "$HOLD_ID"
says "it is well" ' ok '
run 0 "list" admin list
says "has all" "$HOLD_ID"
run 2 "delete asks, and nobody is there to answer" admin delete "$HOLD_ID"
says "delete asks" '\-\-yes'
run 0 "delete" admin delete "$HOLD_ID" --yes
run 1 "show" admin show "$HOLD_ID"
says "it is gone" 'does not exist'
run 0 "its log stays" admin deliveries "$HOLD_ID" --limit 1
equal "no log has a secret" 0 "$(grep -cF -e "$KEY" -e "$NEXT" gateway.log || true)"
http "$URL/metrics"
matches "metrics" "boxgate_webhook_endpoint_state\{endpoint=\"$GUIDE_ID\",state=\"ok\"\} 1" "$BODY"
stop_gateway

# --- through a proxy ---
cat >proxy.py <<'PYTHON'
import select, socket, threading
def pump(client):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    with open("proxied", "a") as log:
        log.write(head.decode().splitlines()[0] + "\n")
    host, port = head.split()[1].decode().rsplit(":", 1)
    if "refused" in open("proxy.rule").read():
        client.sendall(b"HTTP/1.1 403 no\r\ncontent-length: 0\r\n\r\n")
        return client.close()
    server = socket.create_connection((host, int(port)))
    client.sendall(b"HTTP/1.1 200 ok\r\n\r\n")
    while True:
        for one in select.select([client, server], [], [])[0]:
            data = one.recv(65536)
            if not data:
                return
            (server if one is client else client).sendall(data)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=pump, args=(listener.accept()[0],), daemon=True).start()
PYTHON
echo refused >proxy.rule
node_receiver proxy python3 proxy.py
# serve_with [LINES...]: the gateway as an installation runs it, with these lines in [webhooks].
serve_with() {
    { echo "[webhooks]"; printf '%s\n' "$@"; } >served.toml
    : >served
    "$GATEWAY" serve --config served.toml --data-dir "$DATA" --listen 127.0.0.1:0 >>served 2>>gateway.log &
    GATEWAY_PID=$!
    eventually 60 serving
    URL=$(grep -o 'http://127.0.0.1:[0-9]*' served | head -n 1)
    ADMIN_API=$URL/api/admin/webhooks
    BASE=$URL/api/organization/$ORG
}
serving() { grep -o 'http://127.0.0.1:[0-9]*' served | grep -q .; }
serve_with 'allow_networks = ["127.0.0.0/8"]' "egress_proxy = \"http://127.0.0.1:$(cat proxy.port)\""
run 1 "a test that the proxy refuses" admin test "$GUIDE_ID"
says "tells of the proxy" 'the proxy: it answered 403'
echo all >proxy.rule
run 0 "a test through the proxy" admin test "$GUIDE_ID"
matches "went through it" "^CONNECT $(cut -d/ -f3 <<<"$GUIDE") " "$(tail -n 1 proxied)"
stop_gateway

# --- to nobody whom it may not reach: traps listen wherever an odd address may lead on this machine ---
cat >traps.py <<'PYTHON'
import http.server, socketserver, sys, threading
class Trap(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        open("trapped", "a").write(f"{self.server.server_address} {self.path}\n")
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
class V6(http.server.ThreadingHTTPServer):
    address_family = 10
class Counting:
    def get_request(self):
        got = super().get_request()
        open("trapped", "a").write(f"a connection to {self.server_address}\n")
        return got
class Server4(Counting, http.server.ThreadingHTTPServer): pass
class Server6(Counting, V6): pass
servers = [Server4(("0.0.0.0", 0), Trap)]
port = servers[0].server_address[1]
try:
    servers.append(Server6(("::1", port), Trap))
except OSError:
    pass  # a machine without IPv6
print(port, flush=True)
for server in servers:
    threading.Thread(target=server.serve_forever).start()
PYTHON
node_receiver traps python3 traps.py
P=$(cat traps.port)
cat >forms <<FORMS
http://127.0.0.1:$P/
https://127.0.0.1:$P/
https://127.0.0.2:$P/
https://127.255.255.254:$P/
https://localhost:$P/
https://LOCALHOST:$P/
https://localhost.:$P/
https://2130706433:$P/
https://0x7f000001:$P/
https://0x7f.1:$P/
https://0x7f.0.0.1:$P/
https://0177.0.0.1:$P/
https://017700000001:$P/
https://127.1:$P/
https://127.0.1:$P/
https://127.0.0.1.:$P/
https://127.000.000.001:$P/
https://0:$P/
https://0.0.0.0:$P/
https://0x0:$P/
https://[::1]:$P/
https://[::]:$P/
https://[0:0:0:0:0:0:0:1]:$P/
https://[0000::0001]:$P/
https://[::ffff:127.0.0.1]:$P/
https://[::ffff:7f00:1]:$P/
https://[0:0:0:0:0:ffff:127.0.0.1]:$P/
https://[::127.0.0.1]:$P/
https://[::7f00:1]:$P/
https://[64:ff9b::7f00:1]:$P/
https://[64:ff9b::127.0.0.1]:$P/
https://[64:ff9b:1::7f00:1]:$P/
https://[2002:7f00:1::]:$P/
https://[2002:7f00:0001::1]:$P/
https://[::1%25lo]:$P/
https://[fe80::1]:$P/
https://[fec0::1]:$P/
https://[fd00::1]:$P/
https://[fc00::1]:$P/
https://[ff02::1]:$P/
https://[100::1]:$P/
https://[2001:db8::1]:$P/
https://[2001::1]:$P/
https://[::ffff:10.0.0.1]:$P/
https://[64:ff9b::a00:1]:$P/
https://10.0.0.1:$P/
https://172.16.0.1:$P/
https://172.31.255.255:$P/
https://192.168.1.1:$P/
https://100.64.0.1:$P/
https://169.254.169.254/latest/meta-data/
https://169.254.169.254:$P/
https://[fd00:ec2::254]/latest/meta-data/
https://2852039166/
https://0xa9fea9fe/
https://168.63.129.16:$P/
https://100.100.100.200/
https://192.0.0.192/
https://192.0.2.1:$P/
https://198.18.0.1:$P/
https://198.51.100.1:$P/
https://203.0.113.1:$P/
https://224.0.0.1:$P/
https://240.0.0.1:$P/
https://255.255.255.255:$P/
https://metadata.google.internal/
http://metadata.google.internal/computeMetadata/v1/
https://metadata/
https://instance-data/
https://user@127.0.0.1:$P/
https://user:pass@127.0.0.1:$P/
https://example.com@127.0.0.1:$P/
https://127.0.0.1:$P@example.com/
https://127.0.0.1:$P#@example.com/
https://127.0.0.1:$P\\\\@example.com/
https:127.0.0.1:$P/
https:/127.0.0.1:$P/
https:///127.0.0.1:$P/
//127.0.0.1:$P/
https://127.0.0.1:22/
https://127.0.0.1:25/
https://①②⑦.⓪.⓪.①:$P/
https://127。0。0。1:$P/
https://%31%32%37.0.0.1:$P/
https://127.0.0.1%00.example.com:$P/
https://127.0.0.1%2eexample.com:$P/
ftp://127.0.0.1:$P/
file:///etc/passwd
gopher://127.0.0.1:$P/_
dict://127.0.0.1:$P/
javascript:fetch('http://127.0.0.1:$P/')
data:text/plain,x
jar:https://127.0.0.1:$P!/
FORMS
for opened in '' 'allow_networks = ["10.99.0.0/16"]'; do
    serve_with "$opened"
    tried=0
    taken=0
    while IFS= read -r form; do
        tried=$((tried + 1))
        as_admin -X POST "$ADMIN_API" -H 'Content-Type: application/json' \
            -d "$(jq -nc --arg url "$form" '{url: $url, events: ["*"]}')"
        [[ $STATUS == 422 ]] || { taken=$((taken + 1)); fail "$form: $STATUS $(brief "$BODY")"; }
    done <forms
    equal "of $tried forms of addresses so many are taken (${opened:-nothing opened})" 0 "$taken"
    # One that was made while it was allowed.
    as_admin -X POST "$ADMIN_API/$GUIDE_ID/test"
    answers "an endpoint that may not be reached any more" 200 'webhooks.allow_networks'
    BEFORE=$(wc -l <guide.log)
    upload web.box closed "1.${#opened}"
    blocked() { admin deliveries "$GUIDE_ID" --event box.uploaded --limit 1 | grep -q 'webhooks.allow_networks'; }
    eventually 30 blocked && ok "nor is it sent what happens" || fail "it is not blocked"
    equal "it heard nothing" "$BEFORE" "$(wc -l <guide.log)"
    stop_gateway
done
equal "traps were touched" 0 "$(cat trapped 2>/dev/null | wc -l)"
finish
