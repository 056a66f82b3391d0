#!/usr/bin/env bash
# `boxgate pull` against the gateway: whole, by anyone and by who may, killed and gone on with, repaired, and through
# a proxy that lies.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

MIB=$((1 << 20))

# pull BOX[@VERSION] [ARGUMENTS...], from $FROM.
pull() {
    "$GATEWAY" pull "$ORG/$1" --url "$FROM" "${@:2}"
}

# asked: requests for ranges of the box since the proxy's notes were last emptied.
asked() {
    grep -c 'vagrant.box' "$WORK/asked" || true
}

start_gateway
"$GATEWAY" sample-box big.box --size 40MB >/dev/null
"$GATEWAY" sample-box other.box --size 3MB --architecture arm64 >/dev/null
printf 'a small box\n' >small.box
BIG=$(sha256 big.box)
LENGTH=$(size big.box)
for version in 1.0.0 1.1.0; do
    "$GATEWAY" push big.box "$ORG/demo" "$version" virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" >/dev/null 2>&1
done
"$GATEWAY" push other.box "$ORG/demo" 1.0.0 virtualbox arm64 --url "$URL" --token "$CLIENT_SECRET" >/dev/null 2>&1
"$GATEWAY" push small.box "$ORG/small" 1.0.0 virtualbox amd64 --url "$URL" --token "$CLIENT_SECRET" >/dev/null 2>&1
python3 "$CLIENTS/liar.py" "${URL#http://}" "$WORK" >"$WORK/liar" 2>"$WORK/liar.err" &
LIAR_PID=$!
trap 'CODE=$?; kill "$LIAR_PID" 2>/dev/null || true; cleanup "$CODE"' EXIT
eventually 30 test -s "$WORK/liar"
LIAR=$(cat "$WORK/liar")
FROM=$URL

# --- whole ---
run 1 "a private box, by nobody" pull demo -o a.box
says "a private box, by nobody: as absent" "answers 404: Box '$ORG/demo' does not exist, or you may not read it"
run 0 "a private box, by its key" pull demo@1.1.0 --token "$CLIENT_SECRET" -o a.box
says "its key: sha256 at the end" "sha256  $BIG"
equal "its key: the file" "$BIG" "$(sha256 a.box)"
run 0 "again" pull demo@1.1.0 --token "$CLIENT_SECRET" -o a.box
says "again: nothing is fetched" ' 0 B fetched '
make_public demo
make_public small
run 0 "a public box, by nobody, its name left open" pull demo
equal "its name left open: the newest" "$BIG" "$(sha256 demo-1.1.0-virtualbox-amd64.box)"
run 0 "a box of a few bytes" pull small -o s.box
equal "a box of a few bytes: the file" "$(sha256 small.box)" "$(sha256 s.box)"
run 0 "one architecture of two" pull demo@v1.0.0 virtualbox arm64 -o arm.box
equal "one architecture of two: the file" "$(sha256 other.box)" "$(sha256 arm.box)"
equal "nothing else is left" '' "$(ls ./*.boxgate-pull 2>/dev/null || true)"

# --- no ---
run 1 "a version that is not there" pull demo@9
says "a version that is not there: what is" 'no version 9; there is 1.1.0, 1.0.0'
run 1 "a provider that is not there" pull demo hyperv
says "a provider that is not there: what is" 'is there for virtualbox amd64'
run 2 "no box" "$GATEWAY" pull demo --url "$URL"
run 1 "a place that is no file" pull demo -o "$WORK"
run 2 "to standard output" pull demo -o -
says "to standard output: what to do" 'name one'
ln -s nowhere link.box
run 1 "to a link that leads nowhere" pull demo -o link.box
equal "a link that leads nowhere stays" nowhere "$(readlink link.box)"
run 75 "nobody there" "$GATEWAY" pull "$ORG/demo" --url http://127.0.0.1:1 --tries 1

