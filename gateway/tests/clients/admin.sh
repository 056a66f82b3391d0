#!/usr/bin/env bash
# `boxgate admin` for people, organizations, keys, boxes and ISO images: what it says and asks, judged by what curl sees
# of the gateway afterwards.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"
start_gateway
export BOXGATE_URL=$URL BOXGATE_TOKEN=$ADMIN_TOKEN

# admin CODE NAME WORDS...: `boxgate admin WORDS` ends with CODE; its words are in $WORK/out.
admin() {
    run "$1" "$2" "$GATEWAY" admin "${@:3}"
}
# sees NAME STATUS PATH [REGEX]: what curl is answered as the administrator.
sees() {
    http -H "Authorization: Bearer $ADMIN_TOKEN" "$URL$3"
    answers "curl: $1" "$2" "${4:-}"
}
# signs_in NAME PASSWORD STATUS
signs_in() {
    http -H 'Content-Type: application/json' -d "$(jq -n --arg u "$1" --arg p "$2" '{username: $u, password: $p}')" "$URL/api/auth/signin"
    answers "curl: sign-in as $1" "$3"
}
# on_terminal ANSWER WORDS...: the same on a terminal, where a person types ANSWER.
on_terminal() {
    local code=0
    printf '%s\n' "$1" | script -qec "$(printf '%q ' "$GATEWAY" admin "${@:2}")" typescript >"$WORK/out" 2>&1 || code=$?
    ENDED=$code
}

# --- users ---
echo 'correct horse battery' >first.password
echo 'another horse' >second.password
admin 0 "user create" user create ann --password-file first.password --email ann@example.com
says "user create: says so" '^User ann is made\.$'
signs_in ann 'correct horse battery' 200
admin 1 "user create, a name that is taken" user create ann
succeeds "user create: the password from standard input" \
    sh -c "'$GATEWAY' admin user create bob --password-file - --organization '$ORG' --organization-role admin <second.password"
signs_in bob 'another horse' 200
admin 2 "user create, no such file" user create carl --password-file absent
says "user create, no such file: names it" '--password-file absent'
admin 2 "user create, no such role" user create carl --role king
sees "nobody was made" 404 /api/admin/users/carl
admin 0 "user list" user list
says "user list: its columns" 'ID +USERNAME +ROLE +SUSPENDED +E-MAIL +CREATED'
says "user list: a row" 'ann +user +no +ann@example\.com'
equal "user list: as many lines in a pipe as there are accounts, and one" "$("$GATEWAY" admin user list | wc -l)" \
    "$(($(curl -sS -H "Authorization: Bearer $ADMIN_TOKEN" "$URL/api/admin/users" | jq length) + 1))"
admin 0 "user list --json" user list --json
equal "user list --json: what the API says" "$(curl -sS -H "Authorization: Bearer $ADMIN_TOKEN" "$URL/api/admin/users" | jq -c .)" "$(jq -c . "$WORK/out")"
admin 0 "user show" user show ann
says "user show: a line for each member" 'email +ann@example\.com'
admin 0 "user disable" user disable ann
signs_in ann 'correct horse battery' 403
admin 0 "user enable" user enable ann
admin 2 "user password without one" user password ann
admin 0 "user password" user password ann --password-file second.password
signs_in ann 'correct horse battery' 401
signs_in ann 'another horse' 200
admin 2 "user update of nothing" user update ann
admin 0 "user update" user update ann --name 'Ann A.' --role admin
sees "the account is changed" 200 /api/admin/users/ann '"name":"Ann A\.".*"role":"admin"'

# --- tokens ---
admin 0 "token create" token create ann --password-file second.password --description mine --json
anns=$(jq -r .token "$WORK/out")
admin 0 "token create for people" token create ann --password-file second.password
says "token create: shows it once" 'Shown this once: [A-Za-z0-9_-]{20,}$'
http -H "Authorization: Bearer $anns" "$URL/api/user"
answers "curl: the token is ann's" 200 '"username":"ann"'
admin 0 "token show" token show --token "$anns"
says "token show: whose" 'username +ann'
says "token show: what else" "roles +ROLE_ADMIN"
admin 2 "token end without a word" token end --token "$anns"
admin 0 "token end" token end --token "$anns" --yes
http -H "Authorization: Bearer $anns" "$URL/api/user"
answers "curl: the token is ended" 401
admin 1 "a token that is ended" user list --token "$anns"
says "a token that is ended: says what to do" 'answers 401: .*unknown, expired or revoked'

