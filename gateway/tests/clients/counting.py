"""A relay that counts what comes back through it. Run by cold_numbers.sh.

counting.py HOST:PORT FILE: prints its own port; bytes from there to its clients are kept in FILE, as a number.
"""

import asyncio
import pathlib
import sys

HOST, PORT = sys.argv[1].rsplit(":", 1)
FILE = pathlib.Path(sys.argv[2])
BYTES = 0


async def relay(reader, writer, counts):
    global BYTES
    try:
        while data := await reader.read(1 << 18):
            if counts:
                BYTES += len(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(reader, writer):
    there, back = await asyncio.open_connection(HOST, PORT)
    await asyncio.gather(relay(reader, back, False), relay(there, writer, True))


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        kept = FILE.with_suffix(".new")
        kept.write_text(str(BYTES))
        kept.replace(FILE)
        await asyncio.sleep(0.2)


asyncio.run(main())
