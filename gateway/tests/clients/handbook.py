#!/usr/bin/env python3
"""No block of the handbook is without a test: each is run as it is printed, read by what it is meant for, or, where no
test's machine can run it, taken apart word by word. Suites that run pages of their own are named here; what they leave is run here."""

import http.server
import json
import os
import pathlib
import re
import shlex
import ssl
import subprocess
import threading
import tomllib
from dataclasses import dataclass

from harness import BOXGATE, ENVIRONMENT, ROOT, Checks, Gateway, Raw, bytes_of, eventually, sha256

check = Checks()
TOOLS = pathlib.Path(os.environ.get("BOXGATE_TOOLS", pathlib.Path.home() / ".cache/boxgate")) / "clients"
LOAD_TESTS = pathlib.Path(BOXGATE).parent / "load-tests"

# Which suite runs the blocks of a page that are marked `<!-- test: NAME -->`, in order and in one folder.
SUITES = {
    "README.md": "readme.sh",
    "docs/QUICKSTART.md": "book.sh",
    "docs/FAQ.md": "book.sh",
    "docs/OPERATIONS.md": "book.sh",
    "docs/ci/README.md": "book.sh",
    "docs/logs/README.md": "book.sh",
    "docs/monitoring/README.md": "book.sh",
    "docs/ADAPTERS.md": "adapter.sh",
}
# What reads the blocks of a language on a page; it names the page.
READERS = {
    ("docs/COOKBOOK.md", "rust"): "scripting/tests/it/shipped.rs",
    ("docs/COOKBOOK.md", "toml"): "scripting/tests/it/shipped.rs",
    ("docs/HOOKS.md", "rust"): "scripting/tests/it/plugins.rs",
    ("docs/HOOKS.md", "toml"): "scripting/tests/it/plugins.rs",
    ("docs/HOOKS.md", "js"): "gateway/src/webhook/terms.rs",
    ("docs/cdn.md", "nginx"): "gateway/tests/clients/edge.sh",
    ("docs/cdn.md", "vcl"): "gateway/tests/clients/edge.sh",
    ("docs/ADAPTERS.md", "python"): "gateway/tests/clients/adapter.sh",
    ("docs/ADAPTERS.md", "toml"): "gateway/tests/clients/adapter.sh",
}
# Settings that a block leaves to its reader.
LEFT_OUT = {
    "docs/deploy/README.md": 'endpoint = "http://127.0.0.1:9"\nregion = "r"\nbucket = "b"\naccess_key_id = "k"\n'
    'secret_access_key_file = "PLACE/s3.secret"\n',
}
# Programs of others in blocks that are taken apart.
STRANGERS = {"apt-get", "systemctl", "cargo-deb"}


@dataclass
class Block:
    page: str
    language: str
    kind: str | None
    name: str | None
    text: str

    def __str__(self):
        return f"{self.page}, {self.name or self.text.splitlines()[0][:60]}"


def blocks():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    fence = re.compile(r"(?:^<!-- (\w+): ([\w.-]+) -->\n)?^```(\w*)\n(.*?)^```$", re.S | re.M)
    for page in pages:
        for kind, name, language, text in fence.findall(page.read_text()):
            yield Block(str(page.relative_to(ROOT)), language, kind or None, name or None, text)


EACH = list(blocks())
RUN = set()


def one(page, name, kind="aside"):
    """The block of that name, which the caller runs."""
    RUN.add((page, name))
    return next(b.text for b in EACH if (b.page, b.kind, b.name) == (page, kind, name))


