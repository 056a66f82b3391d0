#!/usr/bin/env python3
"""How a process lives beside others: what systemd is told, sockets that it opens, a configuration that changes, and one
process that comes in the place of another under load."""

import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback

from harness import BOXGATE, ENVIRONMENT, Checks, Gateway, bytes_of, eventually, sha256

check = Checks()
UPGRADES = int(sys.argv[1]) if len(sys.argv) > 1 else 20
LONG = 60


class Told:
    """What is told at NOTIFY_SOCKET."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.messages = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            self.messages.append(self.socket.recv(4096).decode())

    def count(self, word):
        return sum(word in message.splitlines() for message in self.messages)

    def main_pids(self):
        words = [w for m in self.messages for w in m.splitlines()]
        return [int(w.split("=")[1]) for w in words if w.startswith("MAINPID=")]


class Living(Gateway):
    """A gateway with a program of its own, a file of its own, and somebody who is told; others come in its place."""

    user = None  # another than ours

    def __init__(self, toml="", *flags):
        super().__init__()
        self.file = self.work / "boxgate.toml"
        self.file.write_text(toml)
        self.program = self.work / "boxgate"
        self.program.symlink_to(BOXGATE)
        self.told = Told(self.work / "notify")
        self.flags = ["--config", self.file, *flags]
        self.settings = {"NOTIFY_SOCKET": self.told.path, "WATCHDOG_USEC": "1000000"}

    def start(self):
        # As the harness does, by the program that may be replaced.
        log = open(self.work / "gateway.log", "ab")
        command = [self.program, "quickstart", "--data-dir", self.data, "--listen", self.listen, "--json", *self.flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env={**ENVIRONMENT, **self.settings}, user=self.user)
        # Nobody reads more than the first line, however many processes follow: little room, so that a few of them would fill it.
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        ready = json.loads(self.process.stdout.readline())
        self.url, self.organization, self.key = ready["url"], ready["organization"], ready["service_account"]["client_secret"]
        self.base = f"{self.url}/api/organization/{self.organization}"
        self.address = (self.url.split("://")[1].split(":")[0], int(self.url.rsplit(":", 1)[1]))
        self.pid = self.process.pid
        self.certificate = ready.get("certificate")
        eventually(LONG, lambda: self.told.count("READY=1") == 1)

    def __exit__(self, *ended):
        for pid in {self.pid, *self.told.main_pids()}:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                # Its number may be another's by now.
                if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(bytes(self.program)):
                    os.kill(pid, signal.SIGKILL)
        super().__exit__(*ended)

    def log(self, *words):
        """The lines that hold these words."""
        lines = (self.work / "gateway.log").read_text().splitlines()
        return [line for line in lines if all(w in line for w in words)]

    def logged(self, count, *words):
        """Whether there are so many such lines, once they are written."""
        return eventually(LONG, lambda: len(self.log(*words)) >= count) and len(self.log(*words)) == count

    def upgrade(self):
        """Another process in the place of this one; whether it serves."""
        before = len(self.told.main_pids())
        os.kill(self.pid, signal.SIGUSR2)
        if not eventually(LONG, lambda: len(self.told.main_pids()) > before):
            return False
        self.pid = self.told.main_pids()[-1]
        return True

    def reload(self, toml):
        before = self.told.count("READY=1")
        self.file.write_text(toml)
        os.kill(self.pid, signal.SIGHUP)
        return eventually(LONG, lambda: self.told.count("READY=1") > before)


def is_there(pid):
    try:
        return not pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].startswith(" Z")
    except FileNotFoundError:
        return False


def tells_systemd():
    with Living() as gate:
        check.that("READY=1 is told", eventually(LONG, lambda: gate.told.count("READY=1") == 1), gate.told.messages)
        check.that("WATCHDOG=1 is told again and again", eventually(LONG, lambda: gate.told.count("WATCHDOG=1") >= 3), gate.told.messages)
        check.that("a reload is told", gate.reload("") and gate.told.count("RELOADING=1") == 1, gate.told.messages)
        reloading = [m for m in gate.told.messages if "RELOADING=1" in m]
        check.that("with its time, before its end", "MONOTONIC_USEC=" in reloading[0], reloading)
        limits = pathlib.Path(f"/proc/{gate.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        check.equal("a crash leaves no core file", ["0", "0"], core.split()[4:6])
        gate.process.terminate()
        gate.process.wait(LONG)
        check.equal("STOPPING=1 is told", 1, gate.told.count("STOPPING=1"))


class Nobodys(Living):
    """Run by a user that is not root, who may be refused something."""

    def __init__(self, toml=""):
        super().__init__(toml)
        if os.geteuid() == 0:
            self.user = 65534
            for path in (self.work, self.file, pathlib.Path(self.told.path)):
                os.chown(path, self.user, self.user)


def is_not_looked_into():
    owner = lambda gate: os.stat(f"/proc/{gate.pid}/environ").st_uid
    with Nobodys() as gate:
        check.equal("what a process holds in memory is not its user's to read", 0, owner(gate))
        gate.program.unlink()
        gate.program.write_text("#!/bin/sh\nprintf p >&0\nhead -c 1 >/dev/null\nexit 4\n")
        gate.program.chmod(0o755)
        check.that("and its own program may still come in its place", gate.upgrade(), gate.log("boxgate::life")[-3:])
        check.that("which it did", gate.log("the old program is started again"), gate.log("boxgate::life")[-3:])
        check.equal("nor is that of the next one", 0, owner(gate))
    with Nobodys("[server]\ncore_dumps = true\n") as gate:
        check.equal("it is where that is wanted", gate.user or os.geteuid(), owner(gate))


def takes_over_a_configuration():
    tight = '[limits]\nrate_exempt = []\n[rates.address]\nrequests = 1\nburst = {}\n'
    with Living("[log]\nlevel = \"info\"\n") as gate:
        page = lambda: gate.call("GET", f"/{gate.organization}/none").status_code
        many = lambda n: [page() for _ in range(n)]
        check.that("nobody on this machine is limited", 429 not in many(30), "30 requests")
        gate.reload(tight.format(5) + '[log]\nlevel = "warn"\n[cache]\nsize = "64MiB"\n')
        check.that("a rate holds after a reload", 429 in many(30), "30 requests")
        check.that("what needs a restart is named, once, alone", gate.logged(1, '"needs a restart: cache.size"'), gate.log("needs a restart"))
        asked = len(gate.log('"request_id"', '"duration_ms"'))
        told = len(gate.log('"level":"INFO"', '"target"'))
        gate.reload('[limits]\nrate_exempt = 5\n[rates.address]\nrequests = "many"\n')
        check.that("a file that is not right is refused as a whole", gate.logged(1, "the old one stays in force", "rates.address.requests"), gate.log("in force"))
        check.equal("lines are left out that the level leaves out", told, len(gate.log('"level":"INFO"', '"target"')))
        check.that("the rate holds on", 429 in many(30), "30 requests")
        # The line of a later request stands behind theirs.
        gate.reload("")
        page()
        written = lambda: len(gate.log('"request_id"', '"duration_ms"'))
        check.that("requests leave a line again", eventually(LONG, lambda: written() > asked), written())
        check.that("and left none before", written() < asked + 30, f"{asked}, then {written()}")
        check.that("and is taken back", eventually(LONG, lambda: 429 not in many(30)), "30 requests")


def listens_where_systemd_does():
    """systemd-socket-activate opens the sockets and starts the program at the first connection."""
    with Living() as gate:
        gate.process.kill()
        gate.process.wait()
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        by_address, by_name = ports
        gate.file.write_text(
            f'[[listeners]]\naddress = "127.0.0.1:{by_address}"\n'
            '[[listeners]]\nname = "internal"\naddress = "127.0.0.1:1"\n'
        )
        command = ["systemd-socket-activate", "-l", f"127.0.0.1:{by_address}", "-l", f"127.0.0.1:{by_name}", "--fdname=public:internal"]
        log = open(gate.work / "activated.log", "ab")
        keep = [word for name in ("PATH", "HOME") for word in ("-E", name)]
        process = subprocess.Popen([*command, *keep, gate.program, "serve", "--config", gate.file, "--data-dir", gate.data], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            answers = lambda port: (gate.call("GET", f"http://127.0.0.1:{port}/livez").status_code == 200)
            check.that("a socket of systemd is found by its address", eventually(LONG, lambda: answers(by_address)), by_address)
            check.that("another one by its name", eventually(LONG, lambda: answers(by_name)), by_name)
        finally:
            process.terminate()
            process.wait(LONG)


class Asking(threading.Thread):
    """Asks by HTTP/1.1 until told to stop; each request that fails is kept. As all clients do (RFC 9112 §9.3.1), it asks once more
    where a connection that was used before ends without an answer: that crossed the request."""

    def __init__(self, gate, path, headers, keeps):
        super().__init__(daemon=True)
        self.gate, self.path, self.headers, self.keeps = gate, path, headers, keeps
        self.over = threading.Event()
        self.asked, self.failed, self.slowest, self.again = 0, [], 0, 0

    def run(self):
        context = ssl._create_unverified_context()
        connection = None
        while not self.over.is_set():
            if connection is None or not self.keeps:
                connection = http.client.HTTPSConnection(*self.gate.address, timeout=LONG, context=context)
            begun = time.monotonic()
            try:
                used = connection.sock is not None
                connection.request("GET", self.path, headers=self.headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status not in (200, 206):
                    self.failed.append(answer.status)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                if used:
                    self.again += 1
                else:
                    self.failed.append(repr(error))
                connection = None
            except Exception as error:
                self.failed.append(repr(error))
                connection = None
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            time.sleep(0.004)

    def stop(self):
        self.over.set()
        self.join(LONG)


class AskingByHttp2(threading.Thread):
    """The same by curl and HTTP/2: a run of many requests over few connections, again and again."""

    def __init__(self, gate, path, key):
        super().__init__(daemon=True)
        command = ["curl", "-sk", "--http2", "-Z", "--parallel-max", "4", "--max-time", str(LONG), "-r", "0-1023", "-H", f"Authorization: Bearer {key}"]
        self.command = [*command, "-w", "%{http_code} %{http_version}\n", *[w for _ in range(200) for w in ("-o", "/dev/null", path)]]
        self.over = threading.Event()
        self.asked, self.failed = 0, []

    def run(self):
        while not self.over.is_set():
            ran = subprocess.run(self.command, capture_output=True, text=True)
            lines = ran.stdout.splitlines()
            self.asked += len(lines)
            self.failed += [line for line in lines if line != "206 2"]
            if ran.returncode:
                self.failed.append(f"exit {ran.returncode} {ran.stderr}")

    def stop(self):
        self.over.set()
        self.join(2 * LONG)


class SlowDownload(threading.Thread):
    """A download that is read slowly, so that it is no stalled one, until its `rest` is asked for."""

    def __init__(self, gate, path):
        super().__init__(daemon=True)
        raw = socket.create_connection(gate.address, timeout=LONG)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        stream = ssl._create_unverified_context().wrap_socket(raw)
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: boxgate\r\nAuthorization: Bearer {gate.key}\r\n\r\n".encode())
        self.answer = http.client.HTTPResponse(stream)
        self.answer.begin()
        self.hurry = threading.Event()
        self.bytes = b""

    def run(self):
        while not self.hurry.wait(0.2):
            self.bytes += self.answer.read(16 << 10)
        self.bytes += self.answer.read()

    def rest(self):
        self.hurry.set()
        self.join(LONG)
        return self.bytes


def comes_in_the_place_of_another():
    with Living("", "--tls", "self-signed") as gate:
        boxes = gate.work / "boxes"
        boxes.mkdir()
        run = lambda *words, **more: subprocess.run([str(w) for w in words], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=boxes, **more)
        trusting = {**ENVIRONMENT, "BOXGATE_URL": gate.url, "BOXGATE_TOKEN": gate.key, "SSL_CERT_FILE": gate.certificate}
        for name, size in (("demo", "40MB"), ("large", "600MB")):
            run(BOXGATE, "sample-box", f"{name}.box", "--size", size)
        pushed = run(BOXGATE, "push", "demo.box", f"{gate.organization}/demo", "1.0.0", "virtualbox", "amd64", env=trusting)
        check.equal("a box is there", (0, ""), (pushed.returncode, pushed.stderr[-200:] if pushed.returncode else ""))
        digest = sha256((boxes / "demo.box").read_bytes())
        path = gate.path() + "/download"
        place = "/" + path.split("/", 3)[3]
        key = {"Authorization": f"Bearer {gate.key}"}
        asking = [
            Asking(gate, place, {**key, "Range": "bytes=0-1023"}, True),
            Asking(gate, "/readyz", {}, False),
            Asking(gate, place, {**key, "Range": "bytes=4096-5119"}, False),
        ]
        by_http2 = AskingByHttp2(gate, path, gate.key)
        for thread in (*asking, by_http2):
            thread.start()
        first = gate.pid
        download = SlowDownload(gate, place)
        download.start()
        pushing = subprocess.Popen([BOXGATE, "push", "large.box", f"{gate.organization}/large", "1.0.0", "virtualbox", "amd64"], cwd=boxes, env=trusting, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(gate.work / "push.log", "wb"))
        served = 0
        for _ in range(UPGRADES):
            served += gate.upgrade()
        check.equal("each time another process serves", UPGRADES, served) or print("\n".join(gate.log("boxgate::life")[-12:]))
        for thread in (*asking, by_http2):
            thread.stop()
        check.that("the first process stays for its download", is_there(first), first)
        check.equal("which is whole", digest, sha256(download.rest()))
        check.that("and then goes", eventually(LONG, lambda: not is_there(first)), first)
        code = pushing.wait(4 * LONG)
        check.equal("an upload goes on in each of them", 0, code) or print((gate.work / "push.log").read_text()[-600:])
        pulled = run(BOXGATE, "pull", f"{gate.organization}/large", "-o", "pulled.box", env=trusting)
        same = pulled.returncode == 0 and sha256((boxes / "pulled.box").read_bytes()) == sha256((boxes / "large.box").read_bytes())
        check.that("and is whole", same, pulled.stderr[-200:])
        names = ("HTTP/1.1, one connection", "/readyz, a connection for each", "HTTP/1.1, a connection for each", "HTTP/2")
        for name, thread in zip(names, (*asking, by_http2)):
            check.that(f"{name}: none of the requests failed", thread.asked > 0 and not thread.failed, f"{thread.asked} asked, failed: {thread.failed[:5]}")
        print(f"# {sum(t.again for t in asking)} requests crossed the end of a connection that was used before", flush=True)
        print(f"# the slowest answer took {max(t.slowest for t in asking):.2f} s", flush=True)
        check.that("and it stops as ever", stops(gate), gate.pid)


def stops(gate):
    os.kill(gate.pid, signal.SIGTERM)
    return eventually(LONG, lambda: not is_there(gate.pid))


def stays_where_no_other_is_good():
    with Living() as gate:
        answers = lambda: gate.call("GET", "/livez").status_code == 200
        first = gate.pid

        def replaced_by(text):
            gate.program.unlink()
            gate.program.write_text(text)
            gate.program.chmod(0o755)

        kept = lambda n: eventually(LONG, lambda: len(gate.log("no other process came in the place of this one")) == n)
        gate.file.write_text("[cache]\nsize = 5\n")
        os.kill(gate.pid, signal.SIGUSR2)
        check.that("a file that is not right keeps the old process", kept(1) and answers(), gate.log("no other process"))
        check.that("and the log says which key", gate.log("no other process came", "cache.size"), gate.log("no other process"))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            # The first one's address is that of the flag.
            gate.file.write_text(f'[[listeners]]\naddress = "127.0.0.1:1"\n[[listeners]]\naddress = "{address}"\n')
            os.kill(gate.pid, signal.SIGUSR2)
            check.that("a listener whose port is taken keeps it", kept(2) and answers(), gate.log("no other process"))
            check.that("and the log says which listener", gate.log("no other process came", address), gate.log("no other process"))
        gate.file.write_text(f'[stores.main]\nkind = "local"\npath = "{gate.file}/store"\n')
        os.kill(gate.pid, signal.SIGUSR2)
        check.that("so does a store below a file", kept(3) and answers() and gate.log("no other process came", "stores.main"), gate.log("no other process"))
        gate.file.write_text("")
        replaced_by("#!/bin/sh\nexit 3\n")
        os.kill(gate.pid, signal.SIGUSR2)
        check.that("so does a program that ends", kept(4) and answers(), gate.log("no other process"))
        gate.program.unlink()
        os.kill(gate.pid, signal.SIGUSR2)
        check.that("and one that is not there", kept(5) and answers(), gate.log("no other process"))
        check.that("all the while it is the same process", is_there(first), first)
        # It says that it is prepared, and ends when all is handed over.
        gate.program.symlink_to(BOXGATE)
        replaced_by("#!/bin/sh\nprintf p >&0\nhead -c 1 >/dev/null\nexit 4\n")
        gate.file.write_text("[cache]\nsize = 5\n")
        check.that("where the new one ends at the last moment, the old program serves, whatever the file says by now", gate.upgrade(), gate.log("the old program"))
        check.that("by a process of its own", gate.pid != first and answers(), gate.pid)
        by_hand = subprocess.run([BOXGATE, "serve", "--data-dir", gate.work / "other", "--take-over"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        check.that("who gives the flag by hand is told whose it is", "SIGUSR2" in by_hand.stderr, by_hand.stderr)


def refuses(address):
    try:
        socket.create_connection(address, timeout=LONG).close()
    except ConnectionRefusedError:
        return True
    return False


def stops_though_another_was_wanted():
    with Living() as gate:
        os.kill(gate.pid, signal.SIGUSR2)
        os.kill(gate.pid, signal.SIGTERM)
        check.that("SIGTERM right after SIGUSR2 ends the process", eventually(LONG, lambda: not is_there(gate.pid)), gate.pid)
        check.that("and nobody listens afterwards", refuses(gate.address), gate.address)
    with Living() as gate:
        gate.program.unlink()
        gate.program.write_text("#!/bin/sh\nprintf p >&0\nexec sleep 600\n")
        gate.program.chmod(0o755)
        os.kill(gate.pid, signal.SIGUSR2)
        handing_over = '"message":"handing over"'
        check.that("a process that hangs says that it is prepared", eventually(LONG, lambda: gate.log(handing_over)), gate.log("boxgate::life"))
        hanging = json.loads(gate.log(handing_over)[0])["fields"]["process"]
        os.kill(gate.pid, signal.SIGTERM)
        check.that("SIGTERM ends the wait for it", eventually(LONG, lambda: not is_there(gate.pid)), gate.pid)
        check.that("and that process", not is_there(hanging), hanging)
        check.that("and nobody listens then", refuses(gate.address), gate.address)


if not shutil.which("systemd-socket-activate"):
    sys.exit("systemd-socket-activate is missing: gateway/tests/clients/tools/install")


for scene in (tells_systemd, is_not_looked_into, takes_over_a_configuration, listens_where_systemd_does, stays_where_no_other_is_good, stops_though_another_was_wanted, comes_in_the_place_of_another):
    try:
        scene()
    except Exception:
        check.that(f"{scene.__name__} runs to its end", False, traceback.format_exc(limit=-3))
check.finish()
