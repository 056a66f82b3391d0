#!/usr/bin/env bash
# The handbook: mdBook builds it, every page is in it, every link of it leads somewhere, and the blocks of its pages run as
# they are printed (pages.sh), in order and in one folder a page. `systemctl stop` is a SIGTERM.
source "$(dirname "${BASH_SOURCE[0]}")/pages.sh"

# --- the book ---
succeeds "mdbook builds it" "$TOOLS/checks/bin/mdbook" build "$ROOT/docs" --dest-dir "$WORK/book"
equal "mdbook warns of nothing" 0 "$(grep -ciE 'warn|error' "$WORK/out" || true)"
matches "it has its first page" 'Quick start' "$(cat "$WORK/book/index.html" "$WORK/book/QUICKSTART.html" 2>/dev/null | head -c 200000)"
equal "every page is in it" "" "$(comm -23 <(cd "$ROOT/docs" && find . -name '*.md' -not -name SUMMARY.md | sed 's|^\./||' | sort) \
    <(grep -o '([^)]*\.md)' "$ROOT/docs/SUMMARY.md" | tr -d '()' | sort))"
lost_links() {
    python3 - "$ROOT" <<'PYTHON'
import pathlib, re, sys
root = pathlib.Path(sys.argv[1])
anchor = lambda text: re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", text).strip().lower()).replace(" ", "-")
anchors = lambda page: {anchor(h) for h in re.findall(r"^#+ (.*)$", page.read_text(), re.M)}
for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, part = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (part and there.suffix == ".md" and part not in anchors(there)):
            print(f"{page.relative_to(root)}: {link}")
PYTHON
}
equal "every link leads somewhere" "" "$(lost_links)"

# --- its pages ---
for page in QUICKSTART FAQ OPERATIONS; do
    PLACE=$WORK/$page
    mkdir "$PLACE"
    # What one block exports, the next one has, as in one terminal.
    : >"$PLACE.exports"
    block_names "docs/$page"
    # Those that are only read are handbook.py's.
    equal "$page: each block of sh is run" \
        "$(($(grep -c '^```sh$' "$ROOT/docs/$page.md") - $(grep -c '^<!-- lint: ' "$ROOT/docs/$page.md")))" "${#names[@]}"
    for name in "${names[@]}"; do
        last=$(block "docs/$page" "$name" | tail -n 1)
        if [[ $last =~ ^boxgate\ (quickstart|serve) ]]; then
            service "docs/$page" "$name"
        elif [[ $last == "systemctl stop boxgate" ]]; then
            stop_gateway TERM
            equal "$page, $name: it stops" 0 "$STOPPED_WITH"
        else
            { cat "$PLACE.exports"; block "docs/$page" "$name"; printf 'export -p >%q\n' "$PLACE.exports"; } >"$PLACE.sh"
            succeeds "$page, $name" env -C "$PLACE" bash -euo pipefail "$PLACE.sh"
        fi
    done
    stop_gateway TERM
    equal "$page: it stops when told" 0 "$STOPPED_WITH"
done

# --- pages beside a gateway that is there already ---
PLACE=$WORK/beside
mkdir -p "$PLACE/output"
BOXGATE_LOG__FILE=$PLACE/boxvault.log DATA=$WORK/beside-data start_gateway --organization acme
for name in web db; do
    "$GATEWAY" sample-box "$PLACE/output/$name.box" >/dev/null
done
# beside PAGE NAME: a block of it, in PLACE, with what a CI or a terminal has.
beside() {
    block "$1" "$2" | sed "s|/var/log/boxvault/boxvault.log|$PLACE/boxvault.log|" >"$PLACE.sh"
    succeeds "$1, $2" env -C "$PLACE" BOXGATE_URL="$URL" BOXGATE_TOKEN="$CLIENT_SECRET" VERSION=1.0.0 REQUEST_ID=none \
        bash -euo pipefail "$PLACE.sh"
}
beside docs/ci/README several
matches "both boxes are there" 'acme/db/1\.0\.0/virtualbox/amd64' "$(cat "$WORK/out")"
beside docs/logs/README asked
stop_gateway TERM
block docs/monitoring/README checked | grep '^promtool' >"$PLACE.sh"
succeeds "docs/monitoring/README, checked" env -C "$ROOT/docs/monitoring" PATH="$TOOLS/bin:$PATH" bash -euo pipefail "$PLACE.sh"

finish
