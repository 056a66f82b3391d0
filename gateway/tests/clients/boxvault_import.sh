#!/usr/bin/env bash
# What a BoxVault holds, taken into the catalog: from MariaDB and from SQLite, with people who sign in as before, keys that
# stay good, and files that Vagrant takes; after a kill once more, and what cannot be brought is named.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

SERVER=
SHORT=$(mktemp -d /tmp/boxgate-mdb.XXXXXX)
ended() {
    [[ -z $SERVER ]] || { kill "$SERVER" && wait "$SERVER"; } 2>/dev/null || true
    rm -rf "$SHORT"
}
trap 'CODE=$?; ended; cleanup "$CODE"' EXIT

# --- what the BoxVault has ---

make_box one.box 900
make_box two.box 700
make_box arm.box 500
V=$WORK/boxes
# place PATH FILE: a file of the tree.
place() {
    mkdir -p "$V/$1"
    cp "$2" "$V/$1/vagrant.box"
}
place acme/ubuntu-20.04/1.0.0/virtualbox/amd64 one.box
place acme/ubuntu-20.04/1.0.0/virtualbox/arm64 arm.box
place acme/ubuntu-20.04/v2.0.0/virtualbox/amd64 two.box
place acme/secret/1/libvirt/amd64 two.box # not what its checksum says
place acme/secret/1/libvirt/arm64 two.box # not as long as the database says
place acme/unknown/1/virtualbox/amd64 one.box
head -c 3000000 /dev/urandom >debian.iso
mkdir isos
cp debian.iso "isos/$(sha256 debian.iso).iso"
KEY=$(random_hex 32) LATE=$(random_hex 32)
hash() { printf '%s' "$1" | sha256sum | cut -d' ' -f1; }
# Of "correct horse".
BCRYPT='$2a$08$gOU5pFBlTIBMpNUJAOcFcuME8mACaoDoBD87pnLzjo/bkps.QeQoC'
sed -e "s|@BCRYPT@|$BCRYPT|; s|@KEY_SHA256@|$(hash "$KEY")|; s|@LATE_SHA256@|$(hash "$LATE")|; s|@ENDED_SHA256@|$(hash ended)|" \
    -e "s|@ISO_SHA256@|$(sha256 debian.iso)|g" \
    -e "s|@ARM_MD5@|$(md5sum arm.box | cut -d' ' -f1)|; s|@ARM_SIZE@|$(size arm.box)|" \
    -e "s|@ONE_SHA256@|$(sha256 one.box)|; s|@ONE_SIZE@|$(size one.box)|; s|@TWO_SIZE@|$(size two.box)|" \
    "$CLIENTS/fixtures/boxvault.sql" >mariadb.sql
sed -E "s/ENUM\([^)]*\)/TEXT/g; s/INTEGER NOT NULL auto_increment/INTEGER/g; s/('20[0-9-]+ [0-9:]+)'/\1.000 +00:00'/g" \
    mariadb.sql >sqlite.sql
python3 - <<'END'
import sqlite3
with sqlite3.connect("boxvault.sqlite") as database:
    database.executescript(open("sqlite.sql").read())
END

make_mariadb "$SHORT" || { fail "no MariaDB"; finish; }
"${MARIADB[@]}" >mariadb.log 2>&1 &
SERVER=$!
maria() { mariadb --no-defaults --socket="$SHORT/s" --default-character-set=utf8mb4 "$@"; }
eventually 60 maria -e 'SELECT 1' || { tail -n 5 mariadb.log; fail "MariaDB did not start"; finish; }
maria -e "CREATE DATABASE boxvault CHARACTER SET utf8mb4; CREATE USER vault IDENTIFIED BY 'pass word/%'; GRANT SELECT ON boxvault.* TO vault;"
maria boxvault <mariadb.sql
MARIA="mysql://vault:pass%20word%2F%25@localhost/boxvault?socket=$SHORT/s"

# --- both, one after the other ---

# import DATABASE [FLAGS...]: into $DATA, in which no gateway runs.
import() {
    "$GATEWAY" admin import boxvault --files "$V" --data-dir "$DATA" --database "$@"
}
# sign_in NAME PASSWORD
sign_in() {
    http -H 'Content-Type: application/json' -d "{\"username\":\"$1\",\"password\":\"$2\"}" "$URL/api/auth/signin"
}
# acme KEY PATH: what is below the organization, by a key.
acme() {
    http -H "Authorization: Bearer $1" "$URL/api/organization/acme$2"
}

