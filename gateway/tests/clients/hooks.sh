#!/usr/bin/env bash
# Webhooks come in for the plugins of plugins/: signed by openssl as GitHub and GitLab and a CI send them, forged, stale,
# too long, sent twice, and while the gateway is killed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

PLUGINS=$DATA/plugins
mkdir -p "$PLUGINS"
openssl rand -base64 32 >github.secret
openssl rand -base64 32 >gitlab.secret
printf 'whsec_%s\n' "$(openssl rand -base64 24)" >ci.secret
for plugin in ci-github ci-gitlab ci-generic; do
    cp -r "$ROOT/plugins/$plugin" "$PLUGINS/"
    sed -i 's|:acme/|:myorg/|g' "$PLUGINS/$plugin/plugin.toml"
done

# One that hands on what comes to a server of ours, and is thus cut where we want it.
cat >receiver.py <<'PYTHON'
import http.server, os, time
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with open("arrived", "a") as arrived:
            arrived.write(body + "\n")
        while not os.path.exists("open"):
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
PYTHON
python3 receiver.py >port 2>/dev/null &
RECEIVER=$!
eventually 20 test -s port
mkdir "$PLUGINS/relay"
cat >"$PLUGINS/relay/plugin.toml" <<TOML
[webhook_in.ci]
verify = "github"
secret = "CI_GITHUB_SECRET"
mode = "async"
[http]
allow = ["http://127.0.0.1:$(cat port)/"]
TOML
cat >"$PLUGINS/relay/main.rhai" <<RHAI
fn webhook_in(req) {
    if !http::post("http://127.0.0.1:$(cat port)/", req.body).ok { throw "nobody took it"; }
}
RHAI

cat >boxgate.toml <<TOML
[scripts]
check_every = "0s"
test = false
allow_networks = ["127.0.0.0/8"]
[scripts.grants.ci-github]
secrets = ["CI_GITHUB_SECRET"]
catalog = ["release:myorg/*"]
[scripts.grants.ci-gitlab]
secrets = ["CI_GITLAB_SECRET"]
catalog = ["release:myorg/*"]
[scripts.grants.ci-generic]
secrets = ["CI_SECRET"]
catalog = ["release:myorg/*", "revoke:myorg/*"]
[scripts.grants.relay]
secrets = ["CI_GITHUB_SECRET"]
http = ["http://127.0.0.1:$(cat port)/"]
[scripts.secrets]
CI_GITHUB_SECRET = "$WORK/github.secret"
CI_GITLAB_SECRET = "$WORK/gitlab.secret"
CI_SECRET = "$WORK/ci.secret"
[scripts.settings.ci-github]
boxes = [["acme/web-image", "myorg", "web"]]
[scripts.settings.ci-gitlab]
boxes = [["acme/web-image", "myorg", "web"]]
[hooks]
pauses = ["100ms", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1h"]
TOML
start_gateway --config boxgate.toml

hmac() { openssl dgst -sha256 -hmac "$1" -r | cut -d' ' -f1; }
listed() { curl -sS -H "Authorization: Bearer $CLIENT_SECRET" -H 'Accept: application/json' "$URL/api/v2/vagrant/$ORG/web" |
    jq -r '[.versions[].version] | sort | join(" ")'; }
is_listed() { [[ " $(listed) " == *" $1 "* ]]; }
# counted PLUGIN RESULT: deliveries for its hook `release`.
counted() { curl -s "$URL/metrics" | sed -n "s/^boxgate_webhook_in_total{plugin=\"$1\",hook=\"release\",result=\"$2\"} //p"; }
became() { (($(counted "$1" "$2") >= $3)); }

# github HOOK ID BODY-FILE [CURL-ARGUMENTS...]: as GitHub sends it, of the type $KIND.
github() {
    http -X POST "$URL/hooks/$1" -H 'User-Agent: GitHub-Hookshot/044aadd' -H "Content-Type: ${KIND:-application/json}" -H 'X-GitHub-Event: release' \
        -H "X-GitHub-Delivery: $2" -H "X-Hub-Signature-256: sha256=$(hmac "$(<github.secret)" <"$3")" --data-binary "@$3" "${@:4}"
}
release() {
    jq -nc --arg tag "$1" '{action: "published", release: {tag_name: $tag, prerelease: false, body: "née 🎉 \u0001"},
        repository: {full_name: "acme/web-image"}}'
}
generic() { jq -nc --arg org "$ORG" --arg version "$1" --arg state "$2" '{organization: $org, box: "web", version: $version, state: $state}'; }
# ci ID BODY: as the README of ci-generic does it.
ci() {
    http -X POST "$URL/hooks/ci-generic/release" -H 'Content-Type: application/json' -H "X-Delivery-Id: $1" \
        -H "X-Signature-256: sha256=$(printf %s "$2" | hmac "$(<ci.secret)")" -d "$2"
}

