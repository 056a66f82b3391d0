#!/usr/bin/env bash
# Debian's Vagrant as a user has it: adds by name and by address, private boxes by either form of token, picks a
# killed download up where it stopped, sees new versions, and never installs bytes that changed behind our back.
# Vagrant 2.4 is not in Debian: its request lines are replayed by curl.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
make_box "$WORK/one.box" 2000
make_box "$WORK/two.box" 2000
upload "$WORK/one.box" public 1.0.0
make_public public
upload "$WORK/one.box" secret 1.0.0

matches "the client" '^Vagrant 2\.[0-9]+' "$(vagrant --version)"

# forget NAME: takes an installed box away again.
forget() {
    vagrant box remove "$1" --all --force >/dev/null 2>&1 || true
}

# --- public: by name, with and without a slash at the server's end, and by address ---
export VAGRANT_SERVER_URL=$URL
succeeds "add myorg/public by name" vagrant box add myorg/public
vagrant_has myorg/public 1.0.0
equal "the installed disk" "$(box_disk "$WORK/one.box")" "$(vagrant_disk myorg/public 1.0.0)"
forget myorg/public
succeeds "add with a slash at the end of VAGRANT_SERVER_URL" env VAGRANT_SERVER_URL="$URL/" vagrant box add myorg/public
vagrant_has myorg/public 1.0.0
forget myorg/public
succeeds "add with /api/v2/vagrant in VAGRANT_SERVER_URL" \
    env VAGRANT_SERVER_URL="$URL/api/v2/vagrant" vagrant box add myorg/public
forget myorg/public
for path in /myorg/public /myorg/boxes/public /api/v2/vagrant/myorg/public /api/organization/myorg/box/public; do
    succeeds "add by address $path" env -u VAGRANT_SERVER_URL vagrant box add "$URL$path"
    vagrant_has myorg/public 1.0.0
    forget myorg/public
done
box_url=$(curl -sS -H 'Accept: application/json' "$URL/myorg/public" | jq -r '.versions[0].providers[0].url')
succeeds "add by the box file's own address" vagrant box add --name direct "$box_url"
vagrant_has direct 0
forget direct
refuses "a box that is not there" '404' vagrant box add myorg/absent

# --- private ---
refuses "private without a token" '404' vagrant box add myorg/secret
refuses "private with a wrong token" '40[14]' env VAGRANT_CLOUD_TOKEN="${CLIENT_SECRET//[0-9]/0}" vagrant box add myorg/secret
vagrant_add myorg/secret 1.0.0
forget myorg/secret
succeeds "private with the token in the address" env VAGRANT_CLOUD_TOKEN="$CLIENT_SECRET" \
    VAGRANT_SERVER_ACCESS_TOKEN_BY_URL=1 vagrant box add myorg/secret
vagrant_has myorg/secret 1.0.0
succeeds "and no log line holds that token" eval '! grep -q -e "$CLIENT_SECRET" "$WORK/gateway.log"'
forget myorg/secret
succeeds "private with the administrator's token" env VAGRANT_CLOUD_TOKEN="$ADMIN_TOKEN" vagrant box add myorg/secret
forget myorg/secret

# --- new versions ---
vagrant box add myorg/public >/dev/null 2>&1
matches "box outdated: up to date" 'up to date' "$(vagrant box outdated --global 2>&1)"
upload "$WORK/two.box" public 1.1.0
matches "box outdated: sees the new version" 'outdated.*1\.1\.0' "$(vagrant box outdated --global 2>&1)"
succeeds "box update" vagrant box update --box myorg/public --provider virtualbox
vagrant_has myorg/public 1.1.0
equal "the updated disk" "$(box_disk "$WORK/two.box")" "$(vagrant_disk myorg/public 1.1.0)"
forget myorg/public
upload "$WORK/two.box" public v1.2.0
upload "$WORK/two.box" public nightly_build
succeeds "versions that Vagrant cannot read do not spoil the box; a tag is read" vagrant box add myorg/public
vagrant_has myorg/public 1.2.0
forget myorg/public

# --- one name, two architectures: 2.3 takes the last entry, which must be the default one ---
upload "$WORK/one.box" arches 1.0.0 virtualbox amd64
upload "$WORK/two.box" arches 1.0.0 virtualbox arm64
make_public arches
succeeds "add a box of two architectures" vagrant box add myorg/arches
equal "the default one is installed" "$(box_disk "$WORK/one.box")" "$(vagrant_disk myorg/arches 1.0.0)"

# --- a download killed half-way ---
# Vagrant calls curl from its PATH; this one is slow for as long as $WORK/slow is there, and tells its process id.
# It also keeps the heads that the gateway sends, to see the answer to the resumed request.
mkdir "$WORK/bin"
cat >"$WORK/bin/curl" <<WRAPPER
#!/usr/bin/env bash
echo \$\$ >"$WORK/curl.pid"
slow=()
[[ ! -e "$WORK/slow" ]] || slow=(--limit-rate 8M)
exec $(command -v curl) "\$@" "\${slow[@]}" --dump-header "$WORK/heads.\$\$"
WRAPPER
chmod +x "$WORK/bin/curl"
make_box "$WORK/large.box" 60000
upload "$WORK/large.box" large 1.0.0
make_public large

partial() {
    find "$VAGRANT_HOME/tmp" -name 'box*' -size +12M 2>/dev/null | grep -q .
}
touch "$WORK/slow"
PATH=$WORK/bin:$PATH vagrant box add myorg/large >"$WORK/killed.log" 2>&1 &
vagrant_pid=$!
if eventually 60 partial; then ok "a part of the box is there"; else fail "no part after 60 s: $(tail -c 300 "$WORK/killed.log")"; fi
kill -KILL "$vagrant_pid" "$(cat "$WORK/curl.pid")"
wait "$vagrant_pid" 2>/dev/null || true
part=$(find "$VAGRANT_HOME/tmp" -name 'box*' -size +12M)
kept=$(size "$part")
rm -f "$WORK/slow" "$WORK"/heads.*
if ((kept < $(size "$WORK/large.box"))); then ok "killed at $kept of $(size "$WORK/large.box") bytes"; else fail "the download was over: $kept"; fi

