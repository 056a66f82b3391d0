#!/usr/bin/env python3
"""What an operator's settings change on the wire, each in a gateway of its own: limits, clocks, addresses, visibility."""

import time

from harness import JSON, Checks, Gateway, bytes_of, eventually, sha256

check = Checks()
BOX = bytes_of("settings", 600_000)


def full_store(gate):
    """Below the least free space no upload begins, and all else goes on."""
    gate.upload(BOX)
    before = gate.blobs()
    gate.restart(BOXGATE_LIMITS__MIN_FREE="1000TiB")
    answer = gate.upload(BOX, version="2.0.0")
    check.answers("full store: an upload", answer, 507, "STORAGE_FULL")
    form = gate.call("POST", gate.path(version="2.0.0"), gate.key, files={"file": BOX})
    check.answers("full store: an upload by form", form, 507, "STORAGE_FULL")
    check.equal("full store: downloads go on", sha256(BOX), sha256(gate.download().content))
    check.answers("full store: no version came", gate.call("GET", f"{gate.base}/box/demo/version/2.0.0", gate.key), 404)
    check.equal("full store: nothing was written", before, gate.blobs())
    check.answers("full store: and it can be cleaned up", gate.call("DELETE", f"{gate.base}/box/demo", gate.key), 200)


def too_many_uploads(gate):
    """One more than allowed is told when to come again; the place is given back whatever became of its holder."""
    gate.restart(BOXGATE_UPLOADS__MAX_IN_PROGRESS="1", BOXGATE_UPLOADS__QUEUE_WAIT="1s")
    with gate.dial() as first:
        first.head("POST", gate.path() + "/upload", {"x-access-token": gate.key, "Content-Length": len(BOX)})
        first.send(BOX[:100_000])
        holds = eventually(10, lambda: "boxgate_uploads_in_progress 1\n" in gate.call("GET", "/metrics").text)
        check.that("too many uploads: one is in progress", holds, "boxgate_uploads_in_progress 1")
        answer = gate.upload(BOX, version="2.0.0")
        check.answers("too many uploads: the second", answer, 503)
        check.that("too many uploads: when to come again", answer.headers.get("retry-after", "").isdigit(), answer.headers.get("retry-after"))
        check.equal("too many uploads: other requests go on", 200, gate.call("GET", f"{gate.base}/box", gate.key).status_code)
        first.send(BOX[100_000:])
        check.answers("too many uploads: the first ends well", first.answer(), 200, sha256(BOX))
    with gate.dial() as third:
        third.head("POST", gate.path() + "/upload", {"x-access-token": gate.key, "Content-Length": len(BOX)})
        third.send(BOX[:100_000])
        third.reset()
    free = eventually(10, lambda: gate.upload(BOX, version="3.0.0").status_code == 200)
    check.that("too many uploads: a cut one gives its place back", free, "200")


def slow_clients(gate):
    """A head or a body that stands still ends by the clock, with nothing left behind."""
    gate.restart(BOXGATE_SERVER__HEAD_TIMEOUT="1s", BOXGATE_SERVER__BODY_IDLE_TIMEOUT="1s", BOXGATE_SERVER__IDLE_TIMEOUT="1s")
    gate.upload(BOX)
    before = gate.blobs()
    begun = time.monotonic()
    with gate.dial() as silent, gate.dial() as half_head, gate.dial() as half_body:
        half_head.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        half_body.head("POST", gate.path(version="2.0.0") + "/upload", {"x-access-token": gate.key, "Content-Length": len(BOX)})
        half_body.send(BOX[:200_000])
        answer = half_body.answer()
        check.that("slow: half a body is ended", answer is None or answer.status_code == 408, answer and answer.status_code)
        answer = half_head.answer()
        check.that("slow: half a head is ended", answer is None or answer.status_code == 408, answer and answer.status_code)
        check.equal("slow: a silent connection is closed", b"", silent.receive())
        took = time.monotonic() - begun
        check.that("slow: within seconds", took < 20, f"{took:.1f} s")
    clean = eventually(20, lambda: gate.blobs() == before)
    check.that("slow: nothing is left", clean, gate.blobs() - before)
    check.equal("slow: the box serves", sha256(BOX), sha256(gate.download().content))