# --- a CI, which is answered at once ---
make_box web.box
upload web.box web 1.0.0
ci 1 "$(generic 1.0.0 revoked)"
answers "a CI revokes" 200 '"changed":true'
equal "it is listed no more" "" "$(listed)"
ci 2 "$(generic 1.0.0 released)"
answers "a CI releases" 200 '"changed":true'
equal "it is listed" 1.0.0 "$(listed)"
ci 1 "$(generic 1.0.0 revoked)"
answers "a repeat is not run" 200 '"repeat"'
equal "and nothing changed" 1.0.0 "$(listed)"
ci 3 "$(generic 9.9.9 released)"
answers "what is not there is said" 409 '9.9.9'
ci 3 "$(generic 1.0.0 released)"
answers "and the same delivery may come again" 200 '"changed":false'
BODY_SENT=$(generic 1.0.0 revoked)
http -X POST "$URL/hooks/ci-generic/release" -H 'Content-Type: application/json' -d "$BODY_SENT"
answers "unsigned" 401 'x-signature-256 is missing'
http -X POST "$URL/hooks/ci-generic/release" -H 'Content-Type: application/json' -d "$BODY_SENT" \
    -H "X-Signature-256: $(printf %s "$BODY_SENT" | hmac wrong)"
answers "signed with another secret" 403 'WRONG_SIGNATURE'

# standard ID TIME BODY: as a library of Standard Webhooks sends it.
standard() {
    local key tag
    key=$(sed 's/^whsec_//' ci.secret | base64 -d | od -An -vtx1 | tr -d ' \n')
    tag=$(printf '%s.%s.%s' "$1" "$2" "$3" | openssl dgst -sha256 -mac hmac -macopt "hexkey:$key" -binary | base64)
    http -X POST "$URL/hooks/ci-generic/standard" -H 'Content-Type: application/json' -H "webhook-id: $1" -H "webhook-timestamp: $2" \
        -H "webhook-signature: v1a,AAAA v1,$tag" -d "$3"
}
standard msg_1 "$(($(date +%s) - 400))" "$BODY_SENT"
answers "signed too long ago" 403 'STALE_SIGNATURE'
standard msg_1 "$(($(date +%s) + 400))" "$BODY_SENT"
answers "signed for later" 403 'STALE_SIGNATURE'
standard msg_1 "$(date +%s)" "$BODY_SENT"
answers "signed just now" 200 '"changed":true'
standard msg_1 "$(date +%s)" "$BODY_SENT"
answers "and sent twice" 200 '"repeat"'
equal "it is listed no more" "" "$(listed)"

# --- GitHub ---
release v1.0.0 >body.json
github ci-github/release 72d3162e-cc78-11e3-81ab-4c9367dc0958 body.json
answers "GitHub is told that it is kept" 202 '"queued"'
eventually 30 is_listed 1.0.0 && ok "and the version is released" || fail "the version is not released: $(listed)"
ci 4 "$(generic 1.0.0 revoked)"
github ci-github/release 72d3162e-cc78-11e3-81ab-4c9367dc0958 body.json
answers "GitHub redelivers" 200 '"repeat"'
equal "which is not run" "" "$(listed)"
{ printf payload=; jq -rn --arg body "$(<body.json)" '$body | @uri'; } | tr -d '\n' >form
KIND=application/x-www-form-urlencoded github ci-github/release form-1 form
answers "GitHub sends a form" 202 '"queued"'
eventually 30 is_listed 1.0.0 && ok "and the version is released" || fail "the version is not released: $(listed)"
release v1.0.1 >body.json
http -X POST "$URL/hooks/ci-github/release" -H 'Content-Type: application/json' -H 'X-GitHub-Event: release' -H 'X-GitHub-Delivery: x' \
    -H "X-Hub-Signature-256: sha256=$(hmac "$(<github.secret)" <form)" --data-binary @body.json
answers "the signature of another body" 403 'WRONG_SIGNATURE'
refused() { grep -c '"a webhook is refused"' gateway.log || true; }
matches "refusals are logged" '[1-9]' "$(refused)"
equal "and counted" 1 "$(counted ci-github refused)"

