"""The whole job on the small model, against a plain loop that keeps the weights of every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from gptfluence.attribution.replay import Reruns
from gptfluence.attribution.table_file import ScoreTables, read_table_file
from gptfluence.attribution.tables import attribute_examples
from gptfluence.attribution.texts import bm25, random_scores
from gptfluence.attribution.vectors import cosines
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet
from gptfluence.params import AttributionMethod
from unit.attribution.test_replay import Plain

FEATURES = "results/features/text.parquet"
OUTPUT, SECONDS = Path("results/attribution/tables/group.parquet"), Path("results/attribution/tables/group.json")
WITHOUT_MODEL = ["random", "length", "bm25", "encoder_cosine"]
METHODS = [method for method in get_args(AttributionMethod) if method != "ekfac"]
TASKS = ("yesno", "text")
TRAIN = [(task, False, example) for task in TASKS for example in range(24)]
TESTS = [(task, True, example) for task in TASKS for example in range(5)]


def job(gang: dict[str, Any], methods: list[str], **changes: Any) -> dict[str, Any]:
    """The spec of the scores of the gang's first run; its group's features are random numbers."""
    machine = ("memory_gb", "checkpoint_minutes")
    spec = {key: value for key, value in gang.items() if key not in machine}
    rows = []
    generator = np.random.default_rng(1)
    for task in TASKS:
        for row in read_parquet(gang["tasks"][task], ["part", "example", "format"]).to_pylist():
            rows.append({"task": task, **row, "vector": generator.normal(size=4).astype(np.float32)})
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([row.pop("vector") for row in rows])), 4)
    write_parquet(FEATURES, pa.Table.from_pylist(rows).append_column("vector", vectors), {})
    return spec | {
        "runs": gang["runs"][:1],
        "group": "group",
        "format": "instruction",
        "train_tasks": list(TASKS),
        "train_size": 24,
        "test_tasks": list(TASKS),
        "test_sizes": dict.fromkeys(TASKS, 5),
        "methods": methods,
        "features": FEATURES,
        "settings": {"checkpoints": 3, "parameters": "all", "projection": 4, "damping": 0.1, "seed": 1},
        **changes,
    }


def scores_of(spec: dict[str, Any]) -> ScoreTables:
    attribute_examples(spec, OUTPUT, SECONDS)
    return read_table_file(OUTPUT)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=3e-3, atol=1e-3 * np.abs(expected).mean())


# ----------------------------------------------------------------------------------------------------- all methods


def test_scores_equal_those_of_a_plain_loop(gang: dict[str, Any], model_folder: Path) -> None:
    """Six steps and three checkpoints, so they are before steps 0, 2 and 4; also what no run draws is scored."""
    found = scores_of(job(gang, ["tracin_cp", "grad_dot", "grad_cosine", "loss", "length"]))
    plain = Plain(gang, gang["runs"][0], model_folder)

    def products(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        train, tests = (plain.gradients(keys, plain.weights[step]).numpy() for keys in (TRAIN, TESTS))
        return train @ tests.T, np.linalg.norm(train, axis=1), np.linalg.norm(tests, axis=1)

    rates = [plain.rates[step] for step in (0, 2, 4)]
    near(found.scores["tracin_cp"], np.average([products(step)[0] for step in (0, 2, 4)], axis=0, weights=rates))
    last, of_train, of_tests = products(6)
    near(found.scores["grad_dot"], last)
    near(found.scores["grad_cosine"], last / np.outer(of_train, of_tests))
    with torch.no_grad():
        tokens = [plain._losses(key) for key in TRAIN]
    near(found.scores["loss"], np.repeat([[losses.mean()] for losses in tokens], 10, axis=1))
    np.testing.assert_array_equal(found.tokens, [len(losses) for losses in tokens])
    np.testing.assert_array_equal(found.scores["length"], np.repeat(found.tokens[:, None], 10, axis=1))


def test_texts_are_compared_in_the_groups_format(gang: dict[str, Any]) -> None:
    spec = job(gang, ["bm25", "encoder_cosine", "random"])
    found = scores_of(spec).scores
    texts, vectors = [], []
    for test in (False, True):
        rows = [(task, row) for task in TASKS for row in read_parquet(gang["tasks"][task]).to_pylist()]
        rows = [(task, row) for task, row in rows if (row["part"] == "test") == test and row["format"] == "instruction"]
        texts.append([f"{row['prompt']} {row['target']}" for _, row in rows])
        table = read_parquet(FEATURES).to_pylist()
        vectors.append([row["vector"] for row in table
                        if (row["part"] == "test") == test and row["format"] == "instruction"])  # fmt: skip
    np.testing.assert_array_equal(found["bm25"], bm25(*texts))
    np.testing.assert_allclose(found["encoder_cosine"], cosines(*map(np.array, vectors)), rtol=1e-5)
    np.testing.assert_array_equal(found["random"], random_scores(48, 10, 1))


@pytest.mark.slow
def test_all_methods_twice_give_equal_bytes(gang: dict[str, Any]) -> None:
    spec = job(gang, METHODS)
    found = scores_of(spec)
    first = OUTPUT.read_bytes()
    assert list(found.scores) == METHODS
    for method, scores in found.scores.items():
        assert scores.shape == (48, 10) and np.isfinite(scores).all(), method
        assert len(np.unique(scores.round(6))) > 1, method
    for one in METHODS:
        for other in METHODS:
            if one < other:
                assert not np.allclose(found.scores[one], found.scores[other]), (one, other)
    seconds = json.loads(SECONDS.read_text())
    assert sorted(seconds) == sorted(METHODS) and all(value >= 0 for value in seconds.values())
    made = read_provenance(OUTPUT)
    run = spec["runs"][0]
    assert made["run"] == {"run_id": "run-1", "hash": run["hash"]}
    assert (made["group"], made["methods"], made["settings"]) == ("group", METHODS, spec["settings"])
    table = read_parquet(OUTPUT)
    keys = list(zip(*(table[name].to_pylist() for name in ("method", "task", "example")), strict=True))
    assert keys == [(method, task, example) for method in METHODS for task, _, example in TRAIN]
    attribute_examples(spec, OUTPUT, SECONDS)
    assert OUTPUT.read_bytes() == first


@pytest.mark.slow
def test_what_is_read_in_one_go_does_not_count(gang: dict[str, Any]) -> None:
    one = scores_of(job(gang, METHODS)).scores
    other = scores_of(job(gang, METHODS, evaluation_tokens=4096)).scores
    for method in METHODS:
        scale = np.abs(one[method]).max()
        np.testing.assert_allclose(other[method], one[method], atol=5e-3 * scale, err_msg=method)


def test_a_method_scores_the_same_among_others(gang: dict[str, Any]) -> None:
    """What methods share is made once; what nobody asked for is not."""
    some = ["grad_cosine", "less", "trackstar_no_correction", "length"]
    together = scores_of(job(gang, some)).scores
    assert list(together) == some
    for method in some:
        alone = scores_of(job(gang, [method])).scores
        assert list(alone) == [method] == list(json.loads(SECONDS.read_text()))
        np.testing.assert_array_equal(alone[method], together[method], err_msg=method)


def test_methods_without_a_model_train_nothing(gang: dict[str, Any]) -> None:
    """A run of a million steps would not end."""
    run = gang["runs"][0] | {"steps": 10**6}
    assert list(scores_of(job(gang, WITHOUT_MODEL, runs=[run])).scores) == WITHOUT_MODEL


def test_ekfac_is_of_the_runs_end(gang: dict[str, Any]) -> None:
    pytest.importorskip("kronfluence")
    from gptfluence.attribution.ekfac import ekfac_scores

    spec = job(gang, ["ekfac"])
    run = spec["runs"][0]
    reruns = Reruns(spec | {"runs": [run, run | {"pool": "unseen_pool"}]})
    rerun = reruns.start(run)
    for _ in range(6):
        rerun.update()
    train = [reruns.inputs.train[task, example] for task, _, example in TRAIN]
    model = rerun.training.model.eval()
    expected = ekfac_scores(model, train, reruns.inputs.test_examples, {"damping": 0.1, "seed": 1})
    near(scores_of(spec).scores["ekfac"], expected)


# --------------------------------------------------------------------------------------------------------- adapters


def test_adapters_have_scores_of_their_own(gang: dict[str, Any]) -> None:
    lora = {"rank": 2, "alpha": 8, "dropout": 0.0, "targets": ["query_key_value", "dense"]}
    methods = ["grad_dot", "less", "trackstar"]
    plain = scores_of(job(gang, methods)).scores
    found = scores_of(job(gang, methods, model=gang["model"] | {"lora": lora})).scores
    for method in methods:
        assert np.isfinite(found[method]).all() and not np.allclose(found[method], plain[method], rtol=0.01)


def test_linear_leaves_out_the_embedding(gang: dict[str, Any]) -> None:
    spec = job(gang, ["grad_dot"])
    whole = scores_of(spec).scores["grad_dot"]
    linear = scores_of(spec | {"settings": spec["settings"] | {"parameters": "linear"}}).scores["grad_dot"]
    assert not np.allclose(whole, linear, rtol=0.01)


# ------------------------------------------------------------------------------------------------------------ errors


def test_where_a_run_diverges_method_and_example_are_named(gang: dict[str, Any]) -> None:
    run = gang["runs"][0] | {"learning_rate": 1e30}
    for method, side in (("grad_dot", "test "), ("less", ""), ("trackstar", "")):
        with pytest.raises(UserError, match=rf"^group: {method}: {side}example \d+: its loss is not finite"):
            scores_of(job(gang, [method], runs=[run]))
    for method in ("loss", "tail_patch"):
        with pytest.raises(UserError, match=rf"^group: {method} of training example 0 on test 0 is nan"):
            scores_of(job(gang, [method], runs=[run]))
    assert not OUTPUT.exists()


def test_missing_inputs_are_named(gang: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"none\.parquet"):
        scores_of(job(gang, ["encoder_cosine"], features="none.parquet"))
    Path(gang["runs"][0]["curriculum"]).unlink()
    with pytest.raises(UserError, match="curricula"):
        scores_of(job(gang, ["grad_dot"]))