for kind in MariaDB SQLite; do
    echo "--- from $kind"
    DATA=$WORK/$kind
    DATABASE=boxvault.sqlite
    [[ $kind == SQLite ]] || DATABASE=$MARIA
    run 2 "$kind: nothing is made where no gateway ever was" import "$DATABASE"
    start_gateway
    run 2 "$kind: nor beside one that runs" import "$DATABASE"
    says "it says so" 'stop it'
    stop_gateway
    run 1 "$kind: import" import "$DATABASE"
    says "what was brought" '3 files brought'
    for left in "user \"eve o'dd\": nobody here can have that name" 'user "carol": it never confirmed' 'password of user "dave"' \
        'organization "api": its name is the first word of a route' 'membership of bob in acme: there is no role "guest"' \
        'service account "ann-00000002": its key has expired' 'box "lost": its organization was not brought' \
        'acme/-odd: the catalog takes no such name' "acme/ubuntu-20.04/v1.0.0: another version differs" \
        'libvirt/amd64/vagrant.box: its bytes are not those' \
        "libvirt/arm64/vagrant.box: it has $(size two.box) bytes, and the database says 1000000" \
        'libvirt/i386/vagrant.box: the file is not there' 'acme/unknown/1/virtualbox/amd64/vagrant.box: the database does not know it' \
        'table isos: 1 rows are not brought'; do
        if grep -qF "$left" out; then ok "left: $left"; else fail "not told: $left"; fi
    done
    equal "and nothing else" "$(grep -c '^not brought' out)" 14
    run 1 "$kind: once more" import "$DATABASE"
    says "nothing is missing" '0 files brought, 0 B; 3 were there'
    equal "nothing is made" 0 "$(grep -c ' made\.' out || true)"
    run 1 "$kind: with its ISO images" import "$DATABASE" --isos isos
    says "one comes" '1 files brought'

    start_gateway
    sign_in ann 'wrong horse'
    answers "a wrong password" 401
    for time in first second; do
        sign_in ann 'correct horse'
        answers "ann signs in as before, the $time time" 200
    done
    equal "her organizations" 'acme owner' "$(field '.organizations[] | "\(.name) \(.role)"')"
    sign_in root 'correct horse'
    equal "who administers the platform does" ROLE_ADMIN "$(field '.roles[0]')"
    for name in bob carol; do
        sign_in $name 'correct horse'
        answers "$name is suspended" 403
    done
    sign_in dave 'correct horse'
    answers "dave has no password" 401
    http -H 'Content-Type: application/json' -d "{\"clientId\":\"ann-0123abcd\",\"clientSecret\":\"$KEY\"}" "$URL/api/auth/service-account"
    answers "the guide's login, by a key that was" 200
    acme "$LATE" /box/secret
    answers "a key that ends late reads what is private" 200
    http -H 'Authorization: Bearer ended' "$URL/api/organization/acme/box/secret"
    differs "one that has ended does not" 200 "$STATUS"
    acme "$KEY" /box/ubuntu-20.04
    equal "a box as it was" 'Ubuntu — für alle short # Read me linux true true acme/ubuntu' \
        "$(field '"\(.description) \(.shortDescription) \(.readme) \(.metadata.os) \(.published) \(.isPublic) \(.githubRepo)"')"
    acme "$KEY" /box/ubuntu-20.04/version/v2.0.0
    equal "a version as it was" 'v2.0.0 true it is old' "$(field '"\(.versionNumber) \(.deprecated) \(.deprecationReason)"')"
    acme "$KEY" /box/ubuntu-20.04/version/1.0.0/provider/virtualbox/architecture
    equal "architectures as they were" 'arm64 false,amd64 true' "$(field '[.[] | "\(.name) \(.defaultBox)"] | join(",")')"
    acme "$KEY" /box/ubuntu-20.04/version/1.0.0/provider/virtualbox/architecture/amd64/file/info
    equal "a file as it was" "$(sha256 one.box) SHA256 12 $(size one.box)" \
        "$(field '"\(.checksum) \(.checksumType) \(.downloadCount) \(.fileSize)"')"
    http "$URL/api/organization/acme/box/secret"
    answers "what is private is" 404
    http "$URL/api/organization/acme/iso/name/debian.iso/download"
    answers "an ISO image as it was" 200
    equal "its bytes" "$(sha256 debian.iso)" "$(sha256 "$WORK/body")"
    for version in 1.0.0 2.0.0; do
        succeeds "vagrant box add acme/ubuntu-20.04 $version" env VAGRANT_SERVER_URL="$URL" \
            vagrant box add acme/ubuntu-20.04 --box-version "$version" --provider virtualbox
    done
    equal "its disk" "$(box_disk one.box)" "$(vagrant_disk acme/ubuntu-20.04 1.0.0)"
    equal "and the other's" "$(box_disk two.box)" "$(vagrant_disk acme/ubuntu-20.04 2.0.0)"
    vagrant box remove acme/ubuntu-20.04 --all --force >/dev/null 2>&1 || true
    http -X POST -H "x-access-token: $KEY" -F file=@one.box \
        "$URL/api/organization/acme/box/secret/version/1/provider/libvirt/architecture/amd64/file"
    answers "the key publishes on" 200
    http -X DELETE -H "x-access-token: $KEY" "$URL/api/organization/acme/box/ubuntu-20.04/version/1.0.0/provider/virtualbox/architecture/arm64"
    answers "what is deleted here" 200
    stop_gateway
    run 1 "$kind: the same import" import "$DATABASE"
    says "stays so" '0 files brought.* 1 that an earlier import brought are gone here since'
    hashes=$(python3 - "$DATA/boxgate.db" <<'END'
import sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("SELECT username, password_hash FROM users WHERE username IN ('ann', 'bob') ORDER BY 1")
print(*(f"{name} {text[:7]}" for name, text in rows))
END
    )
    equal "a password that was used is kept in our own way" 'ann $argon2 bob $2a$08$' "$hashes"
