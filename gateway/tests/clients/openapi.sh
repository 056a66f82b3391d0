#!/usr/bin/env bash
# The document of all doors: valid, true to what is answered, as a page that runs nothing; and a generator of odd requests
# that only reads finds no failure of ours.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

start_gateway
make_box web.box
upload web.box web 1.0.0
equal "a box is there" "$(sha256 web.box)" "$(stored_sha256 web 1.0.0)"

http "$URL/openapi.json"
answers "the document" 200 '"openapi":"3\.1\.0"'
cp body openapi.json
succeeds "it is valid" "$TOOLS/api/bin/python3" -m openapi_spec_validator openapi.json
equal "it says where it is" "$URL" "$(jq -r '.servers[0].url' openapi.json)"
equal "each operation has an id of its own" 0 \
    "$(jq '[.paths[][] | objects | .operationId // empty] | length - (unique | length)' openapi.json)"
for door in boxvault vagrant vagrant_cloud files blobs hooks providers runtime operations admin; do
    differs "the door $door is in it" 0 "$(jq --arg door "$door" '[.paths[][] | objects | select(.tags? == [$door])] | length' openapi.json)"
done
equal "one that is closed is not" 0 "$(jq '[.paths[][] | objects | select(.tags? == ["boxitory"])] | length' openapi.json)"
http -X POST "$URL/openapi.json"
answers "nobody writes to it" 405

http "$URL/openapi"
answers "the page" 200
matches "it is one" 'text/html' "$(header content-type)"
matches "nothing runs in it and nothing is fetched for it" "default-src 'none'; style-src 'sha256-" "$(header content-security-policy)"
equal "it has no script" 0 "$(grep -ciE '<script|javascript:|https?://' body || true)"
equal "it has all that the document has" "$(jq '[.paths[] | keys[] | select(. != "parameters")] | length' openapi.json)" \
    "$(grep -c '^<tr>' body)"

# What it reads is bounded by examples and by time. Adapters have documents of their own.
read_only() {
    timeout 60 "$TOOLS/api/bin/schemathesis" run "$URL/openapi.json" --include-method GET --exclude-path-regex '^/providers/' \
        --max-examples 2 --workers 1 --phases examples,fuzzing --max-failures 20 --request-timeout 20 --max-time 15 \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
        --continue-on-failure --generation-deterministic "$@"
}
succeeds "odd reads by nobody meet no failure" read_only
succeeds "nor do those of an administrator" read_only -H "Authorization: Bearer $ADMIN_TOKEN"
equal "the gateway is well" ok "$(curl -sS "$URL/livez" | jq -r .status)"

finish
