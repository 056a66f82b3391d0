#!/usr/bin/env bash
# The adapters that come along, each against a mock of its cloud: from the check of a token to the end of a server, and what
# callers see of clouds that are busy, ill, slow, or make no sense.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

GOOD=good-token-0123456789
BAD=wrong-token-0123456789
python3 "$CLIENTS/clouds/serve.py" >port &
CLOUDS=$!
stop_clouds() {
    local code=$?
    kill "$CLOUDS" 2>/dev/null || true
    return "$code"
}
trap 'CODE=$?; stop_clouds; cleanup "$CODE"' EXIT
eventually 20 test -s port
MOCK=http://127.0.0.1:$(cat port)

for plugin in digitalocean hetzner linode; do
    succeeds "the tests of $plugin" "$GATEWAY" script test "$ROOT/plugins/$plugin"
    "$GATEWAY" script enable "$plugin" --data-dir "$DATA" >/dev/null
done
cat >boxgate.toml <<TOML
[providers]
allow_networks = ["127.0.0.0/8"]
[scripts.grants.digitalocean]
http = ["https://api.digitalocean.com/v2/"]
[scripts.grants.hetzner]
http = ["https://api.hetzner.cloud/v1/"]
[scripts.grants.linode]
http = ["https://api.linode.com/v4/"]
[scripts.settings.digitalocean]
api_base = "$MOCK"
[scripts.settings.hetzner]
api_base = "$MOCK/v1"
dollars_per_euro = 2.0
[scripts.settings.linode]
api_base = "$MOCK/v4"
TOML
start_gateway --config boxgate.toml

control() { curl -sS -o /dev/null -d "$2" "$MOCK/$1"; }
# calls PREFIX JQ: of the calls that this cloud got.
calls() { curl -sS "$MOCK/_calls" | jq -r ".$1 | $2"; }
# called NAME STATUS CURL-ARGUMENTS...: with good credentials.
called() {
    http -H "Auth-Access-Token: $GOOD" "${@:3}"
    equal "$1" "$2" "$STATUS"
}

KEY='{"id":"bob.app.live.acct","key":"ssh-rsa AAAAB3NzaC1yc2E bob@home"}'
SAME='{"id":"other","key":"ssh-rsa AAAAB3NzaC1yc2E other@home"}'

