"""Reads the gateway's events as they are recorded and has caches drop what they name. Run by purge.sh.

purge.py DATABASE [--varnish HOST:PORT] [--nginx CACHE-FOLDER]

A stand-in for what an operator has called on an event: Varnish is told by PURGE with the tags, nginx, which knows no
tags, by removing the files whose kept head holds one of them.
"""

import argparse
import http.client
import json
import pathlib
import sqlite3
import time


def drop_from_varnish(place, tags):
    connection = http.client.HTTPConnection(place, timeout=10)
    connection.request("PURGE", "/", headers={"xkey-purge": " ".join(tags)})
    connection.getresponse().read()
    connection.close()


def drop_from_nginx(folder, tags):
    for path in pathlib.Path(folder).rglob("*"):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(8192)
        kept = [line.split(b":", 1)[1].strip().split(b",") for line in head.splitlines() if line.lower().startswith(b"cache-tag:")]
        if any(tag.encode() in kept_tags for tag in tags for kept_tags in kept):
            path.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("--varnish")
    parser.add_argument("--nginx")
    given = parser.parse_args()
    rows = sqlite3.connect(f"file:{given.database}?mode=ro", uri=True)
    last = 0
    while True:
        for seq, name, data in rows.execute("SELECT seq, name, data FROM outbox WHERE seq > ? ORDER BY seq", (last,)):
            last = seq
            tags = json.loads(data).get("tags")
            if not tags:
                continue
            if given.varnish:
                drop_from_varnish(given.varnish, tags)
            if given.nginx:
                drop_from_nginx(given.nginx, tags)
            print(name, *tags, flush=True)
        time.sleep(0.05)


main()
