"""judge_mislabels on small rankings and shards, against counting by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet
from gptfluence.mislabels.rankings import Ranking, write_rankings
from gptfluence.scores.mislabels import SCHEMA, judge_mislabels

POOL, TESTS, TASK = 10, 4, "sst2"
TEST_TASK = "sst2_mislabelled"
FLIPPED = np.isin(np.arange(POOL), [1, 4, 5, 8])
ORDERS = {
    "gptfluence": [1, 4, 5, 8, 0, 2, 3, 6, 7, 9],  # all wrong ones first
    "loss": [9, 7, 6, 3, 2, 0, 8, 5, 4, 1],  # all last
    "random_0": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    "random_1": [5, 0, 8, 2, 4, 6, 3, 1, 7, 9],
}


def write_shard(path: Path, hash_: str, right: list[bool]) -> None:
    """Two steps; at the last one the true label has the lower loss where `right` says so, at the first elsewhere."""
    last = np.array([[0.2, 0.7] if is_right else [0.7, 0.2] for is_right in right]).ravel()
    losses = np.stack([1 - last, last])
    step, example = (axis.ravel() for axis in np.indices(losses.shape, dtype=np.int32))
    table = pa.table({"step": step, "task": pa.array([TEST_TASK] * len(step)).dictionary_encode(), "example": example,
                      "loss": losses.ravel().astype(np.float32)})  # fmt: skip
    write_parquet(path, table, {"hash": hash_})


def run(tmp_path: Path, split: str, number: int, right: list[bool], ranking: str = "", fraction: float = 0.0) -> dict:
    run_id = f"{split}-{ranking}-{fraction}-{number}"
    row = {"run_id": run_id, "split": split, "ranking": ranking, "fraction": fraction, "hash": f"hash of {run_id}"}
    write_shard(tmp_path / run_id, row["hash"], right)
    return row | {"shard": str(tmp_path / run_id)}


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    orders = {name: Ranking(np.array(order)) for name, order in ORDERS.items()}
    write_rankings(tmp_path / "rankings", orders, FLIPPED, {})
    rng = np.random.default_rng(1)
    runs = [run(tmp_path, "noisy", i, right) for i, right in enumerate([[1, 0, 0, 0], [1, 1, 1, 0]])]
    for ranking, fraction, number in product(ORDERS, (0.2, 0.5), range(2)):
        runs.append(run(tmp_path, "corrected", number, rng.random(TESTS) < 0.6, ranking, fraction))
    return {"model": "nano", "task": TASK, "test_task": TEST_TASK, "pool": POOL, "test_size": TESTS,
            "ranking": str(tmp_path / "rankings"), "runs": runs, "code": "0"}  # fmt: skip


def judged(tmp_path: Path, spec: dict[str, Any]) -> dict[tuple[str, str, float | None], tuple]:
    judge_mislabels(spec, tmp_path / "scores.parquet")
    table = read_parquet(tmp_path / "scores.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    rows = table.to_pylist()
    assert {(row["model"], row["task"]) for row in rows} == {("nano", TASK)}
    found = {(r["measure"], r["method"], r["fraction"]): (r["value"], r["std"], r["n"]) for r in rows}
    assert len(found) == len(rows)
    return found


def test_found_is_the_share_of_the_wrong_labels_that_are_checked(tmp_path: Path, spec: dict[str, Any]) -> None:
    found = judged(tmp_path, spec)
    for fraction, count in ((0.0, 0), (0.2, 2), (0.5, 5)):
        for method in ("gptfluence", "loss"):
            share = len({1, 4, 5, 8} & set(ORDERS[method][:count])) / 4
            assert found["found", method, fraction] == (share, None, 1)
        shares = [len({1, 4, 5, 8} & set(ORDERS[f"random_{i}"][:count])) / 4 for i in range(2)]
        assert found["found", "random", fraction] == (np.mean(shares), np.std(shares, ddof=1), 2)
    assert found["found", "gptfluence", 0.5][0] == 1.0 and found["found", "loss", 0.5][0] == 0.0


def test_auc_is_the_share_of_pairs_in_the_right_order(tmp_path: Path, spec: dict[str, Any]) -> None:
    found = judged(tmp_path, spec)

    def auc(order: list[int]) -> float:
        pairs = [
            (order.index(w), order.index(r)) for w in range(POOL) if FLIPPED[w] for r in range(POOL) if not FLIPPED[r]
        ]
        return float(np.mean([wrong < right for wrong, right in pairs]))

    assert found["auc", "gptfluence", None] == (1.0, None, 1)
    assert found["auc", "loss", None] == (0.0, None, 1)
    each = [auc(ORDERS[f"random_{i}"]) for i in range(2)]
    assert found["auc", "random", None] == pytest.approx((np.mean(each), np.std(each, ddof=1), 2))


def test_accuracy_is_that_of_the_last_step_over_the_retrainings(tmp_path: Path, spec: dict[str, Any]) -> None:
    found = judged(tmp_path, spec)
    for method in ("gptfluence", "loss", "random"):  # without corrections, all are the same
        assert found["accuracy", method, 0.0] == pytest.approx((0.5, np.std([0.25, 0.75], ddof=1), 2))
        for fraction in (0.2, 0.5):
            own = [r for r in spec["runs"] if r["ranking"].split("_")[0] == method and r["fraction"] == fraction]
            values = []
            for row in own:
                losses = read_parquet(row["shard"])["loss"].to_numpy().reshape(2, TESTS, 2)[1]
                values.append(np.mean([true < other for true, other in losses]))
            assert len(values) == (4 if method == "random" else 2)
            expected = np.mean(values), np.std(values, ddof=1), len(values)
            assert found["accuracy", method, fraction] == pytest.approx(expected)
    measured = {key[:2] for key in found}
    assert measured == set(product(("found", "accuracy", "auc"), ("gptfluence", "loss", "random")))


def test_equal_losses_are_no_answer(tmp_path: Path, spec: dict[str, Any]) -> None:
    row = spec["runs"][0]
    table = read_parquet(row["shard"])
    write_parquet(
        row["shard"], table.set_column(3, "loss", pa.array([0.5] * len(table), pa.float32())), {"hash": row["hash"]}
    )
    one = spec | {"runs": [row]}
    assert judged(tmp_path, one)["accuracy", "loss", 0.0] == (0.0, None, 1)


def test_the_same_bytes(tmp_path: Path, spec: dict[str, Any]) -> None:
    for name in ("a", "b"):
        judge_mislabels(spec, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_plan_without_mislabelled_data_has_a_file_without_rows(tmp_path: Path) -> None:
    judge_mislabels({"runs": [], "code": "0"}, tmp_path / "scores.parquet")
    table = read_parquet(tmp_path / "scores.parquet")
    assert table.num_rows == 0 and table.schema.remove_metadata() == SCHEMA


def test_a_shard_of_another_plan_or_that_diverged_is_named(tmp_path: Path, spec: dict[str, Any]) -> None:
    row = spec["runs"][0]
    with pytest.raises(UserError, match=f"noisy--0.0-0: records hash {row['hash']}, but the plan's run"):
        judge_mislabels(spec | {"runs": [row | {"hash": "another"}]}, tmp_path / "scores.parquet")
    table = read_parquet(row["shard"])
    write_parquet(
        row["shard"], table.set_column(3, "loss", pa.array([np.nan] * len(table), pa.float32())), {"hash": row["hash"]}
    )
    with pytest.raises(UserError, match="loss is nan at step 1: not measured, or the model diverged"):
        judge_mislabels(spec, tmp_path / "scores.parquet")
    assert not (tmp_path / "scores.parquet").exists()
