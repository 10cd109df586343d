"""Curricula of runs on chosen data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gptfluence.choices.choices_file import Chosen, write_choices
from gptfluence.choices.curricula import write_chosen
from gptfluence.choices.named import Choice
from gptfluence.curricula.draw import read_curriculum
from gptfluence.errors import UserError
from gptfluence.io import read_provenance

EXAMPLES = np.array([[3, 0], [1, 2], [2, 3], [0, 1]])


def run(choice: str, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": f"g-chosen-{choice}", "group": "g", "train_tasks": ["rte"], "pool": "pool", "draw_seed": 1,
        "order_seed": 1, "draw": 4, "batch": 2, "epochs": 2, "steps": 4, "ranking": choice,
        "curriculum": f"else/{choice}.parquet",
    } | changes  # fmt: skip


def write(folder: Path, *runs: dict[str, Any]) -> Path:
    chosen = [Chosen(Choice(f"less-random-1{half}", "less", "random", 1, i), np.array([i]), EXAMPLES[:: 1 - 2 * i])
              for i, half in enumerate("ab")]  # fmt: skip
    write_choices(folder / "choices.parquet", chosen, {})
    write_chosen({"runs": list(runs), "choices": {"g": str(folder / "choices.parquet")}}, folder / "curricula")
    return folder / "curricula"


def test_a_run_trains_on_its_choice(tmp_path: Path) -> None:
    rows = [run("less-random-1a"), run("less-random-1b")]
    folder = write(tmp_path, *rows)
    for row, examples in zip(rows, (EXAMPLES, EXAMPLES[::-1]), strict=True):
        path = folder / f"{row['ranking']}.parquet"
        assert read_curriculum(row, path) == [[("rte", i) for i in batch] for batch in examples.tolist()]
        assert read_provenance(path)["settings"]["choice"] == row["ranking"]


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"choices.parquet: has no choice 'less', which run g-chosen-less needs"):
        write(tmp_path, run("less"))
    with pytest.raises(UserError, match=r"choices.parquet: less-random-1a is no curriculum of 5 batches of 2"):
        write(tmp_path, run("less-random-1a", steps=5))


def test_a_plan_without_choices_has_no_curricula(tmp_path: Path) -> None:
    write_chosen({"runs": [], "choices": {}}, tmp_path / "curricula")
    assert not (tmp_path / "curricula").exists()