# cloud ADAPTER PREFIX REGION SIZE SIZES: the whole cycle.
cloud() {
    local adapter=$1 prefix=$2 region=$3 size=$4 sizes=$5 key ssh_key order id before lost
    local base=$URL/providers/$adapter
    order() { jq -cn --arg key "$ssh_key" "{name: \"$1\", region: \"$2\", size: \"$3\", ssh_key: \$key}"; }

    # --- credentials ---
    http -X POST "$base/verify"
    answers "$adapter: without credentials" 401 'Auth-Access-Token'
    equal "$adapter: nobody asked the cloud" 0 "$(calls "$prefix" length)"
    http -X POST -H "Auth-Access-Token: $BAD" "$base/verify"
    answers "$adapter: wrong credentials" 401 'Unable to authenticate you'
    before=$(calls "$prefix" length)
    http -H "Auth-Access-Token: $BAD" "$base/servers/1"
    answers "$adapter: wrong credentials once more" 401 'Unable to authenticate you'
    equal "$adapter: the cloud is not asked again" "$before" "$(calls "$prefix" length)"
    called "$adapter: good credentials" 200 -X POST "$base/verify"

    # --- catalogue ---
    called "$adapter: the catalogue" 200 "$base/catalog"
    equal "$adapter: its sizes, over pages" "$sizes" "$(jq '[.[].plans[].specs[]] | length' "$WORK/body")"
    equal "$adapter: numbers are numbers" true "$(jq '[.[].plans[].specs[] | (.ram, .cpu, .disk, .dollars_per_hr, .dollars_per_mo) | type == "number"] | all' "$WORK/body")"
    equal "$adapter: a size in it" 1 "$(jq "[.[] | select(.id == \"$region\").plans[].specs[] | select(.id == \"$size\")] | length" "$WORK/body")"
    http "$base/catalog"
    equal "$adapter: the catalogue for everybody" 200 "$STATUS"
    equal "$adapter: it has the size that it names" true "$(curl -sS "$base/meta" | jq --slurpfile all "$WORK/body" \
        '. as $m | [$all[0][] | select(.id == $m.default_region).plans[] | select(.id == $m.default_plan).specs[] | select(.id == $m.default_size)] | length == 1')"

    # --- keys ---
    called "$adapter: a key" 201 -d "$KEY" "$base/keys"
    key=$(field .id)
    called "$adapter: the same key by another name" 201 -d "$SAME" "$base/keys"
    equal "$adapter: it is kept once" "$key" "$(field .id)"
    called "$adapter: what is no key" 400 -d '{"id":"n","key":"PUBLIC KEY"}' "$base/keys"
    called "$adapter: a key's query" 201 "$base/keys/$key"
    equal "$adapter: its text" "$(jq -r .key <<<"$KEY")" "$(field .public_key)"
    called "$adapter: all keys" 200 "$base/keys"
    equal "$adapter: there is one" "$key" "$(jq -r '.[].id' <<<"$BODY")"

    # --- servers ---
    ssh_key=$key
    [[ $adapter != linode ]] || ssh_key='ssh-rsa AAAAB3NzaC1yc2E bob@home '
    called "$adapter: a size that is none" 422 -d "$(order one "$region" nothing)" "$base/servers"
    called "$adapter: a region that is none" 422 -d "$(order two nowhere "$size")" "$base/servers"
    called "$adapter: an order" 201 -H 'Content-Type:' -d "$(order web.1 "$region" "$size")" "$base/servers"
    id=$(field .id)
    called "$adapter: the same order" 201 -d "$(order web.1 "$region" "$size")" "$base/servers"
    equal "$adapter: it is made once" "$id" "$(field .id)"
    called "$adapter: the server at first" 201 "$base/servers/$id"
    equal "$adapter: it is on its way" creating "$(field .status)"
    is_active() {
        http -H "Auth-Access-Token: $GOOD" "$base/servers/$id"
        [[ $(field .status) == active ]]
    }
    eventually 30 is_active
    differs "$adapter: it has an address" null "$(field .internal_ip)"
    called "$adapter: all servers" 200 "$base/servers"
    equal "$adapter: it is among them" "$id" "$(jq -r '.[].id' <<<"$BODY")"
    called "$adapter: a reboot" 200 -X PATCH "$base/servers/$id/reboot"
    called "$adapter: another name" 200 -X PATCH -d '{"name":"web.2"}' "$base/servers/$id/rename"
    called "$adapter: the server by its name" 201 "$base/servers/$id"
    equal "$adapter: it is renamed" web.2 "$(field .name)"
    for odd in abc 99999999 1::2; do
        called "$adapter: a server that is none, $odd" 404 "$base/servers/$odd"
    done
    called "$adapter: a path that is none" 400 "$base/servers/..%2Faccount"
    matches "$adapter: in the callers' shape" '^\{"errors":\[".*"\]\}$' "$BODY"

    # --- what is none of ours ---
    control _tag "{\"cloud\":\"$prefix\",\"server\":$id,\"value\":\"false\"}"
    called "$adapter: it is hidden" 404 "$base/servers/$id"
    called "$adapter: it cannot be given up" 404 -X DELETE "$base/servers/$id"
    called "$adapter: it cannot be rebooted" 404 -X PATCH "$base/servers/$id/reboot"
    called "$adapter: it cannot be renamed" 404 -X PATCH -d '{"name":"x"}' "$base/servers/$id/rename"
    control _tag "{\"cloud\":\"$prefix\",\"server\":$id,\"value\":\"true\"}"

    # --- a cloud in every mood ---
    while read -r mood status text; do
        control _mood "{\"cloud\":\"$prefix\",\"mood\":\"$mood\"}"
        http -H "Auth-Access-Token: $GOOD" "$base/servers/$id"
        answers "$adapter: the cloud is $mood" "$status" "$text"
        matches "$adapter: in the callers' shape" '^\{"errors":\[".*"\]\}$' "$BODY"
        case $mood in
            busy) matches "$adapter: it says when to come again" '^[0-9]+$' "$(header retry-after)" ;;
            told) equal "$adapter: no token in an answer" 0 "$(grep -cF -e "$GOOD" <<<"$BODY" || true)" ;;
        esac
    done <<<'busy 503 Too many requests
