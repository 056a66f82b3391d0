"""Shared by the Python suites: a gateway of their own, raw sockets, checks that are counted. Imported, never run."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse

import requests

ROOT = pathlib.Path(__file__).resolve().parents[3]
BOXGATE = os.environ.get("BOXGATE_BIN", str(ROOT / "target/debug/boxgate"))
# To the gateway, every BOXGATE_ variable is a setting.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("BOXGATE_")}
JSON = {"Content-Type": "application/json"}


class Checks:
    """Counts checks; each prints one line with its evidence."""

    def __init__(self):
        self.passed = self.failed = 0

    def that(self, name, truth, evidence=""):
        if truth:
            self.passed += 1
        else:
            self.failed += 1
        text = str(evidence).replace("\n", " ")
        print(f"{'ok   ' if truth else 'FAIL '} {name}: {text[:240]}", flush=True)
        return truth

    def equal(self, name, want, got):
        return self.that(name, want == got, got if want == got else f"want {want!r}, got {got!r}")

    def answers(self, name, answer, status, *words):
        """The answer has this status (or one of these), and its body holds these words."""
        statuses = status if isinstance(status, tuple) else (status,)
        body = answer.text if answer is not None else "no answer"
        code = answer.status_code if answer is not None else None
        missing = [w for w in words if w.lower() not in body.lower()]
        evidence = f"{code} {body}"
        if code not in statuses:
            evidence = f"want {status}, got {evidence}"
        elif missing:
            evidence = f"want the words {missing} in {evidence}"
        return self.that(name, code in statuses and not missing, evidence)

    def scenes(self, gate, *scenes):
        """Plays each scene; one that breaks off is a failure and does not end the others."""
        for scene in scenes:
            try:
                scene(gate)
            except Exception:
                self.that(f"{scene.__name__} runs to its end", False, traceback.format_exc(limit=-3))
        self.that("the gateway ran through all of it", gate.process.poll() is None, f"pid {gate.process.pid}")

    def finish(self):
        print(f"{pathlib.Path(sys.argv[0]).name}: {self.passed} ok, {self.failed} failed", flush=True)
        sys.exit(0 if self.passed and not self.failed else 1)


class Gateway:
    """`boxgate quickstart` on a free port over a folder of its own."""

    def __init__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="boxgate-suite."))
        self.data = self.work / "data"
        self.settings = {}
        self.flags = []
        self.listen = "127.0.0.1:0"
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)

    def start(self):
        log = open(self.work / "gateway.log", "ab")
        self.process = subprocess.Popen(
            [BOXGATE, "quickstart", "--data-dir", self.data, "--listen", self.listen, "--json", *self.flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**ENVIRONMENT, **self.settings},
        )
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the gateway did not start:\n" + (self.work / "gateway.log").read_text()[-2000:])
        ready = json.loads(line)
        self.url = ready["url"]
        self.organization = ready["organization"]
        self.admin = ready["admin"]
        self.account = ready["service_account"]
        self.key = self.account["client_secret"]
        self.base = f"{self.url}/api/organization/{self.organization}"
        place = urllib.parse.urlsplit(self.url)
        self.address = (place.hostname, place.port)

    def restart(self, **settings):
        """Stops it and starts it over the same data with these BOXGATE_ variables."""
        self.process.terminate()
        self.process.wait(60)
        self.settings = settings
        self.start()

    def survive(self):
        """Kills it (-9) and starts it over the same data at the same address."""
        self.process.kill()
        self.process.wait()
        self.listen = "{}:{}".format(*self.address)
        self.start()

    def path(self, box="demo", version="1.0.0", provider="virtualbox", architecture="amd64"):
        """The address of a box file at the BoxVault door."""
        return f"{self.base}/box/{box}/version/{version}/provider/{provider}/architecture/{architecture}/file"

    def call(self, method, address, token=None, **more):
        """One request; an address without a scheme is below the gateway's."""
        if not address.startswith("http"):
            address = self.url + address
        headers = more.pop("headers", {})
        if token:
            headers = {"x-access-token": token, **headers}
        try:
            return requests.request(method, address, headers=headers, timeout=60, **more)
        except requests.RequestException as error:
            return Answer(0, {}, str(error))

    def upload(self, data, **name):
        return self.call("POST", self.path(**name) + "/upload", self.key, data=data)

    def download(self, **name):
        return self.call("GET", self.path(**name) + "/download", self.key)

    def blobs(self):
        """Every file that the local store holds."""
        return {str(p) for p in (self.data / "blobs").rglob("*") if p.is_file() and not p.suffix}

    def dial(self):
        return Raw(self.address)


class Raw:
    """A socket that sends what it is told and reads one answer."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=30)
        self.surplus = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def head(self, method, address, headers):
        lines = [f"{method} {urllib.parse.urlsplit(address).path} HTTP/1.1", "Host: " + urllib.parse.urlsplit(address).netloc]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    def send(self, data):
        """Sends until all is sent or the other side has heard enough; true when all went."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def end(self):
        """No more bytes will come, but an answer may."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self):
        """Closes with RST, as a client does that was killed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def answer(self):
        """The next answer that is not 1xx, or None when the connection ends without one."""
        data = self.surplus
        while True:
            while b"\r\n\r\n" not in data:
                more = self.receive()
                if not more:
                    return None
                data += more
            head, data = data.split(b"\r\n\r\n", 1)
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            if status >= 200:
                break
        headers = {n.strip().lower(): v.strip() for n, v in (line.split(":", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(data) < length:
            more = self.receive()
            if not more:
                break
            data += more
        self.surplus = data[length:]
        return Answer(status, headers, data[:length].decode("utf-8", "replace"))

    def receive(self):
        try:
            return self.socket.recv(65536)
        except (ConnectionResetError, TimeoutError):
            return b""


class Answer:
    """What `Checks` looks at, as `requests` has it; status 0 when there was no answer but an error."""

    def __init__(self, status, headers, text):
        self.status_code, self.headers, self.text, self.content = status, headers, text, text.encode()

    def json(self):
        return json.loads(self.text)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def bytes_of(seed, length):
    """Bytes that no other seed has."""
    return random.Random(seed).randbytes(length)


def eventually(seconds, question):
    """Asks until the answer is true, or says that it never was."""
    end = time.monotonic() + seconds
    while not question():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
