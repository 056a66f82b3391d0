#!/usr/bin/env python3
"""docs/ci as it stands there: schemas of the CIs, the jobs' shell run as each CI runs it, Ansible, Python, Node, Packer,
and what Terraform's provider would ask."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import time

import yaml

from harness import BOXGATE, ROOT, Checks, Gateway, bytes_of, sha256

check = Checks()
HERE = ROOT / "docs/ci"
TOOLS = pathlib.Path(os.environ.get("BOXGATE_TOOLS", pathlib.Path.home() / ".cache/boxgate")) / "clients"
BOX = "ubuntu-20.04.box"


def make_box(file, kib=900, mode="w"):
    """A box for VirtualBox, its disk as no other's."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(file, mode) as box:
        disk = bytes_of(str(file), kib * 1024)
        for name, content in (("metadata.json", b'{"provider":"virtualbox"}\n'), ("box.ovf", b"<Envelope/>\n"), ("disk.vmdk", disk)):
            (pathlib.Path(folder) / name).write_bytes(content)
            box.add(pathlib.Path(folder) / name, name)
    return sha256(file.read_bytes())


class Job:
    """A folder as a CI's job has it: packer there builds a box, boxgate is on the PATH where the recipe says so."""

    def __init__(self, gate, name, boxgate=False, secret=None):
        self.name = name
        self.folder = gate.work / name.replace("/", "-")
        tools = self.folder / "tools"
        tools.mkdir(parents=True)
        self.sent = make_box(self.folder / "built.box")
        (tools / "packer").write_text(f'#!/bin/sh\n[ "$*" = "build ubuntu.pkr.hcl" ] && cp built.box {BOX}\n')
        (tools / "packer").chmod(0o755)
        if boxgate:
            (tools / "boxgate").symlink_to(BOXGATE)
        self.variables = {
            "BOXVAULT_URL": gate.url,
            "BOXVAULT_CLIENT_ID": gate.account["client_id"],
            "BOXVAULT_CLIENT_SECRET": secret or gate.key,
        }
        self.path = f"{tools}:{TOOLS}/venv/bin:/usr/local/bin:/usr/bin:/bin"
        self.log = ""
        self.most_kib = 0

    def run(self, command, variables=None):
        """A step; its exit code."""
        environment = {"PATH": self.path, "HOME": str(self.folder), "LANG": "C.UTF-8", **(variables or {})}
        said = self.folder / "said"
        with open(said, "w") as out:
            ran = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        # What the kernel tells of an ended process counts what its parent held, too.
        while ran.poll() is None:
            most = re.search(r"^VmHWM:\s+(\d+) kB$", pathlib.Path(f"/proc/{ran.pid}/status").read_text(), re.M)
            self.most_kib = int(most.group(1)) if most else self.most_kib
            time.sleep(0.02)
        self.log += said.read_text()
        return ran.returncode


def published(gate, job, code, version, architecture="amd64"):
    check.that(f"{job.name}: the job ends well", code == 0, job.log[-200:] if code == 0 else f"exit code {code}: {job.log[-400:]}")
    info = gate.call("GET", gate.path("ubuntu-20.04", version, architecture=architecture) + "/info", gate.key)
    check.equal(f"{job.name}: its box is {version}", job.sent, info.json().get("checksum"))
    check.equal(f"{job.name}: and comes out", job.sent, sha256(gate.download(box="ubuntu-20.04", version=version, architecture=architecture).content))
    leaks = [secret for secret in (gate.key, gate.admin["token"]) if secret in job.log]
    check.equal(f"{job.name}: no secret is in its log", [], leaks)


def refused(gate, job, code, version):
    check.that(f"{job.name}: a wrong secret fails the job", code != 0, f"exit code {code}: {job.log[-160:]}")
    check.answers(f"{job.name}: and publishes nothing", gate.call("GET", gate.path("ubuntu-20.04", version) + "/info", gate.key), 404)


# --- GitHub ---


