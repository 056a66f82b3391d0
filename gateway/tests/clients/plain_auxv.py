"""Runs a command to which the kernel does not hand its auxiliary vector by prctl: valgrind hides the vDSO in /proc
alone, and what finds it by the call jumps where valgrind has nothing. Run by script_cost.py.

plain_auxv.py COMMAND...
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_GET_AUXV = 22, 38, 0x41555856
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, INVALID = 0x7FFF0000, 0x00050000 | 22
PRCTL = {"x86_64": 157, "aarch64": 167}[os.uname().machine]

PROGRAM = [
    (LOAD, 0, 0, 0),  # the call
    (EQUAL, 0, 3, PRCTL),
    (LOAD, 0, 0, 16),  # its first argument
    (EQUAL, 0, 1, PR_GET_AUXV),
    (RETURN, 0, 0, INVALID),
    (RETURN, 0, 0, ALLOW),
]

code = b"".join(struct.pack("HBBI", *line) for line in PROGRAM)
kept = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(PROGRAM), ctypes.addressof(kept)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, 2, program):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