# A release that comes before its box waits for it.
github ci-github/release early body.json
answers "a release without its box yet" 202
eventually 30 became ci-github failed 1 && ok "fails" || fail "it did not fail"
DONE=$(counted ci-github done)
upload web.box web 1.0.1
eventually 60 became ci-github done $((DONE + 1)) && ok "and is tried again until it is there" || fail "1.0.1 is not released"

# --- GitLab ---
# gitlab ID BODY [TOKEN]: as GitLab sends it.
gitlab() {
    http -X POST "$URL/hooks/ci-gitlab/release" -H 'Content-Type: application/json' -H 'User-Agent: GitLab/17.5.0' \
        -H 'X-Gitlab-Event: Release Hook' -H "X-Gitlab-Token: ${3-$(<gitlab.secret)}" -H "Idempotency-Key: $1" -d "$2"
}
RELEASE='{"object_kind":"release","action":"create","tag":"1.0.2","project":{"path_with_namespace":"acme/web-image"}}'
upload web.box web 1.0.2
ci 5 "$(generic 1.0.2 revoked)"
gitlab g-1 "$RELEASE" wrong
answers "GitLab with another token" 403 'WRONG_SIGNATURE'
gitlab g-1 "$RELEASE"
answers "GitLab" 202 '"queued"'
eventually 30 is_listed 1.0.2 && ok "and the version is released" || fail "1.0.2 is not released: $(listed)"
gitlab g-1 "$RELEASE"
answers "GitLab tries again" 200 '"repeat"'
equal "no log has a secret" 0 "$(grep -cFf github.secret -f gitlab.secret -f ci.secret gateway.log || true)"

# --- what cannot be ---
github ci-github/nothing 1 body.json
answers "no such hook" 404 'webhook_in.nothing'
github nobody/release 1 body.json
answers "no such plugin" 404
http "$URL/hooks/ci-github/release"
answers "GET" 405
head -c $((1024 * 1024 + 1)) /dev/zero >large
github ci-github/release large large
answers "too long" 413 'hooks.body'
github ci-github/release chunked large -H 'Transfer-Encoding: chunked'
answers "too long, and nobody said how long" 413 'hooks.body'
gzip -k body.json
github ci-github/release packed body.json.gz -H 'Content-Encoding: gzip'
answers "packed" 415 'content coding'
KIND=image/png github ci-github/release image body.json
answers "an image" 415 'application/json'

# --- the gateway dies while a script is at it ---
twice() { (($(grep -c "$1" arrived) >= 2)); }
printf '{"cut":1}' >cut.json
github relay/ci cut-1 cut.json
answers "kept" 202
eventually 30 test -s arrived && ok "its script is at it" || fail "its script was not run"
stop_gateway KILL
touch open
start_gateway --config boxgate.toml
eventually 30 twice cut && ok "after kill -9 it is run again" || fail "it was lost by kill -9"
github relay/ci cut-1 cut.json
answers "and still known" 200 '"repeat"'
# At a stop, what runs is let end or is run again.
rm open arrived
printf '{"stopped":1}' >stopped.json
github relay/ci stop-1 stopped.json
answers "kept" 202
eventually 30 test -s arrived && ok "its script is at it" || fail "its script was not run"
stop_gateway
touch open
start_gateway --config boxgate.toml
eventually 30 twice stopped && ok "after a stop it is run again" || fail "it was lost by a stop"
kill "$RECEIVER"
wait "$RECEIVER" 2>/dev/null || true

# --- how one begins ---
run 0 "script new --webhook" "$GATEWAY" script new "$WORK/my-hook" --webhook
run 0 "script check" "$GATEWAY" script check "$WORK/my-hook"
says "script check: what to grant" 'secrets = \["MY_HOOK_CI"\]'
run 0 "script test" "$GATEWAY" script test "$WORK/my-hook"
says "script test: counts" '2 passed, 0 failed'
sed -i 's/"github"/"githib"/' my-hook/plugin.toml
run 1 "script check of another kind of signature" "$GATEWAY" script check "$WORK/my-hook"
says "script check: which there are" 'github.*gitlab.*standard.*hmac.*token.*none'
printf 'fn webhook_in(req) {}\n' >alone.rhai
run 1 "script check of a function that nothing calls" "$GATEWAY" script check alone.rhai
says "script check: the lines to add" '\[webhook_in\.ci\] verify'
finish
