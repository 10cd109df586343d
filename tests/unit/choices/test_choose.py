"""Choices of a small made-up group: what they are made of, and what they do not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.attribution.kernel_file import KernelFile, read_kernel_file, write_kernel_file
from gptfluence.attribution.table_file import ScoreTables, read_table_file, write_table_file
from gptfluence.choices.choices_file import Chosen, read_choices
from gptfluence.choices.choose import choose_data
from gptfluence.choices.named import halve
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet
from gptfluence.simulators.base import Curricula
from gptfluence.simulators.data import load_group
from gptfluence.simulators.registry import make_method
from synthetic import METHOD_SETTINGS, chosen_runs, write_group

POOL, BUDGET, TESTS = 4, 2, 3
FILES = ("features", "table", "kernels")


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    group = chosen_runs(write_group(tmp_path), "fit", "validate")
    none = dict.fromkeys(FILES)
    rows = [{"part": part, "example": i, "format": form, "target": f"{part} {i}" if form == "plain" else "same"}
            for part, count in (("pool", POOL), ("test", TESTS)) for i in range(count)
            for form in ("plain", "instruction")]  # fmt: skip
    write_parquet(tmp_path / "task.parquet", pa.Table.from_pylist(rows), {})
    simulators = {
        "gradient_response": none | {"kernels": group["kernels"]},
        "gptfluence": none | {"features": group["features"]},
    }
    return {key: value for key, value in group.items() if key not in ("features", "kernels")} | {
        "simulators": {name: files | {"settings": METHOD_SETTINGS[name]} for name, files in simulators.items()},
        "test_tasks": ["b_task"], "scores": ["grad_dot"], "pool": POOL, "budget": BUDGET, "splits": 2, "random": 3,
        "task_file": str(tmp_path / "task.parquet"),
    }  # fmt: skip


def choose(spec: dict[str, Any], path: Path) -> dict[str, Chosen]:
    choose_data(spec, path)
    return read_choices(path)


def test_every_choice_is_a_curriculum_of_the_budget(spec: dict[str, Any], tmp_path: Path) -> None:
    found = choose(spec, tmp_path / "choices.parquet")
    assert len(found) == 2 * 2 * (2 * 2 + 1) + 3
    for name, chosen in found.items():
        assert chosen.examples.shape == (8, 2) and chosen.examples.max() < POOL
        assert len(np.unique(chosen.examples)) == BUDGET
        assert all(len(set(batch)) == 2 for batch in chosen.examples.tolist())
        by_simulator = chosen.choice.method in spec["simulators"]
        assert (chosen.predicted is not None) == (chosen.predicted_random is not None) == by_simulator
        if chosen.choice.method == "random":
            assert len(chosen.target) == 0
        else:
            halves = halve("g", chosen.choice.split, np.zeros(TESTS, np.int64))
            assert chosen.target.tolist() == halves[chosen.choice.half].tolist(), name
    assert len({found[f"random-{i}"].examples.tobytes() for i in (1, 2, 3)}) == 3
    assert read_provenance(tmp_path / "choices.parquet")["simulators"] == ["gradient_response", "gptfluence"]


def test_scores_choose_the_highest_means_over_the_target_half(spec: dict[str, Any], tmp_path: Path) -> None:
    table = read_table_file(spec["table"]).scores["grad_dot"]
    found = choose(spec, tmp_path / "choices.parquet")
    for chosen in (chosen for chosen in found.values() if chosen.choice.method == "grad_dot"):
        means = [np.mean([table[i, z] for z in chosen.target]) for i in range(POOL)]
        best = sorted(sorted(range(POOL), key=lambda i: -means[i])[:BUDGET])
        assert np.unique(chosen.examples).tolist() == best


def test_random_order_has_the_simulators_examples(spec: dict[str, Any], tmp_path: Path) -> None:
    found = choose(spec, tmp_path / "choices.parquet")
    differ = 0
    for name in spec["simulators"]:
        for where in ("1a", "1b", "2a", "2b"):
            ordered, loose = (found[f"{name}-{order}-{where}"] for order in ("chosen", "random"))
            assert np.unique(ordered.examples).tolist() == np.unique(loose.examples).tolist()
            assert ordered.predicted is not None and loose.predicted is not None
            assert ordered.predicted <= loose.predicted + 1e-12
            differ += ordered.examples.tolist() != loose.examples.tolist()
    assert differ


def test_predictions_are_of_a_simulator_that_is_fitted_on_the_target_half(spec: dict[str, Any], tmp_path: Path) -> None:
    found = choose(spec, tmp_path / "choices.parquet")
    chosen = found["gptfluence-chosen-1b"]
    data = load_group(spec | {"features": spec["simulators"]["gptfluence"]["features"]})
    simulator = make_method("gptfluence", METHOD_SETTINGS["gptfluence"])
    dynamics = type(data.dynamics)(data.dynamics.values[..., chosen.target], data.dynamics.validate)
    simulator.fit(dynamics, data.curricula, data.features.of_tests(chosen.target))
    first = dynamics.values[~dynamics.validate, :2].mean(axis=0)[None]

    def predict(examples: np.ndarray) -> float:
        return float(simulator.simulate(Curricula(examples[None], data.curricula.rates[:1]), first)[0, -1].mean())

    assert chosen.predicted == pytest.approx(predict(chosen.examples))
    random = [predict(found[f"random-{i}"].examples) for i in (1, 2, 3)]
    assert chosen.predicted_random == pytest.approx(np.mean(random))


def test_nothing_of_the_judging_half_is_seen(spec: dict[str, Any], tmp_path: Path) -> None:
    """Other losses, kernels and scores of the judging half: the same choices and predictions for the target half."""
    before = choose(spec, tmp_path / "before.parquet")
    target, judging = halve("g", 1, np.zeros(TESTS, np.int64))
    rng = np.random.default_rng(9)
    for run in spec["runs"]:
        table, provenance = read_parquet(run["shard"]), read_provenance(run["shard"])
        losses = [rng.uniform(5, 9) if row["task"] == "b_task" and row["example"] in judging else row["loss"]
                  for row in table.to_pylist()]  # fmt: skip
        place = table.schema.get_field_index("loss")
        write_parquet(run["shard"], table.set_column(place, "loss", pa.array(losses, pa.float32())), provenance)
    kernels = spec["simulators"]["gradient_response"]["kernels"]
    content, provenance = read_kernel_file(kernels)
    for values in content.kernels.values():
        values[..., judging] = rng.normal(size=values[..., judging].shape)
    write_kernel_file(kernels, KernelFile(*content), provenance)
    scores = read_table_file(spec["table"])
    scores.scores["grad_dot"] = scores.scores["grad_dot"].copy()
    scores.scores["grad_dot"][:, judging] = rng.normal(size=(12, len(judging)))
    train = [(task, i) for task in spec["train_tasks"] for i in range(6)]
    written = ScoreTables(scores.tokens, scores.scores)
    write_table_file(spec["table"], train, written, {"test_tasks": ["b_task", "a_task"]})
    after = choose(spec, tmp_path / "after.parquet")
    other = 0
    for name, chosen in before.items():
        if (chosen.choice.split, chosen.choice.half) == (1, 0):
            assert chosen.target.tolist() == target.tolist()
            assert after[name].examples.tolist() == chosen.examples.tolist(), name
            if chosen.choice.method == "gradient_response":
                assert after[name].predicted == chosen.predicted
        other += after[name].examples.tolist() != chosen.examples.tolist()
    assert other  # what was chosen for the other half is not the same


def test_the_same_bytes(spec: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        choose_data(spec, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_simulators_alone_need_no_table(spec: dict[str, Any], tmp_path: Path) -> None:
    found = choose(spec | {"scores": [], "table": None}, tmp_path / "choices.parquet")
    assert {chosen.choice.method for chosen in found.values()} == {"random", *spec["simulators"]}


def test_a_table_without_a_method_is_named(spec: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scores.parquet: has no scores of less"):
        choose_data(spec | {"scores": ["grad_dot", "less"]}, tmp_path / "choices.parquet")


def test_another_file_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="holds no choices"):
        read_choices(spec["table"])
