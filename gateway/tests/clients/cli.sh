#!/usr/bin/env bash
# What a person types besides quickstart: sample boxes, the configuration, the first administrator, serve; and the
# exit codes that scripts go by: 0 done, 1 failed, 2 usage or configuration.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

# --- sample-box ---
run 0 "sample-box" "$GATEWAY" sample-box one.box --size 3MB
equal "sample-box: its provider" virtualbox "$(tar -xOf one.box metadata.json | jq -r .provider)"
matches "sample-box: about as large as asked" '^(2|3)[0-9]{6}$' "$(size one.box)"
run 1 "sample-box over a file that is there" "$GATEWAY" sample-box one.box
says "sample-box over a file that is there" exist
run 2 "sample-box of no size" "$GATEWAY" sample-box two.box --size much
run 0 "sample-box for another provider" "$GATEWAY" sample-box libvirt.box --provider libvirt
equal "sample-box: that provider" libvirt "$(tar -xOf libvirt.box metadata.json | jq -r .provider)"
run 0 "sample-box for another architecture" "$GATEWAY" sample-box arm.box --architecture arm64
equal "sample-box: that architecture" arm64 "$(tar -xOf arm.box metadata.json | jq -r .architecture)"

# --- usage ---
run 0 "--version" "$GATEWAY" --version
says "--version" '^boxgate [0-9]+\.'
for command in serve quickstart sample-box push "admin bootstrap" "admin upload list" "admin upload show" "admin upload abort" "config check" "config print"; do
    # shellcheck disable=SC2086
    run 0 "$command --help" "$GATEWAY" $command --help
done
run 2 "an unknown command" "$GATEWAY" frobnicate
run 2 "an unknown flag" "$GATEWAY" serve --frobnicate

# --- completions and manual pages ---
for shell in bash zsh fish elvish powershell; do
    run 0 "completions $shell" "$GATEWAY" completions "$shell"
    says "completions $shell: has the commands" 'quickstart'
done
run 2 "completions of no shell" "$GATEWAY" completions csh
"$GATEWAY" completions bash >completions.bash
# completed WORDS...: what bash offers for the last of them.
completed() {
    bash -c 'source completions.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _boxgate boxgate "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[*]}"' _ "$@"
}
equal "bash completes a command" "push" "$(completed boxgate pus)"
matches "bash completes one below admin" 'webhook' "$(completed boxgate admin web)"
matches "bash completes a flag" '--afresh' "$(completed boxgate push --af)"
run 0 "man" "$GATEWAY" man pages/man1
run 1 "man where a file is" "$GATEWAY" man completions.bash
says "man where a file is: names it" 'completions\.bash'
matches "a page for each command" 'boxgate-admin-webhook-create\.1 .*boxgate-push\.1 .*boxgate\.1' "$(ls pages/man1 | tr '\n' ' ')"
equal "mandoc reads them" 0 "$(mandoc -T lint -W error pages/man1/*.1 2>&1 | wc -l)"
mandoc -T utf8 pages/man1/boxgate-push.1 | col -b >push.txt
matches "boxgate-push(1): what it is" 'in parallel, and gone on with after a cut' "$(cat push.txt)"
matches "boxgate-push(1): its flags" '--afresh' "$(cat push.txt)"
matches "boxgate-push(1): examples and exit codes" 'Exit codes: 0 published' "$(tr -s ' \n' ' ' <push.txt)"

# --- config ---
run 0 "config check without a file" "$GATEWAY" config check
run 0 "config print" "$GATEWAY" config print
cp "$WORK/out" printed.toml
run 0 "what config print prints is a configuration" "$GATEWAY" config check --config printed.toml
run 0 "docs/boxgate.toml is a configuration" "$GATEWAY" config check --config "$ROOT/docs/boxgate.toml"
run 2 "a file that is not there" "$GATEWAY" config check --config absent.toml
says "a file that is not there" 'absent\.toml'
cat >wrong.toml <<'TOML'
frobnicate = 1
[uploads]
max_length = "much"
[limits]
json_body = -5
TOML
run 2 "a wrong file" "$GATEWAY" config check --config wrong.toml
for word in frobnicate max_length; do
    says "a wrong file: names $word, beside the other mistakes" "$word"
