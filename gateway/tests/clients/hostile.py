#!/usr/bin/env python3
"""Requests that no polite client sends: lengths that lie, cut and mixed uploads, broken forms, bombs.

After each of them the published box is what it was, and no blob is left over that no name holds.
"""

import threading

from harness import JSON, Checks, Gateway, bytes_of, eventually, sha256

check = Checks()
OLD = bytes_of("old", 700_000)
NEW = bytes_of("new", 900_000)
BOUNDARY = "xxBOUNDARYxx"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name, data, head="", filename=None):
    """One part of a form, its delimiter before it."""
    file = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{head}\r\n'.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
GOOD = part("file", NEW, filename="x.box") + END


def auth(gate, **more):
    return {"Authorization": f"Bearer {gate.key}", **more}


class Untouched:
    """Around a refused upload: the old box serves, no version came, no blob stayed. A raw upload of known length
    that was cut rests at its durable offset for its sender, and holds that one file until then."""

    def __init__(self, gate, name):
        self.gate, self.name = gate, name

    def __enter__(self):
        self.before = self.gate.blobs()

    def __exit__(self, kind, *_):
        if kind:
            return
        now = self.gate.download()
        check.that(f"{self.name}: the old box serves", now.status_code == 200 and now.content == OLD, f"{now.status_code}, {len(now.content)} bytes")
        gone = self.gate.call("GET", f"{self.gate.base}/box/demo/version/9.9.9", self.gate.key)
        check.equal(f"{self.name}: no version came", 404, gone.status_code)
        rests = self.name.startswith(("length too large, then no more", "raw, killed half-way"))
        clean = eventually(20, lambda: len(self.gate.blobs() - self.before) == int(rests))
        check.that(f"{self.name}: no blob stayed", clean, sorted(self.gate.blobs() - self.before))


def lying_lengths(gate):
    for version in ("1.0.0", "9.9.9"):
        path = gate.path(version=version) + "/upload"
        with Untouched(gate, f"length too large, then no more ({version})"), gate.dial() as raw:
            raw.head("POST", path, auth(gate, **{"Content-Length": len(NEW) + 1000}))
            raw.send(NEW)
            raw.end()
            answer = raw.answer()
            check.that("length too large: no success is told", answer is None or answer.status_code >= 400, answer and answer.status_code)
        with Untouched(gate, f"length too small, digest of the whole ({version})"), gate.dial() as raw:
            headers = auth(gate, **{"Content-Length": len(NEW) - 1000, "x-checksum": sha256(NEW), "x-checksum-type": "sha256"})
            raw.head("POST", path, headers)
            raw.send(NEW)
            check.answers("length too small: the digest tells", raw.answer(), 422, "CHECKSUM_MISMATCH")
        with Untouched(gate, f"form, length too small ({version})"), gate.dial() as raw:
            raw.head("POST", gate.path(version=version), auth(gate, **FORM, **{"Content-Length": len(GOOD) - 1000}))
            raw.send(GOOD)
            check.answers("form, length too small", raw.answer(), 400)
        with Untouched(gate, f"chunked, cut inside a chunk ({version})"), gate.dial() as raw:
            raw.head("POST", path, auth(gate, **{"Transfer-Encoding": "chunked"}))
            raw.send(b"%x\r\n" % len(NEW) + NEW[:400_000])
            raw.end()
            answer = raw.answer()
            check.that("chunked, cut: no success is told", answer is None or answer.status_code >= 400, answer and answer.status_code)
    # What follows a body that was shorter than its sender thought is no request of anybody.
    with gate.dial() as raw:
        raw.head("POST", gate.path(version="2.0.0") + "/upload", auth(gate, **{"Content-Length": 1000}))
        raw.send(NEW[:1000] + b"\r\n\r\nnonsense\r\n\r\n")
        first, second = raw.answer(), raw.answer()
        check.answers("surplus bytes: the announced ones are a box", first, 200, sha256(NEW[:1000]))
        check.that("surplus bytes: the rest is refused", second is None or second.status_code == 400, second and second.status_code)