def sign_in_tries(gate):
    """Guessing passwords is slowed down, by address."""
    gate.restart(BOXGATE_AUTH__LOGIN_FAILURES_PER_MINUTE="3")

    def attempt(password):
        return gate.call("POST", "/api/auth/signin", json={"username": gate.admin["username"], "password": password})

    check.equal("tries: three wrong ones", [401] * 3, [attempt(f"wrong{n}").status_code for n in range(3)])
    answer = attempt("wrong")
    check.answers("tries: the fourth", answer, 429, "RATE_LIMIT_EXCEEDED")
    check.that("tries: when to come again", answer.headers.get("retry-after", "").isdigit(), answer.headers.get("retry-after"))
    login = gate.call("POST", "/api/auth/service-account", json={"clientId": "x", "clientSecret": "y"})
    check.answers("tries: the guide's login counts, too", login, 429, "message")
    check.answers("tries: who has a token is not concerned", gate.call("GET", "/api/user/organizations", gate.admin["token"]), 200)


def addresses(gate):
    """The addresses that we tell are the operator's, else the request's own; never what a stranger made up."""
    accept = {"Accept": "application/json"}
    gate.upload(BOX)
    gate.call("PUT", f"{gate.base}/box/demo", gate.key, json={"isPublic": True})

    def told(host, **headers):
        answer = gate.call("GET", f"/{gate.organization}/demo", headers={**accept, "Host": host, **headers})
        return answer.json()["versions"][0]["providers"][0]["url"].split("/myorg")[0], answer.headers["cache-control"]

    url, cache = told("boxes.example.com:8080")
    check.equal("unset: the request's authority", "http://boxes.example.com:8080", url)
    check.that("unset: no shared cache keeps it", "private" in cache, cache)
    url, _ = told("boxes.example.com", **{"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"})
    check.equal("unset: forwarding headers of strangers are not believed", "http://boxes.example.com", url)
    gate.restart(BOXGATE_PUBLIC_URL="https://boxes.example.com,https://cdn.example.com")
    for host, want in (("evil.example", "https://boxes.example.com"), ("cdn.example.com", "https://cdn.example.com"), ("boxes.example.com", "https://boxes.example.com")):
        check.equal(f"set: a request to {host}", want, told(host)[0])
    link = gate.call("POST", gate.path() + "/get-download-link", gate.key).json()["downloadUrl"]
    check.that("set: links, too", link.startswith("https://boxes.example.com/api/"), link[:60])


def visibility(gate):
    gate.restart(BOXGATE_CATALOG__NEW_BOX_VISIBILITY="public")
    gate.upload(BOX)
    check.answers("visibility public: anyone reads what an upload made", gate.call("GET", f"{gate.base}/box/demo"), 200, sha256(BOX))
    check.equal("visibility public: and gets it", sha256(BOX), sha256(gate.call("GET", gate.path() + "/download").content))


def small_json(gate):
    gate.restart(BOXGATE_LIMITS__JSON_BODY="1KiB", BOXGATE_LIMITS__JSON_DEPTH="4")
    post = lambda data: gate.call("POST", "/api/auth/signin", data=data, headers=JSON)
    check.answers("JSON of 2 KiB", post(b'{"username":"' + b"a" * 2048 + b'"}'), 413, "limits.json_body")
    check.answers("JSON of depth 5", post(b'{"a":[[[[1]]]]}'), 400, "limits.json_depth")


for scene in (full_store, too_many_uploads, slow_clients, sign_in_tries, addresses, visibility, small_json):
    with Gateway() as gate:
        check.scenes(gate, scene)
check.finish()
