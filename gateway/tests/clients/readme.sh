#!/usr/bin/env bash
# The README's commands as they are printed (pages.sh), in order and in one folder. A block that ends in `quickstart` or
# `serve` goes on running, and what follows talks to it, with what the first box's block exports. Then the lines that quickstart itself prints, in a folder of their
# own. One more thing is not as printed: what cargo would build in release mode is the binary that is built already.
source "$(dirname "${BASH_SOURCE[0]}")/pages.sh"

PLACE=$WORK/place
mkdir -p "$PLACE/target/release" "$WORK/paste"
cat >"$WORK/bin/cargo" <<SHIM
#!/usr/bin/env bash
[[ \$1 == build ]] && exit
while [[ \$1 != -- ]]; do shift; done
shift
exec "$GATEWAY" "\$@"
SHIM
chmod +x "$WORK/bin/cargo"
ln -s "$GATEWAY" "$PLACE/target/release/boxgate"

block_names README
matches "README.md has blocks to run, quickstart first" '^quickstart' "${names[*]:-none}"

for name in "${names[@]}"; do
    if [[ $(block README "$name" | tail -n 1) =~ (quickstart|serve)( |$) ]]; then
        service README "$name"
        [[ $name != quickstart ]] || cp "$PLACE.printed" "$WORK/quickstart.printed"
    elif [[ $name != first-box ]]; then
        { grep '^export BOXGATE_' "$WORK/first-box.sh"; block README "$name"; } >"$WORK/$name.sh"
        succeeds "README, $name" env -C "$PLACE" bash -euo pipefail "$WORK/$name.sh"
        matches "README, $name: there is something to see" . "$(cat "$WORK/out")"
    else
        block README "$name" >"$WORK/$name.sh"
        succeeds "README, $name" env -C "$PLACE" bash -euo pipefail "$WORK/$name.sh"
        matches "README, $name: a box is installed" 'myorg/demo' "$(vagrant box list 2>&1)"
        # Pasted lines: what is indented below a line that ends in a colon. A fresh Vagrant, as for a second person.
        awk '/:$/ { take = 1; next } /^[^ ]/ { take = 0 } take { sub(/^  /, ""); print }' \
            "$WORK/quickstart.printed" >"$WORK/paste.sh"
        rm -rf "$VAGRANT_HOME"
        matches "quickstart prints lines to paste" 'push .*vagrant box add .*curl ' "$(tr '\n' ' ' <"$WORK/paste.sh")"
        succeeds "quickstart's own lines" env -C "$WORK/paste" bash -euo pipefail "$WORK/paste.sh"
        matches "quickstart's own lines: a box is installed" 'myorg/demo' "$(vagrant box list 2>&1)"
    fi
done

stop_gateway TERM
equal "it stops when told" 0 "$STOPPED_WITH"
finish
