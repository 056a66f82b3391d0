#!/usr/bin/env python3
"""Heads and bodies that two readers may read differently, as raw bytes: sent directly, through nginx and through HAProxy.

Behind each stands a second request, the marker, which says of itself that it is for an address of its own. The gateway
believes that of the proxies alone, and these say it of whoever they hear: so the log tells for each case what was heard of
it, and whether anything was heard that the proxy in front did not send as a request.
"""

import collections
import concurrent.futures
import json
import os
import re
import shutil
import socket
import subprocess
import time

from harness import Checks, Gateway, eventually

check = Checks()
TOOLS = os.environ.get("BOXGATE_TOOLS", os.path.expanduser("~/.cache/boxgate")) + "/clients/bin"
NGINX = f"{TOOLS}/nginx"
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
WAIT = 60

GET = "GET /livez HTTP/1.1\r\nHost: h\r\n"
POST = "POST /api/auth/signin HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
ENDS = "2\r\n{}\r\n0\r\n\r\n"

# What must be refused: one answer that can be read, or none, and nothing after it is heard.
REFUSED = {
    # --- whom it is for ---
    "no Host": "GET /livez HTTP/1.1\r\n\r\n",
    "Host twice, the same": GET + "Host: h\r\n\r\n",
    "Host twice, different": GET + "Host: i\r\n\r\n",
    "an empty Host": "GET /livez HTTP/1.1\r\nHost:\r\n\r\n",
    "a Host with a path": "GET /livez HTTP/1.1\r\nHost: h/x\r\n\r\n",
    "a Host with a user": "GET /livez HTTP/1.1\r\nHost: u@h\r\n\r\n",
    "a Host with a space": "GET /livez HTTP/1.1\r\nHost: h i\r\n\r\n",
    "a list of Hosts": "GET /livez HTTP/1.1\r\nHost: h, i\r\n\r\n",
    "a Host with a port that is none": "GET /livez HTTP/1.1\r\nHost: h:x\r\n\r\n",
    "a Host with a port too large": "GET /livez HTTP/1.1\r\nHost: h:99999\r\n\r\n",
    "a Host with two ports": "GET /livez HTTP/1.1\r\nHost: h:1:2\r\n\r\n",
    "a Host with an open bracket": "GET /livez HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "a Host with a query": "GET /livez HTTP/1.1\r\nHost: h?x\r\n\r\n",
    "a space before Host's colon": "GET /livez HTTP/1.1\r\nHost : h\r\n\r\n",
    "a target of another host": "GET http://i/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a target of another port": "GET http://h:81/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a target with a user": "GET http://u@h/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a target of a host, no Host": "GET http://h/livez HTTP/1.1\r\n\r\n",
    # --- the request line ---
    "CONNECT": "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "a tunnel by GET": "GET h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "the server as a target, by GET": "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
    "a target without a slash": "GET livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "two spaces before the target": "GET  /livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "two spaces behind the target": "GET /livez  HTTP/1.1\r\nHost: h\r\n\r\n",
    "a space in the target": "GET /li vez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tab for a space": "GET\t/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a NUL in the target": "GET /livez\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a CR in the target": "GET /li\rvez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method that is no word": "G(T /livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "a space before the method": " " + GET + "\r\n",
    "a version in lower case": "GET /livez http/1.1\r\nHost: h\r\n\r\n",
    "version 2.0": "GET /livez HTTP/2.0\r\nHost: h\r\n\r\n",
    "version 1.2": "GET /livez HTTP/1.2\r\nHost: h\r\n\r\n",
    "version 1.01": "GET /livez HTTP/1.01\r\nHost: h\r\n\r\n",
    "version 0.9": "GET /livez\r\nHost: h\r\n\r\n",
    "HTTP/2's beginning": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\x00" * 64,
    # --- fields ---
    "a folded field": GET + "X: a\r\n b\r\n\r\n",
    "a field folded by a tab": GET + "X: a\r\n\tb\r\n\r\n",
    "a folded first field": "GET /livez HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n",
    "a field without a colon": GET + "Xabc\r\n\r\n",
    "a field without a name": GET + ": a\r\n\r\n",
    "a space in a name": GET + "X Y: a\r\n\r\n",
    "a tab before a colon": GET + "X\t: a\r\n\r\n",
    "a NUL in a name": GET + "X\0: a\r\n\r\n",
    "a letter in a name that is none of ASCII": GET + "X\xe9: a\r\n\r\n",
    "a NUL in a value": GET + "X: a\0b\r\n\r\n",
    "a bare CR in a value": GET + "X: a\rContent-Length: 5\r\n\r\n",
    "two CRs at a line's end": GET + "X: a\r\r\n\r\n",
    "a DEL in a value": GET + "X: a\x7fb\r\n\r\n",
    "too many fields": GET + "X: y\r\n" * 64 + "\r\n",
    "too large a head": GET + f"X: {'y' * 40_000}\r\n\r\n",
    "too long a name": GET + f"{'x' * 40_000}: y\r\n\r\n",
    "too long a target": f"GET /{'x' * 9000} HTTP/1.1\r\nHost: h\r\n\r\n",
    # --- lengths ---
    "two lengths": POST + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": POST + "Content-Length: 2, 3\r\n\r\n{}",
    "a list of equal lengths": POST + "Content-Length: 2, 2\r\n\r\n{}",
    "a length with a plus": POST + "Content-Length: +2\r\n\r\n{}",
    "a length with a minus": POST + "Content-Length: -2\r\n\r\n{}",
    "a length in hexadecimal": POST + "Content-Length: 0x2\r\n\r\n{}",
    "a length with a point": POST + "Content-Length: 2.0\r\n\r\n{}",
    "a length of two words": POST + "Content-Length: 2 2\r\n\r\n{}",
    "an empty length": POST + "Content-Length:\r\n\r\n{}",
    "a length that overflows": POST + "Content-Length: 18446744073709551618\r\n\r\n{}",
    "a folded length": POST + "Content-Length:\r\n 2\r\n\r\n{}",
    "a space before the length's colon": POST + "Content-Length : 2\r\n\r\n{}",
    # --- codings ---
    "gzip, chunked": POST + "Transfer-Encoding: gzip, chunked\r\n\r\n" + ENDS,
    "gzip": POST + "Transfer-Encoding: gzip\r\n\r\n" + ENDS,
    "identity": POST + "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "chunked, identity": POST + "Transfer-Encoding: chunked, identity\r\n\r\n" + ENDS,
    "identity, chunked": POST + "Transfer-Encoding: identity, chunked\r\n\r\n" + ENDS,
    "chunked in two fields": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + ENDS,
    "chunked and identity in two fields": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + ENDS,
    "chunked, chunked": POST + "Transfer-Encoding: chunked, chunked\r\n\r\n" + ENDS,
    "xchunked": POST + "Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\n{}",
    "a quoted coding": POST + 'Transfer-Encoding: "chunked"\r\nContent-Length: 2\r\n\r\n{}',
    "a coding with a parameter": POST + "Transfer-Encoding: chunked;q=1\r\n\r\n" + ENDS,
    "a coding behind a vertical tab": POST + "Transfer-Encoding: \x0bchunked\r\nContent-Length: 2\r\n\r\n{}",
    "a coding behind a comma": POST + "Transfer-Encoding: , chunked\r\n\r\n" + ENDS,
    "an empty coding": POST + "Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}",
    "a folded coding": POST + "Transfer-Encoding:\r\n chunked\r\n\r\n" + ENDS,
    "a space before the coding's colon": POST + "Transfer-Encoding : chunked\r\n\r\n" + ENDS,
    "a coding behind a bare CR": POST + "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    "chunked in version 1.0": CHUNKED.replace("HTTP/1.1", "HTTP/1.0") + ENDS,
    "a length, then chunked": POST + "Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n" + ENDS,
    "chunked, then a length": POST + "Transfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n" + ENDS,
    "a length of nothing, then chunked": POST + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + ENDS,
    # --- chunks ---
    "a size that is no number": CHUNKED + "zz\r\n{}\r\n0\r\n\r\n",
    "an empty size": CHUNKED + "\r\n{}\r\n0\r\n\r\n",
    "a size with a sign": CHUNKED + "+2\r\n{}\r\n0\r\n\r\n",
    "a size below nothing": CHUNKED + "-2\r\n{}\r\n0\r\n\r\n",
    "a size with a prefix": CHUNKED + "0x2\r\n{}\r\n0\r\n\r\n",
    "a size that overflows": CHUNKED + "10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a size behind a space": CHUNKED + " 2\r\n{}\r\n0\r\n\r\n",
    "a size before a bare LF": CHUNKED + "2\n{}\r\n0\r\n\r\n",
    "a size before a bare CR": CHUNKED + "2\r{}\r\n0\r\n\r\n",
    "a chunk without its end": CHUNKED + "2\r\n{}0\r\n\r\n",
    "a chunk that ends with a bare LF": CHUNKED + "2\r\n{}\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + "1\r\n{}\r\n0\r\n\r\n",
    "an extension with a bare LF": CHUNKED + "2;a\nb\r\n{}\r\n0\r\n\r\n",
    "an extension with a bare CR": CHUNKED + "2;a\rb\r\n{}\r\n0\r\n\r\n",
    "an extension without an end": CHUNKED + f"2;{'a' * 40_000}\r\n{{}}\r\n0\r\n\r\n",
    "a last chunk that ends with a bare LF": CHUNKED + "2\r\n{}\r\n0\n\r\n",
    "a trailer without a colon": CHUNKED + "2\r\n{}\r\n0\r\nabc\r\n\r\n",
    "a trailer too large": CHUNKED + f"2\r\n{{}}\r\n0\r\nX: {'y' * 40_000}\r\n\r\n",
    "a trailer with too many fields": CHUNKED + "2\r\n{}\r\n0\r\n" + "X: y\r\n" * 100 + "\r\n",
}

