#!/usr/bin/env python3
"""tus by tuspy: in chunks, by its asynchronous uploader, resumed from its URL storage over a kill -9 of the gateway,
with checksums, empty, refused."""

import asyncio
import hashlib
import re

from harness import Checks, Gateway, bytes_of, eventually, sha256
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.storage.filestorage import FileStorage
from tusclient.uploader import Uploader

check = Checks()
MIB = 1 << 20


def client(gate, key=None):
    return TusClient(gate.url + "/files", headers={"Authorization": f"Bearer {key or gate.key}"})


def box(gate, version):
    return {"filename": "some.box", "target": f"{gate.organization}/tus/{version}/virtualbox/amd64"}


def file_of(gate, name, length):
    """A file of bytes of its own, and their digest."""
    data = bytes_of(name, length)
    path = gate.work / name
    path.write_bytes(data)
    return str(path), sha256(data)


def is_box(gate, name, digest, version):
    check.equal(f"{name}: its bytes", digest, sha256(gate.download(box="tus", version=version).content))


def bytes_in(gate):
    """Bytes of request bodies that the gateway has received, by its own count."""
    return int(re.search(r"^boxgate_http_bytes_in_total (\d+)", gate.call("GET", "/metrics").text, re.M)[1])


def fails(name, kind, status, action):
    try:
        action()
        check.that(name, False, "no exception")
    except kind as error:
        check.equal(name, status, error.status_code)


def whole(gate):
    path, digest = file_of(gate, "whole", 10 * MIB + 5)
    for version, more in (("1.0.0", {}), ("1.1.0", {"chunk_size": 3 * MIB}), ("1.2.0", {"chunk_size": MIB, "upload_checksum": True})):
        uploader = client(gate).uploader(path, metadata=box(gate, version), **more)
        uploader.upload()
        check.equal(f"{version} {more}: the offset", 10 * MIB + 5, uploader.offset)
        is_box(gate, f"{version} {more}", digest, version)
    uploader = client(gate).async_uploader(path, metadata=box(gate, "1.3.0"), chunk_size=4 * MIB, upload_checksum=True)
    asyncio.run(uploader.upload())
    is_box(gate, "asynchronous", digest, "1.3.0")


def resumed(gate):
    length = 40 * MIB + 3
    path, digest = file_of(gate, "resumed", length)
    storage = FileStorage(str(gate.work / "urls.json"))
    kept = {"store_url": True, "url_storage": storage, "metadata": box(gate, "2.0.0"), "chunk_size": 10 * MIB}
    first = client(gate).uploader(path, **kept)
    first.upload(stop_at=20 * MIB)
    gate.survive()
    second = client(gate).uploader(path, **kept)
    check.equal("resumed: the upload from the URL storage", first.url, second.url)
    check.equal("resumed: its offset over a kill -9", 20 * MIB, second.offset)
    second.upload()
    is_box(gate, "resumed", digest, "2.0.0")
    rest = length - 20 * MIB
    eventually(30, lambda: bytes_in(gate) == rest)
    check.equal("resumed: no byte that counted came twice", rest, bytes_in(gate))
    again = client(gate).uploader(path, **kept)
    check.equal("resumed: a third one has nothing to send", length, again.offset)
    storage.close()


def checksums(gate):
    path, digest = file_of(gate, "checksums", 2 * MIB)

    class Sha256(Uploader):
        CHECKSUM_ALGORITHM_PAIR = ("sha256", hashlib.sha256)

    class Wrong(Uploader):
        CHECKSUM_ALGORITHM_PAIR = ("sha1", lambda chunk: hashlib.sha1(chunk + b"x"))

    class Unknown(Uploader):
        CHECKSUM_ALGORITHM_PAIR = ("crc99", hashlib.sha1)

    Sha256(path, client=client(gate), metadata=box(gate, "3.0.0"), chunk_size=MIB, upload_checksum=True).upload()
    is_box(gate, "SHA-256", digest, "3.0.0")
    for kind, status in ((Wrong, 460), (Unknown, 400)):
        uploader = kind(path, client=client(gate), metadata=box(gate, "3.1.0"), upload_checksum=True)
        fails(f"{kind.__name__}: refused", TusUploadFailed, status, uploader.upload)
        check.equal(f"{kind.__name__}: nothing counts", 0, uploader.get_offset())


def refused(gate):
    empty, digest = file_of(gate, "empty", 0)
    uploader = client(gate).uploader(empty, metadata={"filename": "empty"})
    uploader.upload()
    document = gate.call("GET", uploader.url, gate.key).json()
    check.equal("an empty file without a box", ("done", digest), (document["state"], document["details"]["sha256"]))
    create = client(gate).uploader(empty, metadata=box(gate, "4.0.0")).create_url
    fails("an empty box", TusCommunicationError, 400, create)
    path, _ = file_of(gate, "refused", 1000)
    create = client(gate).uploader(path, metadata={"target": "nobody/tus/1.0.0/virtualbox/amd64"}).create_url
    fails("a box of others", TusCommunicationError, 404, create)
    create = client(gate, "wrong").uploader(path, metadata=box(gate, "4.0.0")).create_url
    fails("a wrong credential", TusCommunicationError, 401, create)
    unknown = f"{gate.url}/files/{'0' * 32}"
    fails("an unknown upload", TusCommunicationError, 404, lambda: client(gate).uploader(path, url=unknown))


with Gateway() as gate:
    check.scenes(gate, resumed, whole, checksums, refused)
check.finish()
