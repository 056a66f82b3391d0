# Shared by the suites whose rows are in PostgreSQL. Sourced first, and before lib.sh, which it sources: it starts the
# suite again beside a private server, and makes a database. Sets SERVER (where databases are made), DATABASE and KEY
# (a master key).
# shellcheck shell=bash disable=SC2034
if [[ -z ${BOXGATE_TEST_POSTGRES:-} ]]; then
    exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../.ci/with-postgres" bash "$0" "$@"
fi
SERVER=$BOXGATE_TEST_POSTGRES
unset BOXGATE_TEST_POSTGRES
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

psql -q "$SERVER" -c 'CREATE DATABASE boxes' >/dev/null
DATABASE=${SERVER/\/postgres\?//boxes?}
KEY=$(random_hex 32)