ill 500 unable to give
odd 502 made no sense
page 502 made no sense
cut 502 made no sense
told 403 \*\*\* may not'
    control _mood "{\"cloud\":\"$prefix\",\"mood\":\"busy\"}"
    called "$adapter: a catalogue is served while the cloud is busy" 200 "$base/catalog"
    control _mood "{\"cloud\":\"$prefix\",\"mood\":\"\"}"

    # --- an order whose answer is lost ---
    posts() { calls "$prefix" "[.[] | select(.method == \"POST\" and (.body.name // .body.label) == \"$1\")] | length"; }
    control _mood "{\"cloud\":\"$prefix\",\"mood\":\"taken\"}"
    called "$adapter: an order whose answer is lost" 502 -d "$(order lost.1 "$region" "$size")" "$base/servers"
    called "$adapter: the same once more" 201 -d "$(order lost.1 "$region" "$size")" "$base/servers"
    equal "$adapter: the cloud was asked for one" 1 "$(posts lost.1)"
    called "$adapter: it is that one" 201 "$base/servers/$(field .id)"
    equal "$adapter: by its name" lost.1 "$(field .name)"
    lost=$(field .id)
    control _mood "{\"cloud\":\"$prefix\",\"mood\":\"\"}"
    called "$adapter: its end" 200 -X DELETE "$base/servers/$lost"

    # --- the end ---
    called "$adapter: the server's end" 200 -X DELETE "$base/servers/$id"
    called "$adapter: it is gone" 404 "$base/servers/$id"
    called "$adapter: the key's end" 200 -X DELETE "$base/keys/$key"
    called "$adapter: it is gone, too" 404 "$base/keys/$key"

    # --- its document ---
    curl -sS "$base/openapi.json" >"$adapter.json"
    succeeds "$adapter: its document is valid" "$TOOLS/api/bin/python3" -m openapi_spec_validator "$adapter.json"
    curl -sS "$base/swagger.json" >"$adapter.swagger.json"
    succeeds "$adapter: its other document is valid" "$TOOLS/api/bin/python3" -m openapi_spec_validator "$adapter.swagger.json"
    succeeds "$adapter: schemathesis finds nothing" timeout 60 "$TOOLS/api/bin/schemathesis" run "$base/openapi.json" \
        -H "Auth-Access-Token: $GOOD" --max-examples 10 --seed 1 --workers 1 --phases examples,fuzzing \
        --checks not_a_server_error,content_type_conformance,response_schema_conformance
}

cloud do v2 nyc3 s-1vcpu-1gb 151
cloud hetzner v1 fsn1 cx23 110
cloud linode v4 us-east g6-nanode-1 520

# --- a cloud that takes for ever holds nobody else back ---
control _mood '{"cloud":"v1","mood":"held"}'
for n in {1..20}; do
    curl -sS --max-time 100 -H "Auth-Access-Token: $GOOD" "$URL/providers/hetzner/servers/1" >"held.$n" &
    HELD+=($!)
done
all_ask() { (($(calls v1 '[.[] | select(.path == "servers/1")] | length') >= 20)); }
eventually 20 all_ask
for n in {1..64}; do
    curl -sS --max-time 60 -o /dev/null -w '%{http_code}\n' -H "Auth-Access-Token: $GOOD" "$URL/providers/do/servers/$n" >"others.$n" &
    OTHERS+=($!)
done
for pid in "${OTHERS[@]}"; do wait "$pid" || fail "a call of another cloud broke"; done
equal "64 callers of another cloud are answered meanwhile" "64 404" "$(cat others.* | sort | uniq -c | xargs)"
equal "nobody of those that are held" 0 "$(cat held.* | wc -c)"
control _mood '{"cloud":"v1","mood":""}'
control _release '{"cloud":"v1"}'
for pid in "${HELD[@]}"; do wait "$pid" || fail "a call that was held broke"; done
equal "they are answered once their cloud does" '{"errors":["There is no server '"'1'"'."]}' "$(cat held.* | sed 's/}{/}\n{/g' | sort -u)"

# --- a kill in the middle of an order ---
ORDER='{"name":"killed.1","region":"nyc3","size":"s-1vcpu-1gb","ssh_key":"KEY"}'
posted() { (($(calls v2 '[.[] | select(.body.name == "killed.1")] | length') == 1)); }
http -H "Auth-Access-Token: $GOOD" -d "$KEY" "$URL/providers/do/keys"
ORDER=${ORDER/KEY/$(field .id)}
control _mood '{"cloud":"v2","mood":"keeps"}'
curl -sS --max-time 100 -H "Auth-Access-Token: $GOOD" -d "$ORDER" "$URL/providers/do/servers" >killed 2>/dev/null &
eventually 20 posted
stop_gateway KILL
control _mood '{"cloud":"v2","mood":""}'
start_gateway --config boxgate.toml
called "an order that a kill cut off" 201 -d "$ORDER" "$URL/providers/do/servers"
equal "is not made twice" 1 "$(calls v2 '[.[] | select(.body.name == "killed.1")] | length')"
called "its server" 201 "$URL/providers/do/servers/$(field .id)"
equal "is that of the first" killed.1 "$(field .name)"

# --- what was told to whom ---
equal "keys and orders carry what clouds want" '"Nanobox:true"' "$(calls v2 '[.[] | select(.method == "POST" and .path == "droplets")][0].body.tags[0] | tojson')"
stop_gateway
for secret in "$GOOD" "$BAD" "$(calls v4 '[.[].body.root_pass // empty][0]')"; do
    equal "no secret is in the log" 0 "$(grep -cF -e "$secret" "$WORK/gateway.log" || true)"
done
matches "why a cloud made no sense is" '"a script failed".*"hook":"get_server"' "$(grep -F '"a script failed"' "$WORK/gateway.log")"

finish