# What is well formed: read as one request, and the marker as the next.
TAKEN = {
    "nothing special": GET + "\r\n",
    "an empty line before it": "\r\n" + GET + "\r\n",
    "a Host with a port": "GET /livez HTTP/1.1\r\nHost: h:80\r\n\r\n",
    "a target of the same host": "GET http://h/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "an offer of HTTP/2": GET + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "an offer of WebSockets": GET + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a value with obs-text": GET + "X: \xe9\r\n\r\n",
    "an empty value": GET + "X:\r\n\r\n",
    "a length": POST + "Content-Length: 2\r\n\r\n{}",
    "a length with zeros before it": POST + "Content-Length: 002\r\n\r\n{}",
    "a length of nothing": POST + "Content-Length: 0\r\n\r\n",
    "chunks": CHUNKED + ENDS,
    "a coding in capitals": POST + "Transfer-Encoding: CHUNKED\r\n\r\n" + ENDS,
    "an extension": CHUNKED + "2;a=b\r\n{}\r\n0;c\r\n\r\n",
    "a size with zeros before it": CHUNKED + "0002\r\n{}\r\n000\r\n\r\n",
    "a trailer": CHUNKED + "2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    "a trailer that is a length": CHUNKED + "2\r\n{}\r\n0\r\nContent-Length: 50\r\n\r\n",
    "a trailer that is a coding": CHUNKED + "2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\nHost: i\r\n\r\n",
}

