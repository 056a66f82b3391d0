"""What stands between a client and the gateway in some companies.

middleman.py UPSTREAM MOST NOTES: prints its address. Bodies longer than MOST bytes are refused with 413, as nginx does it,
all else goes to UPSTREAM (HOST:PORT). As a proxy it tunnels (CONNECT) and forwards whole addresses; each host is a line of
the file NOTES.
"""

import http.client
import select
import socket
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

UPSTREAM, MOST, NOTES = sys.argv[1], int(sys.argv[2]), sys.argv[3]
OURS = ("connection", "transfer-encoding", "date", "server", "proxy-connection")


class Middleman(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def note(self, what):
        with open(NOTES, "a") as file:
            file.write(what + "\n")

    def do_CONNECT(self):
        self.note(f"CONNECT {self.path}")
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 60) as there:
            self.send_response(200)
            self.end_headers()
            here = self.connection
            both = {here: there, there: here}
            while True:
                for ready in select.select(list(both), [], [])[0]:
                    data = ready.recv(64 << 10)
                    if not data:
                        self.close_connection = True
                        return
                    both[ready].sendall(data)

    def pass_on(self):
        length = int(self.headers.get("Content-Length", 0))
        where, path = UPSTREAM, self.path
        if "://" in path:
            place = urllib.parse.urlsplit(path)
            self.note(f"{self.command} {place.netloc}")
            where, path = place.netloc, path.split(place.netloc, 1)[1]
        elif length > MOST:
            # The body is read and thrown away, so that the answer is not lost with the connection.
            while length > 0:
                read = self.rfile.read(min(length, 64 << 10))
                length -= len(read) or length
            page = b"<html><h1>413 Request Entity Too Large</h1></html>"
            self.send_response(413)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        body = self.rfile.read(length)
        upstream = http.client.HTTPConnection(where, timeout=60)
        headers = {n: v for n, v in self.headers.items() if n.lower() not in OURS}
        upstream.request(self.command, path, body=body, headers=headers)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in OURS + ("content-length",):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on


server = ThreadingHTTPServer(("127.0.0.1", 0), Middleman)
print("{}:{}".format(*server.server_address), flush=True)
server.serve_forever()
