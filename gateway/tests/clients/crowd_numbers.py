#!/usr/bin/env python3
"""What an honest client keeps beside 5,000 silent connections, 2,000 that send a byte a second, 2,000 that do not read what
they asked for, and one that takes back what it asked for as fast as it can: bytes a second and the slowest hundredth of
small answers, in turns with an empty gateway; then the gateway's memory beside the ceiling that it told.

Attackers, gateway and the honest client share the machine; attackers give way (nice), so that they take what is left of it.
Who is ended comes again at once. Arguments: rounds (3) and seconds of each turn (15); 60 of 15 take half an hour and more.
"""

import json
import multiprocessing
import os
import pathlib
import resource
import socket
import ssl
import statistics
import sys
import time

import requests
from h2.config import H2Configuration
from h2.connection import H2Connection

from harness import Checks, Gateway

SILENT, SLOW, DEAF = 5000, 2000, 2000
CROWD = {"silent": SILENT, "slow": SLOW, "deaf": DEAF}
# Elsewhere they would not take the gateway's processors: here they take what is left of them.
YIELDING = 19
BOX = 8 << 20
HEAD = b"POST /api/auth/signin HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
check = Checks()


def place(n):
    """Each address may have 256 connections."""
    return (f"127.7.{n // 200 % 250}.{n % 200 + 1}", 0)


def encrypted(address, n, context):
    raw = socket.create_connection(address, timeout=20, source_address=place(n))
    return context.wrap_socket(raw, server_hostname="localhost")


def crowd(kind, count, address, path, here, leave):
    """Connects until all are there, says so, and goes on with it: who is cut off comes again."""
    os.nice(YIELDING)
    plain = ssl._create_unverified_context()
    plain.set_alpn_protocols(["http/1.1"])
    ask = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    first = {"silent": 0, "slow": SILENT, "deaf": SILENT + SLOW}[kind]
    sockets = [None] * count
    while not leave.is_set():
        for n, held in enumerate(sockets):
            if leave.is_set():
                return
            try:
                if held is None:
                    if kind == "silent":
                        held = socket.create_connection(address, timeout=20, source_address=place(first + n))
                    else:
                        held = encrypted(address, first + n, plain)
                        held.sendall(HEAD if kind == "slow" else ask)
                    held.setblocking(False)
                    sockets[n] = held
                elif kind == "slow":
                    held.send(b" ")
                elif kind == "silent" and held.recv(1) == b"":
                    raise ConnectionResetError
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                if sockets[n] is not None:
                    sockets[n].close()
                sockets[n] = None
        here.set()
        leave.wait(0.5)


def storm(address, leave):
    """Asks and takes back over HTTP/2; on another connection whenever one is ended."""
    os.nice(YIELDING)
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/livez")]
    while not leave.is_set():
        try:
            with encrypted(address, 40_000, context) as held:
                h2 = H2Connection(H2Configuration(client_side=True))
                h2.initiate_connection()
                for stream in range(1, 4001, 2):
                    h2.send_headers(stream, fields, end_stream=True)
                    h2.reset_stream(stream)
                    held.sendall(h2.data_to_send())
                    if leave.is_set():
                        return
        except OSError:
            pass


def honest(gate, path, seconds):
    """Bytes a second of one download after the other, and the slowest hundredth of small answers."""
    session = requests.Session()
    session.verify, session.trust_env = False, False
    took, moved = [], 0
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        moved += len(session.get(gate.url + path, timeout=60).content)
        for _ in range(20):
            at = time.monotonic()
            assert session.get(f"{gate.url}/api/organization/{gate.organization}/box", headers={"x-access-token": gate.admin["token"]}, timeout=60).ok
            took.append(time.monotonic() - at)
    rate = moved / (time.monotonic() - begun)
    return rate, statistics.quantiles(took, n=100)[98]


def resident(gate, word):
    status = pathlib.Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split(word)[1].split()[0]) << 10


def main(rounds, seconds):
    requests.packages.urllib3.disable_warnings()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Gateway() as gate:
        gate.flags = ["--tls", "self-signed"]
        gate.restart(BOXGATE_LIMITS__CONNECTIONS="12000", BOXGATE_CATALOG__NEW_BOX_VISIBILITY="public")
        sent = requests.post(gate.path() + "/upload", headers={"x-access-token": gate.key}, data=bytes(BOX), verify=False, timeout=60)
        assert sent.ok, sent.text
        path = f"/{gate.organization}/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box"
        assert requests.get(gate.url + path, verify=False, timeout=60).ok, path
        alone, beside = [], []
        for _ in range(rounds):
            alone.append(honest(gate, path, seconds))
            leave = multiprocessing.Event()
            here = [multiprocessing.Event() for _ in CROWD]
            attackers = [
                *(multiprocessing.Process(target=crowd, args=(kind, count, gate.address, path, come, leave)) for (kind, count), come in zip(CROWD.items(), here)),
                multiprocessing.Process(target=storm, args=(gate.address, leave)),
            ]
            for attacker in attackers:
                attacker.start()
            assert all(come.wait(120) for come in here), "the crowd did not come"
            text = gate.call("GET", "/metrics", verify=False).text
            there = next(line.split()[1] for line in text.splitlines() if line.startswith("boxgate_connections "))
            beside.append(honest(gate, path, seconds))
            leave.set()
            for attacker in attackers:
                attacker.join(60)
            print(f"round: alone {alone[-1]}, beside {there} connections {beside[-1]}", flush=True)
        lines = (gate.work / "gateway.log").read_text().splitlines()
        starts = [json.loads(line) for line in lines if '"memory_ceiling_bytes"' in line]
        ceiling, peak = starts[-1]["fields"]["memory_ceiling_bytes"], resident(gate, "VmHWM:")
        median = lambda of, at: statistics.median(one[at] for one in of)
        rate = median(beside, 0) / median(alone, 0)
        slowest = median(beside, 1) / median(alone, 1)
        print(f"bytes a second, alone / beside: {median(alone, 0) / 1e6:.0f} / {median(beside, 0) / 1e6:.0f} MB, {rate:.2f} of it (wanted 0.80)")
        print(f"p99 of a small answer, alone / beside: {median(alone, 1) * 1e3:.1f} / {median(beside, 1) * 1e3:.1f} ms, {slowest:.2f} times (wanted 2)")
        check.that("memory stayed under the ceiling that the start told", peak <= ceiling, f"{peak >> 20} MiB of {ceiling >> 20} MiB")
    check.finish()


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:] or ("3", "15")))