def cut_uploads(gate):
    for version in ("1.0.0", "9.9.9"):
        for kind, path, headers, body in (
            ("raw", gate.path(version=version) + "/upload", {}, NEW),
            ("form", gate.path(version=version), FORM, GOOD),
        ):
            with Untouched(gate, f"{kind}, killed half-way ({version})"), gate.dial() as raw:
                raw.head("POST", path, auth(gate, **headers, **{"Content-Length": len(body)}))
                raw.send(body[: len(body) // 2])
                raw.reset()


def two_at_once(gate):
    bodies = {n: bytes_of(n, 3_000_000 + n) for n in range(2)}
    digests = {sha256(body) for body in bodies.values()}
    for how in ("interleaved", "threads"):
        path = gate.path(version="3.0.0") + "/upload"
        answers = {}

        def send(n, steps):
            with gate.dial() as raw:
                raw.head("POST", path, auth(gate, **{"Content-Length": len(bodies[n])}))
                size = len(bodies[n]) // steps + 1
                for at in range(0, len(bodies[n]), size):
                    raw.send(bodies[n][at : at + size])
                    if steps > 1:
                        barrier.wait(30)
                answers[n] = raw.answer()

        steps = 20 if how == "interleaved" else 1
        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=send, args=(n, steps)) for n in bodies]
        [t.start() for t in threads]
        [t.join() for t in threads]
        for n in bodies:
            check.answers(f"two at once, {how}: number {n}", answers.get(n), 200, sha256(bodies[n]))
        got = gate.download(version="3.0.0").content
        check.that(f"two at once, {how}: one whole winner", sha256(got) in digests, f"{len(got)} bytes {sha256(got)}")
        info = gate.call("GET", gate.path(version="3.0.0") + "/info", gate.key).json()
        check.equal(f"two at once, {how}: the catalog tells of the same", [sha256(got), len(got)], [info["checksum"], info["fileSize"]])


def broken_forms(gate):
    quoted = {"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'}
    many = b"".join(part(f"note{n}", b"x") for n in range(40))
    cases = [
        ("no file part", FORM, part("note", b"hello") + END, 400, ["file"]),
        ("no parts at all", FORM, END, 400, ["file"]),
        ("file part without an end", FORM, part("file", NEW, filename="x.box"), 400, []),
        ("no boundary", {"Content-Type": "multipart/form-data"}, GOOD, 400, ["boundary"]),
        ("another boundary than announced", {"Content-Type": "multipart/form-data; boundary=other"}, GOOD, 400, []),
        ("a part head of 64 KiB", FORM, part("file", NEW, head=f"X-Long: {'y' * 65536}\r\n", filename="x.box") + END, (400, 431), []),
        ("a part head without end", FORM, f"--{BOUNDARY}\r\n".encode() + b"X: " + b"y" * 2_000_000, (400, 431), []),
        ("forty parts", FORM, many + GOOD, (400, 413), []),
        ("base64 that is none", FORM, part("file", b"!!!" * 1000, head="Content-Transfer-Encoding: base64\r\n", filename="x.box") + END, 400, []),
        ("an unknown transfer encoding", FORM, part("file", NEW, head="Content-Transfer-Encoding: rot13\r\n", filename="x.box") + END, 400, []),
        ("checksum without a known type", FORM, part("checksumType", b"crc32") + part("checksum", b"00") + GOOD, 400, ["crc32"]),
    ]
    for name, headers, body, status, words in cases:
        with Untouched(gate, name):
            answer = gate.call("POST", gate.path(version="9.9.9"), gate.key, data=body, headers=headers)
            check.answers(name, answer, status, "message", *words)
    preamble = b"this is a preamble\r\n" + GOOD + b"and an epilogue"
    for name, headers, body in (("quoted boundary", quoted, GOOD), ("preamble and epilogue", FORM, preamble)):
        answer = gate.call("POST", gate.path(version="4.0.0"), gate.key, data=body, headers=headers)
        check.answers(name, answer, 200, sha256(NEW))
    # A box may hold what looks almost like the delimiter.
    almost = f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY}".encode()[:-1] * 1000 + b"\r\n-"
    body = part("file", almost, filename="x.box") + END
    answer = gate.call("POST", gate.path(version="4.0.1"), gate.key, data=body, headers=FORM)
    check.answers("almost the delimiter, inside the box", answer, 200, sha256(almost))
    # One byte at a time across the delimiters.
    small = part("note", b"n") + part("file", b"box!" * 50, filename="x.box") + END
    with gate.dial() as raw:
        raw.socket.setsockopt(6, 1, 1)  # TCP_NODELAY
        raw.head("POST", gate.path(version="4.0.2"), auth(gate, **FORM, **{"Content-Length": len(small)}))
        for byte in small:
            raw.send(bytes([byte]))
        check.answers("one byte at a time", raw.answer(), 200, sha256(b"box!" * 50))