def github(gate, recipe, version, **options):
    job = Job(gate, f"github/{recipe}{version}", **options)
    workflow = yaml.safe_load((HERE / f"github/{recipe}.yml").read_text())
    binary = pathlib.Path(BOXGATE)
    known = {f"secrets.{k}": v for k, v in job.variables.items()} | {f"vars.{k}": v for k, v in job.variables.items()}
    known |= {"vars.BOXGATE_BINARY": binary.as_uri(), "vars.BOXGATE_SHA256": sha256(binary.read_bytes())}
    temporary, added = job.folder / "temp", job.folder / "path"
    temporary.mkdir()
    added.touch()
    given = {"GITHUB_REF": f"refs/tags/v{version}", "RUNNER_TEMP": str(temporary), "GITHUB_PATH": str(added)}
    for step in next(iter(workflow["jobs"].values()))["steps"]:
        if "run" not in step:
            continue
        variables = {k: re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda found: known[found.group(1)], v) for k, v in step.get("env", {}).items()}
        # As the runner calls it: with a shell named, and without.
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if step.get("shell") == "bash" else ["bash", "-e"]
        script = job.folder / "step.sh"
        script.write_text(step["run"])
        code = job.run([*shell, script], given | variables)
        if code != 0:
            return job, code
        job.path = ":".join([*added.read_text().split(), job.path])
        masks = re.findall(r"^::add-mask::(.*)$", job.log, re.M)
        job.log = re.sub(r"^::add-mask::.*$", "", job.log, flags=re.M)
        for mask in masks:
            job.log = job.log.replace(mask, "***")
    return job, 0


def on_github(gate):
    published(gate, *github(gate, "upload", "1.0.0"), "1.0.0")
    published(gate, *github(gate, "push", "1.0.1"), "1.0.1")
    refused(gate, *github(gate, "upload", "6.6.0", secret="0" * 64), "6.6.0")
    refused(gate, *github(gate, "push", "6.6.1", secret="0" * 64), "6.6.1")


# --- GitLab ---


def gitlab(gate, recipe, tag, **options):
    job = Job(gate, f"gitlab/{recipe}{tag}", **options)
    pipeline = yaml.safe_load((HERE / f"gitlab/{recipe}.yml").read_text())
    for stage in pipeline["stages"]:
        for work in pipeline.values():
            if isinstance(work, dict) and work.get("stage") == stage:
                # As the runner does: all lines in one bash. before_script installs Debian's packages.
                lines = "\n".join(["set -eo pipefail", *work["script"]])
                code = job.run(["bash", "-c", lines], job.variables | {"CI_COMMIT_TAG": tag})
                if code != 0:
                    return job, code
    return job, 0


def on_gitlab(gate):
    published(gate, *gitlab(gate, "upload", "v2.0.0"), "2.0.0")
    published(gate, *gitlab(gate, "push", "v2.0.1", boxgate=True), "2.0.1")
    refused(gate, *gitlab(gate, "upload", "v6.6.2", secret="0" * 64), "6.6.2")
    retry = yaml.safe_load((HERE / "gitlab/push.yml").read_text())["push-box"]["retry"]
    check.equal("gitlab/push: what may go on later is tried again", 75, retry["exit_codes"])


# --- Jenkins ---


def jenkins(gate, recipe, build, **options):
    job = Job(gate, f"jenkins/{recipe}{build}", **options)
    text = (HERE / f"jenkins/{recipe}.Jenkinsfile").read_text()
    steps = [long or short for long, short in re.findall(r"\bsh (?:'''(.*?)'''|'([^'\n]*)')", text, re.S)]
    check.equal(f"{job.name}: braces are closed", text.count("{"), text.count("}"))
    check.that(f"{job.name}: Groovy fills nothing in", len(steps) == 2 and '"""' not in text and not any("\\" in s for s in steps), len(steps))
    for step in steps:
        code = job.run(["sh", "-xe", "-c", step], job.variables | {"BUILD_NUMBER": build})
        if code != 0:
            return job, code
    return job, 0


def on_jenkins(gate):
    published(gate, *jenkins(gate, "upload", "42"), "1.0.42")
    published(gate, *jenkins(gate, "push", "43", boxgate=True), "1.0.43")
    refused(gate, *jenkins(gate, "upload", "66", secret="0" * 64), "1.0.66")


