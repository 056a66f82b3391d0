"""One request over HTTP/3 by aioquic: prints what came of it as a line of JSON. Run by tls.sh.

http3.py CACERT METHOD URL [-H 'NAME: VALUE']... [--data FILE [--from OFFSET] [--lengthless]] [--cut BYTES] [-o FILE]
[--streams N] [--drain PID]

--cut resets the stream once so much of the file was sent and shows what came until then; --streams asks so many times
at once; --drain sends SIGTERM to a process at the first byte of the answer.
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import ssl
import urllib.parse

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

PIECE = 64 << 10
AHEAD = 1 << 20  # what may wait in aioquic, which takes all it is given


class Answer:
    def __init__(self, out):
        self.status = None
        self.headers = {}
        self.interims = []
        self.bytes = 0
        self.hash = hashlib.sha256()
        self.out = open(out, "wb") if out else None
        self.done = asyncio.get_running_loop().create_future()
        self.first = asyncio.Event()

    def end(self, how):
        if not self.done.done():
            self.done.set_result(how)


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            for answer in self.answers.values():
                answer.end(f"connection {event.error_code:#x} {event.reason_phrase}")
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].end(f"reset {event.error_code:#x}")
        for told in self.http.handle_event(event):
            answer = self.answers.get(getattr(told, "stream_id", None))
            if answer is None:
                continue
            if isinstance(told, HeadersReceived):
                fields = {name.decode(): value.decode() for name, value in told.headers}
                status = int(fields.pop(":status", 0))
                if 100 <= status < 200:
                    answer.interims.append({"status": status, "headers": fields})
                elif status:
                    answer.status, answer.headers = status, fields
            elif isinstance(told, DataReceived):
                answer.bytes += len(told.data)
                answer.hash.update(told.data)
                if answer.out:
                    answer.out.write(told.data)
                if told.data:
                    answer.first.set()
            if told.stream_ended:
                answer.end("whole")

    def ask(self, headers, answer, ends):
        stream = self._quic.get_next_available_stream_id()
        self.answers[stream] = answer
        self.http.send_headers(stream, headers, end_stream=ends)
        self.transmit()
        return stream

    def waiting(self, stream):
        sender = self._quic._streams[stream].sender
        return sender._buffer_stop - sender._buffer_start


async def send(client, stream, answer, args):
    with open(args.data, "rb") as file:
        file.seek(args.offset)
        left = os.path.getsize(args.data) - args.offset
        sent = 0
        while left and not answer.done.done():
            data = file.read(min(PIECE, left))
            left -= len(data)
            sent += len(data)
            client.http.send_data(stream, data, end_stream=left == 0)
            client.transmit()
            while client.waiting(stream) > AHEAD and not answer.done.done():
                await asyncio.sleep(0.002)
            if args.cut and sent >= args.cut:
                while client.waiting(stream) and not answer.done.done():
                    await asyncio.sleep(0.002)
                client._quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
                client.transmit()
                answer.end("cut by us")
                return


async def main(args):
    url = urllib.parse.urlsplit(args.url)
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=url.hostname)
    configuration.load_verify_locations(args.cacert)
    configuration.verify_mode = ssl.CERT_REQUIRED
    path = url.path + (f"?{url.query}" if url.query else "")
    headers = [(":method", args.method), (":scheme", "https"), (":authority", url.netloc), (":path", path)]
    headers += [tuple(part.strip() for part in header.split(":", 1)) for header in args.header]
    if args.data and not args.lengthless:
        headers.append(("content-length", str(os.path.getsize(args.data) - args.offset)))
    headers = [(name.lower().encode(), value.encode()) for name, value in headers]
    async with connect(url.hostname, url.port, configuration=configuration, create_protocol=Client) as client:
        answers = [Answer(args.output) for _ in range(args.streams)]
        for answer in answers:
            stream = client.ask(headers, answer, ends=not args.data)
            if args.data:
                await send(client, stream, answer, args)
        if args.drain:
            await asyncio.wait_for(answers[0].first.wait(), 60)
            os.kill(args.drain, signal.SIGTERM)
        ends = [await asyncio.wait_for(answer.done, 120) for answer in answers]
    last = answers[-1]
    if last.out:
        last.out.close()
    told = {
        "status": last.status, "headers": last.headers, "interims": last.interims, "bytes": last.bytes,
        "sha256": last.hash.hexdigest(), "end": ends[-1],
    }
    if args.streams > 1:
        told["statuses"] = sorted({answer.status or 0 for answer in answers})
        told["whole"] = ends.count("whole")
    print(json.dumps(told))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("cacert")
    parser.add_argument("method")
    parser.add_argument("url")
    parser.add_argument("-H", dest="header", action="append", default=[])
    parser.add_argument("--data")
    parser.add_argument("--from", dest="offset", type=int, default=0)
    parser.add_argument("--lengthless", action="store_true")
    parser.add_argument("--cut", type=int)
    parser.add_argument("-o", dest="output")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--drain", type=int)
    asyncio.run(main(parser.parse_args()))