# --- organizations and members ---
admin 0 "organization create" organization create acme --description 'Things that break'
sees "the organization is there" 200 /api/organization/acme 'Things that break'
admin 0 "organization list" organization list
says "organization list: a row" 'acme +private +0 .*Things that break'
admin 0 "organization update" organization update acme --name acme-labs
sees "it has another name" 200 /api/organization/acme-labs
admin 0 "organization access" organization access acme-labs --mode invite_only --default-role admin
sees "it is found" 200 /api/organization/acme-labs '"access_mode":"invite_only","default_role":"admin"'
admin 0 "organization show" organization show acme-labs
says "organization show: a member that says something" 'access_mode +invite_only'
admin 0 "member add" member add acme-labs bob
says "member add: the role that new ones have" '^User bob is admin of acme-labs\.$'
admin 0 "member role" member role acme-labs bob --role member
admin 0 "member list" member list acme-labs
says "member list: a row" 'bob +member +2[0-9]{3}-'
sees "the member" 200 /api/organization/acme-labs/users '"username":"bob","role":"member"'
admin 2 "member remove without a word" member remove acme-labs bob
admin 0 "member remove" member remove acme-labs bob --yes
sees "no member any more" 200 /api/organization/acme-labs/users
equal "curl: who is left" "$ADMIN" "$(field '[.[].username] | join(",")')"
admin 1 "member remove, the last owner" member remove acme-labs "$ADMIN" --yes
says "member remove, the last owner: why not" 'at least one owner'

# --- service accounts ---
admin 0 "service-account create" service-account create --organization acme-labs --description CI --days 30 --json
id=$(jq -r .id "$WORK/out") key=$(jq -r .token "$WORK/out")
http -H "Authorization: Bearer $key" "$URL/api/user/organizations"
answers "curl: the key acts" 200 'acme-labs'
admin 0 "service-account list" service-account list
says "service-account list: a row" "$id +$ADMIN-[0-9a-f]{8} +acme-labs +2[0-9]{3}-.* CI"
equal "service-account list shows no key" 0 "$(grep -cF -e "$key" "$WORK/out" || true)"
admin 2 "service-account rotate without a word" service-account rotate "$id"
admin 0 "service-account rotate" service-account rotate "$id" --yes
new=$(sed -n 's/^Shown this once: //p' "$WORK/out")
http -H "Authorization: Bearer $key" "$URL/api/user/organizations"
answers "curl: the key before is ended" 401
http -H "Authorization: Bearer $new" "$URL/api/user/organizations"
answers "curl: the new one acts" 200
admin 0 "service-account revoke" service-account revoke "$id" --yes
http -H "Authorization: Bearer $new" "$URL/api/user/organizations"
answers "curl: it is ended" 401
admin 1 "service-account revoke once more" service-account revoke "$id" --yes
admin 1 "service-account create in no organization" service-account create --organization nowhere

# --- boxes and versions ---
make_box demo.box
admin 0 "box create" box create acme-labs/demo --short-description 'A demo' --public false
admin 0 "version create" version create acme-labs/demo 1.0.0 --description first
http "$URL/api/organization/acme-labs/box/demo"
answers "curl: nobody else sees the box" 404
ORG=acme-labs BASE=$URL/api/organization/acme-labs CLIENT_SECRET=$ADMIN_TOKEN upload demo.box demo 1.0.0
admin 0 "box list" box list acme-labs
says "box list: a row" "demo +1 +no +no +$ADMIN +2[^ ]+ +A demo"
admin 0 "box publish" box publish acme-labs/demo
http "$URL/api/organization/acme-labs/box/demo"
answers "curl: everybody sees the box" 200
admin 0 "version list" version list acme-labs/demo
says "version list: not released" '1\.0\.0 +unreleased +1 .*first'
admin 0 "version release" version release acme-labs/demo 1.0.0
http "$URL/acme-labs/demo"
answers "curl: Vagrant is shown it" 200 '"version":"1\.0\.0"'
admin 0 "version revoke" version revoke acme-labs/demo 1.0.0
http -H 'Accept: application/json' "$URL/acme-labs/demo"
equal "curl: Vagrant is shown it no more" 0 "$(grep -c '"1\.0\.0"' "$WORK/body" || true)"
admin 0 "version update" version update acme-labs/demo 1.0.0 --deprecated true --deprecation-reason old
sees "the version is changed" 200 /api/organization/acme-labs/box/demo/version/1.0.0 '"deprecated":true,"deprecationReason":"old"'
admin 0 "version show --json" version show acme-labs/demo 1.0.0 --json
equal "version show --json: its status" revoked "$(jq -r .status "$WORK/out")"
admin 0 "provider list" provider list acme-labs/demo 1.0.0
says "provider list: a row" 'virtualbox +2[0-9]{3}-'
admin 0 "architecture list" architecture list acme-labs/demo 1.0.0 virtualbox --json
equal "architecture list --json" amd64 "$(jq -r '.[].name' "$WORK/out")"
admin 0 "architecture delete" architecture delete acme-labs/demo 1.0.0 virtualbox amd64 --yes
sees "the architecture is gone" 404 /api/organization/acme-labs/box/demo/version/1.0.0/provider/virtualbox/architecture/amd64
admin 0 "provider delete" provider delete acme-labs/demo 1.0.0 virtualbox --yes
sees "the provider is gone" 404 /api/organization/acme-labs/box/demo/version/1.0.0/provider/virtualbox
admin 0 "box hide" box hide acme-labs/demo
http "$URL/api/organization/acme-labs/box/demo"
answers "curl: nobody else sees it any more" 404
admin 0 "box update" box update acme-labs/demo --name example
admin 0 "box show" box show acme-labs/example
says "box show: how many versions" 'versions +1'

