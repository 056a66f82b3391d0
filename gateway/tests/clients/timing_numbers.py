#!/usr/bin/env python3
"""Whether the time of an answer tells what its text does not: what is there and another's against what is not there, and
secrets of which the first or all but the last letter are right. Two requests in random turns over one connection; Welch's t
over all times and over the faster nine tenths, and the ratio of the medians. Beyond 4.5 the two are told apart.

The first line compares a request with itself, and the last two that do differ: what t is where there is nothing, and where there
is something. Argument: requests of each kind (100,000; of passwords, a two-hundredth).
"""

import json
import math
import random
import socket
import statistics
import sys
import time

from harness import BOXGATE, Gateway, bytes_of

RUNTIME_KEY = "5e" * 32
ORIGIN = "0123456789abcdef0123456789abcdef"


class Line:
    """One connection; `took` is how long an answer took, in ns."""

    def __init__(self, address):
        self.address = address
        self.socket = None

    def took(self, request):
        if self.socket is None:
            self.socket = socket.create_connection(self.address, timeout=60)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.perf_counter_ns()
        self.socket.sendall(request)
        answer = self.socket.recv(65536)
        took = time.perf_counter_ns() - begun
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(65536)
        head, body = answer.split(b"\r\n\r\n", 1)
        lower = head.lower()
        length = int(lower.split(b"content-length:")[1].split()[0]) if b"content-length:" in lower else 0
        while len(body) < length:
            body += self.socket.recv(65536)
        if b"connection: close" in lower:
            self.socket.close()
            self.socket = None
        return took, int(head.split()[1])


def request(method, path, host, body=b"", **headers):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def welch(one, other):
    difference = statistics.fmean(one) - statistics.fmean(other)
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return difference / math.sqrt(spread) if spread else 0.0


def compare(name, address, one, other, times):
    """Asks for both in random turns; prints what their times differ by."""
    line, took, statuses = Line(address), ([], []), (set(), set())
    turns = random.Random(7)
    for _ in range(min(times // 20 + 2, 1000)):  # what is not there yet is made: caches, connections
        line.took(one), line.took(other)
    for _ in range(2 * times):
        which = turns.getrandbits(1)
        time_of, status = line.took((one, other)[which])
        took[which].append(time_of)
        statuses[which].add(status)
    bound = sorted(took[0] + took[1])[len(took[0] + took[1]) * 9 // 10]
    fast = [[t for t in of if t <= bound] for of in took]
    ratio = statistics.median(took[0]) / statistics.median(took[1])
    told = f"{sorted(statuses[0])} {sorted(statuses[1])}" if statuses[0] != statuses[1] else f"{sorted(statuses[0])}"
    print(
        f"| {name} | {told} | {statistics.median(took[0]) / 1e3:.1f} / {statistics.median(took[1]) / 1e3:.1f} µs | {ratio:.4f} "
        f"| {welch(*took):+.1f} | {welch(*fast):+.1f} |",
        flush=True,
    )


def main(times):
    print(f"{BOXGATE}, {times} requests of each\n")
    print("| what | status | median | ratio | t | t, faster 9/10 |\n|---|---|---|---|---|---|")
    with Gateway() as gate:
        gate.restart(
            BOXGATE_AUTH__LOGIN_FAILURES_PER_MINUTE="1000000",
            BOXGATE_RUNTIMES__DEFAULT__ENABLED="true",
            BOXGATE_RUNTIMES__DEFAULT__ALLOW_DEPLOYMENTS="true",
            BOXGATE_RUNTIMES__DEFAULT__API_KEY=RUNTIME_KEY,
        )
        host = "{}:{}".format(*gate.address)
        for box in ("demo", "public"):
            sent = gate.upload(bytes_of(box, 100_000), box=box)
            assert sent.status_code == 200, sent.text
        assert gate.call("PUT", f"{gate.base}/box/public", gate.admin["token"], json={"isPublic": True}).ok
        info = gate.call("GET", gate.path() + "/info", gate.key).json()
        made = gate.call("POST", "/api/admin/users", gate.admin["token"], json={"username": "eve", "password": "secret-of-eve"})
        assert made.ok, made.text
        signed_in = gate.call("POST", "/api/auth/signin", json={"username": "eve", "password": "secret-of-eve"})
        eve = {"x_access_token": signed_in.json()["accessToken"]}
        begun = gate.call("POST", "/files", gate.key, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "10"})
        assert begun.status_code == 201, begun.text
        upload = begun.headers["location"].split("/files/")[1]
        organization = gate.organization

        def get(path, **headers):
            return request("GET", path, host, **headers)

        def both(name, path, there, absent, times=times):
            compare(name, gate.address, get(path.format(there), **eve), get(path.format(absent), **eve), times)

        both("a request and itself", f"/{organization}/{{}}", "gone", "gone")
        both("another's box, none: Vagrant", f"/{organization}/{{}}", "demo", "gone")
        both("another's box, none: BoxVault", f"/api/organization/{organization}/box/{{}}", "demo", "gone")
        both("another's file, none", gate.path(box="{}").removeprefix(gate.url) + "/info", "demo", "gone")
        both("a blob that another holds, none", "/blobs/b3/{}", blake3_of(info), "ee" * 32)
        both("another's upload, none", "/files/{}", upload, "0123456789abcdef0123456789abcdef")

        forged = "00" * 32
        key = gate.key
        wrong_last = key[:-1] + ("0" if key[-1] != "0" else "1")
        compare(
            "a token but for its last letter, none of it",
            gate.address,
            get("/api/user", x_access_token=wrong_last),
            get("/api/user", x_access_token=forged[: len(key)]),
            times,
        )
        almost = RUNTIME_KEY[:-1] + "0"
        compare(
            "a runtime's key but for its last letter, none of it",
            gate.address,
            get("/runtime/image", authorization=f"Bearer {almost}"),
            get("/runtime/image", authorization=f"Bearer {'0' * 64}"),
            times,
        )

        def sign_in(name):
            body = json.dumps({"username": name, "password": "wrong"}).encode()
            return request("POST", "/api/auth/signin", host, body, content_type="application/json")

        compare("a wrong password, of nobody", gate.address, sign_in("eve"), sign_in("eva"), max(times // 200, 20))
        both("another's box, a public one: they differ", f"/{organization}/{{}}", "demo", "public")
        gate.restart(BOXGATE_SERVER__ORIGIN_SECRET=ORIGIN)
        host = "{}:{}".format(*gate.address)
        almost = ORIGIN[:-1] + "0"
        compare(
            "a CDN's secret but for its last letter, none of it",
            gate.address,
            request("GET", "/api/discover", host, x_origin_secret=almost),
            request("GET", "/api/discover", host, x_origin_secret="0" * 32),
            times,
        )


def blake3_of(info):
    """The digest, wherever the answer has it."""
    found = [value for name, value in flat(info) if "blake3" in name.lower() and isinstance(value, str)]
    return found[0]


def flat(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from flat(inner, name)
    else:
        yield name, value


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
