#!/usr/bin/env python3
"""W3C trace context through the gateway: into its log, to plugins' hosts and webhooks, to a small OTLP collector."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness import Checks, Gateway, bytes_of, eventually

check = Checks()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TOLD = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"}

PLUGIN = {
    "plugin.toml": """name = "asker"
version = "1.0.0"
api = 1
[http]
allow = ["http://127.0.0.1:PORT/"]
[webhook_in.go]
verify = "none"
""",
    "main.rhai": """fn webhook_in(req) {
    let answer = http::get("http://127.0.0.1:PORT/asked");
    #{ status: answer.status }
}
""",
}
CONFIG = """[scripts]
allow_networks = ["127.0.0.0/8"]
[scripts.grants.asker]
http = ["http://127.0.0.1:PORT/"]
unverified = ["go"]
[webhooks]
allow_networks = ["127.0.0.0/8"]
"""


class Listener(BaseHTTPRequestHandler):
    """Keeps what comes: (path, headers, body)."""

    protocol_version = "HTTP/1.1"
    came = []
    status = 200

    def log_message(self, *_):
        pass

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.came.append((self.path, dict((n.lower(), v) for n, v in self.headers.items()), body))
        self.send_response(self.status if self.path == "/v1/traces" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = take


server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
threading.Thread(target=server.serve_forever, daemon=True).start()
PORT = str(server.server_address[1])


def came(path):
    return [(headers, body) for where, headers, body in list(Listener.came) if where == path]


def spans():
    """All spans that the collector got, with their attributes as a dictionary."""
    found = []
    for _, body in came("/v1/traces"):
        for resource in json.loads(body)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    values = {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}
                    found.append({**span, "attributes": values})
    return found


def lines(gate):
    """Lines of requests in the log."""
    text = (gate.work / "gateway.log").read_text().splitlines()
    return [line for line in map(json.loads, filter(lambda l: l.startswith("{"), text)) if "bytes_in" in line]


def span_of(**attributes):
    def find():
        return next((s for s in spans() if attributes.items() <= s["attributes"].items()), None)

    eventually(60, find)
    return find()


def told_on(gate):
    hook = {"url": f"http://127.0.0.1:{PORT}/hook", "events": ["box.uploaded"], "secret": "s" * 40}
    check.answers("an endpoint", gate.call("POST", "/api/admin/webhooks", gate.admin["token"], json=hook), 201)
    uploaded = gate.call("POST", gate.path() + "/upload", gate.key, data=bytes_of("traces", 100_000), headers=TOLD)
    check.answers("a box comes in on behalf of a trace", uploaded, 200)
    check.that("its webhook comes", eventually(60, lambda: came("/hook")))
    headers = came("/hook")[0][0] if came("/hook") else {}
    check.equal("it tells of the trace", TRACE, headers.get("traceparent", "-")[3:35])
    check.equal("and of its state, as it came", TOLD["tracestate"], headers.get("tracestate"))
    told, uploading = span_of(**{"boxgate.caller": "webhooks"}), span_of(**{"boxgate.route": "upload"})
    check.that("its delivery is a span", told, [span["name"] for span in spans()])
    check.equal("which is the receiver's parent", told["spanId"], headers.get("traceparent", "-")[36:52])
    check.equal("whose parent is the request that led to it", uploading["spanId"], told["parentSpanId"])
    check.equal("of that trace, and a client's", (TRACE, 3), (told["traceId"], told["kind"]))
    asked = gate.call("POST", "/hooks/asker/go", json={}, headers=TOLD)
    check.answers("a plugin asks its host", asked, 200)
    headers = came("/asked")[-1][0] if came("/asked") else {}
    check.equal("the host is told of the trace", TRACE, headers.get("traceparent", "-")[3:35])
    asking = span_of(**{"boxgate.caller": "scripts"})
    answering = span_of(**{"boxgate.route": "webhook_in"})
    check.that("both are spans", asking and answering, [span["name"] for span in spans()])
    check.equal("the host's parent is the span of the call", asking["spanId"], headers.get("traceparent", "-")[36:52])
    check.equal("whose parent is that of the request", answering["spanId"], asking["parentSpanId"])
    check.equal("whose parent is its caller", PARENT, answering["parentSpanId"])
    check.equal("all are of one trace", {TRACE}, {asking["traceId"], answering["traceId"]})
    check.equal("a server's and a client's", (2, 3), (answering["kind"], asking["kind"]))
    check.that("they took their time", int(answering["endTimeUnixNano"]) >= int(answering["startTimeUnixNano"]), answering)
    line = next(line for line in lines(gate) if line["route"] == "webhook_in")
    check.equal("the log has the trace", TRACE, line.get("trace_id"))
    check.equal("and the span has the log's id", line["request_id"], answering["attributes"]["boxgate.request_id"])


def begun_here(gate):
    answer = gate.call("GET", "/api/nothing")
    check.answers("a request that tells of none", answer, 404)
    own = answer.headers["X-Request-ID"]
    check.that("begins one", span_of(**{"boxgate.request_id": own}))
    check.equal("whose id is its own", own, span_of(**{"boxgate.request_id": own})["traceId"])
    for name, bad in {
        "zeros": f"00-{'0' * 32}-{PARENT}-01",
        "capitals": f"00-{TRACE.upper()}-{PARENT}-01",
        "of a version that never comes": f"ff-{TRACE}-{PARENT}-01",
        "too long": f"00-{TRACE}-{PARENT}-01-more",
        "no list of numbers": "../../etc/passwd",
    }.items():
        answer = gate.call("GET", "/api/nothing", headers={"traceparent": bad})
        own = answer.headers["X-Request-ID"]
        found = span_of(**{"boxgate.request_id": own})
        check.equal(f"a trace that is none ({name}) begins another", own, found and found["traceId"])


def not_wanted(gate):
    unwanted = {"traceparent": f"00-{'5' * 32}-{PARENT}-00"}
    check.answers("a trace that nobody records", gate.call("POST", "/hooks/asker/go", json={}, headers=unwanted), 200)
    check.equal("is told on as it is", f"00-{'5' * 32}", came("/asked")[-1][0]["traceparent"][:35])
    check.equal("unrecorded", "00", came("/asked")[-1][0]["traceparent"][-2:])
    marker = gate.call("GET", "/api/nothing").headers["X-Request-ID"]
    span_of(**{"boxgate.request_id": marker})
    check.equal("and is no span", [], [span for span in spans() if span["traceId"] == "5" * 32])


def away(gate):
    """A collector that takes nothing costs spans, and nothing else."""
    Listener.status = 400
    before = metric(gate, "boxgate_telemetry_spans_lost_total")
    answers = {gate.call("GET", "/livez").status_code for _ in range(20)}
    check.equal("the collector refuses, and requests are answered", {200}, answers)
    check.that("what it did not take is counted", eventually(60, lambda: metric(gate, "boxgate_telemetry_spans_lost_total") > before))
    Listener.status = 200
    log = (gate.work / "gateway.log").read_text()
    check.equal("no batch leaves a line that tells of a call", 0, log.count('"caller":"telemetry"'))
    check.that("as calls for others do", '"caller":"webhooks"' in log)
    check.that("what it took, too", metric(gate, "boxgate_telemetry_spans_exported_total") > 0)


def at_the_end(gate):
    own = gate.call("GET", "/api/nothing").headers["X-Request-ID"]
    gate.process.terminate()
    gate.process.wait(60)
    found = [span for span in spans() if span["attributes"].get("boxgate.request_id") == own]
    check.equal("what is left goes out when the gateway stops", 1, len(found))
    gate.settings = {}
    gate.start()
    gate.call("GET", "/api/nothing")
    answer = gate.call("GET", "/api/nothing", headers=TOLD)
    eventually(30, lambda: answer.headers["X-Request-ID"] in {line["request_id"] for line in lines(gate)})
    known = {line["request_id"]: line for line in lines(gate)}
    line = next(line for line in lines(gate) if line["request_id"] == answer.headers["X-Request-ID"])
    check.equal("without a collector the log has the trace as well", TRACE, line.get("trace_id"))
    strangers = [line for line in known.values() if line["trace_id"] not in (TRACE, "5" * 32)]
    check.that("where none is told of it is the request's own id", strangers and all(line["trace_id"] == line["request_id"] for line in strangers))
    check.equal("an error answer has it", TRACE, answer.headers.get("X-Trace-ID"))
    alone = gate.call("GET", "/api/nothing").headers
    check.equal("and the request's own id where it told of none", alone["X-Request-ID"], alone.get("X-Trace-ID"))
    check.equal("a good one has none, since caches may keep it", None, gate.call("GET", "/livez", headers=TOLD).headers.get("X-Trace-ID"))
    with gate.dial() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        answer = raw.answer()
    check.equal("nor has the answer to what is no request", (400, None), answer and (answer.status_code, answer.headers.get("x-trace-id")))


def metric(gate, name):
    text = gate.call("GET", "/metrics").text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))


gate = Gateway()
folder = gate.data / "plugins/asker"
folder.mkdir(parents=True)
for name, text in PLUGIN.items():
    (folder / name).write_text(text.replace("PORT", PORT))
(gate.work / "boxgate.toml").write_text(CONFIG.replace("PORT", PORT))
gate.flags = ["--config", str(gate.work / "boxgate.toml")]
gate.settings = {"BOXGATE_TELEMETRY__OTLP__ENDPOINT": f"http://127.0.0.1:{PORT}/"}
with gate:
    check.scenes(gate, told_on, begun_here, not_wanted, away, at_the_end)
check.finish()
