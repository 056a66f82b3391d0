#!/usr/bin/env bash
# The guide's playbook: as its template reads (`content`: the file in base64 by a lookup), by `filename` alone
# (Ansible then declares base64 for the part), and with `src`, the box as the plain body.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
export ANSIBLE_HOME=$WORK/ansible ANSIBLE_LOCALHOST_WARNING=False ANSIBLE_INVENTORY_UNPARSED_WARNING=False
export ANSIBLE_NOCOLOR=1

# play NAME VERSION PLAYBOOK [TAR-FLAG]: runs it in a folder with a fresh box; what is stored must be the file's bytes.
play() {
    local dir=$WORK/$1
    mkdir "$dir"
    make_box "$dir/ubuntu-20.04.box" 1500 "${4:-}"
    cp "$3" "$dir/playbook.yml"
    succeeds "$1: the playbook" env -C "$dir" ansible-playbook playbook.yml -e boxvault_url="$URL" -e version="$2" \
        -e boxvault_client_id="$CLIENT_ID" -e boxvault_client_secret="$CLIENT_SECRET"
    matches "$1: its recap" 'failed=0' "$(cat "$WORK/out")"
    equal "$1: size in the catalog" "$(size "$dir/ubuntu-20.04.box")" "$(info .fileSize ubuntu-20.04 "$2")"
    equal "$1: digest in the catalog" "$(sha256 "$dir/ubuntu-20.04.box")" "$(info .checksum ubuntu-20.04 "$2")"
    equal "$1: bytes that come out" "$(sha256 "$dir/ubuntu-20.04.box")" "$(stored_sha256 ubuntu-20.04 "$2")"
    vagrant_add myorg/ubuntu-20.04 "$2"
}

guide=$CLIENTS/fixtures/guide/playbook.yml
grep -v '^ *content:' "$guide" >"$WORK/filename.yml"
# `src` names the file for the whole body, in place of the multipart form.
sed -e '/body_format: form-multipart/,$d' "$guide" >"$WORK/src.yml"
printf '        src: "{{ playbook_dir }}/{{ box_name }}.box"\n        remote_src: true\n' >>"$WORK/src.yml"

play content 1.0.0 "$guide"
play filename 1.0.1 "$WORK/filename.yml"
play src 1.0.2 "$WORK/src.yml"
# The lookup's text is undeclared base64: known by an archive's first bytes, a gzip's as well as a tar's.
play content-gzip 1.0.3 "$guide" -z

finish