done

# --- what goes wrong ---

run 2 "a wrong password of the database" import "${MARIA/pass%20/pass}"
says "it says so" '[Dd]enied'
if grep -qF 'pass' out && grep -qF 'word%2F' out; then fail "the password is told"; else ok "the password is not told"; fi
printf '%s\n' "$MARIA" >url
run 1 "its address from a file" import @url
run 2 "a database of something else" import "$DATA/boxgate.db"
says "it says so" 'no BoxVault'
run 2 "no database" import "$WORK/nowhere.sqlite"
run 2 "no files" "$GATEWAY" admin import boxvault --files "$WORK/nowhere" --data-dir "$DATA"
run 1 "files alone, to organizations that are there" "$GATEWAY" admin import boxvault --files "$V" --data-dir "$DATA"
says "those that no database spoke for" '2 files brought'

# --- names that differ by case alone: nobody gets what is another's ---

python3 - <<'END'
import shutil, sqlite3
shutil.copy("boxvault.sqlite", "letters.sqlite")
with sqlite3.connect("letters.sqlite") as database:
    database.row_factory = sqlite3.Row
    for table, name, other in (("organizations", "name", "ACME"), ("users", "username", "ANN")):
        row = dict(database.execute(f"SELECT * FROM {table} WHERE lower({name}) = lower(?)", (other,)).fetchone())
        row |= {key: value for key, value in {"id": 9000, name: other, "email": "x@y.example", "org_code": "B99999"}.items() if key in row}
        database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    database.execute("UPDATE files SET checksum = checksum || ' ' WHERE checksumType = 'SHA256'")
END
DATA=$WORK/letters
start_gateway
stop_gateway
run 1 "two of one name" import letters.sqlite
says "the second organization stays" 'organization "ACME": another one has its name in other letters'
says "and the second user" 'user "ANN": another one has its name in other letters'
says "a checksum with a blank is one" 'libvirt/amd64/vagrant.box: its bytes are not those'

# --- a kill ---

head -c 300000000 /dev/urandom >large
place acme/ubuntu-20.04/3.0.0/virtualbox/amd64 large
place acme/ubuntu-20.04/4.0.0/virtualbox/amd64 large
echo more >>"$V/acme/ubuntu-20.04/4.0.0/virtualbox/amd64/vagrant.box"
maria boxvault -e "INSERT INTO versions (id, versionNumber, boxId, createdAt, updatedAt) VALUES (30, '3.0.0', 1, NOW(), NOW()), (40, '4.0.0', 1, NOW(), NOW());
    INSERT INTO providers (id, name, versionId, createdAt, updatedAt) VALUES (30, 'virtualbox', 30, NOW(), NOW()), (40, 'virtualbox', 40, NOW(), NOW());
    INSERT INTO architectures (id, name, defaultBox, providerId, createdAt, updatedAt) VALUES (30, 'amd64', 1, 30, NOW(), NOW()), (40, 'amd64', 1, 40, NOW(), NOW());
    INSERT INTO files (fileName, fileSize, architectureId, createdAt, updatedAt) VALUES ('vagrant.box', $(size large), 30, NOW(), NOW()), ('vagrant.box', $(($(size large) + 5)), 40, NOW(), NOW());"
DATA=$WORK/MariaDB
# The program itself, and no shell around it, is killed.
"$GATEWAY" admin import boxvault --files "$V" --data-dir "$DATA" --database "$MARIA" >cut.out 2>&1 &
PID=$!
some_bytes() { [[ $(find "$DATA/blobs" -type f -size +10M | wc -l) -ge 1 ]]; }
eventually 60 some_bytes || fail "nothing comes: $(brief "$(cat cut.out)")"
kill -9 "$PID"
wait "$PID" 2>/dev/null || true
run 1 "import after a cut" import "$MARIA"
start_gateway
SECRET=$KEY
for version in 3.0.0 4.0.0; do
    equal "the file of $version" "$(sha256 "$V/acme/ubuntu-20.04/$version/virtualbox/amd64/vagrant.box")" \
        "$(curl -sS --fail -H "Authorization: Bearer $SECRET" \
            "$URL/api/organization/acme/box/ubuntu-20.04/version/$version/provider/virtualbox/architecture/amd64/file/download" | sha256sum | cut -d' ' -f1)"
done

finish
