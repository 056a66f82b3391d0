#!/usr/bin/env python3
"""Clients of HTTP/2 that want to keep the gateway busy, frame by frame, and crowds of those that send half a request:
each is ended by a named limit while an honest client is served, and memory stays under the ceiling that the start told.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import socket
import ssl
import struct
import threading
import time
import warnings

import h2.errors
import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from harness import Checks, Gateway, eventually

warnings.filterwarnings("ignore", message="Unverified HTTPS request")
check = Checks()
WAIT = 60
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CROWD = 1000
DEAF = 100
SETTINGS = {
    "BOXGATE_UPLOADS__PART_BUDGET": "16MiB",
    "BOXGATE_UPLOADS__MAX_IN_PROGRESS": "16",
    "BOXGATE_UPLOADS__JOINS_IN_PROGRESS": "1",
    "BOXGATE_CACHE__SIZE": "16MiB",
    "BOXGATE_SCRIPTS__WORKERS": "1",
    "BOXGATE_PROVIDERS__AT_ONCE": "1",
    "BOXGATE_HOOKS__AT_ONCE": "1",
    "BOXGATE_WEBHOOKS__AT_ONCE": "1",
    "BOXGATE_LIMITS__RATE_KEYS": "1024",
    "BOXGATE_LIMITS__UNSENT": "1MiB",
    "BOXGATE_LIMITS__CONNECTIONS": "1100",
    "BOXGATE_LIMITS__H2_CONNECTIONS": "32",
    "BOXGATE_SERVER__H2_WINDOW": "1MiB",
    "BOXGATE_LIMITS__JSON_TIMEOUT": "8s",
    "BOXGATE_SERVER__HEAD_TIMEOUT": "5s",
    # These clients answer no pings, and are not to be ended for that.
    "BOXGATE_SERVER__H2_PING": "10m",
    "BOXGATE_SERVER__IDLE_TIMEOUT": "3s",
    "BOXGATE_SERVER__BODY_IDLE_TIMEOUT": "5s",
}


class Second:
    """One connection of HTTP/2, of which every frame is ours."""

    def __init__(self, address, reads=True):
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2"])
        raw = socket.socket()
        # Small, so that who does not read is soon noticed to be full.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        raw.settimeout(WAIT)
        raw.connect(address)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.address, self.reads, self.sent = address, reads, 0
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.data, self.goaway, self.closed = b"", None, False
        self.statuses, self.resets = {}, {}
        self.give(PREFACE + SettingsFrame(0).serialize())

    def fields(self, method="GET", path="/livez", more=()):
        names = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *more]
        return self.encoder.encode(names)

    def ask(self, stream, method="GET", path="/livez", ends=True, more=()):
        flags = ["END_HEADERS", *(["END_STREAM"] if ends else [])]
        frame = HeadersFrame(stream, self.fields(method, path, more), flags=flags)
        return frame.serialize()

    def give(self, data):
        """Sends as long as anybody takes it."""
        try:
            self.socket.sendall(data)
            self.sent += len(data)
        except (OSError, ssl.SSLError):
            self.closed = True

    def take(self, timeout):
        """Reads what comes within that time."""
        self.socket.settimeout(timeout)
        try:
            more = self.socket.recv(1 << 16)
        except (TimeoutError, ssl.SSLWantReadError):
            return
        except (OSError, ssl.SSLError):
            more = b""
        finally:
            self.socket.settimeout(WAIT)
        if not more:
            self.closed = True
            return
        self.data += more
        while len(self.data) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.data[:9]))
            if len(self.data) < 9 + length:
                return
            frame.parse_body(memoryview(self.data[9 : 9 + length]))
            self.data = self.data[9 + length :]
            if isinstance(frame, GoAwayFrame) and self.goaway in (None, "NO_ERROR"):
                self.goaway = h2.errors.ErrorCodes(frame.error_code).name
            elif isinstance(frame, RstStreamFrame):
                self.resets[frame.stream_id] = h2.errors.ErrorCodes(frame.error_code).name
            elif isinstance(frame, HeadersFrame):
                self.statuses[frame.stream_id] = dict(self.decoder.decode(frame.data))[":status"]

    def flood(self, pieces, most=64 << 20):
        """Sends pieces until the other side has enough, and reads in between where it reads at all."""
        for piece in pieces:
            if self.closed or self.goaway not in (None, "NO_ERROR") or self.sent > most:
                break
            self.give(piece)
            if self.reads:
                self.take(0.001)
        return self

    def end(self):
        """Waits for the other side to end it."""
        until = time.monotonic() + WAIT
        while not self.closed and time.monotonic() < until:
            self.take(1)
        return self

    def told(self):
        return f"sent {self.sent}, goaway {self.goaway}, closed {self.closed}, statuses {self.statuses}, resets {list(self.resets.values())[:3]}"


def forever(piece):
    while True:
        yield piece


class Honest:
    """Asks over HTTP/1.1 and 2 as long as it is wanted; each answer must be good."""

    def __init__(self, address):
        self.address, self.over, self.answers, self.wrong = address, threading.Event(), 0, []
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        stream, asks = 1, None
        while not self.over.wait(0.05):
            try:
                if asks is None or asks.goaway or asks.closed or stream > 100:
                    asks, stream = Second(self.address), 1
                asks.give(asks.ask(stream))
                until = time.monotonic() + WAIT
                while stream not in asks.statuses and not asks.closed and not asks.goaway and time.monotonic() < until:
                    asks.take(1)
                status = asks.statuses.get(stream)
                # Told to go, as every connection is that was idle: it asks again on another.
                if status != "200" and asks.goaway != "NO_ERROR":
                    self.wrong.append(asks.told())
                self.answers += status == "200"
                stream += 2
            except (OSError, AssertionError) as error:
                # Where no place was left, HTTP/1.1 is spoken: that is this test's own crowd.
                self.wrong.append(repr(error))
                asks = None


def ended(name, client, *reasons):
    """The gateway closed it, and said one of these; None is to say nothing."""
    client.end()
    check.that(name, client.closed and client.goaway in reasons, client.told())


def floods_of_frames(gate):
    at = gate.address
    calm = "ENHANCE_YOUR_CALM"

    client = Second(at)
    head = HeadersFrame(1, client.fields(), flags=[]).serialize()
    empty = ContinuationFrame(1, b"").serialize()
    ended("CONTINUATION without end, empty", client.flood([head, *[empty] * 10_000]), calm)

    client = Second(at)
    head = HeadersFrame(1, client.fields(), flags=[]).serialize()
    full = ContinuationFrame(1, hpack.Encoder().encode([("x" * 100, "y" * 16_000)])[:16_000]).serialize()
    ended("CONTINUATION without end, full", client.flood([head, *forever_some(full, 5000)]), calm, "PROTOCOL_ERROR", "COMPRESSION_ERROR")
    check.that("and little of it was read", client.sent < 8 << 20, client.sent)

    client = Second(at)
    # One field kept in the table of HPACK, then named by one byte each: small to send, large to unpack.
    bomb = client.fields(more=[("x-bomb", "y" * 3900)])
    more = client.encoder.encode([("x-bomb", "y" * 3900)]) * 4000
    client.flood([HeadersFrame(1, bomb, flags=[]).serialize(), ContinuationFrame(1, more, flags=["END_HEADERS"]).serialize()])
    until = time.monotonic() + WAIT
    while not (client.statuses or client.resets or client.closed or client.goaway) and time.monotonic() < until:
        client.take(1)
    refused = client.goaway == calm or client.statuses.get(1) == "431" or client.resets
    check.that("a head that unpacks to megabytes", refused, client.told())
    client.socket.close()

    client = Second(at)
    taken_back = (client.ask(n) + RstStreamFrame(n, 8).serialize() for n in range(1, 1 << 20, 2))
    ended("requests that are taken back at once", client.flood(taken_back), calm)
    check.that("after some hundreds", client.sent < 1 << 20, client.sent)

    client = Second(at)
    # Each makes the gateway take back a request by itself.
    wrong = (client.ask(n, "POST", ends=False) + WindowUpdateFrame(n, window_increment=0x7FFFFFFF).serialize() * 2 for n in range(1, 1 << 20, 2))
    ended("requests that the gateway must take back", client.flood(wrong), calm)
    check.that("after some hundreds of those", client.sent < 1 << 20, client.sent)

    client = Second(at)
    ended("a window beyond its end", client.flood([WindowUpdateFrame(0, window_increment=0x7FFFFFFF).serialize() * 2]), "FLOW_CONTROL_ERROR")


def forever_some(piece, count):
    return (piece for _ in range(count))


def floods_of_answers(gate):
    """Who makes the gateway answer and does not read: no more is read of it, and it is ended."""
    for name, piece in (
        ("PING", PingFrame(0, b"12345678").serialize()),
        ("SETTINGS", SettingsFrame(0, settings={3: 100}).serialize()),
    ):
        client = Second(gate.address, reads=False)
        client.flood(forever(piece * 1000))
        ended(f"{name} by one who does not read", client, None, "NO_ERROR", "ENHANCE_YOUR_CALM")
        check.that(f"and {name} was not read for ever", client.sent < 60 << 20, client.sent)


def floods_of_nothing(gate):
    """Frames that ask for nothing do not keep a connection that asks for nothing."""
    kinds = {
        "PING": PingFrame(0, b"12345678").serialize(),
        "SETTINGS": SettingsFrame(0, settings={3: 100}).serialize(),
        "PRIORITY": PriorityFrame(1, depends_on=3, stream_weight=7).serialize(),
        "WINDOW_UPDATE": WindowUpdateFrame(0, window_increment=1).serialize(),
        "unknown frames": b"\0\0\x04\xf0\0\0\0\0\x01abcd",
    }

    def play(job):
        piece, asks = job
        client = Second(gate.address)
        return client.flood([client.ask(1)] if asks else []).flood(slowly(piece * 10)).end()

    jobs = [(name, asks) for name in kinds for asks in (False, True)]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        played = list(pool.map(play, [(kinds[name], asks) for name, asks in jobs]))
    for (name, asks), client in zip(jobs, played):
        when = "once a request was answered" if asks else "and never a request"
        ended(f"{name} {when}", client, None, "NO_ERROR", "ENHANCE_YOUR_CALM")

    # Bodies of nothing: frames come, bytes do not.
    client = Second(gate.address)
    client.flood([client.ask(1, "POST", "/api/auth/signin", ends=False, more=[("content-type", "application/json")])])
    nothing = DataFrame(1, b"").serialize() * 10 + WindowUpdateFrame(1, window_increment=1).serialize()
    until = time.monotonic() + WAIT
    while not (client.statuses or client.resets or client.closed) and time.monotonic() < until:
        client.give(nothing)
        client.take(0.02)
    ended("a body of frames with nothing in them", client, "ENHANCE_YOUR_CALM")

    # One byte in each frame costs more than it brings: read as one body, and not kept without end for who does not read.
    fields = [("content-type", "application/json")]
    body = b'{"username":"nobody","password":"' + b"x" * 900 + b'"}'
    client = Second(gate.address)
    client.give(client.ask(1, "POST", "/api/auth/signin", ends=False, more=fields))
    client.give(bytewise(1, body) + DataFrame(1, b"", flags=["END_STREAM"]).serialize())
    until = time.monotonic() + WAIT
    while 1 not in client.statuses and not client.closed and time.monotonic() < until:
        client.take(1)
    check.that("a body of a byte a frame is one body", client.statuses.get(1) in ("400", "401", "404"), client.told())
    client.socket.close()
    client = Second(gate.address)
    client.give(client.ask(1, "POST", "/livez", ends=False))
    ended("bytes, frame by frame, that nobody reads", client.flood(forever_some(bytewise(1, b"x" * 1000), 1000)), "ENHANCE_YOUR_CALM")


def bodies_that_trickle(gate):
    """Not so slow that a clock of bodies would end it: JSON has one of its own."""
    client = Second(gate.address)
    client.give(client.ask(1, "POST", "/api/auth/signin", ends=False, more=[("content-type", "application/json")]))
    until = time.monotonic() + WAIT
    while 1 not in client.statuses and not client.closed and time.monotonic() < until:
        client.give(bytewise(1, b" "))
        client.take(0.5)
    check.that("a JSON body that trickles", client.statuses.get(1) == "408", client.told())
    client.socket.close()


def bytewise(stream, data):
    return b"".join(DataFrame(stream, data[n : n + 1]).serialize() for n in range(len(data)))


def slowly(piece):
    """For as long as it may take, not faster than anybody reads."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        yield piece
        time.sleep(0.02)


