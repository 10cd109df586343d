from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

import pytest
from gptfluence.bars import Bar, barred

SLOW = """
import time
from gptfluence.bars import barred
for _ in barred(range(4), "counting", "runs"):
    time.sleep(0.6)
"""


def at_terminal(command: Sequence[str]) -> str:
    """Run a command whose standard error is a terminal; return what that showed."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, stderr=inner, stdout=subprocess.DEVNULL)
    os.close(inner)
    shown = b""
    try:
        while part := os.read(outer, 4096):
            shown += part
    except OSError:  # the other side was closed
        pass
    finally:
        os.close(outer)
    assert process.wait() == 0
    return shown.decode()


def test_a_terminal_shows_what_is_done_and_nothing_stays() -> None:
    shown = at_terminal([sys.executable, "-c", SLOW])
    assert "counting" in shown
    assert "/4" in shown and "runs/s" in shown.replace("s/ runs", "runs/s")
    assert shown.rstrip("\n").endswith("\r")


def test_nothing_is_shown_of_what_is_done_at_once() -> None:
    assert at_terminal([sys.executable, "-c", SLOW.replace("0.6", "0")]) == ""


def test_no_terminal_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(barred("abc", "spelling", "letters")) == ["a", "b", "c"]
    with Bar("reading", None, "B") as bar:
        bar.to(10**9)
        assert not bar.visible
    assert capfd.readouterr().err == ""
