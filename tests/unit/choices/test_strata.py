"""Strata of examples with the same targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.choices.strata import read_targets, share_out, stratify
from gptfluence.errors import UserError
from gptfluence.io import write_parquet


def test_labels_are_strata_and_texts_are_not() -> None:
    assert stratify(["yes", "no", "no", "yes"], 2).tolist() == [1, 0, 0, 1]
    assert stratify(["yes", "no", "maybe", "yes"], 2).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "budget", "quotas"),
    [((5, 5), 4, [2, 2]), ((7, 3), 5, [4, 1]), ((1, 9), 2, [0, 2]), ((4, 4, 4), 4, [2, 1, 1]), ((9,), 4, [4])],
)
def test_shares_are_rounded_to_the_budget(sizes: tuple[int, ...], budget: int, quotas: list[int]) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    assert share_out(strata, budget).tolist() == quotas


def test_targets_stand_by_number(tmp_path: Path) -> None:
    rows = [{"part": part, "example": i, "format": form, "target": f"{part} {form} {i}"}
            for i in (2, 0, 1) for part in ("pool", "unseen_pool", "test")
            for form in ("plain", "instruction")]  # fmt: skip
    write_parquet(tmp_path / "task.parquet", pa.Table.from_pylist(rows), {})
    assert read_targets(tmp_path / "task.parquet", "plain", "pool", 3) == [f"pool plain {i}" for i in range(3)]
    with pytest.raises(UserError, match=r"task.parquet: does not hold 4 examples of part test"):
        read_targets(tmp_path / "task.parquet", "plain", "test", 4)
