#!/usr/bin/env bash
# docs/logs: rsyslog follows the log and takes its lines apart while logrotate moves it away under load; no line is lost,
# doubled or cut.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PATH=$PATH:/usr/sbin
LOGS=$WORK/log
LOG=$LOGS/boxvault.log
mkdir -m 755 "$LOGS" "$WORK/rsyslog"

# --- rsyslog and logrotate, by the files of the handbook with this run's folders ---
{
    printf 'global(workDirectory="%s")\n' "$WORK/rsyslog"
    sed "s|/var/log/boxvault/|$LOGS/|; s|/var/log/boxvault-|$WORK/boxvault-|" "$ROOT/docs/logs/rsyslog.conf"
} >"$WORK/rsyslog.conf"
sed "s|/var/log/boxvault/|$LOGS/|; s|^    su .*|    su $(id -un) $(id -gn)|" "$ROOT/docs/deploy/debian/logrotate" >"$WORK/logrotate.conf"
chmod 644 "$WORK/logrotate.conf"
lib=$TOOLS/rsyslog/usr/lib/$(uname -m)-linux-gnu
# A command and no function: in the background its process id is the server's own.
RSYSLOGD=(env LD_LIBRARY_PATH="$lib" "$TOOLS/rsyslog/usr/sbin/rsyslogd" -M "$lib/rsyslog" -f "$WORK/rsyslog.conf" -i "$WORK/rsyslog.pid")
succeeds "rsyslog takes the file" "${RSYSLOGD[@]}" -N1
export BOXGATE_LOG__FILE=$LOG
BOXGATE_NO_SUCH__SETTING=1 start_gateway
"${RSYSLOGD[@]}" -n >"$WORK/rsyslog.out" 2>&1 &
RSYSLOG=$!
stop_rsyslog() {
    local code=$?
    kill "$RSYSLOG" 2>/dev/null || true
    wait "$RSYSLOG" 2>/dev/null || true
    return "$code"
}
trap 'CODE=$?; stop_rsyslog; cleanup "$CODE"' EXIT

# written: all lines, the oldest first.
written() {
    local file
    for file in "$LOG".2.gz "$LOG".1 "$LOG"; do
        case $file in
            *.gz) [[ ! -e $file ]] || zcat "$file" ;;
            *) [[ ! -e $file ]] || cat "$file" ;;
        esac
    done
}
# Asked for once more: how many are written, and how many came through.
caught_up() {
    [[ $(written | wc -l) == "$(wc -l <"$WORK/boxvault-parsed.log")" ]]
}
# asked COUNT: so many requests of a trace, four at a time.
asked() {
    seq "$1" | xargs -P 4 -I{} curl -sS -o /dev/null -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' "$URL/health?{}"
}
requests_of() {
    written | jq -s '[.[] | select(.route == "health")] | length'
}
rotate() {
    logrotate --force --state "$WORK/logrotate.state" "$WORK/logrotate.conf"
}

asked 100
if eventually 60 caught_up; then ok "rsyslog follows: $(wc -l <"$WORK/boxvault-parsed.log") lines"; else fail "rsyslog has $(wc -l <"$WORK/boxvault-parsed.log") of $(written | wc -l) lines"; fi

for round in 1 2; do
    asked 200 &
    load=$!
    fuller() { [[ $(requests_of) -gt $((100 + 200 * (round - 1) + 20)) ]]; }
    eventually 60 fuller || fail "no requests under way"
    succeeds "logrotate, while requests are answered ($round)" rotate
    wait "$load"
    begun_anew() { [[ -s $LOG ]]; }
    eventually 60 begun_anew && ok "the log is begun anew ($round)" || fail "no new log"
    all() { [[ $(requests_of) == $((100 + 200 * round)) ]]; }
    eventually 60 all || true
    equal "each request has its line ($round)" $((100 + 200 * round)) "$(requests_of)"
    eventually 60 caught_up || true
    equal "and each line came through ($round)" "$(written | wc -l)" "$(wc -l <"$WORK/boxvault-parsed.log")"
done
matches "old ones are packed" 'boxvault\.log\.2\.gz' "$(ls "$LOGS" | tr '\n' ' ')"

# The same documents, whatever the order of their members.
equal "what came through is what was written" "$(written | jq -cS . | sort | sha256sum)" \
    "$(jq -cS . "$WORK/boxvault-parsed.log" | sort | sha256sum)"
equal "no request has two lines" "$(requests_of)" "$(written | jq -r 'select(.route == "health") | .request_id' | sort -u | wc -l)"
equal "no line is cut" 0 "$(written | grep -cv '^{.*}$' || true)"
matches "warnings go their own way" 'NO_SUCH__SETTING' "$(cat "$WORK/boxvault-errors.log" 2>/dev/null || true)"
equal "and nothing else does" 0 "$(jq -s '[.[] | select(.level == "INFO")] | length' "$WORK/boxvault-errors.log")"

# --- what Fluentd's section reads: JSON with a time that its format fits ---
format=$(sed -n 's/^ *time_format //p' "$ROOT/docs/logs/fluentd.conf")
equal "Fluentd's format" '%Y-%m-%dT%H:%M:%S.%L%z' "$format"
equal "times fit it" 0 "$(written | jq -r .time | grep -cvE '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$' || true)"
# README.md tells of each key of a request's line.
keys=$(written | jq -r 'select(has("route")) | keys[]' | sort -u | grep -vxE 'time|level')
equal "README.md has the keys of a request's line" "" \
    "$(comm -3 <(echo "$keys") <(sed -n '/^| key/,/^$/p' "$ROOT/docs/logs/README.md" | grep '^| `' | cut -d'|' -f2 | grep -o '`[a-z_]*`' | tr -d '`' | sort -u))"

stop_gateway TERM
finish
