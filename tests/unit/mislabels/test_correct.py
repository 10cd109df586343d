"""Curricula of retrainings on corrected labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gptfluence.curricula.draw import draw_curriculum, read_curriculum, write_curriculum
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance
from gptfluence.mislabels.correct import correct_labels
from gptfluence.mislabels.rankings import Ranking, write_rankings

POOL = 12
ORDERS = {"loss": np.arange(POOL)[::-1], "random_0": np.random.default_rng(3).permutation(POOL)}


def run(number: int, ranking: str, fraction: float, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": f"r-{ranking}-{fraction}-{number}", "train_tasks": ["sst2_mislabelled"], "pool": "pool",
        "draw_seed": number, "order_seed": number, "draw": POOL, "first_example": 0, "pool_size": POOL, "batch": 4,
        "epochs": 2, "steps": 6, "ranking": ranking, "fraction": fraction, "curriculum": f"else/{number}-{ranking}.x",
    } | changes  # fmt: skip


def corrected(tmp_path: Path, *runs: dict[str, Any]) -> list[Path]:
    path = tmp_path / "rankings.parquet"
    write_rankings(path, {name: Ranking(order) for name, order in ORDERS.items()}, np.zeros(POOL, bool), {})
    correct_labels({"runs": list(runs), "ranking": str(path), "pool": POOL}, tmp_path / "curricula")
    return [tmp_path / "curricula" / Path(run["curriculum"]).name for run in runs]


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.25, 3), (1.0, 12)])
@pytest.mark.parametrize("ranking", ["loss", "random_0"])
def test_what_is_checked_first_is_replaced_and_nothing_else(
    tmp_path: Path, ranking: str, fraction: float, count: int
) -> None:
    row = run(5, ranking, fraction)
    (path,) = corrected(tmp_path, row)
    checked = set(ORDERS[ranking][:count].tolist())
    steps = read_curriculum(row, path)
    _, drawn = draw_curriculum(row)
    expected = [[("sst2_mislabelled", i + POOL if i in checked else i) for i in batch] for batch in drawn.tolist()]
    assert steps == expected
    assert sorted({example % POOL for batch in steps for _, example in batch}) == list(range(POOL))


def test_the_file_is_that_of_a_drawn_curriculum(tmp_path: Path) -> None:
    row = run(1, "loss", 0.5)
    (path,) = corrected(tmp_path, row)
    write_curriculum(row, *draw_curriculum(row), tmp_path / "drawn.parquet")
    found, drawn = read_parquet(path), read_parquet(tmp_path / "drawn.parquet")
    assert found.schema.remove_metadata() == drawn.schema.remove_metadata()
    assert found.drop(["example"]).equals(drawn.drop(["example"]))
    settings = read_provenance(tmp_path / "drawn.parquet")["settings"]
    assert read_provenance(path) == {
        "run_id": row["run_id"],
        "settings": settings | {"ranking": "loss", "fraction": 0.5},
    }


def test_the_same_bytes_and_no_other_files(tmp_path: Path) -> None:
    rows = [run(1, "loss", 0.5), run(2, "random_0", 0.5)]
    for name in ("a", "b"):
        corrected(tmp_path / name, *rows)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a" / "curricula").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b" / "curricula").iterdir()}
    assert sorted(files) == ["1-loss.x", "2-random_0.x"]


def test_an_unknown_ranking_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rankings.parquet: has no order 'los', which run r-los-0.5-1 needs"):
        corrected(tmp_path, run(1, "los", 0.5))


def test_a_plan_without_mislabelled_data_has_no_curricula(tmp_path: Path) -> None:
    correct_labels({"runs": [], "ranking": None, "pool": 4}, tmp_path / "curricula")
    assert not (tmp_path / "curricula").exists()