# What the RFC leaves open and readers read in one way only, if they read it at all.
EITHER = {
    "bare LFs in a head": "GET /livez HTTP/1.1\nHost: h\n\n",
    "a bare LF at one line's end": GET + "X: y\n\r\n",
    "a length behind a bare LF": POST + "X: y\nContent-Length: 2\r\n\r\n{}",
    "a coding behind a bare LF": POST + "X: y\nTransfer-Encoding: chunked\r\n\r\n" + ENDS,
    "equal lengths in two fields": POST + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a size before a space": CHUNKED + "2 \r\n{}\r\n0\r\n\r\n",
    "a space in an extension": CHUNKED + "2 ; a = b\r\n{}\r\n0\r\n\r\n",
    "a target with a fragment": "GET /livez#x HTTP/1.1\r\nHost: h\r\n\r\n",
    "a target with obs-text": "GET /livez?\xe9 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a field of the connection that is Host": GET + "Connection: host\r\n\r\n",
    "a field of the connection that is the length": POST + "Content-Length: 2\r\nConnection: content-length\r\n\r\n{}",
    "a coding in a field with an underscore": POST + "Transfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    "a target with another scheme": "GET ftp://h/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "version 1.0 without a Host": "GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "a length that is never reached": POST + "Content-Length: 9999\r\n\r\n{}",
    "chunks that never end": CHUNKED + "2\r\n{}\r\n",
    "a body that nobody reads": GET + "Content-Length: 2\r\n\r\n{}",
    "chunks that nobody reads": GET + "Transfer-Encoding: chunked\r\n\r\n" + ENDS,
    "a wait for 100": POST + "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n{}",
    "a wait for something else": POST + "Content-Length: 2\r\nExpect: 200-ok\r\n\r\n{}",
}
# What a proxy may answer as another version of HTTP than ours.
OTHERWISE = {"version 0.9", "HTTP/2's beginning"}
CASES = [(kind, name, text) for kind, of in (("refused", REFUSED), ("taken", TAKEN), ("either", EITHER)) for name, text in of.items()]


def place(block, index):
    return f"127.{block}.{index // 250}.{index % 250 + 1}"


