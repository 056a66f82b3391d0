#!/usr/bin/env python3
"""Flame graphs of the five hot paths, by perf and inferno.

flames.py FOLDER [PATH...]: writes FOLDER/flame-PATH.svg and prints where most of the time goes. Paths: upload, form, kernel,
cached, metadata. Run by `.ci/long flames` with a release build in BOXGATE_BIN. Only what takes half a percent is drawn.
"""

import os
import pathlib
import re
import subprocess
import sys

from harness import Gateway

TOOLS = pathlib.Path(os.environ.get("BOXGATE_TOOLS", pathlib.Path.home() / ".cache/boxgate"))
GIB = 1 << 30
SECONDS = 8


class Profiled(Gateway):
    def __init__(self, settings):
        super().__init__()
        self.settings = {"BOXGATE_CATALOG__NEW_BOX_VISIBILITY": "public", **settings}

    def put(self, version, form=False):
        how = ["-X", "POST", "-F", f"file=@{self.source}"] if form else ["-X", "POST", "-T", self.source]
        kind = [] if form else ["-H", "Content-Type: application/octet-stream"]
        subprocess.run(["curl", "-sS", "--fail-with-body", "-o", "/dev/null", "-H", f"Authorization: Bearer {self.key}", *kind, *how,
                        self.path(version=version)], check=True)

    def prepare(self):
        self.source = self.work / "box"
        with open(self.source, "wb") as file:
            for _ in range(64):
                file.write(os.urandom(GIB // 64))


def wrk(gate, path, script):
    file = gate.work / "wrk.lua"
    file.write_text(script)
    subprocess.run(["wrk", "-t1", "-c16", f"-d{SECONDS}s", "-s", file, gate.url + path], check=True, stdout=subprocess.DEVNULL)


def uploads(gate, form=False):
    for version in range(3):
        gate.put(f"2.{version}.0", form)


def whole(gate):
    for _ in range(8):
        subprocess.run(["curl", "-sS", "--fail", "-o", "/dev/null", gate.place], check=True)


def ranges(gate):
    wrk(gate, gate.place.removeprefix(gate.url), """
        local h = {}
        request = function()
            local at = math.random(0, 4095) * 65536
            h["Range"] = string.format("bytes=%d-%d", at, at + 65535)
            return wrk.format("GET", nil, h)
        end
    """)


def metadata(gate):
    wrk(gate, f"/{gate.organization}/demo", 'wrk.headers["Accept"] = "application/json"\n')


# Settings, and what is done while it is looked at.
PATHS = {
    "upload": ({}, uploads),
    "form": ({}, lambda gate: uploads(gate, form=True)),
    "kernel": ({}, whole),
    "cached": ({"BOXGATE_VERIFY__LOCAL": "always"}, ranges),
    "metadata": ({}, metadata),
}


def profile(name, folder):
    settings, work = PATHS[name]
    gate = Profiled(settings)
    data = gate.work / "perf.data"
    with gate:
        gate.prepare()
        gate.put("1.0.0")
        named = gate.call("GET", f"/{gate.organization}/demo", headers={"Accept": "application/json"}).json()
        gate.place = named["versions"][0]["providers"][0]["url"]
        subprocess.run(["curl", "-sS", "--fail", "-o", "/dev/null", gate.place], check=True)
        perf = subprocess.Popen(["perf", "record", "-q", "-F", "499", "--call-graph", "dwarf,16384", "-o", data, "-p", str(gate.process.pid)],
                                stderr=subprocess.DEVNULL)
        try:
            work(gate)
        finally:
            perf.send_signal(2)
            perf.wait()
        script = subprocess.run(["perf", "script", "--no-inline", "-i", data], check=True, capture_output=True).stdout
    collapsed = subprocess.run([TOOLS / "bin/inferno-collapse-perf"], input=script, check=True, capture_output=True).stdout
    told(name, collapsed.decode(errors="replace"))
    draw = [TOOLS / "bin/inferno-flamegraph", "--minwidth", "0.5", "--title", f"boxgate: {name}", "--hash"]
    drawn = subprocess.run(draw, input=collapsed, check=True, capture_output=True)
    (folder / f"flame-{name}.svg").write_bytes(drawn.stdout)


def told(name, collapsed):
    """The functions in which most samples ended."""
    ends, all_of_it = {}, 0
    for line in collapsed.splitlines():
        frames, count = line.rsplit(" ", 1)
        last = re.sub(r"::h[0-9a-f]{16}$", "", frames.rsplit(";", 1)[-1])
        ends[last] = ends.get(last, 0) + int(count)
        all_of_it += int(count)
    print(name)
    for last, count in sorted(ends.items(), key=lambda end: -end[1])[:12]:
        print(f"  {count / max(all_of_it, 1):6.1%} {last}")
    sys.stdout.flush()


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or PATHS:
        profile(name, folder)


main()
