"""How many runs there are, and what the jobs took that made everything, where that is recorded."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from gptfluence.paper.names import SCENARIOS
from gptfluence.report.grid import NONE, Grid, section_grid

BENCHMARKS = Path("results/benchmarks")
"""Where Snakemake notes what each job took, a folder for each rule."""

SPLITS = ("fit", "validate", "held_out", "unseen", "repeat", "subset", "noisy", "corrected", "chosen")
"""What runs are for, in the order of the columns."""


class Cost(NamedTuple):
    """What some jobs took.

    Attributes:
        jobs: that are recorded.
        cpu, wall: their CPU seconds and seconds, in sum.
        memory: the most that any of them held, MB.
    """

    jobs: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    memory: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """Return both together."""
        return Cost(self.jobs + other.jobs, self.cpu + other.cpu, self.wall + other.wall,
                    max(self.memory, other.memory))  # fmt: skip


def count_runs(gangs: list[dict[str, Any]]) -> Grid:
    """Return how many runs the plan has, by scenario, model and purpose."""
    counts = Counter((gang["scenario"], gang["model"], run["split"]) for gang in gangs for run in gang["runs"])
    found_splits = {key[2] for key in counts}
    splits = [*(split for split in SPLITS if split in found_splits), *sorted(found_splits - {*SPLITS})]
    rows = []
    for scenario, model in dict.fromkeys(key[:2] for key in counts):
        found = [counts[scenario, model, split] for split in splits]
        rows.append((SCENARIOS.get(scenario, scenario), model, *(f"{n:,}" if n else NONE for n in found),
                     f"{sum(found):,}"))  # fmt: skip
    totals = [sum(n for key, n in counts.items() if key[2] == split) for split in splits]
    rows.append(("all", "", *(f"{n:,}" for n in totals), f"{sum(totals):,}"))
    heads = (*(split.replace("_", " ") for split in splits), "all")
    return section_grid("GPTs that were trained, by purpose", ("Scenario", "Model"), heads, rows)


def cost_grid(gangs: list[dict[str, Any]], devices: dict[str, str], jobs: dict[str, list[str]]) -> Grid:
    """Return what training took by scenario and model, and what every other kind of job did.

    Args:
        devices: model -> gpu or cpu.
        jobs: rule -> names of its jobs' benchmarks, of the rules that have them.
    """
    rows = []
    trained: dict[tuple[str, str], list[str]] = {}
    for gang in gangs:
        trained.setdefault((gang["scenario"], gang["model"]), []).append(gang["name"])
    for (scenario, model), names in trained.items():
        label = f"{SCENARIOS.get(scenario, scenario)}, {model}"
        rows.append(_line("training GPTs", label, devices[model], "train_runs", names))
    for rule, names in jobs.items():
        if names:
            rows.append(_line("other jobs", rule.replace("_", " "), NONE, rule, names))
    heads = ("Device", "Jobs recorded", "CPU seconds", "Seconds", "Most memory, MB")
    return section_grid("What jobs took, as Snakemake noted it", ("Stage", "What"), heads, rows)


def _line(stage: str, label: str, device: str, rule: str, names: list[str]) -> tuple[str, ...]:
    cost = Cost()
    for name in names:
        cost = cost.plus(read_cost(BENCHMARKS / rule / f"{name}.tsv"))
    measured = (f"{cost.cpu:,.0f}", f"{cost.wall:,.0f}", f"{cost.memory:,.0f}") if cost.jobs else (NONE, NONE, NONE)
    return stage, label, device, f"{cost.jobs:,} of {len(names):,}", *measured


def read_cost(path: Path) -> Cost:
    """Read what Snakemake noted of a job; nothing where it did not, or the file is no such note."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        values = [{name: float(row[name]) for name in ("s", "cpu_time", "max_rss")} for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return Cost()
    if not values or not all(math.isfinite(value) for row in values for value in row.values()):
        return Cost()
    return Cost(1, sum(row["cpu_time"] for row in values), sum(row["s"] for row in values),
                max(row["max_rss"] for row in values))  # fmt: skip
