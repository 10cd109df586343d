from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from gptfluence.attribution.directional import loss_changes
from gptfluence.attribution.effects_file import read_effects
from gptfluence.attribution.hooks import ExampleGradients
from gptfluence.attribution.replay import (
    METHODS,
    Reruns,
    batch_shares,
    checkpoint_spans,
    example_effects,
    replay_runs,
    self_influence,
)
from gptfluence.curricula.draw import read_curriculum
from gptfluence.dynamics.train import train_runs
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet
from transformers import AutoModelForCausalLM, AutoTokenizer

MANIFEST = Path("data/dynamics/gang.json")
OUTPUT = Path("results/attribution/replays/gang.parquet")
TORCH_METHODS = ["tracin", "tracin_adamw"]  # those that take no products of gradients
LORA = {"rank": 2, "alpha": 8, "dropout": 0.1, "targets": ["query_key_value", "dense"]}


def job(gang: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The spec of a replay of the gang's runs."""
    machine = ("memory_gb", "checkpoint_minutes")
    spec = {key: value for key, value in gang.items() if key not in machine}
    return spec | {"methods": list(METHODS), "checkpoints": 3} | changes


def scratch(run: dict[str, Any]) -> Path:
    return Path("data/scratch") / f"{run['run_id']}.{run['hash']}.parquet"


class Plain:
    """A run as one would first write it, one example at a time; all weights and gradients are kept."""

    def __init__(self, gang: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.texts: dict[tuple[str, bool, int], tuple[str, str]] = {}
        for task in ("yesno", "text"):
            for row in read_parquet(gang["tasks"][task]).to_pylist():
                if row["format"] == "instruction":
                    self.texts[task, row["part"] == "test", row["example"]] = (row["prompt"], row["target"])
        self.tests = [(task, True, example) for task in ("yesno", "text") for example in range(5)]
        self.batches = [[(t, False, e) for t, e in batch] for batch in read_curriculum(run, run["curriculum"])]
        self.rates = [run["learning_rate"] * (1 - step / run["steps"]) for step in range(run["steps"])]
        self.weights = [self._weights()]
        parameters = list(self.model.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.001},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.999),
            eps=1e-6,
        )
        for batch, rate in zip(self.batches, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            torch.cat([self._losses(key) for key in batch]).mean().backward()
            optimizer.step()
            self.weights.append(self._weights())

    def _losses(self, key: tuple[str, bool, int]) -> torch.Tensor:
        prompt, target = self.texts[key]
        head = self.tokenizer(prompt)["input_ids"]
        tail = [*self.tokenizer(" " + target)["input_ids"], self.tokenizer.eos_token_id]
        tokens = torch.tensor([[*head, *tail]])
        logits = self.model(input_ids=tokens).logits[0, len(head) - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, tokens[0, len(head) :], reduction="none")

    def _weights(self) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(self.model.parameters()))).double()

    def set(self, weights: torch.Tensor) -> None:
        torch.nn.utils.vector_to_parameters(weights, self.model.parameters())

    def gradients(self, keys: list[tuple[str, bool, int]], weights: torch.Tensor) -> torch.Tensor:
        """Each example's, at some weights: [examples, parameters]."""
        self.set(weights)
        return torch.stack([self.gradient(self._losses(key).mean()) for key in keys])

    def batch_gradient(self, step: int, weights: torch.Tensor) -> torch.Tensor:
        self.set(weights)
        return self.gradient(torch.cat([self._losses(key) for key in self.batches[step]]).mean())

    def effects(self, method: str) -> np.ndarray:
        """By how much each step changes each test's loss: [steps, tests]."""
        rows = []
        for step, rate in enumerate(self.rates):
            at = {"tracin_cp": step // 2 * 2, "grad_dot": len(self.rates)}.get(method, step)
            weights = self.weights[at]
            direction = -rate * self.batch_gradient(step, weights)
            if method == "tracin_adamw":
                direction = (self.weights[step + 1] - weights).double()
            rows.append(self.gradients(self.tests, weights) @ direction)
        return torch.stack(rows).numpy()


def test_effects_equal_those_of_a_plain_loop(gang: dict[str, Any], model_folder: Path) -> None:
    """Six steps and three checkpoints, so TracIn-CP's are before steps 0, 2 and 4."""
    train_runs(gang, MANIFEST)
    replay_runs(job(gang), OUTPUT)
    effects = read_effects(OUTPUT)
    assert list(effects) == [(method, run) for method in METHODS for run in ("run-1", "run-2")]
    plain = Plain(gang, gang["runs"][1], model_folder)
    for method in METHODS:
        expected = plain.effects(method)
        scale = np.abs(expected).mean()
        np.testing.assert_allclose(effects[method, "run-2"], expected, rtol=2e-3, atol=1e-3 * scale, err_msg=method)
    assert read_provenance(OUTPUT)["runs"] == {run["run_id"]: run["hash"] for run in gang["runs"]}
    assert not os.listdir("data/scratch")


def test_adamw_effects_are_the_changes_of_a_slow_run(gang: dict[str, Any]) -> None:
    """At a low learning rate the first order is all there is: what was recorded is what is said."""
    run = gang["runs"][0] | {"learning_rate": 1e-4}
    train_runs(gang | {"runs": [run]}, MANIFEST)
    replay_runs(job(gang, runs=[run], methods=["tracin_adamw"]), OUTPUT)
    recorded = np.diff(read_parquet(run["shard"])["loss"].to_numpy().reshape(7, 10), axis=0)
    said = read_effects(OUTPUT)["tracin_adamw", "run-1"]
    assert np.corrcoef(said.ravel(), recorded.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(said, recorded, atol=0.1 * np.abs(recorded).mean())


def test_a_run_is_replayed_the_same_beside_others_and_without_shards(
    gang: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gptfluence")
    replay_runs(job(gang, methods=TORCH_METHODS), OUTPUT)
    assert "run run-2: data/dynamics/run-2" in caplog.text and "does not stand" in caplog.text
    together, content = read_effects(OUTPUT), OUTPUT.read_bytes()
    replay_runs(job(gang, methods=["tracin"], runs=[gang["runs"][1]]), OUTPUT)
    np.testing.assert_array_equal(read_effects(OUTPUT)["tracin", "run-2"], together["tracin", "run-2"])
    replay_runs(job(gang, methods=TORCH_METHODS), OUTPUT)
    assert OUTPUT.read_bytes() == content


def test_an_interrupted_job_goes_on(gang: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gptfluence")
    spec, (first, second) = job(gang, methods=TORCH_METHODS), gang["runs"]
    replay_runs(spec, OUTPUT)
    content = OUTPUT.read_bytes()
    OUTPUT.unlink()
    curriculum = Path(second["curriculum"]).read_bytes()
    Path(second["curriculum"]).unlink()
    with pytest.raises(UserError, match=r"run-2.*missing"):
        replay_runs(spec, OUTPUT)
    assert scratch(first).exists() and not scratch(second).exists() and not OUTPUT.exists()
    Path(second["curriculum"]).write_bytes(curriculum)
    caplog.clear()
    replay_runs(spec, OUTPUT)
    assert "run run-1: replayed before, kept" in caplog.text and "run run-2: replayed, 6 steps" in caplog.text
    assert OUTPUT.read_bytes() == content and not os.listdir("data/scratch")


@pytest.mark.parametrize("damage", ["cut", "settings"])
def test_what_an_interrupted_job_kept_is_checked(
    gang: dict[str, Any], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    caplog.set_level(logging.INFO, "gptfluence")
    run = gang["runs"][0]
    spec = job(gang, methods=["tracin"], runs=[run])
    replay_runs(spec, OUTPUT)
    content, kept = OUTPUT.read_bytes(), scratch(run)
    if damage == "cut":
        kept.write_bytes(content[:-40])
    else:
        provenance = read_provenance(OUTPUT) | {"optimizer": gang["optimizer"] | {"beta1": 0.8}, "hash": run["hash"]}
        provenance.pop("runs")
        write_parquet(kept, read_parquet(OUTPUT), provenance)
    caplog.clear()
    replay_runs(spec, OUTPUT)
    assert "damaged or of other settings, replayed anew" in caplog.text
    assert OUTPUT.read_bytes() == content and not kept.exists()


def test_a_run_that_cannot_be_reproduced_is_refused(gang: dict[str, Any]) -> None:
    train_runs(gang, MANIFEST)
    run = gang["runs"][1]
    table, provenance = read_parquet(run["shard"]), read_provenance(run["shard"])
    losses = table["loss"].to_numpy().copy()
    losses[-3] *= 1.001
    table = table.set_column(table.column_names.index("loss"), "loss", pa.array(losses))
    write_parquet(run["shard"], table, provenance)
    with pytest.raises(UserError, match=r"run-2 could not be reproduced here: 1 of 10 final losses.*text 2: ") as error:
        replay_runs(job(gang, methods=["tracin"]), OUTPUT)
    assert f"recorded on cpu, torch {torch.__version__}" in str(error.value) and not OUTPUT.exists()


@pytest.mark.parametrize(
    "changes",
    [{"lora": LORA}, {"precision": "bf16"}, pytest.param({"compile": True}, marks=pytest.mark.slow)],
)
def test_runs_of_every_kind_are_reproduced(gang: dict[str, Any], changes: dict[str, Any]) -> None:
    """With dropout, whose random numbers must be drawn anew in the same order, and with sampled texts in between."""
    if "lora" in changes:
        gang["model"] |= changes
    else:
        gang |= changes
    gang["runs"] = gang["runs"][:1]
    train_runs(gang, MANIFEST)
    replay_runs(job(gang, methods=TORCH_METHODS), OUTPUT)  # would be refused
    recorded = np.diff(read_parquet(gang["runs"][0]["shard"])["loss"].to_numpy().reshape(7, 10), axis=0)
    effects = read_effects(OUTPUT)
    assert all(np.corrcoef(values.ravel(), recorded.ravel())[0, 1] > 0.4 for values in effects.values())


@pytest.mark.parametrize("lora", [None, LORA | {"dropout": 0.0}])
def test_with_a_checkpoint_before_every_step_tracin_cp_is_tracin(gang: dict[str, Any], lora: dict | None) -> None:
    gang["model"]["lora"] = lora
    replay_runs(job(gang, runs=gang["runs"][:1], methods=["tracin", "tracin_cp"], checkpoints=6), OUTPUT)
    effects = read_effects(OUTPUT)
    tracin, products = effects["tracin", "run-1"], effects["tracin_cp", "run-1"]
    np.testing.assert_allclose(products, tracin, rtol=1e-3, atol=1e-3 * np.abs(tracin).mean())


def test_effects_of_examples_add_up_to_the_batch(gang: dict[str, Any]) -> None:
    """Products of gradients, example by example, against the derivative along the gradient of the whole batch."""
    reruns = Reruns(job(gang))
    rerun = reruns.start(gang["runs"][0])
    for _ in range(2):
        rerun.update()
    rerun.follow()
    batch = rerun.examples(2)
    gradients = ExampleGradients(rerun.follower, "all")
    each = example_effects(gradients, batch, reruns.inputs.test_examples, rerun.rate(2), reruns.budget)
    assert each.shape == (4, 10)
    rerun.update()
    _, whole = loss_changes(rerun.follower, reruns.inputs.packs, rerun.gradient_step())
    np.testing.assert_allclose(each.sum(0), whole, rtol=1e-4, atol=1e-4 * whole.abs().mean().item())


def test_shares_are_of_target_tokens(gang: dict[str, Any]) -> None:
    batch = Reruns(job(gang)).start(gang["runs"][0]).examples(0)
    shares = batch_shares(batch)
    assert len({example.target for example in batch}) > 1 and shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares * sum(example.target for example in batch), [e.target for e in batch])


def test_tests_are_taken_out_of_their_packs_whole(gang: dict[str, Any]) -> None:
    """Every test example's tokens against the tokenised texts."""
    reruns = Reruns(job(gang))
    tokenizer = AutoTokenizer.from_pretrained(gang["model"]["path"])
    for (task, number), test in zip(reruns.inputs.tests, reruns.inputs.test_examples, strict=True):
        rows = read_parquet(gang["tasks"][task]).to_pylist()
        row = next(r for r in rows if (r["part"], r["example"], r["format"]) == ("test", number, "instruction"))
        target = [*tokenizer(" " + row["target"])["input_ids"], tokenizer.eos_token_id]
        assert test.tokens == (*tokenizer(row["prompt"])["input_ids"], *target) and test.target == len(target)


def test_self_influence_is_the_sum_of_squared_gradients(gang: dict[str, Any], model_folder: Path) -> None:
    run = gang["runs"][0]
    found = self_influence(Reruns(job(gang)).start(run), 2)
    plain = Plain(gang, run, model_folder)
    drawn = list(dict.fromkeys(key for batch in plain.batches for key in batch))
    assert list(found) == [(task, example) for task, _, example in drawn]
    expected = sum(
        plain.rates[step] * plain.gradients(drawn, plain.weights[step]).square().sum(1).numpy() for step in (0, 3)
    )
    np.testing.assert_allclose(list(found.values()), expected, rtol=2e-3)


@pytest.mark.parametrize(("steps", "checkpoints"), [(6, 3), (30, 10), (31, 10), (7, 1), (4, 10)])
def test_checkpoints_are_equally_spaced(steps: int, checkpoints: int) -> None:
    spans = checkpoint_spans(steps, checkpoints)
    assert [step for span in spans for step in span] == list(range(steps))
    assert len(spans) == min(steps, checkpoints)
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_an_unknown_method_is_named(gang: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"no replay 'tracin_cpp' \(did you mean 'tracin_cp'\?\); there are tracin, "):
        replay_runs(job(gang, methods=["tracin_cpp"]), OUTPUT)