def marker(block, index):
    """The address that the marker of a case names, which is nobody's."""
    return f"6.{block}.{index // 250}.{index % 250 + 1}"


def tells(address):
    return f"GET /api/status HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {address}\r\nConnection: close\r\n\r\n"


def statuses(data):
    """The final answers in what came, in order; each of ours has a length, or ends the connection."""
    found = []
    while data:
        head, gap, rest = data.partition(b"\r\n\r\n")
        first = re.match(rb"HTTP/1\.[01] (\d{3})", head)
        if not first or not gap:
            return [*found, f"unreadable: {data[:60]!r}"]
        status = int(first[1])
        if status >= 200:
            found.append(status)
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            chunked = re.search(rb"(?im)^transfer-encoding: *chunked", head)
            if length and status not in (204, 304):
                rest = rest[int(length[1]) :]
            elif chunked:
                rest = rest.partition(b"0\r\n\r\n")[2]
            elif status not in (204, 304):
                rest = b""
        data = rest
    return found


def say(address, source, data):
    """Sends all of it at once and reads to the end, which is the other side's to make. Returns the answers."""
    with socket.create_connection(address, timeout=WAIT, source_address=(source, 0)) as raw:
        came = b""
        try:
            raw.sendall(data)
        except OSError:
            pass  # it has heard enough; the answer may be there
        try:
            while more := raw.recv(65536):
                came += more
        except ConnectionResetError:
            came += b"" if came else b"\r\n\r\n"
        except TimeoutError:
            return ["never ended"]
    return statuses(came) if came.strip() else []


