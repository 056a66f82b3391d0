#!/usr/bin/env bash
# A person writes a plugin against a running gateway: begins, checks, tests it, drops it in, breaks it, watches the
# last good version hold, fixes it, rolls it back, switches it off.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

PLUGINS=$DATA/plugins
ACME=$PLUGINS/acme
mkdir -p "$PLUGINS"
export BOXGATE_SCRIPTS__CHECK_EVERY=0s
# Plugins get what they ask for, and reach servers of this machine.
export BOXGATE_SCRIPTS__TRUST_LOCAL=true BOXGATE_SCRIPTS__ALLOW_NETWORKS=127.0.0.0/8
start_gateway
script() { "$GATEWAY" script "$@" --data-dir "$DATA"; }
reload() { curl -s -X POST "$URL/api/admin/scripts/reload$1" -H "x-access-token: $ADMIN_TOKEN"; }
seen() { curl -s -o /dev/null -D - "$URL/public/box" | tr -d '\r' | sed -n 's/^x-area: //p'; }

# --- begin, check, test ---
run 0 "script new" "$GATEWAY" script new "$ACME"
run 1 "script new where one is" "$GATEWAY" script new "$ACME"
run 2 "script new with another name" "$GATEWAY" script new "$PLUGINS/No.Name"
run 0 "script check" "$GATEWAY" script check "$ACME"
says "script check: names the hooks" 'acme [0-9a-f]{16} is good: route'
run 0 "script test" "$GATEWAY" script test "$ACME"
says "script test: counts" '2 passed, 0 failed'
run 0 "script test as JUnit" "$GATEWAY" script test "$ACME" --format junit
says "script test as JUnit" '<testsuite name="acme" tests="2">'
printf '{"req": {"method": "GET", "path": "/public/x"}}' >facts.json
run 0 "script run" "$GATEWAY" script run "$ACME" route --args facts.json
says "script run: its answer" '\{"set":\{"x-area":"public"\}\}'
run 0 "script run over and over" "$GATEWAY" script run "$ACME" route --args facts.json --repeat 100
says "script run over and over: percentiles" '50% .*99% '
run 2 "script run of no hook" "$GATEWAY" script run "$ACME" rout
says "script run of no hook: what was meant" 'did you mean route\?'

# --- what cannot be as it is written out, and what tests see for the first time ---
mkdir -p literal snap/tests
printf 'fn route(req) {\n  if req.tls { return #{ bakend: "main" }; }\n  let k = secret::get("KEY");\n  #{ backend: "nowhere" }\n}\n' >literal/main.rhai
run 1 "script check of what cannot be" script check literal
says "script check of what cannot be: a key" 'literal/main\.rhai:2:[0-9]+: the answer has the key `bakend`.*did you mean `backend`'
says "script check of what cannot be: a secret" 'literal/main\.rhai:3:[0-9]+: plugin\.toml does not name "KEY" in \[secrets\]'
says "script check of what cannot be: the lines to add" 'boxgate\.toml: \[scripts\.grants\.literal\] secrets = \["KEY"\]'
says "script check of what cannot be: a store" 'literal/main\.rhai:4:[0-9]+: there is no store "nowhere"'
printf 'fn route(req) { #{ cache: 5 } }\n' >snap/main.rhai
printf 'fn test_it() { t::snapshot(t::hook("route", t::req(#{}))); }\n' >snap/tests/main.rhai
run 1 "script test without a snapshot" script test snap
says "script test without a snapshot: what to do" 'has no snapshot yet; if it is right: boxgate script test --update'
run 0 "script test --update" script test snap --update
run 0 "script test with it" script test snap
sed -i 's/5/6/' snap/main.rhai
run 1 "script test with another" script test snap
says "script test with another: both are told" 'this is \{"cache":6\}, and its snapshot \{"cache":5\}'

# --- it is live without a restart ---
equal "before it is looked for" "" "$(seen)"
equal "reload takes it" loaded "$(reload '' | jq -r '.plugins[0].result')"
equal "it changes answers" public "$(seen)"
# Lines are written a moment after their answers.
eventually 10 grep -q '"plugins":\["acme"\]' "$WORK/gateway.log" || true
equal "it is in the access log" '["acme"]' "$(grep -o '"plugins":\["acme"\]' "$WORK/gateway.log" | head -n 1 | sed 's/.*://')"
equal "its calls are counted" 1 "$(curl -s "$URL/metrics" | grep -c '^boxgate_script_calls_total{plugin="acme",hook="route",outcome="answer"} [1-9]')"

