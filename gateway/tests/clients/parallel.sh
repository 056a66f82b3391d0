#!/usr/bin/env bash
# aria2 takes a box in parallel ranges, is killed and goes on; b3sum finds in it what the gateway says of it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

start_gateway
make_box a.box 40000
make_box b.box 30000
SHA_A=$(sha256 a.box)
upload a.box demo 1.0.0
B3_A=$(info .blake3 demo 1.0.0)
equal "b3sum of what was sent" "$B3_A" "$(b3sum --no-names a.box)"
make_public demo
NAMED=$URL/$ORG/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box
ARIA=(aria2c --no-conf --quiet --split=16 --max-connection-per-server=16 --min-split-size=1M --allow-overwrite=true)

# ranges: answers of downloads in part so far.
ranges() {
    grep -c '"route":"download".*"status":206\|"status":206.*"route":"download"' gateway.log || true
}

for place in "$NAMED" "$NAMED?b3=$B3_A" "$URL/blobs/b3/$B3_A"; do
    before=$(ranges)
    succeeds "aria2 takes ${place#"$URL"}" "${ARIA[@]}" --out=taken.box "$place"
    equal "its bytes" "$SHA_A $B3_A" "$(sha256 taken.box) $(b3sum --no-names taken.box)"
    if (($(ranges) - before > 8)); then ok "in ranges: $(($(ranges) - before))"; else fail "in ranges: $(($(ranges) - before))"; fi
    rm taken.box
done
succeeds "aria2 by a key" "${ARIA[@]}" --out=keyed.box --header="Authorization: Bearer $CLIENT_SECRET" \
    --checksum="sha-256=$SHA_A" "$(file_path demo 1.0.0)/download"

# --- killed half-way, and gone on with ---
"${ARIA[@]}" --max-overall-download-limit=8M --auto-save-interval=1 --out=cut.box "$NAMED" &
ARIA_PID=$!
if eventually 60 test -s cut.box.aria2; then ok "it keeps what it has"; else fail "no control file"; fi
kill -KILL "$ARIA_PID"
wait "$ARIA_PID" 2>/dev/null || true
if [[ $(sha256 cut.box) != "$SHA_A" ]]; then ok "killed before its end"; else fail "it was whole already"; fi
succeeds "it goes on" "${ARIA[@]}" --continue=true --out=cut.box "$NAMED"
equal "the whole of it" "$B3_A" "$(b3sum --no-names cut.box)"

# --- replaced half-way: never a mixture ---
"${ARIA[@]}" --max-overall-download-limit=8M --auto-save-interval=1 --out=mixed.box "$NAMED" &
ARIA_PID=$!
if eventually 60 test -s mixed.box.aria2; then ok "another one is on its way"; else fail "no control file"; fi
upload b.box demo 1.0.0
code=0
wait "$ARIA_PID" || code=$?
# What was begun ends with the bytes it began with; a range asked for later is of the new box and of another length.
if [[ $code != 0 || $(sha256 mixed.box) == "$SHA_A" ]]; then
    ok "replaced meanwhile: exit $code"
else
    fail "a mixture with exit code 0: $(sha256 mixed.box)"
fi
finish