def nginx(gate, port):
    work = gate.work / "nginx"
    (work / "temp").mkdir(parents=True)
    temp = "".join(f"{what}_temp_path {work}/temp/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    host, gateway_port = gate.address
    (work / "nginx.conf").write_text(f"""{user} daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log; events {{ }}
http {{ {temp}
    log_format case '$remote_addr $status $upstream_status';
    access_log {work}/access.log case;
    client_header_timeout 3s; client_body_timeout 3s; keepalive_timeout 3s;
    upstream gateway {{ server {host}:{gateway_port}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
""")
    process = subprocess.Popen([NGINX, "-p", work, "-c", work / "nginx.conf"], stdin=subprocess.DEVNULL, stderr=open(work / "err", "wb"))

    def passed():
        """How many requests of each client it asked the gateway about, and was answered."""
        lines = (line.split() for line in (work / "access.log").read_text().splitlines())
        return collections.Counter(line[0] for line in lines if line[2] != "-")

    return process, passed


def haproxy(gate, port):
    work = gate.work / "haproxy"
    work.mkdir()
    host, gateway_port = gate.address
    (work / "haproxy.cfg").write_text(f"""global
    maxconn 400
    log stdout format raw local0
defaults
    mode http
    log global
    log-format "%ci %ST %si %Tr %ts"
    timeout connect 5s
    timeout client 3s
    timeout http-request 3s
    timeout http-keep-alive 3s
    timeout server {WAIT}s
    http-reuse always
listen gateway
    bind 127.0.0.1:{port}
    http-request set-header X-Forwarded-For %[src]
    server gateway {host}:{gateway_port}
""")
    log = open(work / "log", "wb")
    process = subprocess.Popen([HAPROXY, "-db", "-f", work / "haproxy.cfg"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def passed():
        """As of nginx; -1 is the time to an answer that never came."""
        lines = (line.split() for line in (work / "log").read_text().splitlines())
        return collections.Counter(line[0] for line in lines if len(line) == 5 and line[3].isdigit())

    return process, passed


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def heard(gate):
    """What the gateway worked on, by the address that it was for."""
    found = collections.defaultdict(list)
    for line in (gate.work / "gateway.log").read_text().splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if "client_ip" in told and "status" in told:
            found[told["client_ip"]].append(told["status"])
    return found


def judge_directly(index, kind, name, answers, log):
    mine, second = log.get(place(2, index), []), log.get(marker(2, index), [])
    evidence = f"answers {answers}, heard {mine}, then {second}"
    one = len(answers) <= 1 and all(isinstance(s, int) and (400 <= s < 500 or s in (501, 505)) for s in answers)
    two = len(answers) == 2 and all(isinstance(s, int) for s in answers) and answers[1] == 200 and len(mine) == 1 and len(second) == 1
    if kind == "refused":
        # Of what has a length and a coding the body is read by the coding, and the connection ends with the answer.
        check.that(f"directly, refused: {name}", one and not second and len(mine) <= 1, evidence)
    elif kind == "taken":
        check.that(f"directly, taken: {name}", two, evidence)
    else:
        alone = len(answers) <= 1 and all(isinstance(s, int) for s in answers) and not second and len(mine) <= 1
        check.that(f"directly, read in one way: {name}", two or alone, evidence)


def judge_behind(proxy, block, index, kind, name, answers, log, passed):
    client = place(block, index)
    mine, smuggled = log.get(client, []), log.get(marker(block, index), [])
    readable = name in OTHERWISE or (all(isinstance(s, int) for s in answers) and len(answers) <= 2)
    # What the proxy cut while it passed it on was heard and answered to nobody; what is no request to us at all was
    # passed and answered, and is not in our log.
    cut = sum(1 for status in mine if status in (400, 408, 499))
    unheard = sum(1 for status in answers if status in (400, 431))
    agree = len(mine) - cut <= passed[client] <= len(mine) + unheard
    evidence = f"answers {answers}, passed {passed[client]}, heard {mine}, smuggled {smuggled}"
    good = not smuggled and readable and agree and len(mine) <= 2
    if kind == "taken":
        good = good and (len(answers) == 2 or not mine)
    check.that(f"behind {proxy}: {name}", good, evidence)


def pairs(address, block, count):
    """A body that is refused unread and cut, while others ask on the same connections to the gateway."""
    upload = "POST /api/organization/nobody/box/b/version/1.0.0/provider/p/architecture/a/file/upload HTTP/1.1\r\nHost: h\r\n"
    wrong = []

    def pair(index):
        try:
            with socket.create_connection(address, timeout=WAIT, source_address=(place(block, index), 0)) as raw:
                raw.sendall((upload + "Content-Length: 100000\r\n\r\n" + tells(marker(block, index))).encode())
                if index % 2:
                    raw.recv(1)
        except OSError:
            pass
        answers = say(address, place(block, index), ("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n" + tells(marker(block, index))).encode())
        if answers != [200, 200]:
            wrong.append(answers)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(pair, range(count)))
    return wrong


def main():
    with Gateway() as gate:
        gate.settings = {
            "BOXGATE_TRUSTED_PROXIES": "127.0.0.1,127.2.0.0/16",
            "BOXGATE_LIMITS__RATE_EXEMPT": "127.0.0.0/8,6.0.0.0/8",
            "BOXGATE_SERVER__HEAD_TIMEOUT": "5s",
            "BOXGATE_SERVER__BODY_IDLE_TIMEOUT": "3s",
        }
        gate.restart(**gate.settings)
        fronts = {}
        processes = []
        try:
            for name, begin, block in (("nginx", nginx, 3), ("HAProxy", haproxy, 4)):
                port = free_port()
                process, passed = begin(gate, port)
                processes.append(process)
                address = ("127.0.0.1", port)
                up = eventually(WAIT, lambda address=address: say_quietly(address) == [200])
                check.that(f"{name} is up", up, address)
                fronts[name] = (address, block, passed)
            targets = [(gate.address, 2), *((address, block) for address, block, _ in fronts.values())]
            jobs = [(address, block, index) for index in range(len(CASES)) for address, block in targets]

            def play(job):
                address, block, index = job
                data = (CASES[index][2] + tells(marker(block, index))).encode("latin-1")
                return say(address, place(block, index), data)

            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                answers = dict(zip(((block, index) for _, block, index in jobs), pool.map(play, jobs)))
            cut = {name: pairs(address, block + 10, 150) for name, (address, block, _) in fronts.items()}
        finally:
            for process in processes:
                process.terminate()
                process.wait(WAIT)
        # A gateway that stopped has told all that it heard.
        gate.process.terminate()
        check.equal("the gateway ran through all of it", 0, gate.process.wait(WAIT))
        log = heard(gate)
        for index, (kind, name, _) in enumerate(CASES):
            judge_directly(index, kind, name, answers[2, index], log)
        for proxy, (_, block, passed) in fronts.items():
            counted = passed()
            for index, (kind, name, _) in enumerate(CASES):
                judge_behind(proxy, block, index, kind, name, answers[block, index], log, counted)
            check.equal(f"behind {proxy}, after 150 bodies that were cut everybody gets the own answer", [], cut[proxy])
            strangers = [a for a in log if a.startswith(f"6.{block + 10}.")]
            check.equal(f"behind {proxy}, nothing inside those bodies is heard", [], strangers)
    check.finish()


def say_quietly(address):
    try:
        return say(address, "127.0.0.1", b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    except OSError:
        return None


main()