# --- broken, the last good version holds, over a restart too ---
cp "$ACME/main.rhai" good.rhai
sed -i 's/fn route(req) {/fn route(req) { let x = reqq;/' "$ACME/main.rhai"
run 1 "script check of a broken one" "$GATEWAY" script check "$ACME"
says "script check: file, line and column" 'acme/main\.rhai:7:[0-9]+: there is no variable reqq'
says "script check: what was meant" 'did you mean req\?'
says "script check: a caret" '\| +\^'
equal "a dry run tells" failed "$(reload '?dry_run=true' | jq -r '.plugins[0].result')"
equal "reload refuses it" failed "$(reload '' | jq -r '.plugins[0].result')"
equal "the last good version answers" public "$(seen)"
equal "it is stale" stale "$(curl -s "$URL/api/admin/scripts" -H "x-access-token: $ADMIN_TOKEN" | jq -r '.[0].state')"
stop_gateway
start_gateway
equal "the last good version answers after a restart" public "$(seen)"

# --- fixed, rolled back, off ---
sed 's/"public"\]/"fixed"]/' good.rhai >"$ACME/main.rhai"
equal "failing tests keep it out" failed "$(reload '' | jq -r '.plugins[0].result')"
sed -i 's/"public")/"fixed")/' "$ACME/tests/main.rhai"
equal "with its test it is taken" loaded "$(reload '' | jq -r '.plugins[0].result')"
equal "the fixed version answers" fixed "$(seen)"
run 0 "script rollback" "$GATEWAY" script rollback acme --url "$URL" --token "$ADMIN_TOKEN"
equal "the version before answers" public "$(seen)"
reload '' >/dev/null
equal "and stays" public "$(seen)"
run 0 "script disable" script disable acme
reload '' >/dev/null
equal "switched off" "" "$(seen)"
run 0 "script list" script list
says "script list" 'acme  off'
run 0 "script enable" script enable acme
run 0 "script list with those that come along" script list
says "script list with those that come along" 'build-network  off, comes with boxgate'
run 0 "script enable of one that comes along" script enable build-network
says "script enable of one that comes along: where" 'build-network is written to .*/plugins/build-network and on'
equal "it is taken" loaded "$(reload '' | jq -r '.plugins[] | select(.plugin == "build-network") | .result')"
run 1 "script enable of none" script enable nobody
rm -r "$PLUGINS/build-network"
reload '' >/dev/null
run 0 "script docs" "$GATEWAY" script docs --out "$WORK/reference"
says_file() { if grep -qE "$2" "$3"; then ok "$1"; else fail "$1: not in $3"; fi; }
says_file "the reference: hooks" 'on_upload_start' "$WORK/reference/reference.md"
says_file "the reference: definitions for editors" 'fn sha256' "$WORK/reference/fast/hash.d.rhai"

# --- pushed: one plugin for all nodes, by the rows ---
mkdir -p pushed/tests
printf 'fn route(req) { if req.path == "/pushed" { respond(200, "one") } }\n' >pushed/main.rhai
printf 'fn test_it() { t::eq(t::hook("route", t::req(#{ path: "/pushed" })).status, 200); }\n' >pushed/tests/main.rhai
plugin() { "$GATEWAY" admin plugin "$@" --url "$URL" --token "$ADMIN_TOKEN"; }
run 0 "plugin push" plugin push pushed
equal "a pushed plugin answers" one "$(curl -s "$URL/pushed")"
sed -i 's/"one"/"two"/' pushed/main.rhai
run 0 "plugin push of another version" plugin push pushed
equal "the other version answers" two "$(curl -s "$URL/pushed")"
printf 'fn route(req) { reqq }\n' >pushed/main.rhai
run 1 "plugin push of a broken one" plugin push pushed
says "plugin push of a broken one: what is wrong" 'main\.rhai:1:17: there is no variable reqq'
equal "it changes nothing" two "$(curl -s "$URL/pushed")"
run 0 "script rollback of a pushed one" "$GATEWAY" script rollback pushed --url "$URL" --token "$ADMIN_TOKEN"
equal "the version before answers, too" one "$(curl -s "$URL/pushed")"
run 0 "script disable of a pushed one" script disable pushed
reload '' >/dev/null
equal "it is off at this node" 404 "$(curl -s -o /dev/null -w '%{http_code}' "$URL/pushed")"
run 0 "script enable of a pushed one" script enable pushed
reload '' >/dev/null
equal "and on again" one "$(curl -s "$URL/pushed")"
run 0 "plugin list" plugin list
says "plugin list" 'pushed  [0-9a-f]{16}  by .* 1 to go back to'
run 2 "plugin remove asks, and nobody is there to answer" plugin remove pushed
says "plugin remove asks" '\-\-yes'
run 0 "plugin remove" plugin remove pushed --yes
equal "it is gone" 404 "$(curl -s -o /dev/null -w '%{http_code}' "$URL/pushed")"