def bombs(gate):
    deep = b'{"username":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    large = b'{"username":"' + b"a" * 2_000_000 + b'"}'
    for route, token in (("/api/auth/signin", None), ("/api/auth/service-account", None), (f"{gate.base}/box", gate.key)):
        place = route.removeprefix(gate.url)
        check.answers(f"JSON too deep, {place}", gate.call("POST", route, token, data=deep, headers=JSON), 400)
        check.answers(f"JSON too large, {place}", gate.call("POST", route, token, data=large, headers=JSON), 413)
        check.answers(f"JSON that is no object, {place}", gate.call("POST", route, token, data=b"[]", headers=JSON), 400)
        check.answers(f"JSON cut short, {place}", gate.call("POST", route, token, data=b'{"a":', headers=JSON), 400, "error")
        check.answers(f"JSON of a wrong type, {place}", gate.call("POST", route, token, data=b'{"username":1,"clientId":1,"name":1}', headers=JSON), 400)
        check.answers(f"no body, {place}", gate.call("POST", route, token, headers=JSON), 400)
    wide = gate.call("GET", "/health", headers={f"X-{n}": "y" for n in range(200)})
    check.that("two hundred header fields", wide.status_code in (400, 431), wide.status_code)
    check.equal("a head of 100 KiB", 431, gate.call("GET", "/health", headers={"X": "y" * 102_400}).status_code)
    check.equal("an address of 20 KiB", 414, gate.call("GET", "/health?" + "y" * 20_480).status_code)
    check.equal("and it lives", 200, gate.call("GET", "/health").status_code)


def refused_before_the_body(gate):
    """The answer to a hopeless upload comes at once, and can be read although the body was not."""
    unknown = gate.path().replace(f"/organization/{gate.organization}/", "/organization/nobody/")
    for name, path, headers, status in (
        ("no credentials", gate.path(), {}, 403),
        ("wrong credentials", gate.path(), {"x-access-token": "0" * 64}, 401),
        ("unknown organization", unknown, {"x-access-token": gate.key}, 404),
    ):
        for expect in (False, True):
            with gate.dial() as raw:
                more = {"Expect": "100-continue"} if expect else {}
                raw.head("POST", path, {**headers, **more, "Content-Length": 4 << 30})
                # A client that does not wait sends on while the answer is under way.
                sent = 0
                while not expect and sent < 300 and raw.send(OLD):
                    sent += 1
                check.answers(f"{name}, {'with' if expect else 'without'} Expect, {sent} pieces sent", raw.answer(), status)


with Gateway() as gate:
    check.answers("the box that must survive", gate.upload(OLD), 200)
    check.scenes(gate, lying_lengths, cut_uploads, two_at_once, broken_forms, bombs, refused_before_the_body)
check.finish()
