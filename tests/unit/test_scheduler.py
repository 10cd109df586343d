from __future__ import annotations

import threading
import time

from gptfluence.scheduler import look_once_a_second
from snakemake.scheduling.job_scheduler import JobScheduler


class Scheduler(JobScheduler):
    """One that has nothing but what it waits at."""

    def __init__(self) -> None:
        self._open_jobs = threading.Semaphore(0)


def test_many_looks_start_one_timer() -> None:
    look_once_a_second()
    scheduler = Scheduler()
    for _ in range(50):
        scheduler._schedule_reevalutation(0.1)
    time.sleep(0.4)
    assert scheduler._open_jobs.acquire(blocking=False)
    assert not scheduler._open_jobs.acquire(blocking=False)


def test_the_next_look_starts_the_next_timer() -> None:
    look_once_a_second()
    scheduler = Scheduler()
    for _ in range(3):
        scheduler._schedule_reevalutation(0.05)
        assert scheduler._open_jobs.acquire(timeout=5)