# --- Ansible ---


def ansible(gate, recipe, version, **options):
    job = Job(gate, f"ansible/{recipe}{version}", **options)
    shutil.copy(HERE / f"ansible/{recipe}.yml", job.folder)
    shutil.copy(job.folder / "built.box", job.folder / BOX)
    quiet = {"ANSIBLE_HOME": str(job.folder / "ansible"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "False", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False"}
    return job, job.run(["ansible-playbook", "-vvv", f"{recipe}.yml", "-e", f"version={version}"], job.variables | quiet)


def on_ansible(gate):
    published(gate, *ansible(gate, "upload", "3.0.0"), "3.0.0")
    published(gate, *ansible(gate, "push", "3.0.1", boxgate=True), "3.0.1")


# --- clients ---


def client(gate, name, version, kib=900, **options):
    job = Job(gate, f"{name}{version}", **options)
    job.sent = make_box(job.folder / BOX, kib)
    program = ["python3", HERE / "python/boxvault.py"] if name == "python" else ["node", HERE / "node/boxvault.mjs"]
    arguments = [BOX, "myorg", "ubuntu-20.04", version, "virtualbox", "amd64"]
    return job, lambda: job.run([*program, *arguments], job.variables)


def cut(gate, version, data, length):
    """An upload that ends in the middle; what came of it rests."""
    place = gate.path("ubuntu-20.04", version) + "/upload"
    with gate.dial() as raw:
        raw.head("POST", place, {"x-access-token": gate.key, "Content-Length": length})
        raw.send(data)
        raw.end()
        raw.answer()
    uploads = gate.call("GET", place, gate.key).json()["uploads"]
    check.that(f"{version}: a part of it rests", uploads and uploads[0]["offset"] > 0, uploads)


def clients(gate):
    for name, major in (("python", "4"), ("node", "5")):
        job, run = client(gate, name, f"{major}.0.0")
        published(gate, job, run(), f"{major}.0.0")
        check.that(f"{name}: it lists boxes", "myorg has 1 boxes" in job.log, job.log[-80:])

        # 40 MiB, of which 24 are there.
        job, run = client(gate, name, f"{major}.1.0", 40 << 10)
        whole = (job.folder / BOX).read_bytes()
        cut(gate, f"{major}.1.0", whole[: 24 << 20], len(whole))
        before = gate.call("GET", "/metrics").text
        published(gate, job, run(), f"{major}.1.0")
        came = received(gate.call("GET", "/metrics").text) - received(before)
        check.that(f"{name}: what was there is not sent again", came < len(whole) - (8 << 20), f"{came} of {len(whole)} bytes")

        # The same place with what rests of another file of that length.
        job, run = client(gate, name, f"{major}.2.0", 20 << 10)
        length = (job.folder / BOX).stat().st_size
        cut(gate, f"{major}.2.0", bytes_of("other", 16 << 20), length)
        published(gate, job, run(), f"{major}.2.0")

        job, run = client(gate, name, f"{major}.6.6", secret="0" * 64)
        refused(gate, job, run(), f"{major}.6.6")

        job, run = client(gate, name, f"{major}.3.0", 200 << 10)
        published(gate, job, run(), f"{major}.3.0")
        check.that(f"{name}: 200 MiB stream from the disk", 0 < job.most_kib < 180 << 10, f"{job.most_kib >> 10} MiB at most")


def received(metrics):
    return int(float(re.search(r"^boxgate_http_bytes_in_total (\S+)$", metrics, re.M).group(1)))


def packer(gate):
    job = Job(gate, "packer")
    environment = {"CHECKPOINT_DISABLE": "1", "PACKER_CONFIG_DIR": str(job.folder), "PACKER_CACHE_DIR": str(job.folder / "cache"), "PACKER_NO_COLOR": "1"}
    # Packer looks for the provider in a gzip.
    job.sent = make_box(job.folder / BOX, mode="w:gz")
    said = ["-var", f"url={gate.url}", "-var", f"token={gate.key}", "-var", "version=7.0.0"]
    gate.call("POST", gate.base + "/box", gate.key, json={"name": "ubuntu-20.04"})
    code = job.run(["/usr/bin/packer", "build", *said, HERE / "packer/publish.pkr.hcl"], environment)
    # This Packer names no architecture.
    published(gate, job, code, "7.0.0", "unknown")
    code = job.run(["/usr/bin/packer", "validate", *said, "-var", "iso_checksum=none", HERE / "packer/ubuntu.pkr.hcl"], environment)
    check.that("packer/ubuntu.pkr.hcl is a template", code == 0, job.log[-300:])


# --- Terraform ---


def value(text, known):
    """What an argument of `jsonencode` comes to: its keys have no quotes, its lines no commas."""
    text = re.sub(r"\bvar\.(\w+)", lambda found: json.dumps(known[found.group(1)]), text)
    text = re.sub(r'^(\s*)"?(\w+)"?\s*[=:]\s*(.*?),?\s*$', r'\1"\2": \3,', text, flags=re.M)
    return json.loads(re.sub(r",(\s*})", r"\1", text))


def terraform(gate):
    file = HERE / "terraform/main.tf"
    parsed = subprocess.run([TOOLS / "checks/bin/hcl2tojson", file], capture_output=True, text=True)
    check.that("main.tf is HCL", parsed.returncode == 0, parsed.stderr[-200:] or "parsed")
    # What the provider asks: POST to path; then GET, PUT (or update_method) and DELETE at path/{id}.
    known, made = {"webhook_secret": "whsec_" + "c2VjcmV0" * 6}, []
    for name, body in re.findall(r'^resource "restapi_object" "(\w+)" \{\n(.*?)^\}', file.read_text(), re.S | re.M):
        field = dict(re.findall(r'^  (\w+)\s*= "(.*)"$', body, re.M))
        sent = {what: value(text, known) for what, text in re.findall(r"^  (\w+)\s*= jsonencode\((\{.*?\})\)", body, re.S | re.M)}
        data = sent["data"]
        path = re.sub(r"\$\{restapi_object\.(\w+)\.id\}", lambda found: known[found.group(1)], field["path"])
        answer = gate.call("POST", path, gate.admin["token"], json=data)
        check.answers(f"terraform: {name} is made", answer, 201)
        known[name] = str(answer.json()[field["id_attribute"]])
        made.append((name, f"{path}/{known[name]}", field, sent.get("update_data", data)))
    check.equal("terraform: three things are made", 3, len(made))
    for name, place, field, data in made:
        check.answers(f"terraform: {name} is read", gate.call("GET", place, gate.admin["token"]), 200, known[name])
        check.answers(f"terraform: {name} is brought up to date", gate.call(field.get("update_method", "PUT"), place, gate.admin["token"], json=data), 200)
    for name, place, _, _ in reversed(made):
        check.answers(f"terraform: {name} is destroyed", gate.call("DELETE", place, gate.admin["token"]), (200, 204))
        check.answers(f"terraform: {name} is gone", gate.call("GET", place, gate.admin["token"]), 404)


def schemas(_):
    for kind, folder in (("github-workflows", "github"), ("gitlab-ci", "gitlab")):
        files = sorted((HERE / folder).glob("*.yml"))
        ran = subprocess.run([TOOLS / "checks/bin/check-jsonschema", "--builtin-schema", f"vendor.{kind}", *files], capture_output=True, text=True)
        check.that(f"{kind}: {len(files)} files are what the schema says", ran.returncode == 0 and len(files) == 2, (ran.stdout + ran.stderr)[-400:])
    named = set(re.findall(r"\]\(([\w/.-]+)\)", (HERE / "README.md").read_text()))
    there = {str(f.relative_to(HERE)) for f in HERE.rglob("*") if f.is_file() and f.name != "README.md"}
    check.equal("docs/ci/README.md names each recipe", there, named)


with Gateway() as gate:
    check.scenes(gate, schemas, on_github, on_gitlab, on_jenkins, on_ansible, clients, packer, terraform)
check.finish()
