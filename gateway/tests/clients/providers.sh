#!/usr/bin/env bash
# Nanobox's adapter API as its public caller asks for it, with the published page's own examples, against the plugin that
# serves them; its documents by a validator and by schemathesis, which calls all that they describe.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

"$GATEWAY" script enable example --data-dir "$DATA" >/dev/null
cat >boxgate.toml <<'TOML'
[scripts.settings.example]
active_after = 1
TOML
start_gateway --config boxgate.toml
BASE=$URL/providers/do
AUTH=(-H 'Auth-Access-Token: 123abc')
# The page's example of that number, as it stands there, but for order and blanks.
page() { jq -cS . <<<"$1"; }
said() { jq -cS . <<<"$BODY" 2>/dev/null || printf '%s' "$BODY"; }
# called NAME STATUS DOCUMENT CURL-ARGUMENTS...
called() {
    http "${@:4}"
    equal "$1" "$2 $(page "$3")" "$STATUS $(said)"
}
# empty NAME STATUS CURL-ARGUMENTS...
empty() {
    http "${@:3}"
    equal "$1" "$2 0" "$STATUS $(size "$WORK/body")"
}

# --- the page's examples ---
called "metadata" 200 '{
  "id": "do", "name": "Digital Ocean", "server_nick_name": "Droplet", "default_region": "sfo1", "default_size": "512mb",
  "default_plan": "standard", "can_reboot": true, "can_rename": true, "internal_iface": "eth1", "external_iface": "eth0",
  "ssh_user": "root", "ssh_auth_method": "key", "ssh_key_method": "reference",
  "bootstrap_script": "https://s3.amazonaws.com/tools.nanobox.io/bootstrap/ubuntu.sh",
  "credential_fields": [ { "key": "access-token", "label": "Access Token" } ],
  "instructions": "<a href='"'"'//cloud.digitalocean.com/settings/api/tokens'"'"' target='"'"'_blank'"'"'>Create a Personal Access Token</a> in your Digital Ocean Account that has read/write access, then add the token here or view the <a href='"'"'//www.digitalocean.com/community/tutorials/how-to-use-the-digitalocean-api-v2#how-to-generate-a-personal-access-token'"'"' target='"'"'_blank'"'"'>full guide</a>"
}' "$BASE/meta"
called "the catalogue" 200 '[ { "id": "sfo1", "name": "San Francisco 1", "plans": [ { "id": "standard", "name": "Standard Configuration",
  "specs": [
    {"id": "512mb", "ram": 512, "cpu": 1, "disk": 20, "transfer": 1.0, "dollars_per_hr": 0.00744, "dollars_per_mo": 5.0},
    {"id": "1gb", "ram": 1024, "cpu": 1, "disk": 30, "transfer": 2.0, "dollars_per_hr": 0.01488, "dollars_per_mo": 10.0}
  ] } ] } ]' "$BASE/catalog"
empty "good credentials" 200 -X POST "${AUTH[@]}" "$BASE/verify"
called "bad ones" 401 '{ "errors": [ "Invalid Access Token" ] }' -X POST -H 'Auth-Access-Token: invalid' "$BASE/verify"
KEY='{ "id": "nanobox-provider-account-ID", "key": "CONTENTS OF PUBLIC KEY" }'
called "a key" 201 '{ "id": "provider-key-ID" }' "${AUTH[@]}" -d "$KEY" "$BASE/keys"
called "the same key once more" 201 '{ "id": "provider-key-ID" }' "${AUTH[@]}" -d "$KEY" "$BASE/keys"
called "a key's query" 201 '{ "id": "provider-key-ID", "name": "nanobox-provider-account-ID", "public_key": "CONTENTS OF PUBLIC KEY" }' \
    "${AUTH[@]}" "$BASE/keys/provider-key-ID"
empty "a key's end" 200 -X DELETE "${AUTH[@]}" "$BASE/keys/provider-key-ID"
http "${AUTH[@]}" "$BASE/keys/provider-key-ID"
answers "it is gone" 404 '"errors":'
ORDER='{ "name": "nanobox.io-cool-app-do.1.1", "region": "sfo1", "size": "a1", "ssh_key": "12345" }'
# The public caller sends a body without a type.
called "an order" 201 '{ "id": "provider-server-ID" }' "${AUTH[@]}" -H 'Content-Type:' -d "$ORDER" "$BASE/servers"
is_active() {
    http "${AUTH[@]}" "$BASE/servers/provider-server-ID"
    [[ $(field .status) == active ]]
}
eventually 30 is_active
called "a server that is ready" 201 '{ "id": "provider-server-ID", "status": "active", "name": "nanobox.io-cool-app-do.1.1",
  "external_ip": "192.0.2.15", "internal_ip": "192.168.0.15" }' "${AUTH[@]}" "$BASE/servers/provider-server-ID"
empty "another name" 200 -X PATCH "${AUTH[@]}" -d '{ "name": "nanobox.io-cool-app-do.1.1" }' "$BASE/servers/provider-server-ID/rename"
empty "a reboot" 200 -X PATCH "${AUTH[@]}" "$BASE/servers/provider-server-ID/reboot"
empty "its end" 200 -X DELETE "${AUTH[@]}" "$BASE/servers/provider-server-ID"
http "${AUTH[@]}" "$BASE/servers/provider-server-ID"
answers "it is gone, too" 404 '"errors":'

# --- credentials in any spelling, and none ---
for field in auth-access-token AUTH_ACCESS_TOKEN Auth_Access-Token; do
    empty "credentials as $field" 200 -X POST -H "$field: 123abc" "$BASE/verify"
done
called "an empty field is none" 401 '{ "errors": [ "Credentials are missing: Auth-Access-Token." ] }' -X POST -H 'Auth-Access-Token;' "$BASE/verify"

# --- many callers, one order ---
for n in {1..64}; do
    curl -sS --max-time 60 "${AUTH[@]}" -d '{"name":"one","region":"sfo1","size":"a1","ssh_key":"1"}' "$BASE/servers" >"order.$n" &
    ORDERS+=($!)
done
for pid in "${ORDERS[@]}"; do wait "$pid" || fail "an order broke"; done
equal "64 callers that order the same get one server" '{"id":"provider-server-ID-2"}' "$(cat order.* | sed 's/}{/}\n{/g' | sort -u)"

# --- documents ---
http "$BASE/openapi.json"
cp "$WORK/body" openapi.json
http "$BASE/swagger.json"
cp "$WORK/body" swagger.json
for document in openapi swagger; do
    succeeds "$document.json is valid" "$TOOLS/api/bin/python3" -m openapi_spec_validator "$document.json"
done
equal "Swagger tells where it is" "2.0 /providers/do Auth-Access-Token" \
    "$(jq -r '"\(.swagger) \(.basePath) \(.securityDefinitions | keys[0])"' swagger.json)"
equal "what it cannot do is left out" null "$(jq -r '.paths["/servers/{id}/keys"]' openapi.json)"
succeeds "schemathesis finds nothing" timeout 100 "$TOOLS/api/bin/schemathesis" run "$BASE/openapi.json" \
    -H 'Auth-Access-Token: 123abc' --max-examples 25 --seed 1 --workers 1 --phases examples,fuzzing \
    --checks not_a_server_error,content_type_conformance,response_schema_conformance

# --- what no log holds ---
stop_gateway
equal "no credential is in the log" 0 "$(grep -c 123abc "$WORK/gateway.log" || true)"

finish
