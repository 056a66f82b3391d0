#!/usr/bin/env bash
# SHA-256 that is computed after an upload (`digests.sha256 = "deferred"`): Vagrant sees a version only once it is known,
# curl and `boxgate pull` have the bytes before, and a kill at any moment loses neither them nor what is still to do.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

export BOXGATE_DIGESTS__SHA256=deferred
# slowly, quickly: at which pace what is deferred is computed from the next start on.
slowly() { export BOXGATE_DIGESTS__RATE=1KiB; }
quickly() { export BOXGATE_DIGESTS__RATE=0; }
# again: killed, and started anew at the same address.
again() {
    stop_gateway KILL
    start_gateway
}
# waiting: how many boxes wait for their digest.
waiting() { curl -sS --fail "$URL/metrics" | awk '$1 == "boxgate_deferred_sha256_blobs" { print $2 }'; }
waits() { [[ $(waiting) == "$1" ]]; }
# listed BOX: the checksums that Vagrant is shown.
listed() { curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$URL/myorg/$1" | jq -r '[.versions[].providers[].checksum] | join(" ")'; }
# has_read: whether anything was read since the start.
has_read() { (($(curl -sS --fail "$URL/metrics" | awk '$1 == "boxgate_deferred_sha256_bytes_total" { print $2 }') > 0)); }
lists() { [[ $(listed "$1") == "$2" ]]; }
pull() { env BOXGATE_URL="$URL" BOXGATE_TOKEN="$CLIENT_SECRET" "$GATEWAY" pull "$@"; }
add() { env VAGRANT_SERVER_URL="$URL" VAGRANT_CLOUD_TOKEN="$CLIENT_SECRET" vagrant box add "$@" --provider virtualbox; }

slowly
start_gateway
LISTEN=${URL#http://}
make_box one.box 5000
make_box two.box 3000
make_box form.box 1000

# --- it is there, and Vagrant is not shown it ---
upload one.box demo 1.0.0
equal "the answer tells no SHA-256" null "$(jq -r .details.sha256 upload.json)"
equal "but BLAKE3" 64 "$(jq -r '.details.blake3 | length' upload.json)"
equal "curl has all of it" "$(sha256 one.box)" "$(stored_sha256 demo 1.0.0)"
for name in myorg/demo myorg/demo@1.0.0; do
    run 0 "boxgate pull $name" pull "$name" -o pulled.box
    equal "and has all of it" "$(sha256 one.box)" "$(sha256 pulled.box)"
    rm -f pulled.box
done
equal "file/info tells BLAKE3" BLAKE3 "$(info .checksumType demo 1.0.0)"
equal "Vagrant is shown nothing" "" "$(listed demo)"
refuses "vagrant box add" 'support the provider|version that matches' add myorg/demo --box-version 1.0.0
succeeds "metrics tell of it" eventually 60 waits 1
equal "and so does the status" 1 "$(curl -sS -H "x-access-token: $ADMIN_TOKEN" "$URL/api/status" | jq .sha256_deferred.blobs)"

# --- who names a digest has it compared at once ---
curl -sS -o wrong.json -w '%{http_code}' -X POST -H "Authorization: Bearer $CLIENT_SECRET" -H "x-checksum: $(sha256 one.box)" \
    -H 'x-checksum-type: sha256' --upload-file two.box "$(file_path demo 2.0.0)/upload" >status
equal "another digest than was named" 422 "$(cat status)"
curl -sS --fail-with-body -o upload.json -X POST -H "Authorization: Bearer $CLIENT_SECRET" -H "x-checksum: $(sha256 two.box)" \
    -H 'x-checksum-type: sha256' --upload-file two.box "$(file_path demo 2.0.0)/upload"
equal "the one that was named" "$(sha256 two.box)" "$(jq -r .details.sha256 upload.json)"
succeeds "vagrant box add of that one" add myorg/demo --box-version 2.0.0
curl -sS --fail-with-body -o upload.json -H "Authorization: Bearer $CLIENT_SECRET" -F file=@form.box "$(file_path form 1.0.0)"
equal "a form is hashed as it comes" "$(sha256 form.box)" "$(jq -r .details.sha256 upload.json)"

# --- what is replaced stays until its successor can be compared ---
upload one.box demo 2.0.0
equal "Vagrant is shown what was there" "$(sha256 two.box)" "$(listed demo)"
vagrant box remove myorg/demo --all --force >/dev/null 2>&1 || true
succeeds "and gets it" add myorg/demo --box-version 2.0.0
equal "with its own disk" "$(box_disk two.box)" "$(vagrant_disk myorg/demo 2.0.0)"
run 0 "boxgate pull of the successor" pull myorg/demo@2.0.0 -o pulled.box
equal "is not held up" "$(sha256 one.box)" "$(sha256 pulled.box)"
vagrant box remove myorg/demo --all --force >/dev/null 2>&1 || true

# --- killed before it is computed: the rows alone say what is left to do ---
again
equal "after a kill it waits still" "$(sha256 two.box)" "$(listed demo)"
succeeds "and is counted" eventually 60 waits 1
quickly
again
succeeds "it is computed" eventually 60 lists demo "$(sha256 one.box) $(sha256 one.box)"
succeeds "and nothing waits" eventually 60 waits 0
equal "file/info tells it" "$(sha256 one.box) SHA256" "$(info '"\(.checksum) \(.checksumType)"' demo 1.0.0)"
for version in 1.0.0 2.0.0; do
    succeeds "vagrant box add $version" add myorg/demo --box-version "$version"
    equal "its disk" "$(box_disk one.box)" "$(vagrant_disk myorg/demo "$version")"
done
at "$URL/blobs/sha256/$(sha256 one.box)"
answers "it is found by its SHA-256" 200

# --- killed again and again while a larger one is computed ---
head -c 200000000 /dev/urandom >large.box
export BOXGATE_DIGESTS__RATE=40MiB
again
upload large.box large 1.0.0
for round in 1 2 3; do
    stop_gateway KILL
    start_gateway
    succeeds "round $round: some of it is read" eventually 60 has_read
done
succeeds "it is computed in the end" eventually 120 lists large "$(sha256 large.box)"
equal "and is what was sent" "$(sha256 large.box)" "$(stored_sha256 large 1.0.0)"
run 0 "fsck finds nothing" "$GATEWAY" fsck --url "$URL" --token "$ADMIN_TOKEN"

# --- our own clients ---
slowly
again
make_box own.box 4000
run 0 "push" env BOXGATE_URL="$URL" BOXGATE_TOKEN="$CLIENT_SECRET" "$GATEWAY" push own.box myorg/own 1.0.0 virtualbox amd64
says "it tells the file's own digest" "$(sha256 own.box)"
equal "which the gateway does not know yet" "" "$(listed own)"
quickly
again
succeeds "until it does" eventually 60 lists own "$(sha256 own.box)"
run 0 "pull" pull myorg/own -o back.box
equal "the same bytes" "$(sha256 own.box)" "$(sha256 back.box)"
# What was deferred is computed also where nothing is deferred any more.
slowly
again
make_box last.box 100
upload last.box last 1.0.0
unset BOXGATE_DIGESTS__SHA256 BOXGATE_DIGESTS__RATE
again
succeeds "what was deferred before is computed" eventually 60 lists last "$(sha256 last.box)"
upload one.box last 2.0.0
equal "and nothing is any more" "$(sha256 one.box)" "$(jq -r .details.sha256 upload.json)"

finish
