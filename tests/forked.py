"""Jobs in processes that need not load the libraries first: forked from one that has.

What a job does is the same; it takes five seconds less to begin, which counts where it is killed time and again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline import heed_interrupts

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["gptfluence.cli", "gptfluence.dynamics.train"])


def _do(arguments: list[str], folder: str, errors: str) -> None:
    os.chdir(folder)
    for stream, target in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    heed_interrupts()
    sys.argv = ["gptfluence", *arguments]
    from gptfluence.__main__ import main

    main()


class Job:
    """A running command of the package; what tests use of `subprocess.Popen`."""

    def __init__(self, *arguments: str) -> None:
        self._errors = Path(tempfile.mkstemp(prefix="errors-")[1])
        self._process: BaseProcess = _FORKS.Process(target=_do, args=(list(arguments), os.getcwd(), str(self._errors)))
        self._process.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[None, bytes]:
        """Wait for its end; return what it wrote to its error stream."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"{self.pid} goes on"
        errors = self._errors.read_bytes()
        self._errors.unlink()
        return None, errors
