#!/usr/bin/env python3
"""docs/monitoring: alerts by promtool, metrics as they are scraped, alerts and panels in a real Prometheus."""

import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import urllib.parse

import requests
import yaml

from harness import ROOT, Checks, Gateway, bytes_of, eventually

check = Checks()
HERE = ROOT / "docs/monitoring"
TOOLS = pathlib.Path(os.environ.get("BOXGATE_TOOLS", pathlib.Path.home() / ".cache/boxgate")) / "clients/bin"
# What takes days, or rates that one sets, to happen.
NEVER_HERE = {"boxgate_script_events_passed_over_total", "boxgate_requests_refused_total", "boxgate_shaper_waits_total"}
METRIC = re.compile(r"\b(?:boxgate|process)_[a-z0-9_]+\b")
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")

PLUGIN = {
    "plugin.toml": """name = "busy"
version = "1.0.0"
api = 1
[http]
allow = ["http://127.0.0.1:PORT/"]
[hooks.on_event]
on_failure = "closed"
[webhook_in.go]
verify = "none"
""",
    "main.rhai": """fn route(req) { return; }
fn on_event(event) { throw "not today"; }
fn webhook_in(req) {
    try { http::get("http://127.0.0.1:PORT/"); } catch (why) { }
    #{ seen: true }
}
""",
}
CONFIG = """[scripts]
allow_networks = ["127.0.0.0/8"]
[scripts.grants.busy]
http = ["http://127.0.0.1:PORT/"]
unverified = ["go"]
[limits]
connections_per_address = 40
[gc]
every = "1s"
[scrub]
every = "1s"
[runtimes.default]
do_backups = true
image_file_path = "IMAGE"
"""


