"""Runs a command under the unit's SystemCallFilter=, as systemd would install it.

Usage: filtered.py UNIT COMMAND [ARGUMENT ...]

Before the command starts, the filter is held against what the unit says of the clock: reading whether
it is synchronised works, setting it does not, also for root.
"""

import ctypes
import os
import subprocess
import sys
import time

import pyseccomp as seccomp

EPERM = 1


def groups(name):
    """The system calls of a group, with the groups in it."""
    calls = set()
    lines = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], check=True, capture_output=True, text=True
    ).stdout.splitlines()[1:]
    for line in map(str.strip, lines):
        if line.startswith("@"):
            calls |= groups(line)
        elif line and not line.startswith("#"):
            calls.add(line)
    return calls


def allowed(unit):
    """The unit's lines in order: a first list allows, `~` takes away, a later one adds again."""
    calls = set()
    with open(unit, encoding="utf-8") as file:
        filters = [line.strip().split("=", 1)[1] for line in file if line.startswith("SystemCallFilter=")]
    for words in filters:
        takes_away = words.startswith("~")
        for word in words.lstrip("~").split():
            named = groups(word) if word.startswith("@") else {word}
            calls = calls - named if takes_away else calls | named
    # systemd keeps what it needs itself to get to the command.
    return calls | groups("@default") | {"execve", "exit", "exit_group", "rt_sigreturn"}


def check_clock():
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(256)
    if libc.adjtimex(timex) < 0:
        sys.exit(f"adjtimex cannot be read: {os.strerror(ctypes.get_errno())}")
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
    except PermissionError:
        return
    sys.exit("the clock can be set under the filter")


def main():
    unit, command = sys.argv[1], sys.argv[2:]
    calls = allowed(unit)
    filter_ = seccomp.SyscallFilter(seccomp.ERRNO(EPERM))
    for call in sorted(calls):
        try:
            filter_.add_rule(seccomp.ALLOW, call)
        except (RuntimeError, OSError, ValueError):
            pass  # a call of another architecture
    filter_.load()
    check_clock()
    os.execvp(command[0], command)


main()
