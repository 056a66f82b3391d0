"""What curl never sends over HTTP/2, by the h2 library: prints what came of it as a line of JSON. Run by tls.sh.

http2.py CACERT URL cut METHOD FILE BYTES [NAME:VALUE]...   uploads, and resets the stream after so many bytes
http2.py CACERT URL crowd COUNT                      asks so many times at once, whatever was allowed
http2.py CACERT URL reset COUNT                      asks and takes back at once, so many times
http2.py CACERT URL flood COUNT                      one head with so many fields
http2.py CACERT URL stop                             asks, and never opens the window again; waits for the end
"""

import json
import os
import socket
import ssl
import sys
import urllib.parse

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings


class Client:
    def __init__(self, cacert, url):
        self.url = urllib.parse.urlsplit(url)
        context = ssl.create_default_context(cafile=cacert)
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection((self.url.hostname, self.url.port), timeout=60)
        self.socket = context.wrap_socket(raw, server_hostname=self.url.hostname)
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.limits = {}
        self.told = {"statuses": {}, "resets": {}, "goaway": None, "closed": False}
        self.ended = set()
        self.flush()
        while not self.limits:
            self.read()

    def headers(self, method, extra=()):
        path = self.url.path + (f"?{self.url.query}" if self.url.query else "")
        first = [(":method", method), (":scheme", "https"), (":authority", self.url.netloc), (":path", path)]
        return first + list(extra)

    def flush(self):
        try:
            self.socket.sendall(self.h2.data_to_send())
        except OSError:
            self.told["closed"] = True

    def read(self, gives=True):
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.told["closed"] = True
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.limits = {str(getattr(code, "name", code)): c.new_value for code, c in event.changed_settings.items()}
            elif isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[":status"]
                self.told["statuses"][status] = self.told["statuses"].get(status, 0) + 1
            elif isinstance(event, h2.events.DataReceived) and gives:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                name = h2.errors.ErrorCodes(event.error_code).name
                self.told["resets"][name] = self.told["resets"].get(name, 0) + 1
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.told["goaway"] = h2.errors.ErrorCodes(event.error_code).name
        self.flush()


def cut(client, method, file, count, *fields):
    """Sends as the windows allow, then resets."""
    count = int(count)
    extra = [tuple(part.strip() for part in field.split(":", 1)) for field in fields]
    extra = [(name.lower(), value) for name, value in extra]
    extra.append(("content-length", str(os.path.getsize(file))))
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, client.headers(method, extra))
    client.flush()
    with open(file, "rb") as source:
        sent = 0
        while sent < count and not client.told["closed"] and stream not in client.ended:
            room = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size, count - sent)
            if room <= 0:
                client.read()
                continue
            client.h2.send_data(stream, source.read(room))
            sent += room
            client.flush()
    # The window is open again once all of it was read.
    whole = client.limits.get("INITIAL_WINDOW_SIZE", 65535)
    while client.h2.local_flow_control_window(stream) < whole // 2 and not client.told["closed"]:
        client.read()
    client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    client.flush()
    client.told["sent"] = sent


def crowd(client, count):
    """h2 itself keeps to the limit, so it is told another one."""
    streams = set()
    client.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1 << 20
    client.h2.remote_settings.acknowledge()
    for _ in range(int(count)):
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, client.headers("GET"), end_stream=True)
        streams.add(stream)
    client.flush()
    while not streams <= client.ended and not client.told["closed"] and not client.told["goaway"]:
        client.read()


def reset(client, count):
    for _ in range(int(count)):
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, client.headers("GET"), end_stream=True)
        client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    client.flush()
    while not client.told["closed"]:
        client.read()


def flood(client, count):
    stream = client.h2.get_next_available_stream_id()
    fields = [(f"x-{number}", "y") for number in range(int(count))]
    client.h2.send_headers(stream, client.headers("GET", fields), end_stream=True)
    client.flush()
    while stream not in client.ended and not client.told["closed"]:
        client.read()


def stop(client):
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, client.headers("GET"), end_stream=True)
    client.flush()
    while stream not in client.ended and not client.told["closed"]:
        client.read(gives=False)


if __name__ == "__main__":
    cacert, url, what, *rest = sys.argv[1:]
    client = Client(cacert, url)
    try:
        {"cut": cut, "crowd": crowd, "reset": reset, "flood": flood, "stop": stop}[what](client, *rest)
    except h2.exceptions.ProtocolError as error:
        client.told["error"] = str(error)
    print(json.dumps(client.told | {"limits": client.limits}))
