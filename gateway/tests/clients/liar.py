"""A proxy between a client and the gateway that notes what is asked for, and may lie.

liar.py UPSTREAM FOLDER: prints its address. Each GET is a line of FOLDER/asked: path, Range, Cache-Control. What
FOLDER/lie says counts for each request anew:

    block N K   one bit of block N is wrong, in the next K answers that hold it (never stops for K = -1)
    outboard    one bit of the tree is wrong
    stop N      answers end in the middle of the block that comes after N bytes of ranges, and nothing more comes
    other       a range is answered whole
"""

import http.client
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MIB = 1 << 20
UPSTREAM, FOLDER = sys.argv[1:]
LOCK = threading.Lock()
SENT = 0


def lie():
    try:
        with open(os.path.join(FOLDER, "lie")) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def tell(words):
    with open(os.path.join(FOLDER, "lie"), "w") as file:
        file.write(" ".join(words))


class Liar(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        asked, words = self.headers.get("Range", ""), lie()
        with LOCK, open(os.path.join(FOLDER, "asked"), "a") as file:
            file.write(f"{self.path} {asked or '-'} {self.headers.get('Cache-Control', '-')}\n")
        upstream = http.client.HTTPConnection(UPSTREAM, timeout=60)
        dropped = ["connection", "range"] if words[:1] == ["other"] else ["connection"]
        headers = {n: v for n, v in self.headers.items() if n.lower() not in dropped}
        upstream.request("GET", self.path, headers=headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        match = re.match(r"bytes=(\d+)-", asked)
        at = int(match.group(1)) if match else None
        while data := answer.read(64 << 10):
            try:
                data = self.changed(bytearray(data), at)
                if data is None:
                    return
                self.wfile.write(data)
            except OSError:
                self.close_connection = True
                return
            if at is not None:
                at += len(data)
        upstream.close()

    def changed(self, data, at):
        global SENT
        with LOCK:
            words = lie()
            if words[:1] == ["outboard"] and self.path.endswith("/outboard"):
                data[len(data) // 2] ^= 1
            if at is None:
                return data
            SENT += len(data)
            if words[:1] == ["stop"] and SENT > int(words[1]):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                return None
            if words[:1] == ["block"] and words[2] != "0":
                # Somewhere in the block, not at its edge.
                wrong = int(words[1]) * MIB + 12345
                if at <= wrong < at + len(data):
                    data[wrong - at] ^= 1
                    tell(["block", words[1], str(int(words[2]) - 1)])
        return data


server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
server.daemon_threads = True
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