# --- cut, killed, and gone on with ---
FROM=$LIAR
echo "stop $((20 * MIB))" >lie
run 75 "a proxy that cuts every answer" pull demo -o b.box --tries 2
says "a proxy that cuts every answer: nothing is lost" 'Nothing is lost: the same command goes on'
equal "a proxy that cuts every answer: no file" no "$([[ -e b.box ]] && echo yes || echo no)"
"$GATEWAY" pull "$ORG/demo" --url "$FROM" -o b.box --tries 1000 >"$WORK/killed" 2>&1 </dev/null &
PULL_PID=$!
# It says so once the place is its own.
if eventually 30 grep -q 'goes on: ' killed; then ok "another goes on with it"; else fail "no other goes on: $(brief "$(cat killed)")"; fi
run 75 "a second pull to the same place" pull demo -o b.box
says "a second pull to the same place: it waits" 'another pull to b.box is running'
kill -KILL "$PULL_PID"
wait "$PULL_PID" 2>/dev/null || true
rm lie
: >asked
run 0 "killed: the same command goes on" pull demo -o b.box
says "killed: it says so" 'goes on: [0-9.]+ MiB of [0-9.]+ MiB are here and right'
equal "killed: the file" "$BIG" "$(sha256 b.box)"
if (($(asked) <= 3)); then ok "killed: the rest alone is fetched, in $(asked) ranges"; else fail "killed: $(asked) ranges"; fi

# --- damaged here ---
printf 'damage' | dd of=b.box bs=1 seek=$((7 * MIB + 99)) conv=notrunc status=none
: >asked
run 0 "a damaged file" pull demo -o b.box
says "a damaged file: one block is fetched" ' 1.00 MiB fetched '
equal "a damaged file: it is right again" "$BIG" "$(sha256 b.box)"
equal "a damaged file: that block alone is asked for" "bytes=$((7 * MIB))-$((8 * MIB - 1))" \
    "$(awk '/vagrant.box/ { print $2 }' asked)"
cp big.box c.box.boxgate-pull
printf 'damage' | dd of=c.box.boxgate-pull bs=1 seek=$((LENGTH - 6)) conv=notrunc status=none
: >asked
run 0 "a cut pull whose last block is damaged" pull demo -o c.box
equal "its last block: the file" "$BIG" "$(sha256 c.box)"
equal "its last block: one range" 1 "$(asked)"

# --- lied to ---
echo "block 5 1" >lie
: >asked
run 0 "one wrong block" pull demo -o d.box
says "one wrong block: it is noticed" 'block 5 came with other bytes'
equal "one wrong block: the file" "$BIG" "$(sha256 d.box)"
equal "one wrong block: it alone is asked for again, past every cache" "bytes=$((5 * MIB))-$((6 * MIB - 1)) no-cache" \
    "$(awk '/no-cache/ { print $2, $3 }' asked)"
echo "block 5 -1" >lie
run 1 "a wrong block, always" pull demo -o e.box
says "a wrong block, always: told" 'sends other bytes than the box has in block 5, 3 times'
equal "a wrong block, always: no file" no "$([[ -e e.box ]] && echo yes || echo no)"
echo outboard >lie
run 1 "a wrong tree" pull demo -o f.box
says "a wrong tree: told" 'sends a tree that is not the box'
equal "a wrong tree: nothing is written" '' "$(ls f.box* 2>/dev/null || true)"
echo other >lie
run 1 "a range that is answered whole" pull demo -o g.box
says "a range that is answered whole: told" 'answers a range with 200'
rm lie

# --- sent elsewhere for the bytes, as to a store or a mirror ---
stop_gateway
mkdir -p "$DATA/plugins"
cat >"$DATA/plugins/elsewhere.rhai" <<'RHAI'
fn on_download(req, blob) {
    if req.path.starts_with("/blobs/") { return; }
    redirect("/blobs/b3/" + blob.blake3 + "?secret=hush")
}
RHAI
start_gateway
FROM=$URL
http "$URL/$ORG/boxes/demo/versions/1.1.0/providers/virtualbox/amd64/vagrant.box" -H "Authorization: Bearer $CLIENT_SECRET"
equal "the box is elsewhere" 302 "$STATUS"
run 0 "a box that is elsewhere" pull demo -o i.box
equal "a box that is elsewhere: the file" "$BIG" "$(sha256 i.box)"
rm "$DATA/plugins/elsewhere.rhai"

# --- damaged at the gateway ---
stop_gateway
for blob in $(find "$DATA/blobs" -type f -size "${LENGTH}c"); do
    printf 'damage' | dd of="$blob" bs=1 seek=$((30 * MIB + 5)) conv=notrunc status=none
done
start_gateway
FROM=$URL
run 1 "a box that is damaged at the gateway" pull demo -o h.box
says "a box that is damaged at the gateway: told" 'are damaged and are not served'
equal "a box that is damaged at the gateway: no file" no "$([[ -e h.box ]] && echo yes || echo no)"

finish
