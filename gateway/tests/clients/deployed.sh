#!/usr/bin/env bash
# load-tests against a gateway that it did not start: beside others (`compare --url`), and by several settings
# (`sweep --url --apply`), with a command that starts the gateway anew by the lines that it is given. Whatever becomes of
# that, none of what was uploaded stays there. And what is left of a run with a gateway of its own that is told to end.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

GATEWAY=$(realpath "$GATEWAY")
LOAD=$(dirname "$GATEWAY")/load-tests
[[ -x $LOAD ]] || { echo "no load-tests at $LOAD: build it first (cargo build -p load-tests)" >&2; exit 2; }

# The gateway is none of this shell's children: the command below ends it and starts the next one.
leave() {
    local code=$?
    [[ ! -s $WORK/pid ]] || kill -KILL "$(cat "$WORK/pid")" 2>/dev/null || true
    cleanup "$code"
}
trap leave EXIT

start_gateway
LISTEN=${URL#http://}
stop_gateway TERM
cat >"$WORK/end" <<END
#!/usr/bin/env bash
set -euo pipefail
[[ -s "$WORK/pid" ]] || exit 0
pid=\$(cat "$WORK/pid")
kill -TERM "\$pid"
# One that nobody waits for stays as a zombie.
while grep -q '^State:.[^ZX]' "/proc/\$pid/status" 2>/dev/null; do sleep 0.05; done
rm "$WORK/pid"
END
cat >"$WORK/restart" <<END
#!/usr/bin/env bash
set -euo pipefail
cat >"$WORK/sweep.toml"
cat "$WORK/sweep.toml" >>"$WORK/applied"
echo "variable \${BOXGATE_UPLOADS__PARTS_IN_FLIGHT-none}" >>"$WORK/applied"
# The lines alone are to be what it runs by.
unset BOXGATE_UPLOADS__PARTS_IN_FLIGHT
"$WORK/end"
"$GATEWAY" quickstart --data-dir "$DATA" --listen "$LISTEN" --config "$WORK/sweep.toml" --json \
    </dev/null >>"$WORK/ready" 2>>"$WORK/gateway.log" &
echo \$! >"$WORK/pid"
END
chmod +x "$WORK/end" "$WORK/restart"
"$WORK/restart" </dev/null
eventually 60 curl -sf "$URL/readyz" || fail "the gateway is started by the command"

# there COMMAND...: load-tests with what the gateway takes, in a folder that has no page of results.
there() {
    (cd "$WORK" && env BOXGATE_TOKEN="$CLIENT_SECRET" "$LOAD" --gateway "$GATEWAY" --dir "$WORK/load" "$@" \
        --url "$URL" --organization "$ORG")
}
boxes() { curl -sS --fail -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box" | jq -r '[.[].name] | sort | join(" ")'; }
# nothing_stays NAME: all boxes are those that were there before.
nothing_stays() { equal "$1" "$BEFORE" "$(boxes)"; }
make_box "$WORK/before.box"
upload "$WORK/before.box" before 1.0.0
BEFORE=$(boxes)

# --- beside others ---

run 0 "compare plays the gateway there" there compare --smoke --tools "${TOOLS%/clients}" \
    --only upload-both,upload-garage,tus,ranges-64k-32,metadata,tls-download,growth-count,growth-boxes
says "boxgate has its row" '\| boxgate \| [0-9.]+ \| [0-9.]+ \|'
says "beside a peer of this machine" '\| loop, both \| [0-9.]+'
says "whose machine that was" 'Here boxgate was a deployed gateway of version [0-9.]+, and all others'
says "what it is not given is left out" 'not there: BLAKE3 only \(a deployed gateway is not given settings: digests\.rate = 1MiB'
says "so is a catalog of its own" 'not there: 10,000 boxes \(a deployed gateway has one catalog'
says "and TLS where there is none" 'not there: boxgate \(the deployed gateway was named by http://\)'
equal "no page is written unasked" "" "$(find "$WORK" -maxdepth 1 -name docs)"
nothing_stays "nothing of that stays there"
run 0 "one that is named is" there --record-to "$WORK/page.md" compare --smoke --only metadata --tools "${TOOLS%/clients}"
matches "with the row" 'Metadata of a box' "$(cat "$WORK/page.md")"
says "with no word of where" 'compare --smoke --only metadata --url URL --organization ORG'

# --- by several settings ---

printf 'question = "does it play?"\nrounds = 2\n[[step]]\nname = "small"\nkind = "upload"\nlength = "2MiB"\ncount = 2\n' >"$WORK/small.toml"
: >"$WORK/applied"
SETS=(sweep "$WORK/small.toml" --set uploads.parts_in_flight=2,3)
run 0 "sweep has the gateway started anew for each" there "${SETS[@]}" --apply "$WORK/restart"
says "each has its figures" 'uploads\.parts_in_flight=3 \| small \| [0-9.]+ \| [0-9.]+ \| [0-9.]+ \| [0-9.]+'
says "the fastest has its lines" 'Fastest, over all steps:.*parts_in_flight = [23]'
says "what is in force is told" 'In force at the gateway now \(uploads\.parts_in_flight=2\)'
equal "lines and variables came, first to last and back" "2 2 3 3 3 3 2 2" \
    "$(sed -nE 's/^(parts_in_flight =|variable) ([0-9]+)$/\2/p' "$WORK/applied" | tr '\n' ' ' | sed 's/ $//')"
nothing_stays "nothing of the sweep stays there"
run 0 "SHA-256 may come when all is answered" there sweep "$WORK/small.toml" --set digests.sha256=inline,deferred --apply "$WORK/restart"
says "and has its figures" 'digests\.sha256=deferred \| small \| [0-9.]+'
run 2 "a command that fails ends it" there "${SETS[@]}" --apply 'echo the disk is full; exit 7'
says "with what it said" 'exit status: 7[[:space:]]+the disk is full'
says "and that nobody knows what is in force" 'in force at the gateway now is not known'
cat >"$WORK/once" <<END
#!/usr/bin/env bash
[[ \$BOXGATE_UPLOADS__PARTS_IN_FLIGHT == 2 ]] && exec "$WORK/restart"
exit 7
END
chmod +x "$WORK/once"
run 2 "one that fails later ends it" there "${SETS[@]}" --apply "$WORK/once"
says "with what was played before" 'What was played before it failed.*parts_in_flight=2 \| small \| [0-9.]+'
run 2 "one that leaves no gateway ends it" there "${SETS[@]}" --apply-within 1 --apply "$WORK/end"
says "with the wait that was too long" 'readyz does not answer 200 within [01] s'
"$WORK/restart" </dev/null
eventually 60 curl -sf "$URL/readyz" || fail "it is started again"
run 2 "a key that is none is refused before anything" there sweep "$WORK/small.toml" --set uploads.no_such=1 --apply false
says "by its name" 'no_such'
nothing_stays "nothing of the failures stays there"

run 1 "a command that starts nothing anew" there "${SETS[@]}" --apply true
says "has no winner" 'None is the fastest'
says "for its settings may never have been in force" 'perhaps not in force'
nothing_stays "nothing of that sweep stays there"

# --- what could not succeed is refused before anything is played ---

# by TOKEN ORGANIZATION: a run there with those.
by() {
    (cd "$WORK" && env BOXGATE_TOKEN="$1" "$LOAD" --dir "$WORK/load" run "$WORK/small.toml" --url "$URL" --organization "$2")
}
run 2 "a credential that is none" by nobody "$ORG"
says "is told with the next step" 'put one that is valid into BOXGATE_TOKEN'
run 2 "an organization that is none" by "$CLIENT_SECRET" nowhere
says "is told by its name" 'organization nowhere'
run 0 "the right ones play" by "$CLIENT_SECRET" "$ORG"
says "what nobody could see is told" 'ended on SIGTERM: not checked'
nothing_stays "nothing of those stays there"

# --- what cannot be done there ---

run 2 "settings without a way to them" there "${SETS[@]}"
says "are refused with the next step" 'Add --apply COMMAND'
run 2 "a build beside another" there run cpu --against main
says "is refused with the next step" 'deploy one after the other'

# --- a run with a gateway of its own that is told to end ---

# Its second upload is ten minutes away.
printf 'question = "does it end?"\nrounds = 1\n[[step]]\nname = "long"\nkind = "upload"\nlength = "1MiB"\ncount = 2\nevery_ms = 600000\n' >"$WORK/long.toml"
# No process has a number that high.
mkdir -p "$WORK/own/gateway-4999999/data"
"$LOAD" --gateway "$GATEWAY" --dir "$WORK/own" run "$WORK/long.toml" </dev/null >"$WORK/out" 2>&1 &
RUNS=$!
eventually 60 test -d "$WORK/own/gateway-$RUNS/data" || fail "it starts a gateway"
OWN=$(cut -d' ' -f1 "/proc/$RUNS/task/$RUNS/children")
kill -TERM "$RUNS"
CODE=0
wait "$RUNS" || CODE=$?
equal "SIGTERM ends it" 2 "$CODE"
says "which it says" 'told to end'
equal "its gateway ended before it" "" "$(cat "/proc/$OWN/comm" 2>/dev/null || true)"
equal "nothing is left, nor of one that is no more" "" "$(ls "$WORK/own")"
finish
