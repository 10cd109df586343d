"""What the paper prints in its tables (arXiv:2404.07840v3), digits as printed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """One printed number or setting; models, tasks, metrics, methods and settings bear this project's names.

    Empty is what a table does not tell apart.

    Attributes:
        table: table_1 ... table_13.
        task: a task, or `average` (the paper's own average, not always the mean of its rows).
        variant: `words.WHOLE`, or in Table 10 order_1, order_2, ...
        setting: as in the scores.
        measure: in Tables 5-9 the hyper-parameter as the paper calls it.
        value, std: the digits as printed; `std` is the number in brackets, empty where there is none.
    """

    table: str
    scenario: str
    model: str
    task: str
    metric: str
    method: str
    variant: str
    setting: str
    measure: str
    value: str
    std: str


def load_published() -> list[Published]:
    """Return every number of the paper's tables, in its order."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return [Published(**row) for row in csv.DictReader(file)]
