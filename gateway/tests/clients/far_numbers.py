#!/usr/bin/env python3
"""What one upload and one download by HTTP/2 move over a line of 100 ms, by the window that they are given: curl, and a relay that
keeps each byte for 50 ms on its way. The relay ends TCP on both sides, so that what is measured is the window of HTTP/2 alone;
HTTP/1.1, which has none, and a relay that keeps nothing, are how fast relay and machine are. Argument: MB of each transfer (500).
"""

import asyncio
import collections
import multiprocessing
import statistics
import subprocess
import sys

import requests

from harness import Gateway

CHUNK = 1 << 20
# More than a window may be on its way.
AHEAD = 64 << 20
ROUNDS = 3


async def carry(reader, writer, delay):
    """Gives each chunk on once it is old enough."""
    loop = asyncio.get_running_loop()
    waiting = collections.deque()
    held, come, room = 0, asyncio.Event(), asyncio.Event()

    async def give():
        nonlocal held
        while True:
            while not waiting:
                come.clear()
                await come.wait()
            due, chunk = waiting.popleft()
            await asyncio.sleep(max(0, due - loop.time()))
            if not chunk:
                writer.close()
                return
            writer.write(chunk)
            await writer.drain()
            held -= len(chunk)
            room.set()

    giving = asyncio.create_task(give())
    try:
        while True:
            chunk = await reader.read(CHUNK)
            waiting.append((loop.time() + delay, chunk))
            held += len(chunk)
            come.set()
            if not chunk:
                break
            while held > AHEAD:
                room.clear()
                await room.wait()
        await giving
    except (ConnectionError, asyncio.CancelledError):
        giving.cancel()
        writer.close()


def relay(address, delay, told):
    async def both(reader, writer):
        onward, back = await asyncio.open_connection(*address, limit=4 * CHUNK)
        await asyncio.gather(carry(reader, back, delay), carry(onward, writer, delay), return_exceptions=True)

    async def run():
        server = await asyncio.start_server(both, "127.0.0.1", 0, limit=4 * CHUNK)
        told.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def moved(command, size):
    """MB a second, of the fastest of some rounds: the machine is shared, the window is not."""
    rates = []
    for _ in range(ROUNDS):
        ran = subprocess.run(["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code} %{http_version} %{time_total} %{time_pretransfer}", *command], capture_output=True, text=True)
        code, version, total, before = ran.stdout.split()
        assert code in ("200", "201"), (ran.stdout, ran.stderr)
        rates.append(size / (float(total) - float(before)) / 1e6)
    return max(rates), statistics.median(rates), version


def main(megabytes):
    requests.packages.urllib3.disable_warnings()
    size = megabytes * 1_000_000
    print("| window | there and back | transfer | HTTP | best, median MB/s |\n|---|---|---|---|---|")
    with Gateway() as gate:
        file = gate.work / "sent"
        subprocess.run(f"head -c {size} /dev/urandom >{file}", shell=True, check=True)
        gate.flags = ["--tls", "self-signed"]
        for window, connections, delay in ((4, 500, 0.05), (16, 125, 0.05), (16, 125, 0)):
            gate.restart(BOXGATE_SERVER__H2_WINDOW=f"{window}MiB", BOXGATE_LIMITS__H2_CONNECTIONS=str(connections))
            told = multiprocessing.Queue()
            far = multiprocessing.Process(target=relay, args=(gate.address, delay, told), daemon=True)
            far.start()
            base = gate.path().replace(f":{gate.address[1]}/", f":{told.get()}/")
            key = ["-H", f"x-access-token: {gate.key}"]
            for version, flag in (("2", "--http2"), ("1.1", "--http1.1")):
                up, down = moved([flag, *key, "-X", "POST", "-T", file, f"{base}/upload"], size), moved([flag, *key, f"{base}/download"], size)
                for what, (best, median, spoken) in (("upload", up), ("download", down)):
                    print(f"| {window} MiB | {delay * 2000:.0f} ms | {what} | {spoken} | {best:.0f}, {median:.0f} |", flush=True)
            far.terminate()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
