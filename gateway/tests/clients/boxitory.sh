#!/usr/bin/env bash
# A tree of boxes served where it is, as Boxitory serves it: each accepted call by curl, Vagrant as a user has it, a
# properties file of a Boxitory as it stands, nginx in front, and a tree taken into the catalog.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

H=$WORK/boxes
NGINX_PID=
trap 'CODE=$?; [[ -z $NGINX_PID ]] || kill "$NGINX_PID" 2>/dev/null || true; cleanup "$CODE"' EXIT

# put PATH [TEXT]: a file of the tree.
put() {
    mkdir -p "$(dirname "$H/$1")"
    printf '%s' "${2-}" >"$H/$1"
}

# serve [NAME=VALUE...] [-- FLAGS...]: a gateway on the tree at a free port, with keys of [boxitory] as given. Sets URL.
serve() {
    local pairs=()
    [[ -z $GATEWAY_PID ]] || stop_gateway
    while (($# > 0)) && [[ $1 != -- ]]; do
        pairs+=("BOXGATE_BOXITORY__$1")
        shift
    done
    : >ready
    env "${pairs[@]}" "${WITHOUT[@]}" "$GATEWAY" serve --data-dir "$DATA" --boxitory "$H" \
        --listen "127.0.0.1:${PORT:-0}" "${@:2}" >ready 2>>gateway.log &
    GATEWAY_PID=$!
    eventually 60 gateway_spoke_or_died || true
    URL=$(sed -n 's/.* listens on //p' ready)
    [[ -n $URL ]] || { tail -n 20 gateway.log; fail "the gateway did not start"; finish; }
}
WITHOUT=()

# gets NAME PATH STATUS [BODY]: the whole body, where it is given.
gets() {
    http "$URL$2"
    if (($# > 3)); then equal "$1" "$3 $4" "$STATUS $BODY"; else equal "$1" "$3" "$STATUS"; fi
}
# shows NAME PATH FILTER WANT: what jq makes of an answer.
shows() {
    http "$URL$2"
    equal "$1" "$4" "$(field "$3" | tr '\n' ' ' | sed 's/ $//')"
}
VERSIONS='.versions[].version'

# --- the page's own calls, with no other configuration: port 8083, and the properties of a Boxitory as they stand ---

put f26/f26_1_virtualbox.box
put f26/f26_2_virtualbox.box
put f25/f25_1_virtualbox.box
put f25/f25_2_virtualbox.box
put f25/f25_3_virtualbox.box
cat >boxitory.properties <<END
# box.home = /somewhere/else
box.home=$H
box.hostPrefix = sftp://my_box_server:
logging.level.root=WARN
END
cat >literal.sh <<END
set -e
ip link set lo up
"$GATEWAY" serve --data-dir "$WORK/literal" "\$@" >literal.ready 2>literal.log &
for _ in {1..600}; do grep -q listens literal.ready && break; sleep 0.1; done
curl -sS http://localhost:8083/f26 >f26.json
curl -sS http://localhost:8083/f25/latestVersion >latest
curl -sS -o /dev/null -w '%{http_code}' http://localhost:8083/health >health
kill -TERM \$!
wait \$!
END
if (($(id -u) == 0)); then alone=(unshare --net); else alone=(unshare --map-root-user --net); fi
run 0 "serve --boxitory DIR --boxitory-properties FILE, alone in a network" \
    "${alone[@]}" bash literal.sh --boxitory "$H" --boxitory-properties boxitory.properties
equal "curl http://localhost:8083/f26" \
    "$(jq -c . <<END
{"name":"f26","description":"f26","versions":[
 {"version":"1","providers":[{"url":"sftp://my_box_server:$H/f26/f26_1_virtualbox.box","name":"virtualbox"}]},
 {"version":"2","providers":[{"url":"sftp://my_box_server:$H/f26/f26_2_virtualbox.box","name":"virtualbox"}]}]}
END
)" "$(cat f26.json)"
equal "curl http://localhost:8083/f25/latestVersion" 3 "$(cat latest)"
equal "and no other door is there" 404 "$(cat health)"
matches "what means nothing here is said" 'logging.level.root means nothing' "$(cat literal.log)"
sed -i 's/^# box.home.*/server.port = 8083/; s/^logging.*/box.sort_desc=maybe/' boxitory.properties
run 2 "a property that is wrong stops it" "$GATEWAY" config check --boxitory-properties boxitory.properties
says "and is named" 'box.sort_desc: "maybe" is neither true nor false'

# --- the accepted cases, ascending ---

rm -rf "$H"
put f25/f25_1_virtualbox.box
put f25/f25_2_virtualbox.box
for v in 1 2 3; do put "f26/f26_${v}_virtualbox.box"; done
put f27/wrongFileFormat.box
put f27/f27_3_virtualbox.boxf
put f27/f27_3_virtualbox
put f27/f27_3_virtualbox.bo
put f28/f28_1_virtualbox.box
put f28/f28_1_vmware.box one
put f28/f28_2_virtualbox.box
for v in 1 3 2; do put "f29/f29_${v}_virtualbox.box"; done
for v in 5 12 3 1 2; do put "vm/vm_${v}_virtualbox.box"; done
for v in 1 2 3 4; do put "dl/dl_${v}_vbox.box" "vbox $v"; done
for v in 1 2 3; do put "dl/dl_${v}_libvirt.box" "libvirt $v"; done
for v in 1 2 1234 56498981 666; do put "told/told_${v}_vb.box"; done
printf 'version;;;description\n1;;;one\n2;;;two\n1234;;;many\n56498981;;;more\n3;;;none\n' >"$H/told/descriptions.csv"
put junk/junk_1_vb.box
put junk/junk_2_vb.box
put junk/junk_3_vb.box
printf 'junk\n\n   \n;;\n2;;;\n2;;;a;;;b\n1;;;this is valid line\n3;;;new ; with ;; semis\n' >"$H/junk/descriptions.csv"
put big/big_1_vb.box
put big/big_99999999999_vb.box
put vmw/vmw_1_vmware_desktop.box
put my_box/my_box_1_virtualbox.box
put f.5/fx5_1_virtualbox.box
put '[/[_1_virtualbox.box'
mkdir -p "$H/dir/dir_1_virtualbox.box"

serve HOST_PREFIX=sftp://my_test_server:
equal "1: url" "sftp://my_test_server:$H/f25/f25_1_virtualbox.box" "$(curl -sS "$URL/f25" | jq -r '.versions[0].providers[0].url')"
shows "1: versions" /f25 "$VERSIONS" "1 2"
shows "1: no other keys" /f25 '[.. | objects | keys_unsorted[]] | unique | join(",")' description,name,providers,url,version,versions
equal "as JSON without a charset" application/json "$(header content-type)"
shows "2" /f26 "$VERSIONS" "1 2 3"
gets "3: no box" /f27 404 '404 box [f27] does not exist'
gets "3: list" / 200
if grep -q f27 body; then fail "3: listed"; else ok "3: not listed"; fi
equal "a page" "text/html;charset=UTF-8" "$(header content-type)"
shows "4" /f28 '.versions[0].providers | map(.name) | join(" ")' "virtualbox vmware"
shows "5: ascending" /f29 "$VERSIONS" "1 2 3"
gets "6" /blabol 404 '404 box [blabol] does not exist'
gets "6: latest" /blabol/latestVersion 404 '404 box [blabol] does not exist'
equal "an error is a text" "text/plain;charset=UTF-8" "$(header content-type)"
http -H 'Accept: application/json' "$URL/blabol"
equal "the same bytes by another name" "application/json 404 box [blabol] does not exist" "$(header content-type) $BODY"
shows "7: ascending" /vm "$VERSIONS" "1 2 3 5 12"
gets "8: latest" /vm/latestVersion 200 12
equal "as text" "text/plain;charset=UTF-8" "$(header content-type)"
gets "with a slash" /vm/latestVersion/ 200 12
gets "12: a version" /download/dl/vbox/2 200 "vbox 2"
equal "12: octets" application/octet-stream "$(header content-type)"
equal "12: its name" 'attachment; filename="dl_2_vbox.box"' "$(header content-disposition)"
gets "12: latest" /download/dl/vbox/latest 200 "vbox 4"
gets "12: another provider" /download/dl/libvirt/1 200 "libvirt 1"
gets "12: its latest" /download/dl/libvirt/latest 200 "libvirt 3"
gets "13: version" /download/dl/libvirt/5 404 '404 version [5] of box [dl] does not exist'
gets "13: provider" /download/dl/blabol/1 404 '404 provider [blabol] of version [1] of box [dl] does not exist'
gets "13: provider of a version" /download/dl/libvirt/4 404 '404 provider [libvirt] of version [4] of box [dl] does not exist'
gets "13: latest" /download/dl/blabol/latest 404 '404 box [dl] does not exist'
gets "13: box" /download/blabol/libvirt/1 404 '404 box [blabol] does not exist'
gets "14" /download/f28/vmware/latest 200 one
shows "23" /told '.versions | map(.description // "-") | join(" ")' "one two - many more"
shows "23: no key" /told '.versions[2] | has("description")' false
printf '1;;;later\n' >>"$H/told/descriptions.csv"
is_later() { [[ $(curl -sS "$URL/told" | jq -r '.versions[0].description') == later ]]; }
if eventually 20 is_later; then ok "24: a later line counts"; else fail "24: a later line"; fi
shows "25" /junk '.versions | map(.description // "-") | join("|")' "this is valid line|-|new ; with ;; semis"
sed -i 's/^1;;;/1;;/' "$H/junk/descriptions.csv"
is_absent() { [[ $(curl -sS "$URL/junk" | jq '.versions[0] | has("description")') == false ]]; }
if eventually 20 is_absent; then ok "25: two semicolons are none"; else fail "25"; fi
shows "28" /junk '.versions[2].description' 'new ; with ;; semis'
shows "29" /big "$VERSIONS" "1 99999999999"
shows "30: vmware_desktop" /vmw '.versions[0].providers[0].name' vmware_desktop
shows "30: my_box" /my_box '[.versions[0].version, .versions[0].providers[0].name] | join(" ")' "1 virtualbox"
gets "a name is no pattern" /f.5 404
gets "a broken pattern is a name" /%5B/latestVersion 200 1
gets "a directory is no box" /dir 404
http -I "$URL/vm/latestVersion"
equal "HEAD" "200 2" "$STATUS $(header content-length)"
http -X POST -d x "$URL/vm"
equal "another method" "405 Request method 'POST' not supported" "$STATUS $BODY"
equal "which there are" "GET, HEAD" "$(header allow)"
http -r 2-3 "$URL/download/dl/vbox/2"
equal "a range" "206 ox" "$STATUS $BODY"
http --path-as-is "$URL/download/../../etc/passwd"
equal "out of the tree" 400 "$STATUS"
http --path-as-is "$URL/download/%2e%2e/%2e%2e/1"
equal "out of the tree, encoded" 400 "$STATUS"

# --- descending, with paths of its own ---

rm -rf "$H/vm"
put vm/vm_1_virtualbox.box
put vm/vm_2_libvirt.box
put vm1/vm1_1_virtualbox.box
put vm1/vm1_2_virtualbox.box
put vm2/vm2_17_virtualbox.box
serve HOST_PREFIX=http://h SORT_DESC=true PATH_TYPE=boxitory
shows "5: descending" /f29 "$VERSIONS" "3 2 1"
shows "11" /vm '.versions[].providers[].url' "http://h/download/vm/libvirt/2 http://h/download/vm/virtualbox/1"
put vm/vm_2_virtualbox.box
both() { [[ $(curl -sS "$URL/vm" | jq -r '[.name, .description, .versions[0].version, .versions[0].providers[].name] | join(" ")') == "vm vm 2 libvirt virtualbox" ]]; }
if eventually 20 both; then ok "9: both providers"; else fail "9: $(curl -sS "$URL/vm")"; fi
gets "9: latest" /vm/latestVersion 200 2
for v in 5 12 3; do put "vm/vm_${v}_virtualbox.box"; done
newest() { [[ $(curl -sS "$URL/vm" | jq -r "$VERSIONS" | tr '\n' ' ') == "12 5 3 2 1 " ]]; }
if eventually 20 newest; then ok "7: descending"; else fail "7: $(curl -sS "$URL/vm")"; fi
gets "8: latest, either order" /vm/latestVersion 200 12
gets "10: list" / 200
for link in /vm1 /vm2 /download/vm2/virtualbox/latest; do
    if grep -qF "href=\"$link\"" body; then ok "10: a link to $link"; else fail "10: no link to $link"; fi
done
shows "10: vm1" /vm1 "$VERSIONS" "2 1"
shows "10: vm2" /vm2 "$VERSIONS" 17
gets "10: latest" /vm2/latestVersion 200 17

# --- checksums ---

rm -rf "$H"
put empty/empty_1_vb.box
put vm/vm_1_vb.box blabol
# What was written a moment ago may be on its way still.
touch -d '1 minute ago' "$H/vm/vm_1_vb.box"
put lines/lines_1_vb.box $'123456789\n987654321\nabcdefghi'
put fake/fake_1_vb.box blabol
put fake/fake_1_vb.box.md5 'fake_checksum  fake_1_vb.box'
put wrong/wrong_1_vb.box blabol
put wrong/wrong_1_vb.box.md5 'fake  other.box'
put none/none_1_vb.box blabol
put none/none_1_vb.box.md5 'fake'
put other/other_1_vb.box blabol
put other/other_1_vb.box.sha1 'fake  other_1_vb.box'
put noise/noise_1_vb.box blabol
put noise/noise_1_vb.box.md5_noise 'fake  noise_1_vb.box'
put old/old_1_vb.box one
put old/old_2_vb.box two
put old/old_1_vb.box.md5 'kept  old_1_vb.box'
CHECKSUM='.versions[-1].providers[0].checksum'
B=f34835fa588de624b2782bd5307c344c
serve CHECKSUM=md5 CHECKSUM_WAIT=30s CHECKSUM_PERSIST=false
shows "17" /vm "$CHECKSUM" $B
equal "17: no file" vm_1_vb.box "$(ls "$H/vm")"
serve CHECKSUM=MD5 CHECKSUM_WAIT=30s
shows "15: md5" /empty '.versions[0].providers[0].checksum_type' md5
shows "16" /vm "$CHECKSUM" $B
equal "16: a file" "$B  vm_1_vb.box" "$(cat "$H/vm/vm_1_vb.box.md5")"
succeeds "16: that md5sum takes" env -C "$H/vm" md5sum -c vm_1_vb.box.md5
shows "18" /fake "$CHECKSUM" fake_checksum
for name in wrong none other noise; do shows "19: $name" "/$name" "$CHECKSUM" $B; done
equal "19: and nothing is overwritten" 'fake  other.box' "$(cat "$H/wrong/wrong_1_vb.box.md5")"
shows "20: md5" /lines "$CHECKSUM" 86462c346f1358ddbf4f137fb5da43cf
shows "what stands beside further versions is told" /old '.versions[0].providers[0].checksum' kept
shows "the highest is computed" /old "$CHECKSUM" "$(printf two | md5sum | cut -d' ' -f1)"
serve CHECKSUM=sha1 CHECKSUM_WAIT=30s
shows "15: sha1" /empty '.versions[0].providers[0].checksum_type' sha1
shows "20: sha1" /lines "$CHECKSUM" 6efeafd3d3304cf5d7fd37db2a7ddbaac09f425d
serve CHECKSUM=sha256 CHECKSUM_WAIT=30s CHECKSUM_ENSURE=0
shows "15: sha256" /empty '.versions[0].providers[0].checksum_type' sha256
shows "none is computed" /lines '.versions[0].providers[0] | has("checksum")' false
serve CHECKSUM=sha256 CHECKSUM_WAIT=30s
shows "20: sha256" /lines "$CHECKSUM" ae4fe7f29f683d3901d4c620ef2e3c7ed17ebb6813158efd6a16f81b71a0aa43

# --- moments ---

rm -rf "$H"
put vm1/vm1_1507636800_virtualbox.box
put vm2/vm2_1507629600_vmware.box
printf '1507629600;;;Some useful description\n' >"$H/vm2/descriptions.csv"
serve VERSION_AS_TIMESTAMP=true
shows "26" /vm1 '.versions[0].description' 2017-10-10T12:00:00Z
shows "26: with a line" /vm2 '.versions[0].description' '2017-10-10T10:00:00Z - Some useful description'

# --- what cannot be read, for a process that may not do everything ---

put shut/shut_1_virtualbox.box
put half/half_1_virtualbox.box
put half/half_2_virtualbox.box open
chmod 000 "$H/shut" "$H/half/half_1_virtualbox.box"
if (($(id -u) == 0)); then WITHOUT=(setpriv --bounding-set=-dac_override,-dac_read_search); fi
serve CHECKSUM=md5 CHECKSUM_ENSURE=2
WITHOUT=()
gets "a directory that cannot be read is no box" /shut 404
gets "others are served" /vm1/latestVersion 200 1507636800
gets "a file that cannot be read" /download/half/virtualbox/1 500 '500 file [half_1_virtualbox.box] cannot be read'
gets "the one beside it" /download/half/virtualbox/2 200 open
shows "and it has no checksum" /half '.versions | map(.providers[0] | has("checksum")) | map(tostring) | join(" ")' "false true"
equal "which is said once" 1 "$(grep -c 'a directory cannot be read' gateway.log)"
chmod 700 "$H/shut" "$H/half/half_1_virtualbox.box"

# --- no tree ---

mv "$H" gone
serve
for path in / /box /box/latestVersion; do gets "27: $path" $path 500 'Repository directory is not a valid directory.'; done

# --- Vagrant ---

mkdir "$H"
for v in 1 2; do
    make_box "box$v" 500
    mkdir -p "$H/f26"
done
cp box1 "$H/f26/f26_1_virtualbox.box"
read -r PORT < <(free_ports 1)
export -n VAGRANT_SERVER_URL 2>/dev/null || true
serve HOST_PREFIX="http://127.0.0.1:$PORT" PATH_TYPE=boxitory CHECKSUM=sha256 CHECKSUM_WAIT=30s
succeeds "vagrant box add $URL/f26" vagrant box add "$URL/f26"
vagrant_has f26 1
equal "the installed disk" "$(box_disk box1)" "$(vagrant_disk f26 1)"
matches "box outdated: up to date" 'up to date' "$(vagrant box outdated --global 2>&1)"
cp box2 "$H/f26/incoming"
mv "$H/f26/incoming" "$H/f26/f26_2_virtualbox.box"
is_two() { [[ $(curl -sS "$URL/f26/latestVersion") == 2 ]]; }
eventually 20 is_two || fail "version 2 is not seen"
matches "box outdated: sees the new version" 'outdated.* 2\b' "$(vagrant box outdated --global 2>&1)"
succeeds "box update" vagrant box update --box f26 --provider virtualbox
vagrant_has f26 2
equal "the updated disk" "$(box_disk box2)" "$(vagrant_disk f26 2)"
vagrant box remove f26 --all --force >/dev/null 2>&1
printf 'ab%.0s' {1..32} >"$H/f26/f26_2_virtualbox.box.sha256"
printf '  f26_2_virtualbox.box' >>"$H/f26/f26_2_virtualbox.box.sha256"
is_ab() { [[ $(curl -sS "$URL/f26") == *abababab* ]]; }
eventually 20 is_ab || fail "the checksum beside the box is not told"
refuses "a checksum that does not fit" 'checksum' vagrant box add "$URL/f26"
unset PORT
serve HOST_PREFIX=file://
succeeds "by the path of the file" vagrant box add "$URL/f26"
vagrant_has f26 2
vagrant box remove f26 --all --force >/dev/null 2>&1

# --- nginx in front, below a prefix ---

mkdir temp
{
    [[ $EUID != 0 ]] || echo "user root;"
    read -r FRONT < <(free_ports 1)
    export FRONT
    echo "$FRONT" >front
    echo "daemon off; worker_processes 1; pid $WORK/nginx.pid; error_log $WORK/nginx.log; events { }"
    echo "http { access_log off;"
    for what in client_body proxy fastcgi uwsgi scgi; do echo "${what}_temp_path $WORK/temp/$what;"; done
    read -r PORT < <(free_ports 1)
    echo "$PORT" >port
    echo "server { listen 127.0.0.1:$FRONT; location /boxes { proxy_pass http://127.0.0.1:$PORT; proxy_buffering off; } } }"
} >nginx.conf
FRONT=$(cat front)
PORT=$(cat port)
nginx -p "$WORK" -c "$WORK/nginx.conf" 2>nginx.err &
NGINX_PID=$!
export BOXGATE_DOORS__BOXITORY__PREFIX=/boxes
serve HOST_PREFIX="http://127.0.0.1:$FRONT/boxes" PATH_TYPE=boxitory
unset BOXGATE_DOORS__BOXITORY__PREFIX PORT
eventually 20 curl -sS "http://127.0.0.1:$FRONT/boxes/f26" || fail "nginx: $(brief "$(cat nginx.err)")"
succeeds "vagrant box add through nginx" vagrant box add "http://127.0.0.1:$FRONT/boxes/f26"
vagrant_has f26 2
gets "links of the page" /boxes 200
if grep -qF 'href="/boxes/download/f26/virtualbox/latest"' body; then ok "they have the prefix"; else fail "$BODY"; fi
curl -sS "http://127.0.0.1:$FRONT/boxes/download/f26/virtualbox/2" -o all
head -c 300000 all >part
curl -sS -C - "http://127.0.0.1:$FRONT/boxes/download/f26/virtualbox/2" -o part
equal "a download that is gone on with" "$(sha256 box2)" "$(sha256 part)"

# --- the tree, taken into the catalog: beside a running gateway, and without one ---

stop_gateway
rm "$H/f26/f26_2_virtualbox.box.sha256"
printf '2;;;the second\n' >"$H/f26/descriptions.csv"
put odd/odd.box
DATA=$WORK/data2
start_gateway
run 1 "import into a running gateway" "$GATEWAY" admin import boxitory "$H" --organization "$ORG" --url "$URL" --token "$ADMIN_TOKEN"
says "what was brought" '2 files brought'
says "what was not, and why" 'odd/odd.box: its name is not BOX_VERSION_PROVIDER.box'
vagrant_add "$ORG/f26" 2
equal "the installed disk" "$(box_disk box2)" "$(vagrant_disk "$ORG/f26" 2)"
http -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box/f26/version/2"
equal "with its description" "the second" "$(field .description)"
rm -r "$H/odd"
run 2 "while it runs, its data directory is asked for by address" "$GATEWAY" admin import boxitory "$H" --organization "$ORG" --data-dir "$DATA"
stop_gateway
head -c 300000000 /dev/urandom >"$H/f26/f26_3_virtualbox.box"
SUM=$(sha256 "$H/f26/f26_3_virtualbox.box")
IMPORT=("$GATEWAY" admin import boxitory "$H" --organization "$ORG" --data-dir "$DATA")
"${IMPORT[@]}" >cut.out 2>&1 &
PID=$!
some_bytes() { [[ $(find "$DATA/blobs" -type f -size +10M | wc -l) -ge 1 ]]; }
eventually 60 some_bytes || fail "nothing comes: $(brief "$(cat cut.out)")"
kill -9 "$PID"
wait "$PID" 2>/dev/null || true
run 0 "import without a gateway, after a cut" "${IMPORT[@]}"
says "what was missing" '1 files brought, [0-9.]+ MiB; 2 were there'
run 0 "once more" "${IMPORT[@]}"
says "nothing is missing" '0 files brought, 0 B; 3 were there'
run 2 "for nobody" "$GATEWAY" admin import boxitory "$H" --organization nobody --data-dir "$DATA"
says "it says so" 'no organization is named nobody'
run 2 "of nothing" "$GATEWAY" admin import boxitory "$WORK/nowhere" --organization "$ORG" --data-dir "$DATA"
start_gateway
equal "its bytes" "$SUM" "$(stored_sha256 f26 3)"

finish
