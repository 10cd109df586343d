"""Runs that were trained again with other texts sampled, and what scores say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.scores.repeats import read_repeats
from gptfluence.scores.score import score_simulations
from trajectories import RUNS, SETTINGS, STEPS, Methods, write_simulations

TESTS = [("wmt16_de_en", 1), ("webnlg", 0), ("webnlg", 1), ("wmt16_de_en", 0), ("webnlg", 2)]
TASKS, SIZES = ("webnlg", "wmt16_de_en"), (3, 2)
IN_ORDER = [TESTS.index(test) for test in sorted(TESTS)]
REPEATED = ("g-03", "g-01")
SHAPE = (len(RUNS), STEPS + 1, len(TESTS))


def write_shard(folder: Path, run_id: str, losses: np.ndarray, bleu: np.ndarray) -> dict[str, Any]:
    """Write a run's shard from [steps + 1, tests] in the order of TESTS; return what a specification says of it."""
    step, test = (axis.ravel() for axis in np.indices(losses.shape, dtype=np.int32))
    table = pa.table(
        {
            "step": step,
            "task": [TESTS[n][0] for n in test],
            "example": pa.array([TESTS[n][1] for n in test], pa.int32()),
            "loss": losses.ravel().astype(np.float32),
            "bleu": bleu.ravel().astype(np.float32),
        }
    )
    path = folder / f"{run_id}.parquet"
    write_parquet(path, table, {"hash": f"hash of {run_id}"})
    return {"run_id": run_id, "shard": str(path), "hash": f"hash of {run_id}"}


@pytest.fixture
def again(methods: Methods) -> np.ndarray:
    """All runs' BLEU of other texts: [runs, steps + 1, tests]."""
    measured = methods["measured"][1]
    return (measured + np.random.default_rng(4).normal(0, 0.5, SHAPE)).astype(np.float32)


@pytest.fixture
def losses() -> np.ndarray:
    return np.random.default_rng(6).uniform(1, 2, SHAPE)


@pytest.fixture
def pairs(tmp_path: Path, methods: Methods, again: np.ndarray, losses: np.ndarray) -> list[list[dict[str, Any]]]:
    measured, rounding = methods["measured"][1], 1 + 1e-6 * np.random.default_rng(7).normal(size=SHAPE)
    return [
        [
            write_shard(tmp_path, name, losses[r], measured[r]),
            write_shard(tmp_path, f"{name}-repeat", losses[r] * rounding[r], again[r]),
        ]
        for name, r in ((name, RUNS.index(name)) for name in REPEATED)
    ]


def test_reads_runs_and_repeats_in_the_order_of_tests(
    pairs: list[list[dict[str, Any]]], methods: Methods, again: np.ndarray
) -> None:
    measured, repeated = read_repeats(pairs, "bleu", TASKS, SIZES)
    rows = [RUNS.index(name) for name in REPEATED]
    np.testing.assert_array_equal(measured, methods["measured"][1][rows][:, :, IN_ORDER])
    np.testing.assert_array_equal(repeated, again[rows][:, :, IN_ORDER])


def test_a_repeat_with_other_weights_is_named(
    tmp_path: Path, pairs: list[list[dict[str, Any]]], again: np.ndarray, losses: np.ndarray
) -> None:
    """The free check: its losses are those of its run."""
    r = RUNS.index("g-01")
    write_shard(tmp_path, "g-01-repeat", losses[r] + 0.01, again[r])
    with pytest.raises(UserError, match=r"g-01-repeat\.parquet: its losses differ .*g-01\.parquet by 0\.01 nats"):
        read_repeats(pairs, "bleu", TASKS, SIZES)
    write_shard(tmp_path, "g-01-repeat", losses[r, :-1], again[r, :-1])
    with pytest.raises(UserError, match=r"g-01-repeat\.parquet: its losses differ .* in length"):
        read_repeats(pairs, "bleu", TASKS, SIZES)