def crowds(gate):
    """As many connections as are taken: with as much of a head as it may have, then with heads that have no end."""
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["http/1.1"])
    half = b"GET /livez HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"y" * 1000) for n in range(30))
    for name, data in (("heads", half), ("heads without end", half + b"X: " + b"y" * 360_000)):
        with contextlib.ExitStack() as held:
            opened = 0
            for n in range(CROWD):
                try:
                    raw = socket.create_connection(gate.address, timeout=WAIT, source_address=(f"127.5.{n // 200}.{n % 200 + 1}", 0))
                    wrapped = held.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
                    opened += 1
                    wrapped.sendall(data)
                except (OSError, ssl.SSLError):
                    pass  # ended meanwhile, or refused
            check.that(f"a crowd with {name} came", opened > CROWD * 9 // 10, f"{opened} of {CROWD}")
        check.that("and left", eventually(WAIT, lambda: connections(gate) < 50), connections(gate))


def deaf(gate):
    """Who asks for much and reads nothing: what waits for them in the kernel."""
    box = bytes(16 << 20)
    sent = gate.call("POST", gate.path(box="large") + "/upload", gate.key, data=box, verify=False)
    check.answers("a large box", sent, 200)
    ask = f"GET {gate.path(box='large').removeprefix(gate.url)}/download HTTP/1.1\r\nHost: h\r\nx-access-token: {gate.key}\r\n\r\n"
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["http/1.1"])
    most = {}
    with contextlib.ExitStack() as held:
        for n in range(1, DEAF + 1):
            raw = socket.create_connection(gate.address, timeout=WAIT, source_address=(f"127.6.0.{n}", 0))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
            held.enter_context(context.wrap_socket(raw, server_hostname="localhost")).sendall(ask.encode())
            # A clock ends them meanwhile.
            for who, waits in queued(gate):
                most[who] = max(most.get(who, 0), waits)
    late = [waits for who, waits in most.items() if who > DEAF // 4]
    check.that("deaf clients are sent more than they take", max(late, default=0) > 16 << 10, f"{max(late, default=0) >> 10} KiB")
    # Each may leave 64 KiB once there are some, beside what is on its way; unbound it is 4 MB.
    check.that("deaf clients leave little in the kernel", max(late, default=0) < 1 << 20, f"{max(late, default=0) >> 10} KiB for one of {DEAF}")


def queued(gate):
    """Who asks from 127.6.0.N, and what the kernel keeps of the gateway's answer: bytes that were not acknowledged."""
    lines = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{gate.address[1]:04X}"
    ours = [line for line in lines if line[1].endswith(port) and line[2][2:8] == "00067F"]
    return [(int(line[2][:2], 16), int(line[4].split(":")[0], 16)) for line in ours]


def connections(gate):
    text = gate.call("GET", "/metrics", verify=False).text
    found = [line.split()[1] for line in text.splitlines() if line.startswith("boxgate_connections ")]
    return int(found[0]) if found else 1 << 20


def memory(gate):
    """The most that the process ever held, and what it said at its start that it may."""
    status = pathlib.Path(f"/proc/{gate.process.pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) << 10
    lines = (gate.work / "gateway.log").read_text().splitlines()
    starts = [json.loads(line) for line in lines if '"memory_ceiling_bytes"' in line]
    return peak, starts[-1]["fields"]["memory_ceiling_bytes"]


def serves(gate):
    with Honest(gate.address) as honest:
        check.scenes(gate, floods_of_frames, floods_of_answers, floods_of_nothing, bodies_that_trickle)
    check.that("an honest client was served meanwhile", honest.answers > 20 and not honest.wrong, f"{honest.answers} answers, wrong: {honest.wrong[:2]}")
    deaf(gate)
    crowds(gate)
    peak, ceiling = memory(gate)
    check.that("memory stayed under the ceiling that the start told", peak <= ceiling, f"{peak >> 20} MiB of {ceiling >> 20} MiB")
    told = gate.call("GET", "/metrics", verify=False).text
    check.that("nothing of ours broke", "boxgate_http_panics_total 0" in told.splitlines(), "")


with Gateway() as gate:
    gate.flags = ["--tls", "self-signed"]
    gate.restart(**SETTINGS)
    serves(gate)
check.finish()
