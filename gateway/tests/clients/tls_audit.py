#!/usr/bin/env python3
"""The set-up of TLS as a stranger's scanner sees it, by openssl: which versions, ciphers, groups and signatures are taken, one by
one, for a certificate of either kind; and that nothing is negotiated anew, compressed, or sent early."""

import re
import shutil
import socket
import subprocess
import sys

from harness import Checks, Gateway

check = Checks()
OF_TLS_1_2 = {"AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305"}
OF_TLS_1_3 = {"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"}
# Weak ones are refused by the client itself where nobody lowers its level.
ANY = "@SECLEVEL=0"


def client(gate, *words, typed=""):
    """What openssl says of one connection."""
    command = ["openssl", "s_client", "-connect", "{}:{}".format(*gate.address), *words]
    ran = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60)
    return ran.stdout + ran.stderr


def agreed(said):
    """Version and cipher, or nothing where there was no handshake."""
    found = re.search(r"^New, (\S+), Cipher is (\S+)$", said, re.M)
    is_none = found is None or found[2] == "(NONE)"
    return None if is_none else (re.search(r"Protocol *: *(\S+)|^New, (\S+),", said, re.M).group(1) or found[1], found[2])


def ciphers(*words):
    listed = subprocess.run(["openssl", "ciphers", *words, f"ALL:COMPLEMENTOFALL:{ANY}"], capture_output=True, text=True, check=True)
    return listed.stdout.strip().split(":")


def versions(gate, kind):
    for version in ("-tls1", "-tls1_1"):
        said = client(gate, version, "-cipher", f"ALL:{ANY}")
        check.that(f"{kind}: {version[1:]} is refused", agreed(said) is None and "alert" in said, said[-300:])
    for version in ("-tls1_2", "-tls1_3"):
        check.that(f"{kind}: {version[1:]} is taken", agreed(client(gate, version)), agreed(client(gate, version)))
    check.equal(f"{kind}: 1.3 where nothing else is said", "TLSv1.3", agreed(client(gate))[0])


def suites(gate, kind):
    offered = [c for c in ciphers("-s", "-tls1_2")]
    taken = {c for c in offered if agreed(client(gate, "-tls1_2", "-cipher", f"{c}:{ANY}"))}
    check.equal(f"{kind}: of {len(offered)} ciphers of 1.2 these are taken", sorted(f"ECDHE-{kind}-{c}" for c in OF_TLS_1_2), sorted(taken))
    offered = [c for c in ciphers("-s", "-tls1_3", "-ciphersuites", ":".join([*OF_TLS_1_3, "TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"])) if c.startswith("TLS_")]
    taken = {c for c in offered if agreed(client(gate, "-tls1_3", "-ciphersuites", c))}
    check.equal(f"{kind}: of {len(offered)} ciphers of 1.3 these are taken", sorted(OF_TLS_1_3), sorted(taken))
    check.that(f"{kind}: a cipher without a key exchange for each connection is refused", agreed(client(gate, "-tls1_2", "-cipher", f"kRSA:{ANY}")) is None)


def groups(gate, kind):
    for group, is_taken in (("X25519", True), ("P-256", True), ("P-384", True), ("P-521", False), ("X448", False), ("ffdhe2048", False)):
        check.equal(f"{kind}: a key exchange by {group}", is_taken, bool(agreed(client(gate, "-tls1_3", "-groups", group))))
    for signature in ("RSA+SHA1", "ECDSA+SHA1"):
        said = client(gate, "-tls1_2", "-cipher", f"ALL:{ANY}", "-sigalgs", signature)
        check.that(f"{kind}: a signature by {signature} is refused", agreed(said) is None, said[-200:])


def habits(gate, kind):
    said = client(gate, "-tls1_2", "-comp")
    check.that(f"{kind}: nothing is compressed", "Compression: NONE" in said, re.findall("Compression.*", said))
    check.that(f"{kind}: renegotiation is told to be safe", "Secure Renegotiation IS supported" in said, re.findall(".*Renegotiation.*", said))
    # R asks for another handshake on the same connection.
    said = client(gate, "-tls1_2", typed="R\n")
    check.that(f"{kind}: and is refused", "RENEGOTIATING" in said and re.search("no renegotiation|alert|error|unexpected", said.split("RENEGOTIATING")[1]), said[-300:])
    said = client(gate, "-tls1_3")
    check.that(f"{kind}: nothing is sent early", "Max Early Data: 0" in said or "Early data was not sent" in said, re.findall(".*[Ee]arly.*", said))
    said = client(gate, "-alpn", "spdy/3.1")
    check.that(f"{kind}: a protocol that is not spoken is refused", agreed(said) is None or "no application protocol" in said, said[-200:])
    check.that(f"{kind}: another name is no other certificate", agreed(client(gate, "-servername", "elsewhere.example")))


def plain(gate, kind):
    with socket.create_connection(gate.address, timeout=60) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        heard = b""
        while more := raw.recv(4096):
            heard += more
    check.that(f"{kind}: who speaks without TLS is told nothing but an alert", not heard or heard[0] == 21, heard[:40])


def certificate(gate, *kind):
    """A certificate of one's own, of this kind of key."""
    command = ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", gate.work / "key.pem", "-out", gate.work / "certificate.pem"], check=True, capture_output=True)
    (gate.work / "boxgate.toml").write_text(
        f'[[listeners]]\naddress = "127.0.0.1:0"\ntls = true\n[tls]\ncertificate = "{gate.work}/certificate.pem"\nkey = "{gate.work}/key.pem"\n'
    )


def main():
    if not shutil.which("openssl"):
        sys.exit("openssl is missing")
    for kind, words in (("ECDSA", ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")), ("RSA", ("rsa:2048",))):
        gate = Gateway()
        certificate(gate, *words)
        gate.flags = ["--config", gate.work / "boxgate.toml"]
        with gate:
            for scene in (versions, suites, groups, habits, plain):
                try:
                    scene(gate, kind)
                except Exception as error:
                    check.that(f"{kind}: {scene.__name__} runs to its end", False, repr(error))
    check.finish()


main()