def documented():
    """Name -> (type, unit, labels) of the rows of METRICS.md."""
    lines = [line for line in (HERE / "METRICS.md").read_text().splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    told = {name.strip("`"): (kind, unit, set(re.findall(r"`(\w+)`", labels))) for name, kind, unit, labels, _ in rows}
    check.equal("METRICS.md has each metric once", len(rows), len(told))
    return told


def written():
    """Names that the sources give to metrics."""
    names = set()
    for file in sorted((ROOT / "gateway/src").rglob("*.rs")):
        source = file.read_text().split("#[cfg(test)]\nmod ")[0]
        names |= set(re.findall(r'"((?:boxgate|process)_[a-z0-9_]+)"', source))
    return names


def family(name, known):
    """The family that a series is of."""
    return name if name in known else SUFFIX.sub("", name)


def scraped(text):
    """Name -> (type, labels) of the families in an answer of /metrics."""
    found = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found[name] = (kind, set())
        elif line and not line.startswith("#"):
            series = re.match(r"[a-z0-9_]+", line).group()
            labels = set(re.findall(r'[{,](\w+)="', line.rsplit(" ", 1)[0])) - {"le"}
            found[family(series, found)][1].update(labels)
    return found


def alerts():
    return [rule for group in yaml.safe_load((HERE / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def expressions(dashboard):
    """(title, expression) of all that a dashboard asks Prometheus."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']}, {target['refId']}", target["expr"]
    for note in dashboard["annotations"]["list"]:
        yield note["name"], note["expr"]


def asked(expression):
    """As Grafana asks it, with all jobs and nodes chosen."""
    return expression.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")


def promtool(name, *arguments):
    ran = subprocess.run([TOOLS / "promtool", *arguments], capture_output=True, text=True, cwd=HERE)
    said = (ran.stdout + ran.stderr).strip().splitlines()
    check.that(f"promtool {name}", ran.returncode == 0, said[-1] if ran.returncode == 0 and said else said)


def pages(told):
    check.equal("METRICS.md tells of what the sources name, and of nothing else", [], sorted(told.keys() ^ written()))
    check.equal("types are Prometheus'", set(), {kind for kind, _, _ in told.values()} - {"counter", "gauge", "histogram"})
    units = {"_bytes": "bytes", "_bytes_total": "bytes", "_timestamp_seconds": "seconds since 1970", "_seconds": "seconds"}
    wrong = [
        name
        for name, (_, unit, _) in told.items()
        for end, want in units.items()
        if name.endswith(end) and not unit.startswith(want)
    ]
    check.equal("units are those that the names end in", [], wrong)
    unknown = {}
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if page.name in ("CHANGELOG.md", "METRICS.md"):
            continue
        names = re.findall(r"\bboxgate_[a-z]+_[a-z_]+", page.read_text())
        lost = [n for n in names if family(n, told) not in told and not n.startswith("boxgate_plugin_") and not any(m.startswith(n) for m in told)]
        if lost:
            unknown[page.name] = lost
    check.equal("other pages name metrics that there are", {}, unknown)


def rules(work, dashboard):
    promtool("check config", "check", "config", "prometheus.yml")
    promtool("test rules", "test", "rules", "alerts_test.yml")
    # A panel's expression is read as a rule's would be.
    panels = [{"record": f"panel:{n}", "expr": asked(e)} for n, (_, e) in enumerate(expressions(dashboard))]
    (work / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": panels}]}))
    promtool("check rules, of the dashboard", "check", "rules", str(work / "panels.yml"))
    tested = {
        case["alertname"]
        for test in yaml.safe_load((HERE / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    check.equal("each alert is seen to fire", set(), {rule["alert"] for rule in alerts()} ^ tested)
    unsaid = [r["alert"] for r in alerts() if r["labels"].get("severity") not in ("page", "ticket") or not r["annotations"].get("description")]
    check.equal("each says how urgent it is and what to do", [], unsaid)


def layout(dashboard):
    """What Grafana would take and show badly: ids twice, panels upon each other, data sources of somebody else."""
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    check.equal("panels have ids of their own", len(ids), len(set(ids)))
    taken, upon = set(), []
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        if cells & taken or at["x"] + at["w"] > 24:
            upon.append(panel["title"])
        taken |= cells
    check.equal("no panel lies upon another", [], upon)
    sources = set(re.findall(r'"uid": "([^"]*)"', json.dumps(dashboard))) - {dashboard["uid"]}
    check.equal("the data source is the one that is chosen", {"${datasource}"}, sources)


def keep_busy(gate, port):
    """All that is counted happens, but for what takes days."""
    endpoint = gate.call("POST", "/api/admin/webhooks", gate.admin["token"], json={"url": f"http://127.0.0.1:{port}/", "events": ["*"], "secret": "s" * 40})
    check.answers("an endpoint that nobody listens at", endpoint, 201)
    body = bytes_of("monitoring", 24 << 20)
    check.answers("a box comes in", gate.upload(body), 200)
    check.equal("and goes out", len(body), len(gate.download().content))
    with gate.dial() as raw:
        raw.head("GET", gate.path() + "/download", {"Authorization": f"Bearer {gate.key}"})
        raw.receive()
        raw.reset()
    held = [gate.dial() for _ in range(48)]
    check.that("those past an address's share are hung up on", select.select([raw.socket for raw in held], [], [], 60)[0])
    for raw in held:
        raw.socket.close()
    # It takes the gateway a moment to see that they are gone.
    eventually(60, lambda: gate.call("GET", "/livez").status_code == 200)
    check.answers("a webhook comes in", gate.call("POST", "/hooks/busy/go", json={}), 200)
    check.answers("an adapter is asked", gate.call("POST", "/providers/do/verify", headers={"Auth-Access-Token": "123abc"}), 200)


def metrics(gate):
    answer = requests.get(gate.url + "/metrics", timeout=60)
    return scraped(answer.text) if answer.status_code == 200 else {}


def compare(gate, told, used):
    want = set(told) - NEVER_HERE
    eventually(60, lambda: want <= metrics(gate).keys())
    found = metrics(gate)
    check.equal("each metric of METRICS.md is scraped", [], sorted(want - found.keys()))
    check.equal("what is scraped is in METRICS.md", [], sorted(n for n in found.keys() - told.keys() if not n.startswith("boxgate_plugin_")))
    both = sorted(found.keys() & told.keys())
    check.equal("with its type", [], [(n, found[n][0]) for n in both if found[n][0] != told[n][0]])
    check.equal("with its labels", [], [(n, sorted(found[n][1])) for n in both if found[n][1] != told[n][2]])
    names = {(where, name) for where, expression in used for name in METRIC.findall(expression)}
    check.that("alerts and panels name metrics", len(names) > 50, len(names))
    lost = sorted((where, name) for where, name in names if family(name, told) not in found.keys() | NEVER_HERE)
    check.equal("every metric that they name is there", [], lost)
    whole = sorted((where, name) for where, name in names if name in told and told[name][0] == "histogram")
    check.equal("and a histogram by one of its series", [], whole)


class Prometheus:
    """Debian's, over docs/monitoring/prometheus.yml with this gateway as its target, twice a second."""

    def __init__(self, work, gate):
        config = yaml.safe_load((HERE / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(HERE / "alerts.yml")]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = ["{}:{}".format(*gate.address)]
        (work / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = work / "prometheus.log"
        self.process = subprocess.Popen(
            [TOOLS / "prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/tsdb", "--web.listen-address=127.0.0.1:0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(self.log, "wb"),
        )

    def __enter__(self):
        listening = re.compile(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)')
        eventually(60, lambda: listening.search(self.log.read_text()) or self.process.poll() is not None)
        found = listening.search(self.log.read_text())
        check.that("Prometheus starts", found, found.group() if found else self.log.read_text()[-600:])
        self.url = "http://" + found.group(1)
        # It listens before it has read what it stored, and answers no question until then.
        eventually(60, lambda: requests.get(self.url + "/-/ready", timeout=60).status_code == 200)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def get(self, path, **query):
        answer = requests.get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=60)
        return answer.json()

    def knows(self, expression):
        """Whether it has an answer that is not empty; or what it says against the question."""
        answer = self.get("query", query=expression)
        return bool(answer["data"]["result"]) if answer["status"] == "success" else answer["error"]


def watched(gate, dashboard):
    with Prometheus(gate.work, gate) as prometheus:
        eventually(60, lambda: prometheus.knows("up == 1") is True)
        check.equal("Prometheus scrapes the gateway", True, prometheus.knows('up{job="boxgate"} == 1'))
        empty = {}

        def all_known():
            empty.clear()
            for title, expression in expressions(dashboard):
                rare = any(name in NEVER_HERE for name in METRIC.findall(expression)) or "changes(" in expression
                answer = prometheus.knows(asked(expression))
                if answer is not True and not (rare and answer is False):
                    empty[title] = answer
            return not empty

        eventually(90, all_known)
        check.equal("each panel shows something", {}, empty)
        judged = lambda: [r for g in prometheus.get("rules")["data"]["groups"] for r in g["rules"]]
        eventually(60, lambda: all(rule["health"] == "ok" for rule in judged()))
        ill = {rule["name"]: rule.get("lastError", rule["health"]) for rule in judged() if rule["health"] != "ok"}
        check.equal("each alert is evaluated", (len(alerts()), {}), (len(judged()), ill))
        pages = [rule["name"] for rule in judged() if rule["labels"].get("severity") == "page" and rule["state"] == "firing"]
        # It cannot page for a machine with less room than it asks for.
        check.equal("nobody is woken up by a gateway that is well", [], [name for name in pages if name != "BoxgateStoreAlmostFull"])


def main():
    told = documented()
    dashboard = json.loads((HERE / "dashboard.json").read_text())
    used = [(rule["alert"], rule["expr"]) for rule in alerts()] + list(expressions(dashboard))
    pages(told)
    layout(dashboard)

    gate = Gateway()
    busy = gate.data / "plugins/busy"
    busy.mkdir(parents=True)
    # Bound, and nobody listens: whoever connects is refused.
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    port = str(nobody.getsockname()[1])
    for name, text in PLUGIN.items():
        (busy / name).write_text(text.replace("PORT", port))
    shutil.copytree(ROOT / "plugins/example", gate.data / "plugins/example")
    (gate.work / "boxgate.toml").write_text(CONFIG.replace("PORT", port).replace("IMAGE", str(gate.work / "runtimeImage.sbimg")))
    gate.flags = ["--config", gate.work / "boxgate.toml"]
    with gate:
        rules(gate.work, dashboard)
        keep_busy(gate, port)
        compare(gate, told, used)
        watched(gate, dashboard)
    check.finish()


main()