# --- what the cache had to do with an answer ---
printf 'fn on_response(req, res) { #{ set: #{ "x-cache": res.cache } } }\n' >"$PLUGINS/seen.rhai"
reload '' >/dev/null
make_box plain.box
upload plain.box plain 1.0.0
equal "what the kernel sends is told as bypass" bypass "$(curl -s -o /dev/null -D - -H "Authorization: Bearer $CLIENT_SECRET" \
    "$(file_path plain 1.0.0)/download" | tr -d '\r' | sed -n 's/^x-cache: //p')"
rm "$PLUGINS/seen.rhai"

# --- events to outside: none is lost by a kill, each keeps its id ---
cat >receiver.py <<'PYTHON'
import http.server, os, sys
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        status = 200 if os.path.exists("open") else 503
        with open(f"told-{status}", "a") as told:
            told.write(body + "\n")
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
PYTHON
python3 receiver.py >port &
RECEIVER=$!
eventually 20 test -s port
mkdir -p "$PLUGINS/crier"
cat >"$PLUGINS/crier/plugin.toml" <<TOML
[hooks.on_event]
on_failure = "closed"
[http]
allow = ["http://127.0.0.1:$(cat port)/hook"]
TOML
cat >"$PLUGINS/crier/main.rhai" <<RHAI
fn on_event(e) {
    if e.name != "box.uploaded" { return; }
    let answer = http::post("http://127.0.0.1:$(cat port)/hook", #{ id: e.id, box: e.data.box, tags: e.data.tags });
    if !answer.ok { throw "nobody listens"; }
}
RHAI
equal "a plugin that asks outside is taken" loaded "$(reload '' | jq -r '.plugins[] | select(.plugin == "crier").result')"
make_box told.box
upload told.box told 1.0.0
eventually 30 test -s told-503 && ok "an event is told" || fail "no event came"
stop_gateway KILL
touch open
start_gateway
eventually 30 test -s told-200 && ok "and again after kill -9" || fail "the event was lost by kill -9"
equal "with its id" "$(head -n 1 told-503 | jq -c '[.id, .box]')" "$(head -n 1 told-200 | jq -c '[.id, .box]')"
# The box before it may have been told to this plugin, too.
eventually 30 grep -q '"box":"told"' told-200 || true
equal "with the tags of its answers" '["box/myorg/told"]' "$(grep -m 1 '"box":"told"' told-200 | jq -c .tags)"
sent() { "$GATEWAY" script run "$PLUGINS/crier" on_event --args event.json "$@" --data-dir "$DATA"; }
jq -n '{event: {name: "box.uploaded", id: "by-hand", data: {box: "x", tags: []}}}' >event.json
run 0 "script run --live" sent --live
equal "script run --live sends" by-hand "$(tail -n 1 told-200 | jq -r .id)"
run 1 "script run without it" sent
kill "$RECEIVER"
wait "$RECEIVER" 2>/dev/null || true
rm -r "$PLUGINS/crier"
reload '' >/dev/null

# --- what held the plugins is emptied, as by a mount that is gone: they stay until they are switched off ---
BEFORE=$(seen)
matches "a plugin answers" . "$BEFORE"
mkdir away
mv "$PLUGINS"/* away/
reload '' >/dev/null
equal "plugins whose directory was emptied stay in force" "$BEFORE" "$(seen)"
matches "they are told to be stale, and why" 'stale .*holds no plugin any more' \
    "$(curl -s "$URL/api/admin/scripts" -H "x-access-token: $ADMIN_TOKEN" | jq -r '.[] | select(.plugin == "acme") | .state + " " + .error' | head -n 1)"
matches "the log says it" 'holds no plugin any more' "$(grep -o 'holds no plugin any more' "$WORK/gateway.log" | head -n 1)"
run 0 "script list of one that is gone" script list
says "script list of one that is gone" 'acme  gone from'
run 0 "script disable of one that is gone" script disable acme
reload '' >/dev/null
equal "what is switched off is gone" "" "$(seen)"
mv away/* "$PLUGINS/"
run 0 "script enable of one that is back" script enable acme
reload '' >/dev/null
equal "it is back" "$BEFORE" "$(seen)"

# --- one that never ends costs itself ---
printf 'fn on_response(req, res) { loop {} }\n' >"$PLUGINS/hog.rhai"
reload '' >/dev/null
equal "a script that never ends: answers go out" 200 "$(curl -s -o /dev/null -w '%{http_code}' -m 20 "$URL/health")"
equal "a script that never ends: others answer" 200 "$(curl -s -o /dev/null -w '%{http_code}' -m 20 "$URL/api/auth/methods")"
matches "a script that never ends is counted" '[1-9]' "$(curl -s "$URL/metrics" | sed -n 's/^boxgate_script_calls_total{plugin="hog",hook="on_response",outcome="\(limit\|deadline\)"} //p' | tr '\n' ' ')"
finish
