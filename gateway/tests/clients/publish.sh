#!/usr/bin/env bash
# Publishing as to Vagrant Cloud: Debian's Vagrant with all of `vagrant cloud`, Packer's vagrant-cloud, and the lines of
# Vagrant 2.4, which is not in Debian, by curl.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export BOXGATE_UPLOADS__MAX_LENGTH=64MiB BOXGATE_LIMITS__JSON_BODY=64KiB
start_gateway
export VAGRANT_SERVER_URL=$URL

make_box "$WORK/one.box" 1500
make_box "$WORK/two.box" 1500
make_box "$WORK/gzip.box" 700 -z
make_box "$WORK/large.box" 80000

# cloud ARGUMENTS...: as the service account.
cloud() {
    VAGRANT_CLOUD_TOKEN=$CLIENT_SECRET vagrant cloud "$@"
}

# installed NAME VERSION FILE: adds that version, whose disk must be the file's.
installed() {
    succeeds "box add $1 $2" env VAGRANT_CLOUD_TOKEN="$CLIENT_SECRET" vagrant box add "$1" --box-version "$2"
    equal "the disk of $1 $2" "$(box_disk "$3")" "$(vagrant_disk "$1" "$2")"
}

# ask NAME STATUS METHOD PATH [JSON]: one call as a client makes it, with the service account's key.
ask() {
    local name=$1 status=$2 method=$3 path=$4 data=()
    if (($# > 4)); then
        data=(-d "$5")
    elif [[ $method != GET ]]; then
        data=(-H 'Content-Length: 0')
    fi
    at -X "$method" -H 'Accept: application/json' -H 'Content-Type: application/json' "${data[@]}" "$URL/api$path"
    answers "$name" "$status"
}

# put NAME STATUS FILE URL: as curl is called by Vagrant.
put() {
    http --request PUT --upload-file "$3" "$4"
    answers "$1" "$2"
}

# --- signing in ---
refuses "whoami without a token" 'logged|Unauthorized|password|TTY' vagrant cloud auth whoami </dev/null
matches "whoami by the service account's key" "$CLIENT_ID" "$(cloud auth whoami 2>&1)"
refuses "a wrong token" '.' vagrant cloud auth login --token "${CLIENT_SECRET//[0-9]/0}"
succeeds "login by a token" vagrant cloud auth login --token "$ADMIN_TOKEN"
matches "whoami by what was stored" "$ADMIN" "$(vagrant cloud auth whoami 2>&1)"
succeeds "logout" vagrant cloud auth logout
# A password is asked for on a terminal alone.
printf '%s\n' "$ADMIN_PASSWORD" |
    script -qec "vagrant cloud auth login --username '$ADMIN' --description suite" /dev/null >"$WORK/login" 2>&1 || true
matches "login by name and password" 'logged in' "$(cat "$WORK/login")"
matches "whoami by the token that was made" "$ADMIN" "$(vagrant cloud auth whoami 2>&1)"
succeeds "login --check" vagrant cloud auth login --check
succeeds "logout again" vagrant cloud auth logout

# --- publish: a box that was not there, then more of it ---
succeeds "publish --force --release" cloud publish --force --release --short-description short --description 'long *text*' \
    --version-description 'first' --checksum "$(sha256 "$WORK/one.box")" --checksum-type sha256 \
    myorg/demo 1.0.0 virtualbox "$WORK/one.box"
matches "publish tells what it made" 'myorg/demo' "$(cat "$WORK/out")"
installed myorg/demo 1.0.0 "$WORK/one.box"
token=(env VAGRANT_CLOUD_TOKEN="$CLIENT_SECRET")
matches "box outdated: up to date" 'up to date' "$("${token[@]}" vagrant box outdated --global 2>&1)"
succeeds "publish without --release" cloud publish --force --no-direct-upload myorg/demo 1.1.0 virtualbox "$WORK/two.box"
matches "box outdated: what is not released is not there" 'up to date' "$("${token[@]}" vagrant box outdated --global 2>&1)"
refuses "nor added" 'version|no matching' "${token[@]}" vagrant box add myorg/demo --box-version 1.1.0
succeeds "publish it again, released" cloud publish --force --release myorg/demo 1.1.0 virtualbox "$WORK/two.box"
matches "box outdated: sees it" 'outdated.*1\.1\.0' "$("${token[@]}" vagrant box outdated --global 2>&1)"
succeeds "box update" "${token[@]}" vagrant box update --box myorg/demo --provider virtualbox
equal "the updated disk" "$(box_disk "$WORK/two.box")" "$(vagrant_disk myorg/demo 1.1.0)"
vagrant box remove myorg/demo --all --force >/dev/null 2>&1 || true

# A released version is replaced as a whole, its checksum with it; with a wrong one nothing is.
succeeds "publish other bytes to a released version" cloud publish --force --release \
    --checksum "$(sha256 "$WORK/one.box")" --checksum-type sha256 myorg/demo 1.1.0 virtualbox "$WORK/one.box"
installed myorg/demo 1.1.0 "$WORK/one.box"
refuses "publish with a wrong checksum" '422|error|Failed' cloud publish --force --release \
    --checksum "$(sha256 "$WORK/one.box")" --checksum-type sha256 myorg/demo 1.1.0 virtualbox "$WORK/two.box"
vagrant box remove myorg/demo --all --force >/dev/null 2>&1 || true
installed myorg/demo 1.1.0 "$WORK/one.box"
refuses "publish more than fits" '413|error|Failed' cloud publish --force --release myorg/demo 1.2.0 virtualbox "$WORK/large.box"
vagrant box remove myorg/demo --all --force >/dev/null 2>&1 || true
refuses "publish as nobody" '.' timeout 60 vagrant cloud publish --force --release myorg/demo 9.0.0 virtualbox "$WORK/one.box" </dev/null
refuses "publish into an organization of others" '.' cloud publish --force --release others/demo 1.0.0 virtualbox "$WORK/one.box"

# A tag as it is: found again by the spelling that it was published by, and Vagrant's to add without the letter.
for file in one two; do
    succeeds "publish v3.0.0 ($file)" cloud publish --force --release myorg/tagged v3.0.0 virtualbox "$WORK/$file.box"
done
installed myorg/tagged 3.0.0 "$WORK/two.box"
vagrant box remove myorg/tagged --all --force >/dev/null 2>&1 || true

# --- one step at a time ---
succeeds "box create" cloud box create --short-description tiny --description words --no-private myorg/steps
refuses "box create again" 'taken|exists|Failed' cloud box create myorg/steps
succeeds "box show" cloud box show myorg/steps
matches "box show tells" 'myorg/steps.*words' "$(tr '\n' ' ' <"$WORK/out")"
succeeds "box update" cloud box update --description 'other words' myorg/steps
succeeds "version create" cloud version create --description one myorg/steps 2.0.0
succeeds "version update" cloud version update --description uno myorg/steps 2.0.0
succeeds "provider create" cloud provider create myorg/steps virtualbox 2.0.0
succeeds "provider upload" cloud provider upload myorg/steps virtualbox 2.0.0 "$WORK/gzip.box"
refuses "provider update --url where a box is stored" 'is stored here' cloud provider update \
    myorg/steps virtualbox 2.0.0 "$URL/elsewhere.box"
succeeds "provider upload, direct" cloud provider upload --direct myorg/steps virtualbox 2.0.0 "$WORK/gzip.box"
succeeds "provider update" cloud provider update --checksum "$(sha256 "$WORK/gzip.box")" --checksum-type sha256 \
    myorg/steps virtualbox 2.0.0
refuses "not released, not added" '.' vagrant box add myorg/steps
succeeds "version release" cloud version release --force myorg/steps 2.0.0
succeeds "box add, by anyone: it is public" vagrant box add myorg/steps
equal "its disk" "$(box_disk "$WORK/gzip.box")" "$(vagrant_disk myorg/steps 2.0.0)"
succeeds "box show --versions" cloud box show --versions 2.0.0 myorg/steps
matches "box show --versions tells" 'uno.*active.*virtualbox' "$(tr '\n' ' ' <"$WORK/out")"
succeeds "search" cloud search steps
matches "search tells" 'myorg/steps.*2\.0\.0.*virtualbox' "$(tr '\n' ' ' <"$WORK/out")"
matches "search --json" '"name":"myorg/steps"' "$(cloud search --json steps 2>&1)"
matches "search for nothing" '[Nn]o results' "$(cloud search nothing-of-that-name 2>&1)"
succeeds "search by nobody" vagrant cloud search --no-auth steps
matches "finds what is public" 'myorg/steps' "$(cat "$WORK/out")"
succeeds "version revoke" cloud version revoke --force myorg/steps 2.0.0
vagrant box remove myorg/steps --all --force >/dev/null 2>&1 || true
refuses "a revoked version is not added" '.' vagrant box add myorg/steps
http "$URL/myorg/boxes/steps/versions/2.0.0/providers/virtualbox.box"
answers "nor fetched by its URL" 404
succeeds "provider delete" cloud provider delete --force myorg/steps virtualbox 2.0.0
succeeds "version delete" cloud version delete --force myorg/steps 2.0.0
succeeds "box delete" cloud box delete --force myorg/steps
refuses "it is gone" 'not found|404|Failed' cloud box show myorg/steps

# --- a box that another server has ---
succeeds "publish --url" cloud publish --force --release --no-private --url "$URL/elsewhere.box" myorg/far 1.0.0 virtualbox
http -H 'Accept: application/json' "$URL/myorg/far"
equal "Vagrant is told of that address" "$URL/elsewhere.box" "$(field '.versions[0].providers[0].url')"

# --- Packer ---
export CHECKPOINT_DISABLE=1 PACKER_CONFIG_DIR=$WORK/packer PACKER_CACHE_DIR=$WORK/packer-cache
unset PACKER_LOG
matches "the other client" '1\.6\.6' "$(packer version)"

# packer_run VERSION FILE [JSON FIELDS]: builds nothing and publishes the file as myorg/packed.
packer_run() {
    jq -n --arg url "$URL/api/v1" --arg token "$CLIENT_SECRET" --arg version "$1" --arg file "$2" --argjson more "${3:-{\}}" '{
        builders: [{type: "file", target: "made", content: "x"}],
        "post-processors": [[
            {type: "artifice", files: [$file]},
            ({type: "vagrant-cloud", box_tag: "myorg/packed", vagrant_cloud_url: $url, access_token: $token,
              version: $version, version_description: "by packer"} + $more)]]
    }' >"$WORK/template.json"
    (cd "$WORK" && packer build -color=false template.json)
}

make_box "$WORK/packed.box" 900 -z
make_box "$WORK/other.box" 900 -z
refuses "packer: the box must exist" '[Ee]rror' packer_run 1.0.0 "$WORK/packed.box"
cloud box create --no-private myorg/packed >/dev/null 2>&1
succeeds "packer: direct upload" packer_run 1.0.0 "$WORK/packed.box"
succeeds "packer: what it published is added" vagrant box add myorg/packed --box-version 1.0.0
equal "packer: its disk" "$(box_disk "$WORK/packed.box")" "$(vagrant_disk myorg/packed 1.0.0)"
succeeds "packer: no_direct_upload, a second version" packer_run 1.1.0 "$WORK/other.box" '{"no_direct_upload": true}'
succeeds "packer: that is added" vagrant box add myorg/packed --box-version 1.1.0
equal "packer: its disk, too" "$(box_disk "$WORK/other.box")" "$(vagrant_disk myorg/packed 1.1.0)"
succeeds "packer: no_release" packer_run 1.2.0 "$WORK/other.box" '{"no_release": true}'
refuses "packer: it is not added" '.' vagrant box add myorg/packed --box-version 1.2.0
refuses "packer: a second run of one version" 'already been taken' packer_run 1.0.0 "$WORK/other.box"
equal "packer: which changed nothing" "$(sha256 "$WORK/packed.box")" "$(curl -sS "$URL/myorg/boxes/packed/versions/1.0.0/providers/virtualbox.box" | sha256sum | cut -d' ' -f1)"
refuses "packer: a wrong token" '401|authenticat|Unauthorized' packer_run 1.3.0 "$WORK/other.box" '{"access_token": "nonsense"}'

# --- the lines of 2.4, and what no client sends ---
ask "2.4: who" 200 GET /v2/authenticate
equal "2.4: by name" "$CLIENT_ID" "$(field .user.username)"
ask "2.4: POST boxes, nested" 200 POST /v2/boxes '{"box":{"username":"myorg","name":"wire","is_private":false,"description":"**d**"}}'
equal "BOX" 'myorg/wire myorg wire false **d** null []' \
    "$(field '"\(.tag) \(.username) \(.name) \(.private) \(.description_markdown) \(.current_version) \(.versions)"')"
matches "BOX: times" '^[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z$' "$(field .created_at)"
matches "BOX: description as HTML" '<strong>d</strong>' "$(field .description_html)"
ask "2.4: POST boxes again" 422 POST /v2/boxes '{"box":{"username":"myorg","name":"WIRE"}}'
equal "errors have their shape" 'false 1' "$(field '"\(.success) \(.errors | length)"')"
ask "2.4: POST versions" 200 POST /v2/box/myorg/wire/versions '{"version":{"version":"1.0.0","description":"vd"}}'
equal "VERSION" "1.0.0 unreleased vd $URL/api/v2/box/myorg/wire/version/1.0.0/release" \
    "$(field '"\(.version) \(.status) \(.description_markdown) \(.release_url)"')"
ask "2.4: POST versions, flat, that Vagrant cannot list" 200 POST /v1/box/myorg/wire/versions '{"version":"nightly_build"}'
matches "is said" 'cannot list' "$(field '.warnings[0]')"
WIRE=/v2/box/myorg/wire/version/1.0.0
ask "2.4: POST providers" 200 POST $WIRE/providers \
    "{\"provider\":{\"name\":\"virtualbox\",\"architecture\":\"amd64\",\"checksum\":\"$(sha256 "$WORK/one.box")\",\"checksum_type\":\"sha256\"}}"
equal "PROVIDER" "virtualbox true amd64 true sha256 $URL/myorg/boxes/wire/versions/1.0.0/providers/virtualbox/amd64/vagrant.box" \
    "$(field '"\(.name) \(.hosted) \(.architecture) \(.default_architecture) \(.checksum_type) \(.download_url)"')"
ask "2.4: GET upload/direct" 200 GET $WIRE/provider/virtualbox/amd64/upload/direct
upload=$(field .upload_path) callback=$(field .callback)
matches "its URL is a right by itself" "^$URL/uploads/[^/]+$" "$upload"
matches "the callback is within the API" "^$URL/api/v2/" "$callback"
put "PUT of other bytes" 422 "$WORK/two.box" "$upload"
ask "the callback before the box" 422 PUT "${callback#"$URL/api"}"
put "PUT" 200 "$WORK/one.box" "$upload"
put "PUT again" 200 "$WORK/one.box" "$upload"
ask "the callback" 200 PUT "${callback#"$URL/api"}"
ask "the callback again" 200 PUT "${callback#"$URL/api"}"
http --request PUT --upload-file "$WORK/one.box" -H 'Authorization: Bearer nonsense' -H 'Content-Type: application/json' "$upload"
answers "PUT with a token and a type, as Packer sends them" 200
put "PUT of more than fits" 413 "$WORK/large.box" "$upload"
equal "in its shape" false "$(field .success)"
put "PUT to a URL that was never given out" 404 "$WORK/one.box" "$URL/uploads/1.2-3.4.5"
http -I "$upload"
answers "HEAD of that URL" 405
ask "2.4: release" 200 PUT $WIRE/release
equal "is active" active "$(field .status)"
agent='Vagrant/2.4.9 (+https://www.vagrantup.com; ruby3.3.8)'
http -A "$agent" -H 'Accept: application/json' "$URL/api/v2/vagrant/myorg/wire"
equal "2.4: the box, and no version that Vagrant cannot list" '1.0.0 amd64' \
    "$(field '[.versions[] | "\(.version) \(.providers[0].architecture)"] | join(",")')"
ask "GET box by v1" 200 GET /v1/box/myorg/wire
equal "current_version" '1.0.0 active' "$(field '"\(.current_version.version) \(.current_version.status)"')"
ask "GET user/:org" 200 GET /v1/user/myorg
equal "has boxes without versions" '["myorg/wire",false]' "$(field '.boxes[] | select(.name == "wire") | [.tag, has("versions")] | tostring')"
http "$URL/api/v2/search?q=wire&provider=virtualbox&architecture=amd64&sort=created&order=asc&limit=1&page=1"
answers "search by nobody" 200
equal "finds it" myorg/wire "$(field '.boxes[0].tag')"
for query in sort=size order=up limit=many "q=$(printf 'x%.0s' {1..300})"; do
    http "$URL/api/v2/search?$query"
    answers "search?${query:0:20}" 422 '"errors"'
done
for path in authenticate user/myorg box/myorg/wire search; do
    http -H "Authorization: Bearer nonsense" "$URL/api/v1/$path"
    answers "GET $path with a wrong token" 401 '"errors":\[".+"\],"success":false|"success":false'
done
http "$URL/api/v1/authenticate"
answers "GET authenticate without a token" 401 '"success":false'
http -X PUT -H 'Content-Length: 0' "$URL/api$WIRE/revoke"
answers "PUT revoke without a token" 401 '"success":false'
http "$URL/api/v1/nothing/here"
answers "what is not there has the door's shape" 404 '"success":false'
for bad in '{' '[]' '{"version":{"version":1}}' '{"version":{}}' '{"version":{"version":"../x"}}'; do
    ask "POST versions $bad" 422 POST /v1/box/myorg/wire/versions "$bad"
done
printf '{"version":{"version":"5.0.0","description":"%s"}}' "$(head -c 70000 /dev/zero | tr '\0' x)" >"$WORK/long.json"
at -H 'Content-Type: application/json' -d "@$WORK/long.json" "$URL/api/v1/box/myorg/wire/versions"
answers "POST versions, too long" 413 '"success":false'
ask "a checksum of no known type" 422 POST $WIRE/providers '{"provider":{"name":"x","checksum":"00","checksum_type":"crc32"}}'
ask "an address that is none" 422 POST $WIRE/providers '{"provider":{"name":"x","url":"/etc/passwd"}}'
ask "an address with a password" 422 POST $WIRE/providers '{"provider":{"name":"x","url":"https://a:b@boxes.example/x.box"}}'
ask "an architecture that is a route" 422 POST $WIRE/providers '{"provider":{"name":"x","architecture":"upload"}}'
ask "two-factor" 422 POST /v1/two-factor/request-code '{"two_factor":{"delivery_method":"sms"}}'
ask "the service account's key is not ended here" 422 DELETE /v1/authenticate
for org in api uploads admin files; do
    http -X POST -H "x-access-token: $ADMIN_TOKEN" -H 'Content-Type: application/json' \
        -d "{\"organization\":\"$org\"}" "$URL/api/organization"
    matches "organization $org is refused with a reason" '^4' "$STATUS"
done

# A box for another provider is published and said to be one; by header of plain tar, and in gzip.
ask "another provider" 200 POST $WIRE/providers '{"provider":{"name":"libvirt"}}'
ask "its URL" 200 GET $WIRE/provider/libvirt/upload
upload=$(field .upload_path)
for file in two gzip; do
    put "a box for VirtualBox sent to libvirt ($file)" 200 "$WORK/$file.box" "$upload"
    matches "is said to be one" "provider 'virtualbox', not 'libvirt'" "$(field '.warnings[0]')"
done
head -c 100000 /dev/urandom >"$WORK/noise"
put "what is no archive is published, too" 200 "$WORK/noise" "$upload"
matches "and said to be none" 'no archive' "$(field '.warnings[0]')"
succeeds "no log line holds a token" eval '! grep -qF -e "$CLIENT_SECRET" -e "${upload##*/}" "$WORK/gateway.log"'

# Where the gateway is told to, it refuses such a box, and what would replace a released one.
ask "the URL of a released box" 200 GET $WIRE/provider/virtualbox/amd64/upload
released=$(field .upload_path)
stop_gateway
export BOXGATE_VAGRANT_CLOUD__INSPECT=refuse BOXGATE_VAGRANT_CLOUD__REPUBLISH=refuse LISTEN=${URL#http://}
start_gateway
ask "a version that is not released" 200 POST /v1/box/myorg/wire/versions '{"version":{"version":"2.0.0"}}'
ask "a provider" 200 POST /v1/box/myorg/wire/version/2.0.0/providers '{"provider":{"name":"libvirt"}}'
ask "its URL" 200 GET /v1/box/myorg/wire/version/2.0.0/provider/libvirt/upload
upload=$(field .upload_path)
put "inspect = refuse" 422 "$WORK/gzip.box" "$upload"
matches "says why" "not 'libvirt'" "$(field '.errors[0]')"
printf '<html><body>502 Bad Gateway</body></html>' >"$WORK/page.box"
put "inspect = refuse, an error page" 422 "$WORK/page.box" "$upload"
ask "nothing was published" 200 GET /v1/box/myorg/wire/version/2.0.0/provider/libvirt
equal "no checksum" null "$(field .checksum)"
put "republish = refuse, by a URL of before the restart" 422 "$WORK/one.box" "$released"
ask "nor is a URL given out" 422 GET $WIRE/provider/virtualbox/amd64/upload

finish
