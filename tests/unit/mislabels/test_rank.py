"""Orders in which labels are checked: each against what it is said to be, computed another way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from gptfluence.attribution.replay import Reruns, self_influence
from gptfluence.curricula.draw import draw_curricula
from gptfluence.design import Run
from gptfluence.dynamics.pretrain import make_config, train_tokenizer
from gptfluence.dynamics.train import train_runs
from gptfluence.errors import UserError
from gptfluence.identity import DYNAMICS_CODE, code_digest
from gptfluence.io import digest, read_parquet, write_parquet
from gptfluence.mislabels.rank import end_losses, flipped_labels, rank_mislabels, self_factors
from gptfluence.mislabels.rankings import read_rankings
from gptfluence.simulators.base import UNBOUNDED, Curricula, Dynamics, Features
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.fit import fit_simulator
from transformers import GPTNeoXForCausalLM

POOL, TASK = 8, "sst2_mislabelled"
FLIPPED = np.isin(np.arange(POOL), [1, 6, 7])
WORDS = ["the", "a", "film", "town", "dish", "bakes", "sells", "dull", "old", "fine", "bread", "boats", "of", "in"]
BILINEAR = {"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", "aggregation": "mean",
            "shrink_to": "persistence", "strengths": [0.1, 10.0]}  # fmt: skip


def write_task(path: Path) -> None:
    """A pool whose labels are words; its noisy examples are the tests too."""
    generator = random.Random(2)
    prompts = [" ".join(generator.choice(WORDS) for _ in range(generator.randint(3, 9))) for _ in range(POOL)]
    true = [generator.choice(["positive", "negative"]) for _ in range(POOL)]
    other = {"positive": "negative", "negative": "positive"}
    noisy = [other[label] if wrong else label for label, wrong in zip(true, FLIPPED, strict=True)]
    numbered = [("pool", i, prompts[i % POOL], (noisy + true)[i]) for i in range(2 * POOL)]
    numbered += [("test", i, prompts[i], noisy[i]) for i in range(POOL)]
    rows = [
        {
            "part": part,
            "example": i,
            "format": form,
            "prompt": prompt,
            "target": label,
            "references": [label],
            "facts": [],
        }
        for part, i, prompt, label in numbered
        for form in ("plain", "instruction")
    ]
    write_parquet(path, pa.Table.from_pylist(rows), {"task": TASK})


def write_features(path: Path) -> None:
    vectors = np.random.default_rng(4).normal(size=(3 * POOL, 5)).astype(np.float32)
    part = ["pool"] * 2 * POOL + ["test"] * POOL
    table = pa.table(
        {
            "task": pa.array([TASK] * len(part)).dictionary_encode(),
            "part": pa.array(part).dictionary_encode(),
            "example": pa.array([*range(2 * POOL), *range(POOL)], pa.int32()),
            "format": pa.array(["plain"] * len(part)).dictionary_encode(),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 5),
        }
    )
    write_parquet(path, table, {})


def make_run(number: int, split: str, draw: int) -> dict[str, Any]:
    return Run(
        run_id=f"{split}-{number}", group="group", gang="gang", scenario="fine_tuning", model="tiny",
        train_tasks=(TASK,), test_tasks=(TASK,), pool="pool", split=split, seed=number, draw_seed=number,
        order_seed=number, init_seed=number, generation_seed=number, draw=draw, first_example=0, pool_size=POOL,
        batch=2, epochs=2, steps=draw, learning_rate=3e-3, hash=digest([split, number]), curriculum_hash="ba9876543210",
    ).row()  # fmt: skip


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ranks the labels of a tiny GPT's task: its runs are trained, its simulator fitted."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_task(folder / "task.parquet")
        write_features(folder / "features.parquet")
        generator = random.Random(1)
        tokenizer = train_tokenizer([" ".join(generator.choices(WORDS, k=12)) for _ in range(200)], 320)
        torch.manual_seed(1)
        GPTNeoXForCausalLM(
            make_config({"layers": 2, "width": 32, "heads": 2, "max_length": 96}, len(tokenizer))
        ).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        runs = [make_run(1, "fit", 4), make_run(2, "fit", 4), make_run(3, "validate", 4), make_run(1, "noisy", POOL)]
        runs = [run | {key: str(folder / run[key]) for key in ("shard", "curriculum")} for run in runs]
        gang = {
            "model": {"source": "folder", "path": str(folder / "model"), "max_length": 96, "lora": None},
            "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.001},
            "generation": {"top_p": 0.95, "temperature": 0.2, "max_new_tokens": 12, "batch_tokens": 4096},
            "evaluation_tokens": 128, "precision": "fp32", "compile": False, "memory_gb": 2.0,
            "checkpoint_minutes": 10.0, "tasks": {TASK: str(folder / "task.parquet")}, "metrics": {TASK: ["loss"]},
            "runs": runs, "code": code_digest(*DYNAMICS_CODE),
        }  # fmt: skip
        draw_curricula(gang, Path(runs[0]["curriculum"]).parent)
        train_runs(gang, folder / "manifest.json")
        group = {"format": "plain", "train_tasks": [TASK], "train_size": 2 * POOL, "test_tasks": [TASK],
                 "test_sizes": {TASK: POOL}, "features": str(folder / "features.parquet")}  # fmt: skip
        fit = group | {"group": "group", "scenario": "fine_tuning", "model": "tiny", "metric": "loss"}
        fit |= {"method": "gptfluence", "settings": BILINEAR, "runs": runs[:3]}
        fit_simulator(fit, folder / "simulator.safetensors")
        fit_simulator(fit | {"method": "mean_curve", "settings": {"kind": "mean_curve"}}, folder / "mean.safetensors")
    own = {"simulator": str(folder / "simulator.safetensors"), "task_file": str(folder / "task.parquet"), "pool": POOL,
           "checkpoints": 3, "random_seeds": 4}  # fmt: skip
    return gang | group | own | {"runs": runs[3:]}


@pytest.fixture(scope="module")
def ranked(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranked") / "ranking.parquet"
    rank_mislabels(spec, path)
    return path


def test_every_order_holds_the_pool_and_says_what_is_wrong(ranked: Path) -> None:
    orders, flipped = read_rankings(ranked, POOL)
    assert list(orders) == ["gptfluence", "tracin", "loss", "random_0", "random_1", "random_2", "random_3"]
    assert flipped.tolist() == FLIPPED.tolist()
    assert len({tuple(order) for name, order in orders.items() if name.startswith("random")}) == 4
    for row in read_parquet(ranked).to_pylist():
        assert (row["score"] is None) == row["method"].startswith("random")


def test_the_highest_score_is_checked_first(ranked: Path) -> None:
    rows = read_parquet(ranked).to_pylist()
    for method in ("gptfluence", "tracin", "loss"):
        scores = [row["score"] for row in rows if row["method"] == method]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1


def by_example(path: Path, method: str) -> np.ndarray:
    rows = [row for row in read_parquet(path).to_pylist() if row["method"] == method]
    return np.array([row["score"] for row in sorted(rows, key=lambda row: row["example"])])


def test_losses_are_those_that_the_run_recorded_of_the_same_texts(ranked: Path, spec: dict[str, Any]) -> None:
    recorded = read_parquet(spec["runs"][0]["shard"])["loss"].to_numpy().reshape(-1, POOL)
    np.testing.assert_allclose(by_example(ranked, "loss"), recorded[-1], rtol=1e-5)
    assert not np.allclose(recorded[-1], recorded[0], rtol=1e-2)


def test_tracin_is_the_self_influence_of_each_example(ranked: Path, spec: dict[str, Any]) -> None:
    reruns, run = Reruns(spec), spec["runs"][0]
    influence = self_influence(reruns.start(run), 3)
    assert by_example(ranked, "tracin").tolist() == [influence[TASK, i] for i in range(POOL)]
    assert not np.allclose(by_example(ranked, "tracin"), [*self_influence(reruns.start(run), 1).values()])


def test_the_same_bytes(ranked: Path, spec: dict[str, Any], tmp_path: Path) -> None:
    rank_mislabels(spec, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == ranked.read_bytes()


@pytest.mark.parametrize("shrink_to", ["persistence", "zero"])
@pytest.mark.parametrize(("order", "aggregation"), [(1, "mean"), (1, "sum"), (2, "mean")])
def test_a_self_factor_is_what_a_step_on_the_example_alone_multiplies_its_loss_with(
    order: int, aggregation: str, shrink_to: str
) -> None:
    rng = np.random.default_rng(5)
    runs, steps, batch, train, tests = 4, 9, 2, 6, 8
    # The tests hold each training example's text; from there its factor can be read off a simulation.
    test = rng.normal(size=(tests, 5))
    features = Features(test[:train], test)
    dynamics = Dynamics(rng.uniform(1, 2, (runs, steps + 1, tests)), np.array([False, False, False, True]))
    curricula = Curricula(rng.integers(train, size=(runs, steps, batch)))
    simulator = Bilinear(order, "given", aggregation, shrink_to, (0.1, 1.0))
    simulator.fit(dynamics, curricula, features)
    found = self_factors(simulator, features)
    simulator.extent = UNBOUNDED  # factors can be read off what is not confined
    for i in range(train):
        alone = Curricula(np.full((1, order, 1), i))
        one, zero = (simulator.simulate(alone, np.full((1, order, tests), value))[0, -1, i] for value in (1.0, 0.0))
        assert found[i] == pytest.approx(one - zero, abs=1e-8)


def test_other_features_than_those_of_the_fit_are_refused() -> None:
    rng = np.random.default_rng(6)
    features = Features(rng.normal(size=(6, 5)), rng.normal(size=(4, 5)))
    dynamics = Dynamics(rng.uniform(1, 2, (3, 7, 4)), np.array([False, False, True]))
    simulator = Bilinear(1, "given", "mean", "persistence", (1.0,))
    simulator.fit(dynamics, Curricula(rng.integers(6, size=(3, 6, 2))), features)
    for other in (Features(features.train[:5], features.test), Features(features.train, features.test[::-1] + 1)):
        with pytest.raises(UserError, match="fitted with other features"):
            self_factors(simulator, other)


def test_a_simulator_without_such_factors_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    mean = str(Path(spec["simulator"]).with_name("mean.safetensors"))
    with pytest.raises(UserError, match=r"mean.safetensors: no bilinear simulator"):
        rank_mislabels(spec | {"simulator": mean}, tmp_path / "r.parquet")
    assert not (tmp_path / "r.parquet").exists()


def test_a_task_of_another_pool_is_named(spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"task.parquet: does not hold 5 examples with noisy and true labels"):
        flipped_labels(spec["task_file"], "plain", 5)


def test_a_run_that_diverges_gives_no_order(spec: dict[str, Any]) -> None:
    wild = spec["runs"][0] | {"learning_rate": 1e30}
    with pytest.raises(UserError, match="run noisy-1: it diverges, so its losses give no order"):
        end_losses(Reruns(spec).start(wild))
