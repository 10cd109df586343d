"""What results/scores/simulators.parquet says of variants, fewer and more runs, unseen data and schedules."""

from __future__ import annotations

from pathlib import Path

from gptfluence.io import read_parquet
from gptfluence.paper.averages import Rows
from gptfluence.paper.names import SETTINGS
from gptfluence.words import AVERAGE, SCHEDULE_SEEN, SCHEDULE_UNSEEN, WHOLE


def read_variants(path: str | Path) -> Rows:
    """Read the scores of methods and their variants on all fitting runs and seen data, where they have a value.

    They are averages over tasks.

    Raises:
        UserError: the file is missing or damaged.
    """
    return [row for row in read_variants_by_task(path) if row["task"] == AVERAGE]


def read_variants_by_task(path: str | Path) -> Rows:
    """Read the same of each task as well.

    Raises:
        UserError: the file is missing or damaged.
    """
    return [row for row in _read(path) if row["setting"] == "seen" and not row["varied"]]


def read_learning(path: str | Path) -> Rows:
    """Read the scores of methods on more or less of what they are fitted on, where they have a value: of held-out runs.

    Raises:
        UserError: the file is missing or damaged.
    """
    return [row for row in _read(path) if row["varied"] and row["setting"] in ("seen", "unseen_test")]


def read_unseen(path: str | Path) -> Rows:
    """Read the scores of methods on unseen training examples, tests, or both, where they have a value.

    They are averages over tasks.

    Raises:
        UserError: the file is missing or damaged.
    """
    rows = [row for row in _read(path) if row["setting"] in SETTINGS and row["setting"] != "seen"]
    return [row for row in rows if row["task"] == AVERAGE and row["variant"] == WHOLE and not row["varied"]]


def read_by_task(path: str | Path, settings: tuple[str, ...]) -> Rows:
    """Read the scores of methods and their variants in some settings on each task, where they have a value.

    Raises:
        UserError: the file is missing or damaged.
    """
    rows = [row for row in _read(path) if row["setting"] in settings and not row["varied"]]
    return [row for row in rows if row["task"] != AVERAGE]


def read_schedules(path: str | Path) -> Rows:
    """Read the scores of one fit under several schedules, averages over tasks, where they have a value.

    Raises:
        UserError: the file is missing or damaged.
    """
    rows = [row for row in _read(path) if row["setting"] in (SCHEDULE_SEEN, SCHEDULE_UNSEEN)]
    return [row for row in rows if row["task"] == AVERAGE]


def _read(path: str | Path) -> Rows:
    return [row for row in read_parquet(path).to_pylist() if row["value"] is not None]
