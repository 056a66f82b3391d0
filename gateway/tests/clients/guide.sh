#!/usr/bin/env bash
# The guide's three CI jobs, word for word: GitHub Actions, GitLab CI with a raw tag, Jenkins with a bare
# build number. None of them makes box, version, provider or architecture first. Vagrant then adds each.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start_gateway
export BOXVAULT_URL=$URL BOXVAULT_CLIENT_ID=$CLIENT_ID BOXVAULT_CLIENT_SECRET=$CLIENT_SECRET

# job NAME VERSION SHELL...: runs the step in a folder with a fresh box, then looks what is stored and served.
job() {
    local name=$1 version=$2 dir=$WORK/$1
    shift 2
    mkdir "$dir"
    make_box "$dir/ubuntu-20.04.box" 700
    succeeds "$name: the step ends well" env -C "$dir" "$@"
    matches "$name: its output is the answer of a finished upload" '"status": *"complete"' "$(cat "$WORK/out")"
    equal "$name: digest in the catalog" "$(sha256 "$dir/ubuntu-20.04.box")" "$(info .checksum ubuntu-20.04 "$version")"
    equal "$name: bytes that come out" "$(sha256 "$dir/ubuntu-20.04.box")" "$(stored_sha256 ubuntu-20.04 "$version")"
    # A raw tag is listed without its `v`, which Vagrant would not take for a version.
    vagrant_add myorg/ubuntu-20.04 "${version#v}"
    equal "$name: the installed disk" "$(box_disk "$dir/ubuntu-20.04.box")" "$(vagrant_disk myorg/ubuntu-20.04 "${version#v}")"
}

# What the pipeline's `sh` steps hand to the shell once Groovy has read its strings: `\` at a line's end joins
# lines, `\$` is a dollar, `${…}` is filled in. Both steps run as Jenkins runs them, each in a shell of its own.
jenkins_steps() {
    python3 - "$CLIENTS/fixtures/guide/Jenkinsfile" <<'PYTHON'
import re, sys
def shell(text):
    text = text.replace("\\\n", "").replace("${env.BUILD_NUMBER}", "$BUILD_NUMBER").replace("${token}", "$token")
    return text.replace("\\$", "$").strip()
login, send = [shell(s) for s in re.findall(r'"""(.*?)"""', open(sys.argv[1]).read(), re.S)]
print("token=$(sh -xe <<'STEP'\n%s\nSTEP\n)\nexport token" % login)
print("sh -xe <<'STEP'\n%s\nSTEP" % send)
PYTHON
}
jenkins_steps >"$WORK/jenkins.sh"

job github 1.0.0 GITHUB_REF=refs/tags/v1.0.0 bash -e "$CLIENTS/fixtures/guide/github.sh"
job gitlab v1.2.3 CI_COMMIT_TAG=v1.2.3 bash -eo pipefail "$CLIENTS/fixtures/guide/gitlab.sh"
job jenkins 42 BUILD_NUMBER=42 bash -e "$WORK/jenkins.sh"

# A wrong secret must not break jq: the job then says so by itself, and nothing is stored.
mkdir "$WORK/wrong"
make_box "$WORK/wrong/ubuntu-20.04.box" 700
env -C "$WORK/wrong" GITHUB_REF=refs/tags/v9.9.9 BOXVAULT_CLIENT_SECRET=wrong \
    bash -e "$CLIENTS/fixtures/guide/github.sh" >"$WORK/out" 2>&1 || true
matches "wrong secret: the answer is readable JSON" '"message"' "$(cat "$WORK/out")"
http -H "Authorization: Bearer $CLIENT_SECRET" "$BASE/box/ubuntu-20.04/version/9.9.9"
answers "wrong secret: no version is left behind" 404

finish
