#!/usr/bin/env python3
"""How evenly 200 who ask for all they can share what a node or each of them may have, over 10 s, some of them by four connections;
and what counting and measuring costs a GB. Arguments: MB a second for all (200) and GB of each transfer that is timed (4).
"""

import pathlib
import selectors
import socket
import statistics
import subprocess
import sys
import time

import requests

from harness import Gateway

TENANTS = 200
SECONDS = 10
BOX = 600_000_000
PARTS = [("nothing", {}), ("rates", {"BOXGATE_RATES__ADDRESS__BYTES_OUT": "100000MiB", "BOXGATE_LIMITS__BYTES_OUT": "100000MiB"})]



def publish(gate, size):
    file = gate.work / "box"
    subprocess.run(f"head -c {size} /dev/urandom >{file}", shell=True, check=True)
    with open(file, "rb") as body:
        sent = requests.post(gate.path() + "/upload", headers={"x-access-token": gate.key}, data=body, verify=False, timeout=600)
    assert sent.ok, sent.text
    file.unlink()


def shared(gate, path, crowded):
    """Bytes that each tenant got within the seconds, after three of getting started."""
    ask = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    readers = selectors.DefaultSelector()
    got = [0] * TENANTS
    sockets = []
    for n in range(TENANTS):
        for _ in range(4 if crowded and n % 2 else 1):
            raw = socket.create_connection(gate.address, timeout=60, source_address=(f"127.9.0.{n + 1}", 0))
            raw.sendall(ask)
            raw.setblocking(False)
            readers.register(raw, selectors.EVENT_READ, n)
            sockets.append(raw)
    room = bytearray(1 << 20)

    def read_until(end):
        while (left := end - time.monotonic()) > 0:
            for key, _ in readers.select(left):
                try:
                    got[key.data] += key.fileobj.recv_into(room)
                except BlockingIOError:
                    pass

    read_until(time.monotonic() + 3)
    before, begun = list(got), time.monotonic()
    read_until(begun + SECONDS)
    took = time.monotonic() - begun
    for raw in sockets:
        raw.close()
    return [(now - then) / took for now, then in zip(got, before)]


def told(name, each, rate):
    jain = sum(each) ** 2 / (len(each) * sum(one * one for one in each))
    off = max(abs(one - rate) / rate for one in each)
    print(f"| {name} | {sum(each) / 1e6:.1f} MB/s | {jain:.5f} | {off * 100:.2f} % |", flush=True)


def processor(gate):
    fields = pathlib.Path(f"/proc/{gate.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main(megabytes, gigabytes):
    requests.packages.urllib3.disable_warnings()
    public = {"BOXGATE_LIMITS__RATE_EXEMPT": "", "BOXGATE_CATALOG__NEW_BOX_VISIBILITY": "public"}
    print("| 200 tenants | together | Jain's index | farthest from its rate |\n|---|---|---|---|")
    with Gateway() as gate:
        gate.restart(**public)
        publish(gate, BOX)
        path = f"/{gate.organization}/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box"
        each = megabytes * 1_000_000 // TENANTS
        for name, limits in (
            ("a rate for the node", {"BOXGATE_LIMITS__BYTES_OUT": f"{megabytes * 1_000_000}B"}),
            ("a rate for each", {"BOXGATE_RATES__ADDRESS__BYTES_OUT": f"{each}B"}),
        ):
            gate.restart(**public, **limits)
            told(name, shared(gate, path, False), each)
            told(f"{name}, half of them by four connections", shared(gate, path, True), each)
    print("\n| a download by TLS | processor time of the gateway, by round | median |\n|---|---|---|")
    with Gateway() as gate:
        gate.flags = ["--tls", "self-signed"]
        gate.restart(**public)
        publish(gate, BOX)
        times = {name: [] for name, _ in PARTS}
        for _ in range(5):
            for name, limits in PARTS:
                gate.restart(**public, **limits)
                fetch = ["curl", "-sk", "-o", "/dev/null", "-H", f"x-access-token: {gate.key}", gate.path() + "/download"]
                subprocess.run(fetch, check=True)
                before = processor(gate)
                for _ in range(max(1, round(gigabytes * 1e9 / BOX))):
                    subprocess.run(fetch, check=True)
                times[name].append((processor(gate) - before) / (max(1, round(gigabytes * 1e9 / BOX)) * BOX / 1e9))
        for name, took in times.items():
            print(f"| {name} | {', '.join(f'{t:.3f}' for t in took)} s/GB | {statistics.median(took):.3f} s/GB |", flush=True)
        cost = statistics.median(b - a for a, b in zip(times["nothing"], times["rates"]))
        print(f"\ncounting and measuring: {cost:+.3f} s/GB (wanted 0.01)")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:] or ("200", "4")))
