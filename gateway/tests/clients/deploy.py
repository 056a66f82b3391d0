#!/usr/bin/env python3
"""docs/deploy as far as it can be held without a Docker, a Kubernetes or a systemd that runs: linters and schemas of others,
and that what the files say of boxgate is so: its flags, its settings, its pages, its system calls."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tomllib

import requests
import yaml

from harness import BOXGATE, ENVIRONMENT, ROOT, Checks, Gateway, bytes_of, sha256

check = Checks()
HERE = ROOT / "docs/deploy"
TOOLS = pathlib.Path(os.environ.get("BOXGATE_TOOLS", pathlib.Path.home() / ".cache/boxgate")) / "clients"
SECRET = "5" * 64


def runs(name, *command, **options):
    """The command ends with 0."""
    ran = subprocess.run([str(c) for c in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    said = (ran.stdout + ran.stderr).strip()
    check.that(name, ran.returncode == 0, said[-240:] if ran.returncode else said.splitlines()[-1] if said else "exit 0")
    return said


def configured(name, file, variables=None):
    """boxgate takes this configuration with these variables."""
    runs(name, BOXGATE, "config", "check", "--config", file, env={**ENVIRONMENT, **(variables or {})})


def moved(value, folder):
    """A path of the target machine, as one below a folder that is here."""
    return re.sub(r"^(?=/(?:run|etc|var)/)", str(folder), value) if isinstance(value, str) else value


def secrets(folder, *paths):
    for path in paths:
        file = pathlib.Path(moved(path, folder))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SECRET)
        file.chmod(0o600)


def dockerfile(gate):
    runs("hadolint", TOOLS / "checks/bin/hadolint", HERE / "Dockerfile")
    lines = re.sub(r"\\\n", " ", (HERE / "Dockerfile").read_text())
    word = lambda name: re.findall(rf"^{name} (.*)$", lines, re.M)[-1]
    check.that("it does not run as root", re.fullmatch(r"[1-9]\d*:[1-9]\d*", word("USER")), word("USER"))
    probe = yaml.safe_load(word("HEALTHCHECK").split("CMD ", 1)[1])
    port = word("EXPOSE")
    check.that("its health check asks the port that it listens at", f":{port}/" in probe[-1] and word("CMD").count(f":{port}"), probe[-1])
    healthy = subprocess.run([*probe[:-1], probe[-1].replace(f"http://127.0.0.1:{port}", gate.url)], stdin=subprocess.DEVNULL)
    check.equal("its health check, at a gateway", 0, healthy.returncode)
    flags = yaml.safe_load(word("CMD"))
    runs("its command is one", BOXGATE, "config", "check", *flags[1:], env={**ENVIRONMENT, "BOXGATE_DATA_DIR": str(gate.work / "image")})
    check.equal("it builds with the version that the workspace asks for", tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"], re.search(r"^FROM rust:([\d.]+)", lines, re.M).group(1))


def compose(gate):
    runs("compose.yaml is what the schema says", TOOLS / "checks/bin/check-jsonschema", "--builtin-schema", "vendor.compose-spec", HERE / "compose.yaml")
    document = yaml.safe_load((HERE / "compose.yaml").read_text())
    services = document["services"]
    readme = (HERE / "README.md").read_text()
    mounted = {v.split(":")[0] for s in services.values() for v in s["volumes"] if v.startswith("./")}
    mounted |= {s["file"] for s in document["secrets"].values()} | {f"./{f}" for s in services.values() for f in s.get("env_file", [])}
    lost = [m for m in mounted if not (HERE / m).exists() and not re.search(rf"(?:>|-keyout |-out ){re.escape(m[2:])}\b", readme)]
    check.equal("what is mounted is there, or README.md makes it", [], lost)
    addresses = {name: s["networks"]["boxes"]["ipv4_address"] for name, s in services.items()}
    nodes = [a for n, a in addresses.items() if n.startswith("node")]
    check.equal("nginx knows the nodes", nodes, re.findall(r"server ([\d.]+):3000", (HERE / "nginx.conf").read_text()))
    for who, file in (("db", "boxgate.toml"), ("store", "boxgate.toml"), ("front", "boxgate.toml"), ("front", "nginx.conf"), ("store", "garage.toml")):
        check.that(f"{file} names {who} where it is", addresses[who] in (HERE / file).read_text(), addresses[who])
    named = {s for service in services.values() for s in service.get("secrets", [])}
    check.equal("secrets are those that are used", set(document["secrets"]), named)
    for name in ("node1", "node2", "node3"):
        given = services[name]["environment"]
        paths = [v for k, v in given.items() if k.endswith("_FILE")]
        check.that(f"{name}: its secrets are mounted", all(p.removeprefix("/run/secrets/") in services[name]["secrets"] for p in paths), paths)
        secrets(gate.work, *paths)
        configured(f"{name}: its configuration", HERE / "boxgate.toml", {k: moved(v, gate.work) for k, v in given.items()})
        check.equal(f"{name}: it listens where it is", f"{addresses[name]}:3000", given["BOXGATE_LISTEN"])
        check.that(f"{name}: it is stopped after it drained", int(services[name]["stop_grace_period"].rstrip("s")) > drained(), services[name]["stop_grace_period"])


def drained():
    """Seconds that a stop may take by default."""
    server = tomllib.loads((ROOT / "docs/boxgate.toml").read_text())["server"]
    units = {"s": 1, "m": 60}
    return sum(int(server[k][:-1]) * units[server[k][-1]] for k in ("drain_accept", "drain_requests", "drain_hurried"))


def kubernetes(gate):
    file = HERE / "kubernetes/boxgate.yaml"
    said = runs("manifests are what the schemas say", TOOLS / "checks/bin/kubernetes-validate", "--strict", file)
    documents = list(yaml.safe_load_all(file.read_text()))
    check.equal("each of them was looked at", len(documents), said.count(" passed for resource "))
    of = {d["kind"]: d for d in documents}
    check.equal("all are in the namespace", {"boxgate"}, {d["metadata"].get("namespace", d["metadata"]["name"]) for d in documents})
    pod = of["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    selectors = [of["Deployment"]["spec"]["selector"]["matchLabels"], of["Service"]["spec"]["selector"], of["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    check.equal("selectors find the pods", [labels] * 3, selectors)
    (container,) = pod["spec"]["containers"]
    check.that("a pod is stopped after it drained", pod["spec"]["terminationGracePeriodSeconds"] > drained(), drained())
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        check.answers(f"{probe}: {path}", gate.call("GET", path), 200)
    scraped = pod["metadata"]["annotations"]["prometheus.io/path"]
    check.answers("what is scraped", gate.call("GET", scraped), 200, "boxgate_connections")
    safe = container["securityContext"]
    check.that("it may write nothing but its volumes, as nobody", safe["readOnlyRootFilesystem"] and pod["spec"]["securityContext"]["runAsNonRoot"] and safe["capabilities"] == {"drop": ["ALL"]}, safe)
    check.equal("the volumes are those that are mounted", {v["name"] for v in pod["spec"]["volumes"]}, {m["name"] for m in container["volumeMounts"]})
    keys = {e["valueFrom"]["secretKeyRef"]["key"] for e in container["env"] if "valueFrom" in e}
    check.that("the secret has what is asked of it", keys <= of["Secret"]["stringData"].keys(), keys)
    text = of["ConfigMap"]["data"]["boxgate.toml"]
    config = gate.work / "kubernetes.toml"
    config.write_text(re.sub(r'"(/etc/[^"]*)"', lambda found: f'"{moved(found.group(1), gate.work)}"', text))
    secrets(gate.work, *(f"/etc/boxgate/secret/{key}" for key in of["Secret"]["stringData"]))
    variables = {e["name"]: moved(e.get("value", SECRET), gate.work) for e in container["env"]}
    configured("the configuration in the ConfigMap", config, variables)
    port = tomllib.loads(text)["listeners"][0]["address"].rsplit(":", 1)[1]
    check.equal("it listens at the port that is named", str(container["ports"][0]["containerPort"]), port)


def unit(gate):
    here = gate.work / "boxgate.service"
    here.write_text((HERE / "boxgate.service").read_text().replace("ExecStart=boxgate", f"ExecStart={BOXGATE}"))
    said = runs("systemd-analyze verify", "systemd-analyze", "verify", here)
    check.equal("systemd-analyze verify has nothing to say", "", said)
    (gate.work / "boxgate.socket").write_bytes((HERE / "boxgate.socket").read_bytes())
    said = runs("systemd-analyze verify, with its socket", "systemd-analyze", "verify", here, gate.work / "boxgate.socket")
    check.equal("which has nothing to say either", "", said)
    runs("systemd-analyze security: 1.5 of 10 at most", "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", here)
    lines = dict(re.findall(r"^(\w+)=(.*)$", here.read_text(), re.M))
    check.that("it is stopped after it drained", int(lines["TimeoutStopSec"]) > drained(), lines["TimeoutStopSec"])
    runs("its command is one", BOXGATE, *shlex.split(lines["ExecStart"])[1:2], "--help")
    calls(gate, here)


def calls(gate, file):
    """What the gateway asks of the kernel, from start to stop, is what the unit lets through."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True).stdout)
    sets = {name: body.split() for name, body in re.findall(r"^(@[\w-]+)\n((?:    .*\n?|\n)*)", re.sub(r"^ *#.*\n", "", text, flags=re.M), re.M)}

    def names(word):
        return set().union(*map(names, sets[word])) if word.startswith("@") else {word}

    allowed = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", file.read_text(), re.M):
        words = set().union(*map(names, line.lstrip("~").split()))
        allowed = allowed - words if line.startswith("~") else allowed | words
    check.that("the filter is read", len(allowed) > 200, f"{len(allowed)} calls")
    counted = gate.work / "calls"
    command = ["strace", "-f", "-qq", "-c", "-U", "name", "-o", counted, BOXGATE, "quickstart", "--data-dir", gate.work / "traced", "--listen", "127.0.0.1:0", "--json"]
    traced = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "BOXGATE_LOG__FILE": str(gate.work / "traced.log")})
    ready = yaml.safe_load(traced.stdout.readline())
    place = f"{ready['url']}/api/organization/myorg/box/demo/version/1.0.0/provider/virtualbox/architecture/amd64/file"
    key = {"Authorization": f"Bearer {ready['service_account']['client_secret']}"}
    body = bytes_of("calls", 9 << 20)
    check.equal("a box comes in while it is watched", 200, requests.post(place + "/upload", data=body, headers=key, timeout=120).status_code)
    check.equal("and goes out", sha256(body), sha256(requests.get(place + "/download", headers=key, timeout=120).content))
    requests.get(ready["url"] + "/metrics", timeout=120)
    (child,) = pathlib.Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    traced.wait(120)
    used = {line.strip() for line in counted.read_text().splitlines()[1:] if not line.startswith("---")} - {"total", ""}
    check.that("what it asks the kernel for is counted", len(used) > 40, f"{len(used)} calls")
    check.equal("and the unit lets all of it through", [], sorted(used - allowed))


