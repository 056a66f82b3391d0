"""Evaluates expressions in a page of headless Chromium, and prints each result as a line of JSON. Run by browser.sh.

browser.py PROFILE SPKI PAGE EXPRESSION...

The certificate whose key has this digest is trusted, and the page's origin is asked by HTTP/3 from the first request on.
Chromium is driven through its debugging pipe.
"""

import json
import os
import subprocess
import sys
import urllib.parse

PROFILE, SPKI, PAGE = sys.argv[1:4]


class Pipe:
    """Messages of Chromium's debugging protocol, each ended by a NUL."""

    def __init__(self, arguments):
        # Chromium reads from its descriptor 3 and writes to 4.
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        script = 'exec "$@" 3<&"$IN" 4>&"$OUT"'
        environment = {**os.environ, "IN": str(theirs_in), "OUT": str(theirs_out)}
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *arguments], env=environment, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.input, self.output = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self.rest, self.count = b"", 0

    def messages(self):
        while True:
            while b"\0" not in self.rest:
                more = self.input.read1(1 << 16)
                if not more:
                    sys.exit("Chromium ended")
                self.rest += more
            message, self.rest = self.rest.split(b"\0", 1)
            yield json.loads(message)

    def call(self, method, session=None, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self.output.write(json.dumps(message).encode() + b"\0")
        self.output.flush()
        for answer in self.messages():
            if answer.get("id") == self.count:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]

    def until(self, method):
        for message in self.messages():
            if message.get("method") == method:
                return


def main():
    place = urllib.parse.urlsplit(PAGE).netloc
    pipe = Pipe([
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--remote-debugging-pipe", f"--user-data-dir={PROFILE}", "--enable-quic", f"--origin-to-force-quic-on={place}",
        f"--ignore-certificate-errors-spki-list={SPKI}",
    ])
    target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
    session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    pipe.call("Page.enable", session)
    pipe.call("Page.navigate", session, url=PAGE)
    pipe.until("Page.loadEventFired")
    for expression in sys.argv[4:]:
        told = pipe.call("Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True)
        print(json.dumps(told["result"].get("value", told.get("exceptionDetails"))), flush=True)
    pipe.call("Browser.close")
    pipe.process.wait(20)


main()