# --- what is asked before something is destroyed ---
for words in "box delete acme-labs/example" "version delete acme-labs/example 1.0.0" "organization delete acme-labs" "user delete bob"; do
    # shellcheck disable=SC2086
    admin 2 "$words without a terminal" $words
    says "$words without a terminal: what to say" '--yes'
done
sees "all of it is there" 200 /api/organization/acme-labs/box/example/version/1.0.0
on_terminal n box delete acme-labs/example
equal "a no on the terminal: exit" 1 "$ENDED"
says "a no on the terminal: what was asked" 'Really delete box acme-labs/example with all its versions\? \[y/N\]'
sees "the box is there after a no" 200 /api/organization/acme-labs/box/example
# A name that is none must never turn into the call on all of them.
admin 0 "box create, another" box create acme-labs/other
for name in acme-labs/ acme-labs/. acme-labs/.. /example acme-labs; do
    admin 2 "box delete $name" box delete "$name" --yes
done
admin 2 "version delete of no version" version delete acme-labs/example '' --yes
admin 1 "box delete with a slash too many" box delete acme-labs/example/version --yes
sees "both boxes are there" 200 /api/organization/acme-labs/box
equal "curl: both boxes" "example other" "$(field '[.[].name] | sort | join(" ")')"
admin 0 "version delete" version delete acme-labs/example 1.0.0 --yes
sees "the version is gone" 404 /api/organization/acme-labs/box/example/version/1.0.0
admin 0 "version list of none" version list acme-labs/example
says "version list of none: says so" '^There is no version\.$'
on_terminal y box delete acme-labs/example
equal "a yes on the terminal: exit" 0 "$ENDED"
sees "the box is gone after a yes" 404 /api/organization/acme-labs/box/example

# --- ISO images ---
head -c 70000 /dev/urandom >net.iso
http -X POST -H "Authorization: Bearer $ADMIN_TOKEN" -H 'x-file-name: net.iso' -H 'Content-Type: application/octet-stream' \
    --data-binary @net.iso "$URL/api/organization/acme-labs/iso"
answers "curl: an ISO image" 201
id=$(field .id)
admin 0 "iso list" iso list acme-labs
says "iso list: a row" "$id +net\.iso +70000 +no"
admin 0 "iso update" iso update acme-labs "$id" --public true
sees "it is public" 200 /api/organization/acme-labs/public-isos 'net\.iso'
admin 2 "iso delete without a word" iso delete acme-labs "$id"
admin 0 "iso delete" iso delete acme-labs "$id" --yes
sees "the ISO image is gone" 404 "/api/organization/acme-labs/iso/$id"

# --- the end of them, and who may not ---
admin 1 "a service account lists no people" user list --token "$CLIENT_SECRET"
says "a service account lists no people: why" 'answers 403'
admin 0 "organization delete" organization delete acme-labs --yes
sees "the organization is gone" 404 /api/organization/acme-labs
admin 0 "user delete --json" user delete bob --yes --json
equal "user delete --json: what the API says" "User deleted successfully." "$(jq -r .message "$WORK/out")"
sees "the account is gone" 404 /api/admin/users/bob
admin 75 "no gateway" user list --url http://127.0.0.1:1
for noun in user organization member service-account token box version provider architecture iso; do
    admin 0 "$noun --help" "$noun" --help
    admin 2 "$noun and nothing" "$noun"
done
admin 0 "user create --help" user create --help
says "user create --help: an example" 'boxgate admin user create ann'

stop_gateway TERM
finish
