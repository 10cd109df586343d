"""The file of the orders in which labels are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet
from gptfluence.mislabels.rankings import SCHEMA, Ranking, checked_count, read_rankings, write_rankings

FLIPPED = np.array([True, False, False, True])
RANKINGS = {
    "loss": Ranking(np.array([2, 0, 3, 1]), np.array([0.9, 0.5, 0.5, 0.1])),
    "random_0": Ranking(np.array([3, 1, 0, 2])),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_rankings(tmp_path / "r.parquet", RANKINGS, FLIPPED, {"pool": 4})
    return tmp_path / "r.parquet"


def test_columns(path: Path) -> None:
    table = read_parquet(path)
    assert table.schema.remove_metadata() == SCHEMA
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows[:4] == [("loss", 0, 2, 0.9, False), ("loss", 1, 0, 0.5, True), ("loss", 2, 3, 0.5, True),
                        ("loss", 3, 1, 0.1, False)]  # fmt: skip
    assert rows[4:] == [("random_0", 0, 3, None, True), ("random_0", 1, 1, None, False), ("random_0", 2, 0, None, True),
                        ("random_0", 3, 2, None, False)]  # fmt: skip


def test_read_back_whatever_the_order_of_rows(path: Path) -> None:
    table = read_parquet(path)
    write_parquet(path, table.take(np.random.default_rng(1).permutation(len(table))), {})
    orders, flipped = read_rankings(path, 4)
    assert {name: order.tolist() for name, order in orders.items()} == {"loss": [2, 0, 3, 1], "random_0": [3, 1, 0, 2]}
    assert flipped.tolist() == FLIPPED.tolist()


def test_an_incomplete_order_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"r.parquet: the order of loss does not hold each place from 0 to 4 once"):
        read_rankings(path, 5)
    table = read_parquet(path)
    twice = pa.array([2, 0, 3, 1, 3, 1, 0, 0], pa.int32())
    write_parquet(path, table.set_column(2, "example", twice), {})
    with pytest.raises(UserError, match=r"the order of random_0 does not hold each example from 0 to 3 once"):
        read_rankings(path, 4)


def test_how_many_are_checked() -> None:
    assert [checked_count(fraction, 128) for fraction in (0.0, 0.1, 0.5, 1.0)] == [0, 13, 64, 128]
