#!/usr/bin/env bash
# The guide's Python client with its usage block, word for word but for the address.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
export BOXVAULT_CLIENT_ID=$CLIENT_ID BOXVAULT_CLIENT_SECRET=$CLIENT_SECRET
make_box "$WORK/ubuntu.box" 3000
sed "s|https://boxvault.example.com|$URL/|" "$CLIENTS/fixtures/guide/client.py" >"$WORK/client.py"

succeeds "the client with its usage block" env -C "$WORK" python3 client.py
equal "it sees the box that it sent" "Found 1 boxes" "$(cat "$WORK/out")"
equal "digest in the catalog" "$(sha256 "$WORK/ubuntu.box")" "$(info .checksum ubuntu-20.04 1.0.0)"
vagrant_add myorg/ubuntu-20.04 1.0.0
equal "the installed disk" "$(box_disk "$WORK/ubuntu.box")" "$(vagrant_disk myorg/ubuntu-20.04 1.0.0)"

refuses "a wrong secret raises, naming the status" '401 Client Error' \
    env -C "$WORK" BOXVAULT_CLIENT_SECRET=wrong python3 client.py

# A rerun of the job replaces the box.
make_box "$WORK/ubuntu.box" 3000
succeeds "the same again with another box" env -C "$WORK" python3 client.py
equal "digest in the catalog after the rerun" "$(sha256 "$WORK/ubuntu.box")" "$(info .checksum ubuntu-20.04 1.0.0)"

finish