def package(gate):
    about = tomllib.loads((ROOT / "gateway/Cargo.toml").read_text())["package"]["metadata"]["deb"]
    sources = [a[0] for a in about["assets"] if not a[0].startswith("target/")] + [about["license-file"][0]]
    check.equal("what goes into the package is there", [], [s for s in sources if not (ROOT / "gateway" / s).is_file()])
    check.that("its unit is there", (ROOT / "gateway" / about["systemd-units"]["unit-scripts"] / "boxgate.service").is_file(), about["systemd-units"])
    put = {"/" + a[1] for a in about["assets"]}
    check.equal("files of settings are kept at an upgrade", {p for p in put if p.startswith("/etc/")}, set(about["conf-files"]))
    runs("postinst is a script", "sh", "-n", HERE / "debian/postinst")
    # cargo-deb adds a call for each such file by the name of its source.
    named = [(pathlib.Path(a[0]).name, pathlib.Path(a[1]).name) for a in about["assets"] if "sysusers.d" in a[1]]
    check.equal("users are made of a file by its installed name", [("boxgate.conf", "boxgate.conf")], named)
    machine = gate.work / "machine"
    (machine / "etc").mkdir(parents=True)
    (machine / "usr/lib/sysusers.d").mkdir(parents=True)
    shutil.copy(HERE / "debian/boxgate.conf", machine / "usr/lib/sysusers.d")
    runs("its user is made", "systemd-sysusers", f"--root={machine}", "boxgate.conf")
    made = (machine / "etc/passwd").read_text().strip()
    check.that("who it is, and that nobody signs in as it", re.fullmatch(r"boxgate:.*:/var/lib/boxgate:/usr/sbin/nologin", made), made)
    said = gate.work / "package.toml"
    said.write_text((HERE / "debian/boxgate.toml").read_text().replace('"/var/', f'"{gate.work}/var/'))
    configured("its configuration", said)
    log = tomllib.loads((HERE / "debian/boxgate.toml").read_text())["log"]["file"]
    check.equal("it logs where BoxVault's package does", "/var/log/boxvault/boxvault.log", log)
    check.that("and logrotate knows it", f"\n{log} {{" in (HERE / "debian/logrotate").read_text(), log)


with Gateway() as gate:
    for tool in ("systemd-analyze", "strace"):
        check.that(f"{tool} is there", shutil.which(tool), shutil.which(tool))
    check.scenes(gate, dockerfile, compose, kubernetes, unit, package)
check.finish()