succeeds "the second try" env PATH="$WORK/bin:$PATH" vagrant box add myorg/large
matches "Vagrant says that it resumes" 'resum' "$(cat "$WORK/out")"
matches "the gateway sent only the rest" "206.*content-range: bytes $kept-" \
    "$(cat "$WORK"/heads.* | tr -d '\r' | tr '[:upper:]\n' '[:lower:] ')"
equal "the resumed disk" "$(box_disk "$WORK/large.box")" "$(vagrant_disk myorg/large 1.0.0)"
forget myorg/large

# A part that is whole already: Vagrant asks from its very end on, and must not be told 416.
cp "$WORK/large.box" "$part"
succeeds "a part that is complete" vagrant box add myorg/large
equal "its disk" "$(box_disk "$WORK/large.box")" "$(vagrant_disk myorg/large 1.0.0)"
forget myorg/large

# --- the lines of 2.4 ---
agent='Vagrant/2.4.9 (+https://www.vagrantup.com; ruby3.3.8)'
for path in /api/v2/vagrant/myorg/public /myorg/public; do
    http -I -A "$agent" -H 'Accept: application/json' "$URL$path"
    answers "2.4: HEAD $path" 200
    matches "2.4: HEAD says what it is" '^application/json' "$(header content-type)"
done
http -A "$agent" -H 'Accept: application/json' "$URL/api/v2/vagrant/myorg/public"
answers "2.4: GET of the metadata" 200 '"name": ?"myorg/public"'
equal "2.4: each provider has an architecture and says if it is the default" true \
    "$(field '[.versions[].providers[] | (.architecture == "amd64") and .default_architecture] | all')"
equal "2.4: only listable versions" '["1.2.0","1.1.0","1.0.0"]' "$(field '.versions | map(.version) | sort | reverse | tostring')"
box_url=$(field '.versions[] | select(.version == "1.0.0").providers[0].url')
http -A "$agent" -H 'Accept: */*' -C - "$box_url"
answers "2.4: GET of the box" 200
equal "2.4: its digest" "$(sha256 "$WORK/one.box")" "$(sha256 "$WORK/body")"
http -I -A "$agent" -H 'Accept: application/json' "$box_url"
answers "2.4: HEAD of the box file" 200
matches "2.4: a box file is no metadata" '^application/octet-stream' "$(header content-type)"
for path in /api/v2/vagrant/myorg/absent /myorg/absent /api/v2/vagrant/myorg/secret /myorg/secret; do
    http -I -A "$agent" -H 'Accept: application/json' "$URL$path"
    answers "2.4: HEAD $path by a stranger" 404
done
http -A "$agent" -H 'Accept: application/json' -H "Authorization: Bearer $CLIENT_SECRET" "$URL/api/v2/vagrant/myorg/secret"
answers "2.4: with a token" 200 '"name": ?"myorg/secret"'
for form in "-H X-Atlas-Token:$CLIENT_SECRET" "--url-query access_token=$CLIENT_SECRET"; do
    # shellcheck disable=SC2086
    http -A "$agent" -H 'Accept: application/json' $form "$URL/myorg/secret"
    answers "2.4: token as ${form%%[:=]*}" 200 '"name": ?"myorg/secret"'
done
http -A "$agent" -H 'Accept: application/json' -H "Authorization: Bearer ${CLIENT_SECRET//[0-9]/0}" "$URL/myorg/public"
answers "2.4: a wrong token is never silently anonymous" 401
# Metadata is resumed with the same mechanism as boxes, so a Range on it is not listened to.
http -A "$agent" -H 'Accept: application/json' -H 'Range: bytes=10-' "$URL/myorg/public"
answers "a range of the metadata" 200 '^\{'

# --- bytes changed on the disk behind our back ---
make_box "$WORK/victim.box" 5000
upload "$WORK/victim.box" victim 1.0.0
make_public victim
blob=$(find "$DATA/blobs" -type f -size "$(size "$WORK/victim.box")c" -exec sh -c 'cmp -s "$1" "$2"' _ {} "$WORK/victim.box" \; -print)
if [[ -n $blob ]]; then ok "the blob on the disk: ${blob#"$DATA"/}"; else fail "no blob on the disk equals the box"; fi
printf 'boxgate' | dd of="$blob" bs=1 seek=3000000 conv=notrunc status=none
refuses "Vagrant does not install changed bytes" 'transfer closed|checksum|error|503' vagrant box add myorg/victim
matches "and has no such box" 'no-such-box' "$(vagrant box list 2>&1 | grep victim || echo no-such-box)"
http "$(curl -sS -H 'Accept: application/json' "$URL/myorg/victim" | jq -r '.versions[0].providers[0].url')"
if ((CURL_EXIT != 0)) || [[ $STATUS == 5* ]]; then
    ok "curl is not told that all is well: status $STATUS, curl $CURL_EXIT"
else
    fail "curl got $STATUS and $(size "$WORK/body") bytes without an error"
fi
# The owner heals it by sending the same box again.
upload "$WORK/victim.box" victim 1.0.0
rm -rf "$VAGRANT_HOME/tmp"
succeeds "after a new upload of the same bytes" vagrant box add myorg/victim
equal "its disk" "$(box_disk "$WORK/victim.box")" "$(vagrant_disk myorg/victim 1.0.0)"

finish