done
run 2 "quickstart with it" "$GATEWAY" quickstart --config wrong.toml --listen 127.0.0.1:0
printf '[uploads]\nmax_length = "7MiB"\n' >some.toml
run 0 "a file" "$GATEWAY" config print --config some.toml
says "a file wins over the default" 'max_length = "7MiB"'
run 0 "a variable" env BOXGATE_UPLOADS__MAX_LENGTH=8MiB "$GATEWAY" config print --config some.toml
says "a variable wins over the file" 'max_length = "8MiB"'
run 0 "a flag" env BOXGATE_LISTEN=127.0.0.1:1 "$GATEWAY" config print --listen 127.0.0.1:2
says "a flag wins over the variable" 'address = "127.0.0.1:2"'
run 0 "a master key by variable" env BOXGATE_MASTER_KEY="$(printf 'ab%.0s' {1..32})" "$GATEWAY" config print
equal "config print keeps it secret" 0 "$(grep -c abababab "$WORK/out" || true)"

# --- the first administrator, then serve ---
echo 'correct horse battery' >password
run 0 "admin bootstrap" env BOXGATE_BOOTSTRAP_PASSWORD_FILE="$PWD/password" \
    "$GATEWAY" admin bootstrap --data-dir "$DATA" --username root --organization acme
equal "the password is not printed when it was given" 0 "$(grep -c horse "$WORK/out" || true)"
run 0 "admin bootstrap, a random password" "$GATEWAY" admin bootstrap --data-dir "$DATA" --username second --json
second=$(jq -r .password "$WORK/out")
run 2 "admin bootstrap, a bad name" "$GATEWAY" admin bootstrap --data-dir "$DATA" --username 'a b'
"$GATEWAY" serve --data-dir "$DATA" --listen 127.0.0.1:0 >"$WORK/ready" 2>"$WORK/gateway.log" &
GATEWAY_PID=$!
eventually 60 gateway_spoke_or_died || true
URL=$(grep -oE 'http://[0-9.]+:[0-9]+' "$WORK/ready" | head -n 1 || true)
matches "serve says where it is when it is ready" '^http://127\.0\.0\.1:[0-9]+$' "$URL"
equal "serve says it in one line" 1 "$(wc -l <"$WORK/ready")"
equal "serve makes no quickstart credentials" no "$([[ -e $DATA/quickstart.json ]] && echo yes || echo no)"

# signs_in NAME PASSWORD STATUS
signs_in() {
    http -H 'Content-Type: application/json' -d "$(jq -n --arg u "$1" --arg p "$2" '{username: $u, password: $p}')" "$URL/api/auth/signin"
    answers "sign-in as $1" "$3"
}
signs_in root 'correct horse battery' 200
equal "the organization is the administrator's" '[{"name":"acme","role":"owner","isPrimary":true}]' "$(field '.organizations | tostring')"
signs_in second "$second" 200
run 0 "admin bootstrap beside the running gateway" "$GATEWAY" admin bootstrap --data-dir "$DATA" --username third --json
signs_in third "$(jq -r .password "$WORK/out")" 200
run 1 "serve on a port that is taken" "$GATEWAY" serve --data-dir "$WORK/other" --listen "${URL#http://}"
says "serve on a port that is taken" "${URL##*:}"
stop_gateway TERM
equal "serve stops with" 0 "$STOPPED_WITH"

# --- a variable that names no key ---
: >"$WORK/gateway.log"
DATA=$WORK/misspelt BOXGATE_UPLOADS__PARTS=1 BOXGATE_CACERT=/ca.pem start_gateway
stop_gateway TERM
unknown=$(jq -rR 'fromjson? | select(.level == "WARN") | .message' "$WORK/gateway.log")
equal "quickstart tells of a variable that names no key, and not of what its clients read" \
    "the variable BOXGATE_UPLOADS__PARTS names no key; it is ignored" "$unknown"

# --- a first quickstart that ends half way ---
DATA=$WORK/half
mkdir -p "$DATA/quickstart.json.new" # stands where the credentials are written first
run 1 "quickstart that cannot keep its credentials" "$GATEWAY" quickstart --data-dir "$DATA" --listen 127.0.0.1:0
says "quickstart that cannot keep its credentials" quickstart.json
rmdir "$DATA/quickstart.json.new"
start_gateway
http -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box"
answers "the next one makes what the first one did not" 200
stop_gateway TERM

finish
