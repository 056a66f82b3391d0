"""What the three mock clouds have in common: one server, tokens, calls that are counted, and moods.

A cloud answers as the mapping tables of the contract have it. Its mood is what tests set by POST /_mood:
`busy` 429, `ill` 500, `odd` a JSON that makes no sense, `page` one of HTML, `cut` a connection that ends,
`told` an error that repeats the token, `held` no answer before POST /_release. What is asked for is done all the same where it is
`taken`, which ends the connection, or `keeps`, which does not answer.
"""
import datetime
import http.server
import json
import threading
import urllib.parse

GOOD = "good-token-0123456789"


def now():
    """The time as clouds write it, without its zone, which is UTC."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


class Refused(Exception):
    """An answer that is no success: status, and the cloud's words."""

    def __init__(self, status, message, **more):
        super().__init__(message)
        self.status, self.message, self.more = status, message, more


class Cloud:
    """State of one cloud. `routes` is [(method, parts of the path, function)]; a part None is an id."""

    prefix = ""
    routes = []

    def __init__(self):
        self.mood, self.calls, self.keys, self.servers = "", [], {}, {}
        self.lock, self.released = threading.Lock(), threading.Event()
        self.ids = 1000

    def new_id(self):
        self.ids += 1
        return self.ids

    def error(self, status, message, more):
        raise NotImplementedError

    def public(self, method, parts):
        return False

    def answer(self, method, parts, query, body, token):
        with self.lock:
            if token != GOOD and not (token == "" and self.public(method, parts)):
                raise Refused(401, "Unable to authenticate you")
            for wanted, pattern, function in self.routes:
                fits = len(pattern) == len(parts) and all(p is None or p == q for p, q in zip(pattern, parts))
                if wanted == method and fits:
                    ids = [self.number(q) for p, q in zip(pattern, parts) if p is None]
                    return function(self, *ids, **({"body": body} if method in ("POST", "PUT") else {}), query=query)
        raise Refused(404, "not found")

    @staticmethod
    def number(text):
        try:
            return int(text)
        except ValueError:
            raise Refused(404, "not found") from None

    def one(self, among, id):
        if id not in among:
            raise Refused(404, "not found")
        return among[id]


def handler(clouds):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def send(self, status, document, kind="application/json", fields=()):
            body = document.encode() if isinstance(document, str) else b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            if body:
                self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def control(self, path, body):
            if path == "/_calls":
                return self.send(200, {prefix: cloud.calls for prefix, cloud in clouds.items()})
            cloud = clouds[body["cloud"]]
            if path == "/_mood":
                cloud.mood = body["mood"]
            elif path == "/_release":
                cloud.released.set()
            elif path == "/_tag":
                cloud.tag(int(body["server"]), body["value"])
            self.send(200, {})

        def serve(self):
            length = int(self.headers.get("content-length") or 0)
            text = self.rfile.read(length)
            split = urllib.parse.urlsplit(self.path)
            body = json.loads(text) if text else {}
            if split.path.startswith("/_"):
                return self.control(split.path, body)
            prefix, *parts = [urllib.parse.unquote(part) for part in split.path.strip("/").split("/")]
            cloud = clouds[prefix]
            query = dict(urllib.parse.parse_qsl(split.query))
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            cloud.calls.append({"method": self.command, "path": "/".join(parts), "body": body})
            mood = cloud.mood
            if mood == "held":
                cloud.released.wait(120)
            elif mood == "busy":
                return self.send(429, cloud.error(429, "Too many requests", {}), fields=[("retry-after", "0")])
            elif mood == "ill":
                return self.send(500, cloud.error(500, "Server was unable to give you a response", {}))
            elif mood == "odd":
                return self.send(200, {"unexpected": ["answer"]})
            elif mood == "page":
                return self.send(200, "<html>maintenance</html>", "text/html")
            elif mood == "told":
                return self.send(403, cloud.error(403, f"{token} may not do this", {}))
            elif mood == "cut":
                self.close_connection = True
                return self.connection.close()
            try:
                status, document = cloud.answer(self.command, parts, query, body, token)
                if mood == "keeps" and self.command == "POST":
                    cloud.released.wait(120)
                if mood in ("keeps", "taken") and self.command == "POST":
                    self.close_connection = True
                    return self.connection.close()
                self.send(status, document)
            except Refused as refused:
                self.send(refused.status, cloud.error(refused.status, refused.message, refused.more))

        do_GET = do_POST = do_PUT = do_DELETE = serve

    return Handler


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def serve(clouds):
    server = Server(("127.0.0.1", 0), handler({cloud.prefix: cloud for cloud in clouds}))
    print(server.server_address[1], flush=True)
    server.serve_forever()
