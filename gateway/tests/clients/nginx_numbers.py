#!/usr/bin/env python3
"""What a download costs beside nginx serving the same file, in the same run, in turns.

nginx_numbers.py [--rounds N] [--seconds S] [PART...]

Parts: stream, ranges, metadata, beside, tls, h3, slow, flips; all without a name. Rates and CPU are of each server's
processes by the kernel; what counts is the ratio of neighbours. Run by `.ci/long nginx`, with a release build in
BOXGATE_BIN; wrk, h2load, curl and nginx do the work.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse

from harness import Gateway

TICK = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30
TOOLS = pathlib.Path(os.environ.get("BOXGATE_TOOLS", pathlib.Path.home() / ".cache/boxgate")) / "clients/bin"
NGINX = next((str(p) for p in (TOOLS / "nginx", pathlib.Path("/usr/sbin/nginx")) if p.exists()), "nginx")


def cpu_of(pid):
    """User and system seconds of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_of(pid, name="VmHWM"):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text).group(1)) / 1024


class Server:
    """What is measured: its name, where it answers, whose CPU counts."""

    def __init__(self, name, url, pids):
        self.name, self.url, self.pids = name, url, pids

    def cpu(self):
        return sum(cpu_of(pid) for pid in self.pids())


class Nginx:
    """Debian's nginx over the same file, and a copy of the same metadata."""

    def __init__(self, work, certificate):
        self.work = work
        self.root = work / "root"
        self.root.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.port, self.tls_port = one.getsockname()[1], other.getsockname()[1]
        temp = "\n".join(f"{n}_temp_path {work}/temp-{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (work / "nginx.conf").write_text(f"""
            {"user root;" if os.geteuid() == 0 else ""}
            daemon off; worker_processes {os.cpu_count()}; pid {work}/nginx.pid; error_log {work}/nginx.err;
            events {{ worker_connections 4096; }}
            http {{
                {temp}
                access_log {work}/nginx.log; sendfile on; tcp_nopush on; keepalive_requests 100000000;
                default_type application/octet-stream;
                server {{ listen 127.0.0.1:{self.port}; root {self.root}; }}
                server {{ listen 127.0.0.1:{self.tls_port} ssl http2; root {self.root};
                    ssl_certificate {certificate}/cert.pem; ssl_certificate_key {certificate}/key.pem; }}
            }}
        """)
        self.process = subprocess.Popen([NGINX, "-p", work, "-c", work / "nginx.conf"], stderr=subprocess.DEVNULL)
        until = time.time() + 20
        while time.time() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        sys.exit((work / "nginx.err").read_text())

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def table(title, head, rows):
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def middle(values):
    return statistics.median(values)


def turns(rounds, servers, measure):
    """Each server in turn, round by round: a list of what was measured for each."""
    found = {server.name: [] for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else reversed(servers):
            found[server.name].append(measure(server))
    return found


def compare(title, rounds, servers, measure, head):
    """A row for each server, of medians, and one of ratios."""
    found = turns(rounds, servers, measure)
    medians = {name: [middle(column) for column in zip(*values)] for name, values in found.items()}
    rows = [[name, *(f"{value:.4g}" for value in values)] for name, values in medians.items()]
    ours, theirs = (medians[server.name] for server in servers)
    rows.append(["**ratio**", *(f"**{a / b:.2f}**" if b else "" for a, b in zip(ours, theirs))])
    table(title, ["server", *head], rows)


def stream(server):
    """One client takes all of it: GB/s and CPU seconds for each GB."""
    before, begun = server.cpu(), time.time()
    subprocess.run(["curl", "-sS", "--fail", "-o", "/dev/null", server.url + server.paths["/box"]], check=True)
    seconds, used = time.time() - begun, server.cpu() - before
    return GIB / 1e9 / seconds, used / (GIB / 1e9)


def wrk(server, path, clients, seconds, script=None, latency=False):
    """Requests a second, CPU microseconds for each, the 99th percentile in milliseconds, and errors."""
    command = ["wrk", "-t2", f"-c{clients}", f"-d{seconds}s", "--latency"]
    if script:
        command += ["-s", str(script)]
    before = server.cpu()
    text = subprocess.run([*command, server.url + server.paths[path]], check=True, capture_output=True, text=True).stdout
    used = server.cpu() - before
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    count = int(re.search(r"(\d+) requests in", text).group(1))
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    if re.search(r"Non-2xx|Socket errors", text):
        print("  errors:", re.findall(r"(?:Non-2xx|Socket errors).*", text), server.name, path, clients, flush=True)
    return rate, used / count * 1e6, float(p99) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def lua(work, length, headers):
    """A script that asks for aligned ranges at random places of the file."""
    path = work / f"ranges-{length}.lua"
    fixed = "".join(f'h["{name}"] = "{value}"\n' for name, value in headers.items())
    path.write_text(f"""
        local h = {{}}
        {fixed}
        request = function()
            local at = math.random(0, {GIB // length - 1}) * {length}
            h["Range"] = "bytes=" .. string.format("%d", at) .. "-" .. string.format("%d", at + {length} - 1)
            return wrk.format("GET", nil, h)
        end
    """)
    return path


def slow_readers(address, request, count):
    """So many clients that ask for the whole and read nothing."""
    held = []
    for number in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Spread over addresses: each has a limit of its own.
        client.bind((f"127.0.{1 + number // 200}.{1 + number % 200}", 0))
        client.connect(address)
        client.sendall(request)
        held.append(client)
    return held


def small_beside(server, seconds):
    """The 99th percentile of small requests alone, beside eight full downloads, and how many times that is."""
    small = ["wrk", "-t1", "-c4", f"-d{seconds}s", "--latency", "-H", "Accept: application/json", server.url + server.paths["/json"]]

    def p99():
        text = subprocess.run(small, check=True, capture_output=True, text=True).stdout
        value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
        return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]

    alone = p99()
    loop = f"while :; do curl -s -o /dev/null '{server.url}{server.paths['/box']}'; done"
    crowd = [subprocess.Popen(["bash", "-c", loop], start_new_session=True) for _ in range(8)]
    try:
        beside = p99()
    finally:
        for one in crowd:
            os.killpg(one.pid, 15)
            one.wait()
    return alone, beside, beside / alone


def h2load(server, path, seconds):
    """Requests a second over HTTP/2, and CPU microseconds for each."""
    command = ["h2load", f"-D{seconds}", "-c32", "-m4", "-t2", "-H", "Accept: application/json", server.tls + server.paths[path]]
    before = server.cpu()
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = server.cpu() - before
    rate = float(re.search(r"finished in [\d.]+s, ([\d.]+) req/s", text).group(1))
    count = int(re.search(r"(\d+) succeeded", text).group(1))
    return rate, used / count * 1e6


def slow(gate, path):
    """Two thousand clients that read nothing: the most memory that was ever taken, against the printed ceiling."""
    log = (gate.work / "gateway.log").read_text()
    ceiling = int(re.search(r'"memory_ceiling_bytes":"?(\d+)', log).group(1)) >> 20
    before = memory_of(gate.process.pid, "VmRSS")
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    held = slow_readers(gate.address, request, 2000)
    answered = 0
    for client in held:
        client.settimeout(20)
        answered += client.recv(12) == b"HTTP/1.1 200"
    after = memory_of(gate.process.pid)
    for client in held:
        client.close()
    return [answered, f"{before:.0f}", f"{after:.0f}", ceiling]


class Taken:
    def __init__(self, status_code, content):
        self.status_code, self.content = status_code, content


def taken(url, key):
    """What came of an answer, however it ended."""
    place = urllib.parse.urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as client:
        client.sendall(f"GET {place.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(1 << 20):
                data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return Taken(int(head.split(b" ", 2)[1]), body)


def flips(gate, count):
    """One flipped bit each in so many stored boxes, some of them read before: none may be served whole."""
    rng = random.Random(20261128)
    told = {"refused": 0, "broken": 0, "right, from memory": 0, "served wrong": 0}
    known = gate.blobs()
    for number in range(count):
        data = rng.randbytes(rng.randrange(1 << 10, 3 << 20))
        version = f"1.{number}.0"
        assert gate.upload(data, box="flips", version=version).status_code == 200
        (path,) = gate.blobs() - known
        known.add(path)
        if number % 2:
            assert gate.download(box="flips", version=version).content == data
        with open(path, "r+b") as file:
            at = rng.randrange(len(data))
            file.seek(at)
            file.write(bytes([data[at] ^ (1 << rng.randrange(8))]))
        answer = taken(gate.path(box="flips", version=version) + "/download", gate.key)
        if answer.status_code == 503:
            told["refused"] += 1
        elif data.startswith(answer.content) and len(answer.content) < len(data):
            told["broken"] += 1
        elif answer.content == data:
            told["right, from memory"] += 1
        else:
            told["served wrong"] += 1
        pathlib.Path(path).write_bytes(b"")  # room for the others
    return told


def play(gate, certificate, given, wanted):
    source = gate.work / "box"
    with open(source, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(GIB // 64))
    subprocess.run(["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {gate.key}", "-T", source,
                    gate.path() + "/upload", "-o", "/dev/null"], check=True)
    public = {"isPublic": True, "published": True}
    assert gate.call("PUT", f"{gate.base}/box/demo", gate.admin["token"], json=public).status_code == 200
    source.unlink()
    blob = max(gate.blobs(), key=os.path.getsize)
    meta = gate.call("GET", f"/{gate.organization}/demo", headers={"Accept": "application/json"})
    nginx = Nginx(gate.work, certificate)
    try:
        (nginx.root / "box").symlink_to(pathlib.Path(blob).resolve())
        (nginx.root / "json").write_bytes(meta.content)
        ours = Server("boxgate", gate.url, lambda: [gate.process.pid])
        named = json.loads(meta.content)["versions"][0]["providers"][0]["url"]
        ours.paths = {"/box": named.removeprefix(gate.url), "/json": f"/{gate.organization}/demo"}
        ours.tls = f"https://127.0.0.1:{gate.tls_port}"
        theirs = Server("nginx", f"http://127.0.0.1:{nginx.port}", nginx.pids)
        theirs.paths = {"/box": "/box", "/json": "/json"}
        theirs.tls = f"https://127.0.0.1:{nginx.tls_port}"
        measured(gate, (ours, theirs), given, wanted)
    finally:
        nginx.process.terminate()
        nginx.process.wait()


def measured(gate, servers, given, wanted):
    rounds, seconds = given.rounds, given.seconds
    for server in servers:  # the first read is proved, and fills the page cache
        stream(server)
    if "stream" in wanted:
        compare("1 GiB to one client over HTTP/1.1", rounds, servers, stream, ["GB/s", "CPU s/GB"])
    head = ["requests/s", "CPU us/request", "p99 ms"]
    if "ranges" in wanted:
        for length in (64 << 10, 4 << 20):
            for clients in (32, 256):
                script = lua(gate.work, length, {"Host": "localhost"})
                compare(f"ranges of {length >> 10} KiB, {clients} clients", rounds, servers,
                        lambda server: wrk(server, "/box", clients, seconds, script), head)
    if "metadata" in wanted:
        script = gate.work / "json.lua"
        script.write_text('wrk.headers["Accept"] = "application/json"\n')
        compare("metadata of a box, 32 clients", rounds, servers,
                lambda server: wrk(server, "/json", 32, seconds, script), head)
    if "beside" in wanted:
        compare("small requests beside eight full downloads, p99", rounds, servers,
                lambda server: small_beside(server, seconds), ["alone ms", "beside ms", "beside / alone"])
    if "tls" in wanted:
        for flag in ("--http1.1", "--http2"):
            compare(f"1 GiB to one client over TLS, curl {flag}", rounds, servers,
                    lambda server: stream_tls(server, flag), ["GB/s", "CPU s/GB"])
        compare("metadata of a box over HTTP/2, 32 connections of 4 streams", rounds, servers,
                lambda server: h2load(server, "/json", seconds), head[:2])
    if "h3" in wanted:
        rows = [[number, *(f"{value:.3g}" for value in stream_h3(gate, servers[0]))] for number in range(rounds)]
        table("64 MiB to one client over HTTP/3 (aioquic, which is the limit)", ["round", "GB/s", "CPU s/GB"], rows)
    if "slow" in wanted:
        rows = [["plain", *slow(gate, servers[0].paths["/box"])]]
        table("2,000 clients that read nothing", ["how", "answered", "MiB before", "peak MiB", "ceiling MiB"], rows)
    if "flips" in wanted:
        told = flips(gate, 1000)
        table("one bit flipped in each of 1,000 stored boxes", list(told), [list(told.values())])


def stream_tls(server, flag):
    before, begun = server.cpu(), time.time()
    command = ["curl", "-sSk", "--fail", flag, "-o", "/dev/null", server.tls + server.paths["/box"]]
    subprocess.run(command, check=True)
    seconds, used = time.time() - begun, server.cpu() - before
    return GIB / 1e9 / seconds, used / (GIB / 1e9)


def stream_h3(gate, server):
    """A client that is written in Python takes a part of it: only the gateway's CPU says something."""
    before, begun, length = server.cpu(), time.time(), 64 << 20
    url = server.tls.replace("127.0.0.1", "localhost") + server.paths["/box"]
    command = [sys.executable, pathlib.Path(__file__).with_name("http3.py"), gate.work / "tls/cert.pem", "GET", url,
               "-H", f"range: bytes=0-{length - 1}"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert told["bytes"] == length, told
    return length / 1e9 / (time.time() - begun), (server.cpu() - before) / (length / 1e9)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("parts", nargs="*")
    given = parser.parse_args()
    wanted = set(given.parts or ["stream", "ranges", "metadata", "beside", "tls", "h3", "slow", "flips"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    gate = Gateway()
    certificate = gate.work / "tls"
    certificate.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", certificate / "key.pem", "-out", certificate / "cert.pem"], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        gate.tls_port = free.getsockname()[1]
    config = gate.work / "boxgate.toml"
    config.write_text(f"""
        [[listeners]]
        address = "127.0.0.1:0"
        [[listeners]]
        address = "127.0.0.1:{gate.tls_port}"
        tls = true
        h3 = true
        [tls]
        certificate = "{certificate}/cert.pem"
        key = "{certificate}/key.pem"
    """)
    gate.settings = {"BOXGATE_CONFIG": str(config), "BOXGATE_LIMITS__CONNECTIONS_PER_ADDRESS": "4096"}
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
    with gate:
        play(gate, certificate, given, wanted)
    print(f"\nload after: {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
