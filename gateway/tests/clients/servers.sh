# Shared by all that starts servers of others for tests: waiting with a bound, free ports, a private PostgreSQL.
# Sourced, never run; changes nothing when it is.
# shellcheck shell=bash disable=SC2034

# eventually SECONDS COMMAND...: repeats a quiet command until it succeeds.
eventually() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.1
    done
}

# free_ports COUNT: ports that nobody listens on, all different.
free_ports() {
    python3 -c 'import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))' "$1"
}

# random_hex BYTES
random_hex() {
    head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'
}

# make_postgres FOLDER: a new database cluster in FOLDER/data, with a superuser `postgres` whom a socket in FOLDER lets
# in. FOLDER must be short: a socket's path has 107 bytes at most. Sets POSTGRES, the command that runs its server, and
# PG_BIN, where its programs are.
make_postgres() {
    local as=()
    PG_BIN=$(pg_config --bindir 2>/dev/null || true)
    [[ -x $PG_BIN/initdb ]] || PG_BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [[ -x $PG_BIN/initdb ]] || { echo "PostgreSQL is missing: apt-get install postgresql" >&2; return 1; }
    if (($(id -u) == 0)); then
        # The server refuses to run as root.
        chown postgres "$1"
        as=(setpriv --reuid postgres --regid postgres --clear-groups --)
    fi
    (cd "$1" && "${as[@]}" "$PG_BIN/initdb" --pgdata=data --username=postgres --auth-local=trust --auth-host=reject \
        --encoding=UTF8 --locale=C --no-sync) >"$1/initdb.log" || { cat "$1/initdb.log" >&2; return 1; }
    POSTGRES=("${as[@]}" "$PG_BIN/postgres" -D "$1/data" -k "$1")
}

# make_mariadb FOLDER: a new database server's files in FOLDER/data, reached by the socket FOLDER/s alone. FOLDER must be
# short, as above. Sets MARIADB, the command that runs its server; whoever runs it is its administrator.
make_mariadb() {
    command -v mariadbd >/dev/null || { echo "MariaDB is missing: apt-get install mariadb-server-core mariadb-client-core" >&2; return 1; }
    mariadb-install-db --no-defaults --datadir="$1/data" --user="$(id -un)" --auth-root-authentication-method=socket \
        --auth-root-socket-user="$(id -un)" --skip-test-db >"$1/install.log" 2>&1 || { cat "$1/install.log" >&2; return 1; }
    MARIADB=(mariadbd --no-defaults --datadir="$1/data" --socket="$1/s" --user="$(id -un)" --pid-file="$1/pid"
        --skip-networking --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=32M)
}
