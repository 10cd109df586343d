"""Who calls Snakemake in this folder: so that the lock of one that was killed does not outlive it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
from pathlib import Path

CALLERS = Path(".snakemake/callers")
LOCKS = Path(".snakemake/locks")


def announce() -> None:
    """Note that this process calls Snakemake here, until it ends; a killed one's note stays."""
    note = CALLERS / f"{os.getpid()}@{socket.gethostname()}"
    with contextlib.suppress(OSError):  # a read-only folder can be planned all the same
        CALLERS.mkdir(parents=True, exist_ok=True)
        note.touch()
        atexit.register(note.unlink, missing_ok=True)


def break_stale_lock() -> bool:
    """Remove Snakemake's lock if all that called it in this folder are known to be dead.

    Callers on other machines cannot be looked at: then the lock stays, and Snakemake's message says `--unlock`.
    """
    notes = list(CALLERS.glob("*@*"))
    dead = [note for note in notes if _is_dead(note.name)]
    stale = bool(dead) and len(dead) == len(notes) and LOCKS.is_dir() and any(LOCKS.iterdir())
    if stale:
        shutil.rmtree(LOCKS)
    for note in dead:
        note.unlink(missing_ok=True)
    return stale


def _is_dead(name: str) -> bool:
    pid, host = name.split("@", 1)
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is there, but another user's
    # Numbers are given anew, and a dead process stays listed until its parent looks.
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state == "Z" or b"snakemake" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
