#!/usr/bin/env python3
"""What `boxgate push` and `pull` cost beside curl, in the same run and in turns; what going on after a kill costs; what
becomes of both on a line that loses packets.

push_numbers.py [--mib N] [--rounds N] [PART...]

Parts: loopback, resume, line; all without a name. CPU is that of the client and of the gateway by the kernel; what counts is
the ratio of neighbours. `line` wants root: two networks with a link of 100 Mbit/s, 50 ms there and back and 2 % loss each way
between them, cubic at both ends. Run by `.ci/long push`, with a release build in BOXGATE_BIN.
"""

import argparse
import contextlib
import fcntl
import heapq
import os
import pathlib
import random
import select
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time

import harness
from harness import BOXGATE, ENVIRONMENT, Gateway, eventually

TICK = os.sysconf("SC_CLK_TCK")
GB = 1e9


def cpu_of(pid):
    """User and system seconds of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def table(title, head, rows):
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


class Scene:
    """A gateway and a file to push to it, or to pull from it."""

    def __init__(self, gate, mib, within=()):
        self.gate, self.within = gate, list(within)
        self.file = gate.work / "big.box"
        self.bytes = mib << 20
        with open(self.file, "wb") as out:
            for _ in range(mib):
                out.write(random.randbytes(1 << 20))
        self.version = 0

    def next(self):
        self.version += 1
        return f"1.0.{self.version}"

    def url(self, version):
        return self.gate.path(version=version)

    def command(self, name, version, *more):
        """The words of a client; the file that it makes is `out`."""
        to = ["--url", self.gate.url, "--token", self.gate.key]
        box = f"{self.gate.organization}/demo"
        key = f"Authorization: Bearer {self.gate.key}"
        out = self.gate.work / "out"
        words = {
            "boxgate push": [BOXGATE, "push", self.file, box, version, "virtualbox", "amd64", *to],
            "curl -T": ["curl", "-sSf", "-o", os.devnull, "-H", key, "-T", self.file, self.url(version) + "/upload"],
            "boxgate pull": [BOXGATE, "pull", f"{box}@{version}", "-o", out, *to],
            "curl": ["curl", "-sSf", "-H", key, "-o", out, self.url(version) + "/download"],
        }[name]
        return [*self.within, *words, *more]

    def start(self, name, version, *more):
        words = [str(word) for word in self.command(name, version, *more)]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)

    def timed(self, name, version, *more):
        """Seconds, and what the client and the gateway spent: seconds of CPU, MiB of memory."""
        before, begun = cpu_of(self.gate.process.pid), time.monotonic()
        client = self.start(name, version, *more)
        _, status, used = os.wait4(client.pid, 0)
        took = time.monotonic() - begun
        client.returncode = os.waitstatus_to_exitcode(status)
        if client.returncode:
            sys.exit(f"{name} ends with {client.returncode}")
        print(f"{name} {' '.join(more)}: {took:.1f} s", file=sys.stderr, flush=True)
        return took, used.ru_utime + used.ru_stime, cpu_of(self.gate.process.pid) - before, used.ru_maxrss / 1024

    def bytes_moved(self, way):
        """Bytes of bodies that the gateway has taken or sent."""
        text = self.gate.call("GET", "/metrics").text
        name = f"boxgate_http_bytes_{way}_total "
        return int(float(next(line.split()[1] for line in text.splitlines() if line.startswith(name))))

    def whole(self):
        """What was pulled is what was pushed; it is gone then."""
        out = self.gate.work / "out"
        if subprocess.run(["cmp", "-s", self.file, out]).returncode:
            sys.exit("what was pulled is something else")
        out.unlink()


@contextlib.contextmanager
def shown(title, head, rows):
    """A table of what was measured, also where it was ended early."""
    try:
        yield
    finally:
        table(title, head, rows())


def loopback(options):
    found = {name: [] for name in ("boxgate push", "curl -T", "boxgate pull", "curl", "curl, then sha256sum")}
    size = (options.mib << 20) / GB

    def rows():
        medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in found.items() if values}
        told = [
            [name, f"{size / took:.3f}", f"{used / size:.2f}", f"{gateway / size:.2f}", f"{most:.0f}", len(found[name])]
            for name, (took, used, gateway, most) in medians.items()
        ]
        for ours, theirs in (("boxgate push", "curl -T"), ("boxgate pull", "curl"), ("boxgate pull", "curl, then sha256sum")):
            if ours in medians and theirs in medians:
                a, b = medians[ours], medians[theirs]
                told.append([f"**{ours} / {theirs}**", f"**{b[0] / a[0]:.2f}**", f"**{a[1] / b[1]:.2f}**", f"**{a[2] / b[2]:.2f}**", "", ""])
        return told

    head = ["client", "GB/s", "its CPU s/GB", "the gateway's CPU s/GB", "its memory, MiB", "runs"]
    with shown(f"{options.mib} MiB over loopback, medians of runs in turns", head, rows), Gateway() as gate:
        scene = Scene(gate, options.mib)
        # What nobody has touched yet costs more than later.
        scene.timed("curl -T", scene.next())
        for turn in range(options.rounds):
            ways = ["boxgate push", "curl -T"]
            for name in ways if turn % 2 == 0 else reversed(ways):
                found[name].append(scene.timed(name, scene.next()))
            version = f"1.0.{scene.version}"
            ways = ["boxgate pull", "curl"]
            for name in ways if turn % 2 == 0 else reversed(ways):
                found[name].append(scene.timed(name, version))
                if name == "curl":
                    took, used, gateway, most = found[name][-1]
                    begun, before = time.monotonic(), os.times()
                    subprocess.run(["sha256sum", gate.work / "out"], check=True, stdout=subprocess.DEVNULL)
                    after = os.times()
                    hashed = after.children_user + after.children_system - before.children_user - before.children_system
                    found["curl, then sha256sum"].append((took + time.monotonic() - begun, used + hashed, gateway, most))
                scene.whole()


def resume(options):
    mib, rows = min(options.mib, 1024), []
    head = ["the run that ends it", "seconds", "MiB moved twice", "parts of 8 MiB"]
    title = f"{mib} MiB, gone on with after a kill; metrics and heads count among the bytes"
    with shown(title, head, lambda: rows), Gateway() as gate:
        scene = Scene(gate, mib)
        whole, *_ = scene.timed("boxgate push", scene.next())
        rows.append(["boxgate push, whole", f"{whole:.1f}", "", ""])
        for name, forgets in (("killed at 90 %", False), ("killed at 90 %, and nothing left beside the file", True)):
            version, before = scene.next(), scene.bytes_moved("in")
            client = scene.start("boxgate push", version)
            reached = eventually(300, lambda: scene.bytes_moved("in") - before >= scene.bytes * 0.9 or client.poll() is not None)
            if not reached or client.poll() is not None:
                sys.exit("the push was over before it could be killed")
            client.kill()
            client.wait()
            if forgets:
                pathlib.Path(f"{scene.file}.boxgate-push").unlink()
            took, *_ = scene.timed("boxgate push", version)
            again = scene.bytes_moved("in") - before - scene.bytes
            rows.append([f"boxgate push, {name}", f"{took:.1f}", f"{again / (1 << 20):.1f}", f"{again / (8 << 20):.2f}"])
        version = f"1.0.{scene.version}"
        whole, *_ = scene.timed("boxgate pull", version)
        scene.whole()
        rows.append(["boxgate pull, whole", f"{whole:.1f}", "", ""])
        before = scene.bytes_moved("out")
        client = scene.start("boxgate pull", version)
        eventually(300, lambda: scene.bytes_moved("out") - before >= scene.bytes * 0.5 or client.poll() is not None)
        client.kill()
        client.wait()
        took, *_ = scene.timed("boxgate pull", version)
        again = scene.bytes_moved("out") - before - scene.bytes
        scene.whole()
        rows.append(["boxgate pull, killed at 50 %", f"{took:.1f}", f"{again / (1 << 20):.1f}", ""])


class Line:
    """Two networks and a link between them, each packet of which passes through here."""

    RATE = 100e6 / 8
    DELAY = 0.025
    LOSS = 0.02
    # What waits longer than this for its turn is lost, too.
    QUEUE = 0.1

    def __init__(self):
        self.ends, self.names = [], []
        self.over = threading.Event()
        self.relay = threading.Thread(target=self.pass_on, daemon=True)

    def __enter__(self):
        try:
            self.lay()
        except BaseException:
            self.remove()
            raise
        self.relay.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.relay.join()
        self.remove()

    def remove(self):
        for fd, name in zip(self.ends, self.names):
            os.close(fd)
            subprocess.run(["ip", "netns", "del", name])

    def lay(self):
        for n in (1, 2):
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            # TUNSETIFF: IFF_TUN | IFF_NO_PI
            device = f"line{n}-{os.getpid() % 100000}"
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", device.encode(), 0x1001))
            space = f"boxgate-{device}"
            self.ends.append(fd)
            self.names.append(space)
            for words in (
                f"netns add {space}",
                f"link set {device} netns {space}",
                f"-n {space} addr add 10.9.0.{n}/24 dev {device}",
                f"-n {space} link set {device} up",
                f"-n {space} link set lo up",
                # By the route, since a network may not choose among all of the machine's.
                f"-n {space} route replace 10.9.0.0/24 dev {device} src 10.9.0.{n} congctl cubic",
            ):
                subprocess.run(["ip", *words.split()], check=True)

    def pass_on(self):
        one, other = self.ends
        free, waiting, count = {one: 0.0, other: 0.0}, [], 0
        chance = random.Random(1).random
        while not self.over.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    os.write(to, packet)
            pause = min(0.05, waiting[0][0] - now) if waiting else 0.05
            for came in select.select([one, other], [], [], max(pause, 0))[0]:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        packet, to, now = os.read(came, 2048), other if came == one else one, time.monotonic()
                        if chance() < self.LOSS or free[to] - now > self.QUEUE:
                            continue
                        free[to] = max(free[to], now) + len(packet) / self.RATE
                        count += 1
                        heapq.heappush(waiting, (free[to] + self.DELAY, count, to, packet))


def line(options):
    mib = 64
    with Line() as link:
        here, there = (["ip", "netns", "exec", name] for name in link.names)
        gate = Gateway()
        program = gate.work / "boxgate"
        program.write_text(f'#!/bin/sh\nexec {" ".join(there)} {BOXGATE} "$@"\n')
        program.chmod(0o755)
        harness.BOXGATE, gate.listen = str(program), "10.9.0.2:3000"
        with gate:
            scene = Scene(gate, mib, here)
            rounds = max(1, options.rounds // 2)
            took = {}
            for _ in range(rounds):
                for name, more in (("curl -T", ()), ("boxgate push", ()), ("boxgate push", ("--streams", "16"))):
                    took.setdefault((name, more), []).append(scene.timed(name, scene.next(), *more)[0])
                version = f"1.0.{scene.version}"
                for name, more in (("curl", ()), ("boxgate pull", ()), ("boxgate pull", ("--streams", "16"))):
                    took.setdefault((name, more), []).append(scene.timed(name, version, *more)[0])
                    scene.whole()
        harness.BOXGATE = BOXGATE
    rows = []
    for (name, more), values in took.items():
        seconds = statistics.median(values)
        beside = statistics.median(took["curl -T" if name in ("curl -T", "boxgate push") else "curl", ()])
        rows.append([" ".join((name, *more)), f"{mib * 1.048576 * 8 / seconds:.1f}", f"{beside / seconds:.2f}"])
    title = f"{mib} MiB over 100 Mbit/s, 50 ms there and back, 2 % loss each way, cubic; {rounds} round(s)"
    table(title, ["client", "Mbit/s", "times one curl stream"], rows)


PARTS = {"loopback": loopback, "resume": resume, "line": line}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--mib", type=int, default=4096)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
options = parser.parse_args()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
for part in options.parts or PARTS:
    PARTS[part](options)
