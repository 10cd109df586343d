"""Snakemake's scheduler, as it looks for jobs to start: once a second, and not once for each job that has ended."""

from __future__ import annotations

import threading
from typing import Any

from snakemake.scheduling.job_scheduler import JobScheduler

_PENDING = "_gptfluence_timer"


def look_once_a_second() -> None:
    """Let a scheduler have one timer at a time.

    After each look at the ready jobs Snakemake 9 starts a timer for the next, whether or not one is running, and every
    job that ends is a look too: after 200 jobs it looks 200 times a second, which takes a core. A timer that is running
    wakes it soon enough.
    """
    JobScheduler._schedule_reevalutation = _start_timer


def _start_timer(scheduler: Any, delay: float) -> None:
    pending = getattr(scheduler, _PENDING, None)
    if pending is not None and pending.is_alive():
        return

    def wake() -> None:
        setattr(scheduler, _PENDING, None)
        scheduler._open_jobs.release()

    timer = threading.Timer(delay, wake)
    setattr(scheduler, _PENDING, timer)
    timer.start()
