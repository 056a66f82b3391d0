"""What a plugin costs a request for metadata: instructions by callgrind, and requests a second by wrk.

script_cost.py [REQUESTS]: prints a line an arm; fails when a `route` doubles the instructions.
Three arms, in turn: no plugin; `route` with its table, which hits; the same and `authorize`.
"""

import http.client
import pathlib
import re
import shutil
import subprocess
import sys

import harness
from harness import BOXGATE, Checks, Gateway

REQUESTS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
# The aim was 1.05, which no interpreter keeps beside answers that are in memory: docs/BENCHMARKS.md.
MOST = 2.0
ROUTE = """const T = table([["*", "/myorg/**", "main"], ["*", "/public/**", "main"]]);
fn route(req) { let hit = T.find(req); if hit == () { return; } #{ backend: hit, tags: #{ tenant: req.seg(0) } } }
"""
AUTHORIZE = """fn authorize(req, p) {
    if p.kind == "service" && req.method in ["PUT", "POST"] && !net::contains("127.0.0.0/8", req.client_ip) { deny("outside") }
}
"""
ARMS = {"no plugin": "", "route": ROUTE, "route and authorize": ROUTE + AUTHORIZE}


class Measured(Gateway):
    """With a plugin, and a public box to ask for."""

    def __init__(self, plugin):
        super().__init__()
        self.settings = {"BOXGATE_SCRIPTS__CHECK_EVERY": "0s"}
        if plugin:
            place = self.data / "plugins"
            place.mkdir(parents=True)
            (place / "cost.rhai").write_text(plugin)

    def prepare(self):
        self.upload(b"a box")
        self.call("PUT", f"{self.base}/box/demo", self.admin["token"], json={"isPublic": True, "published": True})
        self.place = f"/{self.organization}/demo"

    def restart_as(self, binary):
        """The same over the same data, run by another program."""
        before, harness.BOXGATE = harness.BOXGATE, str(binary)
        try:
            self.restart(**self.settings)
        finally:
            harness.BOXGATE = before

    def ask(self, times):
        connection = http.client.HTTPConnection(*self.address, timeout=300)
        for _ in range(times):
            connection.request("GET", self.place)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        connection.close()


def instructions(plugin):
    """Of one request, once all is warm. What was uploaded before valgrind came is only asked for."""
    gate = Measured(plugin)
    wrapper = gate.work / "boxgate"
    counted = gate.work / "counted"
    binary = pathlib.Path(BOXGATE).resolve()
    plain = pathlib.Path(__file__).with_name("plain_auxv.py")
    wrapper.write_text(
        f'#!/bin/sh\nexec {sys.executable} {plain} valgrind --quiet --tool=callgrind --callgrind-out-file={counted} {binary} "$@"\n'
    )
    wrapper.chmod(0o755)
    with gate:
        gate.prepare()
        gate.restart_as(wrapper)
        gate.ask(200)
        control = ["callgrind_control", str(gate.process.pid)]
        subprocess.run([*control, "-z"], check=True, stdout=subprocess.DEVNULL)
        gate.ask(REQUESTS)
        subprocess.run([*control, "-d"], check=True, stdout=subprocess.DEVNULL)
        dumped = next(gate.work.glob("counted.*")).read_text(errors="replace")
        return int(re.search(r"^(?:totals|summary): (\d+)", dumped, re.M)[1]) / REQUESTS


def rate(plugin):
    """Requests a second on 16 connections."""
    with Measured(plugin) as gate:
        gate.prepare()
        told = ""
        for seconds in (2, 6):
            wrk = ["wrk", "-t1", "-c16", f"-d{seconds}s", f"{gate.url}{gate.place}"]
            told = subprocess.run(wrk, check=True, capture_output=True, text=True).stdout
        return float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])


checks = Checks()
if shutil.which("valgrind"):
    counted = {name: instructions(plugin) for name, plugin in ARMS.items()}
    bare = counted["no plugin"]
    for name, count in counted.items():
        print(f"{name}: {count:,.0f} instructions a request, {count / bare:.3f} of none", flush=True)
    checks.that("a route does not double the instructions", counted["route"] <= bare * MOST, f"{counted['route'] / bare:.3f}")
rates = {name: rate(plugin) for name, plugin in ARMS.items()}
for name, found in rates.items():
    print(f"{name}: {found:,.0f} requests/s, {found / rates['no plugin']:.3f} of none", flush=True)
checks.that("requests were answered", all(rates.values()), rates)
checks.finish()