def score(folder: Path, methods: Methods, repeats: list[list[dict[str, Any]]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Score the file; return the rows by task, method, setting and measure."""
    write_simulations(folder / "g.bleu.parquet", methods, tests=TESTS)
    spec = {
        "groups": {"g": {"scenario": "fine_tuning", "model": "nano-0.2m", "runs": SETTINGS}},
        "files": [{"group": "g", "metric": "bleu", "path": str(folder / "g.bleu.parquet"), "repeats": repeats}],
        "bootstrap_samples": 200,
        "bootstrap_seed": 1,
        "confidence": 0.9,
    }
    score_simulations(spec, *(folder / name for name in ("scores.parquet", "curves.parquet", "m.json", "s.csv")))
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    return {tuple(row[name] for name in ("task", "method", "setting", "measure")): row for row in rows}


def test_scores_hold_the_ceiling_and_each_methods_share_of_it(
    tmp_path: Path, methods: Methods, pairs: list[list[dict[str, Any]]], again: np.ndarray
) -> None:
    rows = score(tmp_path, methods, pairs)
    measured, own, curve = (methods[name][1].astype(float) for name in ("measured", "simfluence", "mean_curve"))
    seen = [RUNS.index(name) for name in ("g-01", "g-02", "g-03")]
    twice = [RUNS.index(name) for name in REPEATED]
    web = [n for n, (task, _) in enumerate(TESTS) if task == "webnlg"]

    def error(a: np.ndarray, b: np.ndarray, runs: list[int], first: int) -> float:
        return float(np.mean([(a[r, first:, n] - b[r, first:, n]) ** 2 for r in runs for n in web]))

    noise = error(measured, again, twice, 1) / 2
    row = rows["webnlg", "ceiling", "seen", "all_steps_mse"]
    assert row["value"] == pytest.approx(noise) and (row["n_runs"], row["n_examples"]) == (2, 3)
    ceiling = 1 - noise / error(measured, curve, twice, 1)
    assert rows["webnlg", "ceiling", "seen", "skill"]["value"] == pytest.approx(ceiling)
    assert 0 < rows["webnlg", "ceiling", "seen", "skill"]["low"] < ceiling
    both = [array[twice, 1:][:, :, web].reshape(2, -1) for array in (measured, again)]
    both = [part - part.mean(axis=0) for part in both]
    alike = float(np.sum(both[0] * both[1]) / np.sqrt(np.sum(both[0] ** 2) * np.sum(both[1] ** 2)))
    found = rows["webnlg", "ceiling", "seen", "across_run_correlation"]["value"]
    assert found == pytest.approx(np.sqrt(alike))

    share = (1 - error(own, measured, seen, 1) / error(curve, measured, seen, 1)) / ceiling
    assert rows["webnlg", "simfluence", "seen", "explained_share"]["value"] == pytest.approx(share)
    assert rows["webnlg", "mean_curve", "seen", "explained_share"]["value"] == 0
    # Of the second order: noise, too, counts from step 2 on.
    share = 1 - error(own, measured, seen, 2) / error(curve, measured, seen, 2)
    share /= 1 - error(measured, again, twice, 2) / 2 / error(curve, measured, twice, 2)
    assert rows["webnlg", "order_2", "seen", "explained_share"]["value"] == pytest.approx(share)
    tasks = [rows[task, "simfluence", "seen", "explained_share"]["value"] for task in TASKS]
    assert rows["average", "simfluence", "seen", "explained_share"]["value"] == pytest.approx(np.mean(tasks))
    # Runs on unseen examples are not repeated.
    assert {key[2] for key in rows if key[1] == "ceiling" or key[3] == "explained_share"} == {"seen"}


def test_noise_that_hides_all_leaves_no_shares(
    tmp_path: Path, methods: Methods, pairs: list[list[dict[str, Any]]], losses: np.ndarray
) -> None:
    for name in REPEATED:
        r = RUNS.index(name)
        write_shard(tmp_path, f"{name}-repeat", losses[r], methods["measured"][1][r] + 9)
    rows = score(tmp_path, methods, pairs)
    assert rows["webnlg", "ceiling", "seen", "skill"]["value"] < 0
    for task in (*TASKS, "average"):
        share = rows[task, "simfluence", "seen", "explained_share"]
        assert share["value"] is share["low"] is share["high"] is None


def test_one_repeat_has_a_ceiling_without_an_interval_and_no_shares(
    tmp_path: Path, methods: Methods, pairs: list[list[dict[str, Any]]]
) -> None:
    rows = score(tmp_path, methods, pairs[:1])
    row = rows["webnlg", "ceiling", "seen", "skill"]
    assert row["value"] > 0 and row["low"] is None and row["n_runs"] == 1
    assert rows["webnlg", "simfluence", "seen", "explained_share"]["value"] is None
    assert rows["webnlg", "ceiling", "seen", "across_run_correlation"]["value"] is None