class Place:
    """A folder in which blocks are run, with programs that stand in for those that a test has not."""

    def __init__(self, gate, name):
        self.gate = gate
        self.path = gate.work / name
        self.bin = self.path / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "boxgate").symlink_to(BOXGATE)

    def stand_in(self, name, script):
        (self.bin / name).write_text(f"#!/bin/bash\nset -eu\n{script}\n")
        (self.bin / name).chmod(0o755)

    def run(self, name, text, **variables):
        """The block ends well; returns what it printed."""
        path = f"{self.bin}:{TOOLS / 'aws/bin'}:{ENVIRONMENT['PATH']}"
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.path,
            env={**ENVIRONMENT, "PATH": path, "HOME": str(self.path), "CURL_HOME": str(self.path), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        check.that(name, ran.returncode == 0, (ran.stderr if ran.returncode else ran.stdout)[-240:])
        return ran.stdout


class Stranger(http.server.BaseHTTPRequestHandler):
    """Stands for hosts of others; keeps what it is asked: (method, path, headers, body)."""

    protocol_version = "HTTP/1.1"
    came = []

    def log_message(self, *_):
        pass

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.came.append((self.command, self.path, {n.lower(): v for n, v in self.headers.items()}, body))
        is_aws = "/invalidation" in self.path
        answer = b"<Invalidation><Id>I1</Id><Status>InProgress</Status></Invalidation>" if is_aws else b"{}"
        self.send_response(201 if is_aws else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = take


def stranger(certificate=None):
    """Starts one, with TLS where it is given a certificate; returns its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def asked(path):
    return next((it for it in Stranger.came if it[1] == path), (None, None, {}, b""))


def each_is_in_a_list(_gate):
    played = re.findall(r"\b([\w]+\.(?:sh|py)):\d+", (ROOT / ".ci/test").read_text())
    is_run = lambda b: b.kind in ("aside", "lint") or b.kind == "test" and b.page in SUITES
    check.equal("each block of sh is run by somebody", [], [str(b) for b in EACH if b.language == "sh" and not is_run(b)])
    lost = {p for p, s in SUITES.items() if s not in played or pathlib.Path(p).stem not in (ROOT / "gateway/tests/clients" / s).read_text()}
    check.equal("suites that run pages name them, and are played", set(), lost)
    lost = {k for k, reader in READERS.items() if pathlib.Path(k[0]).name not in (ROOT / reader).read_text()}
    check.equal("what reads blocks names their page", set(), lost)
    read = {"", "sh", "toml", "json", "rust"}
    unread = [str(b) for b in EACH if b.language not in read and (b.page, b.language) not in READERS]
    check.equal("each block of another language has a reader", [], unread)
    names = [(b.page, b.name) for b in EACH if b.name]
    check.equal("no two blocks of a page have one name", [], [n for n in names if names.count(n) > 1])


def documents_are_good(gate):
    place = Place(gate, "settings")
    (place.path / "s3.secret").write_text("5" * 64)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", place.path / "key.pem", "-out", place.path / "fullchain.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    for block in EACH:
        if block.language == "json":
            check.that(f"{block}: it is JSON", isinstance(json.loads(block.text), dict))
        if (block.page, block.language) in READERS:
            continue
        if block.language == "rust":
            plugin = place.path / "read"
            plugin.mkdir(exist_ok=True)
            (plugin / "plugin.toml").write_text('name = "read"\nversion = "1.0.0"\napi = 1\n')
            (plugin / "main.rhai").write_text(block.text)
            place.run(f"{block}: it is a plugin's", "boxgate script check read")
        if block.language != "toml":
            continue
        text = block.text + LEFT_OUT.get(block.page, "").replace("PLACE", str(place.path))
        text = re.sub(r'"/(?:etc/boxgate|var/log/boxvault|srv/boxgate)', f'"{place.path}', text)
        tomllib.loads(text)
        (place.path / "boxgate.toml").write_text(f'data_dir = "{place.path}/data"\n{text}')
        place.run(f"{block}: boxgate takes it", "boxgate config check --config boxgate.toml")


def machines_of_a_cluster(gate):
    page, place = "docs/deploy/README.md", Place(gate, "cluster")
    secrets = place.run("secrets are made", one(page, "secrets")).split()
    check.equal("as long as they must be", [64, 32, 26, 64, 64], [len(s) for s in secrets])

    # In a folder instead of a machine, where nobody becomes another.
    for file in ("boxgate.toml", "boxgate.service"):
        (place.path / file).write_bytes((ROOT / "docs/deploy" / file).read_bytes())
    for file in ("master.key", "s3.secret", "pgpass"):
        (place.path / file).write_text("5" * 64)
    (place.path / "boxgate").write_text(f'#!/bin/sh\nexec {BOXGATE} "$@"\n')
    for folder in ("usr/local/bin", "etc/systemd/system", "var/lib/boxgate"):
        (place.path / folder).mkdir(parents=True)
    place.stand_in("useradd", 'echo "$@" >>useradd')
    place.stand_in("systemctl", 'echo "$@" >>systemctl')
    place.stand_in("install", 'words=()\nwhile (($#)); do [[ $1 == -o ]] && shift 2 && continue; words+=("$1"); shift; done\n/usr/bin/install "${words[@]}"')
    here = lambda text: re.sub(r"(?<=[ =>])/(?=etc/|usr/local/)", f"{place.path}/", text)
    text = here(one(page, "node")).replace("http://10.0.0.11:3000", gate.url)
    place.run("a node is set up", text)
    modes = {f: oct((place.path / "etc/boxgate" / f).stat().st_mode & 0o777) for f in ("boxgate.toml", "master.key", "pgpass")}
    check.equal("what is secret is its owner's", {"boxgate.toml": "0o644", "master.key": "0o600", "pgpass": "0o600"}, modes)
    check.equal("systemd is told", ["daemon-reload", "enable --now boxgate"], (place.path / "systemctl").read_text().splitlines())
    installed = place.path / "etc/boxgate/boxgate.toml"
    installed.write_text(re.sub(r'"/(?=etc/|var/)', f'"{place.path}/', installed.read_text()))
    place.run("the node's configuration is good", 'set -a; . etc/boxgate/boxgate.env; usr/local/bin/boxgate config check --config etc/boxgate/boxgate.toml')

    compose = Place(gate, "compose")
    (compose.path / "garage.env").write_bytes((ROOT / "docs/deploy/garage.env").read_bytes())
    compose.stand_in("docker", 'echo "$@" >>docker')
    compose.stand_in("chown", 'echo "$@" >>chown')
    compose.run("what Compose needs is made", one(page, "compose"))
    files = ["boxes.key", "boxes.pem", "db.password", "master.key", "pgpass", "rpc.secret", "s3.secret"]
    check.equal("it is there", [], [f for f in files if not (compose.path / f).stat().st_size])
    check.that("and Compose is told", (compose.path / "docker").read_text().startswith("compose up -d\ncompose exec node1 boxgate admin bootstrap"))


def webhooks_go_out(gate):
    page, place, port = "docs/WEBHOOKS.md", Place(gate, "webhooks"), stranger()
    token = gate.admin["token"]
    text = one(page, "create").replace("https://hooks.example.com", f"http://127.0.0.1:{port}")
    place.run("an endpoint is made, tried and looked at", text, BOXGATE_URL=gate.url, BOXGATE_TOKEN=token)
    check.equal("it was sent an example", "POST", asked("/boxes")[0])
    text = one(page, "as-the-guide").replace("https://your-app.com", f"http://127.0.0.1:{port}")
    made = place.run("an endpoint as the guide makes it", text.replace("http://localhost:3000", gate.url).replace("ADMIN_TOKEN", token))
    check.equal("it is one", "webhook-secret", json.loads(made).get("secret"))


def a_release_is_told(gate):
    page, place = "docs/COOKBOOK.md", Place(gate, "release")
    document = {"action": "published", "release": {"tag_name": "v1.0.0"}}
    (place.path / "body.json").write_text(json.dumps(document))
    (place.path / ".curlrc").write_text('write-out = "%{http_code}"\n')
    text = one(page, "signed").replace("http://127.0.0.1:3000", gate.url).replace("NAME", "release")
    told = place.run("a delivery as GitHub signs it", text, CI_SECRET=SECRET)
    check.that("it is taken", told.endswith("202"), told)
    told = place.run("the same by another secret", text, CI_SECRET="another")
    check.that("it is refused", told.endswith("403"), told)


def caches_are_told(gate):
    page, place = "docs/cdn.md", Place(gate, "purge")
    certificate = place.path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=api.fastly.com",
         "-addext", "subjectAltName=DNS:api.fastly.com,DNS:api.cloudflare.com", "-keyout", certificate, "-out", place.path / "ca.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    with certificate.open("a") as both:
        both.write((place.path / "ca.pem").read_text())
    port = stranger(certificate)
    hosts = "".join(f'connect-to = "{host}:443:127.0.0.1:{port}"\n' for host in ("api.fastly.com", "api.cloudflare.com"))
    (place.path / ".curlrc").write_text(f'{hosts}cacert = "ca.pem"\nfail\n')
    place.run("Fastly is told", one(page, "fastly"), SERVICE="S1", TOKEN="t")
    method, _, headers, _ = asked("/service/S1/purge")
    check.equal("which tags", ("POST", "t", "box/acme/demo version/acme/demo/1.0"), (method, headers.get("fastly-key"), headers.get("surrogate-key")))
    place.run("Cloudflare is told", one(page, "cloudflare"), ZONE="Z1", TOKEN="t")
    method, _, headers, body = asked("/client/v4/zones/Z1/purge_cache")
    check.equal("which tags", ("POST", "Bearer t", {"tags": ["box/acme/demo"]}), (method, headers.get("authorization"), json.loads(body or b"null")))
    keys = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{stranger()}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    place.run("CloudFront is told", one(page, "cloudfront"), ID="D1", **keys)
    sent = [body for _, path, _, body in Stranger.came if path.endswith("/distribution/D1/invalidation")]
    check.that("which tags", sent and b"#box/acme/demo" in sent[0], sent)


def asides_of_the_readme(gate):
    page, place = "README.md", Place(gate, "readme")
    told = {"BOXGATE_URL": gate.url, "BOXGATE_TOKEN": gate.key}
    text = one(page, "accounts").replace("http://127.0.0.1:3000", gate.url)
    text = text.replace('"password":"..."', f'"password":"{gate.admin["password"]}"', 1).replace('"password":"..."', '"password":"a good long one"')
    place.run("a key for CI, and an account for a colleague", text.replace("curl ", "curl --fail-with-body "))
    signed_in = gate.call("POST", "/api/auth/signin", json={"username": "ann", "password": "a good long one"})
    check.answers("the colleague signs in", signed_in, 200)
    (place.path / "admin.password").write_text(gate.admin["password"] + "\n")
    (place.path / "bob.password").write_text("another good long one\n")
    text = one(page, "accounts-by-boxgate").replace("http://127.0.0.1:3000", gate.url).replace("target/release/", "")
    place.run("the same by boxgate, for another one", text.replace("ann", "bob"))
    signed_in = gate.call("POST", "/api/auth/signin", json={"username": "bob", "password": "another good long one"})
    check.answers("the other one signs in", signed_in, 200)

    box = bytes_of("rest", 20_000_000)
    (place.path / "demo.box").write_bytes(box)
    address = gate.path(box="rest")
    with Raw(gate.address) as raw:
        raw.head("PUT", address + "/upload", {"Authorization": f"Bearer {gate.key}", "Content-Length": len(box)})
        raw.send(box[:17_000_000])
        raw.end()
        raw.answer()
    rests = lambda: gate.call("GET", address + "/upload", gate.key).json()["uploads"]
    check.that("an upload that was cut rests", eventually(60, lambda: any(u["offset"] > 0 for u in rests())), rests())
    place.run("the rest of it is sent", one(page, "rest"), F=address, **told)
    check.equal("it is whole", sha256(box), sha256(gate.download(box="rest").content))

    (place.path / "debian-12.iso").write_bytes(box[:100_000])
    text = one(page, "isos").replace("organization/myorg/", f"organization/{gate.organization}/")
    place.run("an ISO image goes in and out", text.replace("-O ", "-o again.iso "), TOKEN=gate.admin["token"], **told)
    check.equal("it is what went in", sha256(box[:100_000]), sha256((place.path / "again.iso").read_bytes()))
    place.run("a plugin is begun", one(page, "plugin"))


def known(words):
    """Whether a command of a block is one, as far as that can be told without running it; else what is not."""
    if words[:2] == ["sudo", "-u"]:
        words = words[3:]
    while words[0] == "env" or re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:2] == ["docker", "compose"]:
        return None
    if words[:1] == ["cargo"]:
        if "--" in words:
            words = [words[words.index("-p") + 1], *words[words.index("--") + 1 :]]
        elif "-p" in words:
            package = words[words.index("-p") + 1]
            named = {tomllib.loads(f.read_text())["package"]["name"] for f in ROOT.glob("*/Cargo.toml")}
            return None if package in named else f"no package {package}"
        else:
            return None if words[1] == "install" and words[-1] in STRANGERS else f"cargo {words}"
    if words[:1] == ["bash"]:
        words = words[1:]
    program = words[0]
    if program in ("boxgate", "load-tests"):
        # Help is given once all words before it are known.
        binary = BOXGATE if program == "boxgate" else LOAD_TESTS
        ran = subprocess.run([binary, *words[1:], "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return None if ran.returncode == 0 else ran.stderr.strip()[:160]
    if (ROOT / program).is_file():
        is_python = "python" in (ROOT / program).read_text().splitlines()[0]
        reader = ["python3", "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())"] if is_python else ["bash", "-n"]
        ran = subprocess.run([*reader, ROOT / program], capture_output=True, text=True, env=ENVIRONMENT)
        return ran.stderr.strip() or None
    return None if program in STRANGERS else f"{program} is not known"


def what_cannot_run_is_taken_apart(_gate):
    for block in EACH:
        if block.kind != "lint":
            continue
        RUN.add((block.page, block.name))
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            for words in re.split(r"&&|\|", line):
                words = shlex.split(words, comments=True)
                if words:
                    why = known(words)
                    check.that(f"{block}: {' '.join(words)[:90]}", why is None, why or "known")


def none_is_left(_gate):
    left = [str(b) for b in EACH if b.kind in ("aside", "lint") and (b.page, b.name) not in RUN]
    check.equal("none is left that is to be run here", [], left)


SECRET = "c" * 40
gate = Gateway()
section = (ROOT / "docs/COOKBOOK.md").read_text().split("\n## Be told: ")[1].split("\n## ")[0]
plugin = gate.data / "plugins/release"
plugin.mkdir(parents=True)
(plugin / "plugin.toml").write_text('name = "release"\nversion = "1.0.0"\napi = 1\n' + "".join(re.findall(r"^```toml\n(.*?)^```", section, re.S | re.M)))
(plugin / "main.rhai").write_text(next(b for b in re.findall(r"^```rust\n(.*?)^```", section, re.S | re.M) if "fn test_" not in b))
(gate.work / "ci.secret").write_text(SECRET)
(gate.work / "boxgate.toml").write_text(
    f'[scripts.grants.release]\nsecrets = ["CI_SECRET"]\ncatalog = ["release:acme/*"]\n[scripts.secrets]\nCI_SECRET = "{gate.work}/ci.secret"\n'
)
gate.flags = ["--organization", "acme", "--config", str(gate.work / "boxgate.toml")]
with gate:
    check.scenes(
        gate, each_is_in_a_list, documents_are_good, machines_of_a_cluster, webhooks_go_out, a_release_is_told, caches_are_told,
        asides_of_the_readme, what_cannot_run_is_taken_apart, none_is_left,
    )  # fmt: skip
check.finish()
