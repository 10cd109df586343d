from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gptfluence.callers import CALLERS, LOCKS, break_stale_lock


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCKS.mkdir(parents=True)
    (LOCKS / "0.output.lock").write_text("results/x\n", encoding="utf-8")
    CALLERS.mkdir()


def start(seconds: float = 60) -> subprocess.Popen[bytes]:
    """Start a process that announces itself, and looks like Snakemake in the list of processes."""
    code = f"import time; from gptfluence.callers import announce; announce(); time.sleep({seconds})"
    process = subprocess.Popen([sys.executable, "-c", code, "snakemake"])
    while not list(CALLERS.glob(f"{process.pid}@*")) and process.poll() is None:
        time.sleep(0.01)
    return process


def test_lock_of_a_killed_caller_is_removed() -> None:
    process = start()
    assert not break_stale_lock() and LOCKS.exists()  # it lives
    process.kill()
    process.wait()
    assert break_stale_lock()
    assert not LOCKS.exists() and not list(CALLERS.iterdir())
    assert not break_stale_lock()


def test_lock_stays_while_any_caller_lives_or_cannot_be_looked_at() -> None:
    killed, living = start(), start()
    killed.kill()
    killed.wait()
    assert not break_stale_lock() and LOCKS.exists()
    living.kill()
    living.wait()
    (CALLERS / f"1@not-{socket.gethostname()}").touch()
    assert not break_stale_lock() and LOCKS.exists()


def test_lock_of_unknown_origin_stays() -> None:
    assert not break_stale_lock() and LOCKS.exists()


def test_number_that_another_program_got_is_a_dead_caller() -> None:
    other = subprocess.Popen(["sleep", "60"])
    (CALLERS / f"{other.pid}@{socket.gethostname()}").touch()
    assert break_stale_lock()
    other.kill()
    other.wait()


def test_a_caller_that_ends_leaves_no_note() -> None:
    process = start(seconds=0)
    process.wait()
    assert not list(CALLERS.iterdir())
