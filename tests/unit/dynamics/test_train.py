from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from gptfluence.curricula.draw import draw_curricula, read_curriculum
from gptfluence.dynamics import collect, models, train, trainer
from gptfluence.dynamics.checkpoints import scratch_files
from gptfluence.dynamics.text_metrics import Scorer
from gptfluence.dynamics.train import train_runs
from gptfluence.dynamics.trainer import Trainer, make_optimizer
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance
from gptfluence.simulators.data import read_end, read_shard
from pipeline import heed_interrupts
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM

MANIFEST = Path("data/dynamics/gang.json")


def shard(run: dict[str, Any]) -> Path:
    return Path(run["shard"])


def variant(run: dict[str, Any], hash_: str, **changes: Any) -> dict[str, Any]:
    """A run that differs, under a name of its own."""
    return run | changes | {"hash": hash_, "shard": f"data/dynamics/{run['run_id']}.{hash_}.parquet"}


def third_run(gang: dict[str, Any]) -> dict[str, Any]:
    """One more run of the gang, with a curriculum of its own."""
    changes = {"run_id": "run-3", "draw_seed": 3, "init_seed": 3, "curriculum": "data/curricula/run-3.parquet"}
    run = variant(gang["runs"][0] | changes, "3" * 12)
    draw_curricula({"runs": [run]}, Path("data/curricula"))
    return run


def column(run: dict[str, Any], name: str, **where: Any) -> np.ndarray:
    table = read_parquet(shard(run))
    for key, value in where.items():
        table = table.filter(pc.equal(table[key], value))
    return table[name].to_numpy(zero_copy_only=False)


def test_shard_has_every_step_and_test_example(gang: dict[str, Any]) -> None:
    train_runs(gang, MANIFEST)
    first, second = gang["runs"]
    table = read_parquet(shard(first))
    assert table.column_names == ["step", "task", "example", "loss", "bleu", "rouge_l"]
    assert table.num_rows == 7 * 10  # steps 0..6, two tasks of five test examples
    keys = list(zip(*(table[name].to_pylist() for name in ("step", "task", "example")), strict=True))
    assert keys == [(s, t, e) for s in range(7) for t in ("yesno", "text") for e in range(5)]
    assert np.isfinite(column(first, "loss")).all()
    assert table.filter(pc.equal(table["task"], "yesno"))["bleu"].null_count == 35
    assert table.filter(pc.equal(table["task"], "text"))["bleu"].null_count == 0
    assert 0 <= pc.min(table["bleu"]).as_py() <= pc.max(table["bleu"]).as_py() <= 100
    assert 0 <= pc.min(table["rouge_l"]).as_py() <= pc.max(table["rouge_l"]).as_py() <= 1
    provenance = read_provenance(shard(first))
    assert provenance["hash"] == first["hash"] and provenance["run"]["draw_seed"] == 1
    assert provenance["tasks"] == {"yesno": "yesno.0123456789ab.parquet", "text": "text.0123456789ab.parquet"}
    assert {"torch", "transformers"} <= provenance["versions"].keys()
    assert json.loads(MANIFEST.read_text()).keys() == {"run-1", "run-2"}
    assert not os.listdir("data/scratch")
    # Both runs start from the same model, then learn from different curricula.
    np.testing.assert_array_equal(column(first, "loss", step=0), column(second, "loss", step=0))
    assert (column(first, "loss", step=6) != column(second, "loss", step=6)).any()
    assert column(first, "loss", step=6).mean() < column(first, "loss", step=0).mean()


def test_losses_equal_a_plain_training_loop(gang: dict[str, Any], model_folder: Path) -> None:
    """Every recorded loss against the first way one would write it: one example at a time, all logits, no padding."""
    train_runs(gang, MANIFEST)
    run = gang["runs"][1]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    texts: dict[tuple[str, str, int], tuple[str, str]] = {}
    for task in ("yesno", "text"):
        for row in read_parquet(gang["tasks"][task]).to_pylist():
            if row["format"] == "instruction":
                texts[task, row["part"] == "test", row["example"]] = (row["prompt"], row["target"])

    def token_losses(prompt: str, target: str) -> torch.Tensor:
        head = tokenizer(prompt)["input_ids"]
        tail = [*tokenizer(" " + target)["input_ids"], tokenizer.eos_token_id]
        tokens = torch.tensor([[*head, *tail]])
        logits = model(input_ids=tokens).logits[0, len(head) - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, tokens[0, len(head) :], reduction="none")

    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.001}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.999),
        eps=1e-6,
    )
    for step, batch in enumerate([*read_curriculum(run, run["curriculum"]), []]):
        with torch.no_grad():
            expected = [token_losses(*texts[t, True, e]).mean().item() for t in ("yesno", "text") for e in range(5)]
        np.testing.assert_allclose(column(run, "loss", step=step), expected, rtol=2e-4, err_msg=f"step {step}")
        if batch:
            for group in optimizer.param_groups:
                group["lr"] = run["learning_rate"] * (1 - step / 6)
            losses = torch.cat([token_losses(*texts[task, False, example]) for task, example in batch])
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()


def test_same_seed_gives_the_same_bytes_whatever_shares_the_gang(gang: dict[str, Any]) -> None:
    train_runs(gang, MANIFEST)
    together = [shard(run).read_bytes() for run in gang["runs"]]
    for run in gang["runs"]:
        shard(run).unlink()
    for run in reversed(gang["runs"]):
        train_runs(gang | {"runs": [run]}, MANIFEST)
    assert [shard(run).read_bytes() for run in gang["runs"]] == together


def test_company_from_another_pool_changes_no_byte(gang: dict[str, Any]) -> None:
    """Also where examples of both pools are too long."""
    gang["model"] |= {"max_length": 18}
    run = gang["runs"][0]
    other = variant(gang["runs"][1], "d" * 12, pool="unseen_pool", first_example=12)
    draw_curricula({"runs": [other]}, Path("data/curricula"))
    train_runs(gang | {"runs": [run, other]}, MANIFEST)
    together = shard(run).read_bytes()
    shard(run).unlink()
    train_runs(gang | {"runs": [run]}, MANIFEST)
    assert shard(run).read_bytes() == together
    counts = [read_provenance(shard(r))["truncated_examples"] for r in (run, other)]
    assert all(counts) and counts[0] != counts[1]


def test_models_of_runs_that_are_done_are_gone(gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, and where a gang fails and each run is trained by itself."""
    started = weakref.WeakSet()
    alive = []

    def start(self: Trainer, run: dict[str, Any], model: torch.nn.Module) -> Any:
        alive.append(len(started))
        started.add(model)
        return whole(self, run, model)

    whole = Trainer.start
    monkeypatch.setattr(Trainer, "start", start)
    runs = [*gang["runs"], third_run(gang)]
    train_runs(gang | {"runs": runs, "memory_gb": 1e-9}, MANIFEST)
    assert alive == [0, 0, 0]
    for run in runs:
        shard(run).unlink()
    alive.clear()
    calls = itertools.count()

    def fail_once(*_: Any) -> None:
        if next(calls) == 4:
            raise ZeroDivisionError

    handle = register_optimizer_step_pre_hook(fail_once)
    try:
        train_runs(gang | {"runs": runs}, MANIFEST)
    finally:
        handle.remove()
    assert alive == [0, 1, 2, 0, 0, 0]


def test_generation_seed_changes_texts_but_not_losses(gang: dict[str, Any]) -> None:
    run = gang["runs"][0]
    other = variant(run, "f" * 12, generation_seed=99)
    hot = gang | {"generation": {"top_p": 0.95, "temperature": 2.0, "max_new_tokens": 12, "batch_tokens": 4096}}
    train_runs(hot | {"runs": [run, other]}, MANIFEST)
    np.testing.assert_array_equal(column(run, "loss"), column(other, "loss"))
    assert (column(run, "rouge_l", task="text") != column(other, "rouge_l", task="text")).any()


def test_interrupted_gang_goes_on_and_keeps_what_is_done(gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    train_runs(gang, MANIFEST)
    expected = [shard(run).read_bytes() for run in gang["runs"]]
    for run in gang["runs"]:
        shard(run).unlink()
    MANIFEST.unlink()
    whole = train.write_parquet

    def stop_at_the_second(path: str, *rest: Any) -> None:
        if "run-2" in path:
            raise KeyboardInterrupt
        whole(path, *rest)

    monkeypatch.setattr(train, "write_parquet", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_runs(gang, MANIFEST)
    assert shard(gang["runs"][0]).exists() and not shard(gang["runs"][1]).exists() and not MANIFEST.exists()

    trained = []
    monkeypatch.setattr(train, "write_parquet", lambda path, *rest: trained.append(path) or whole(path, *rest))
    train_runs(gang, MANIFEST)
    assert trained == [gang["runs"][1]["shard"]]
    assert [shard(run).read_bytes() for run in gang["runs"]] == expected


@pytest.mark.parametrize("damage", ["cut", "middle"])
def test_damaged_shard_is_named_and_made_anew(
    gang: dict[str, Any], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    train_runs(gang, MANIFEST)
    path = shard(gang["runs"][0])
    whole = path.read_bytes()
    broken = bytearray(whole)
    if damage == "cut":
        broken = broken[: len(broken) // 2]
    else:
        broken[10:300] = b"\xff" * 290
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING):
        train_runs(gang, MANIFEST)
    assert path.name in caplog.text and "damaged" in caplog.text
    assert path.read_bytes() == whole


def test_truncated_examples_are_counted(gang: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    gang["model"] |= {"max_length": 16}
    with caplog.at_level(logging.WARNING):
        train_runs(gang, MANIFEST)
    count = read_provenance(shard(gang["runs"][0]))["truncated_examples"]
    assert (
        count > 0
        and f"group: {count} of 34 examples are longer than the context of 16 tokens: truncated" in caplog.text
    )


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "tolerance"), [({"precision": "bf16"}, 0.05), ({"compile": True}, 1e-4)])
def test_other_arithmetic_gives_nearly_the_same_losses(
    gang: dict[str, Any], changes: dict[str, Any], tolerance: float
) -> None:
    run = gang["runs"][0]
    gang |= {"runs": [run], "metrics": {"yesno": ["loss"], "text": ["loss"]}}
    train_runs(gang, MANIFEST)
    plain = column(run, "loss")
    shard(run).unlink()
    train_runs(gang | changes, MANIFEST)
    np.testing.assert_allclose(column(run, "loss"), plain, rtol=tolerance)
    assert (column(run, "loss") != plain).any()
    assert read_provenance(shard(run)).items() >= changes.items()


def test_small_batches_of_texts_give_the_same_samples(gang: dict[str, Any]) -> None:
    train_runs(gang, MANIFEST)
    whole = column(gang["runs"][0], "rouge_l")
    shard(gang["runs"][0]).unlink()
    train_runs(gang | {"generation": gang["generation"] | {"batch_tokens": 40}}, MANIFEST)
    np.testing.assert_array_equal(column(gang["runs"][0], "rouge_l"), whole)


def test_other_code_than_planned_is_refused(gang: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not the code that it was planned with"):
        train_runs(gang | {"code": "0" * 12}, MANIFEST)
    assert not Path("data/dynamics").exists()


def test_missing_task_is_named(gang: dict[str, Any]) -> None:
    Path(gang["tasks"]["text"]).unlink()
    with pytest.raises(UserError, match=rf"{gang['tasks']['text']}: missing"):
        train_runs(gang, MANIFEST)


def test_adapters_and_dropout_are_seeded(gang: dict[str, Any]) -> None:
    gang["model"] |= {"lora": {"rank": 2, "alpha": 4, "dropout": 0.3, "targets": ["query_key_value"]}}
    first = gang["runs"][0]
    same, other = variant(first, "a" * 12), variant(first, "b" * 12, init_seed=50)
    train_runs(gang | {"runs": [first, same, other]}, MANIFEST)
    np.testing.assert_array_equal(column(first, "loss"), column(same, "loss"))
    assert (column(first, "loss", step=6) != column(other, "loss", step=6)).any()


def test_a_run_that_is_measured_at_its_ends_alone_ends_alike(gang: dict[str, Any]) -> None:
    first = gang["runs"][0]
    ends = variant(first, "a" * 12) | {"ends_alone": True}
    train_runs(gang | {"runs": [first, ends]}, MANIFEST)
    for metric in ("loss", "bleu", "rouge_l"):
        whole = [column(first, metric, step=step) for step in (0, 6)]
        np.testing.assert_array_equal(column(ends, metric), np.concatenate(whole))
    assert set(column(ends, "step")) == {0, 6}
    tests = "loss", ("yesno", "text"), (5, 5)
    found = read_end(ends, *tests)
    np.testing.assert_array_equal(found, read_end(first, *tests))
    np.testing.assert_array_equal(found, read_shard(first, *tests)[-1])
    with pytest.raises(UserError, match="step"):
        read_shard(ends, *tests)


def test_plain_prompts_for_fine_tuning(gang: dict[str, Any]) -> None:
    run = gang["runs"][0] | {"scenario": "fine_tuning", "train_tasks": ["text"], "test_tasks": ["text"], "steps": 3}
    draw_curricula({"runs": [run]}, Path("data/curricula"))
    train_runs(gang | {"runs": [run]}, MANIFEST)
    assert read_parquet(shard(run)).num_rows == 4 * 5


def test_optimizer_decays_linearly_to_zero_and_spares_biases() -> None:
    model = torch.nn.Linear(2, 2)
    settings = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.5}
    optimizer, schedule = make_optimizer(model, 0.1, 4, settings)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert optimizer.param_groups[0]["lr"] == 0
    decay = {len(group["params"][0].shape): group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {2: 0.5, 1: 0.0}


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("cosine", 0.0, [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("linear", 0.25, [0.5, 1.0, 2 / 3, 1 / 3]),
    ],
)
def test_optimizer_follows_the_schedule_of_the_run(schedule: Any, warmup: float, expected: list[float]) -> None:
    settings = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.5}
    optimizer, scheduler = make_optimizer(torch.nn.Linear(2, 2), 0.1, 4, settings, schedule, warmup)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1 * factor for factor in expected])


def test_a_run_is_trained_under_its_own_schedule(gang: dict[str, Any]) -> None:
    """A rate that is 0 behind the first update would leave the losses as they are; a constant one does not."""
    first = gang["runs"][0]
    constant = variant(first, "c" * 12, schedule="constant")
    twice = variant(first, "d" * 12, learning_rate=2 * first["learning_rate"])
    train_runs(gang | {"runs": [first, constant, twice]}, MANIFEST)
    one, two, three = (column(run, "loss", step=1) for run in (first, constant, twice))
    np.testing.assert_array_equal(one, two)  # the first update has the same rate
    assert (one != three).any()
    assert (column(first, "loss", step=6) != column(constant, "loss", step=6)).any()


# ------------------------------------------------------------------------------- interrupted, and going on

LORA = {"rank": 2, "alpha": 4, "dropout": 0.3, "targets": ["query_key_value"]}
KINDS = pytest.mark.parametrize("lora", [None, LORA], ids=["full", "adapters"])


@contextlib.contextmanager
def at_each_call(act: Callable[[bool], None]) -> Iterator[None]:
    """Let `act` happen whenever the GPT is called by a run; it is told whether the call is an update's."""

    def hook(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, GPTNeoXForCausalLM):
            act(torch.is_grad_enabled())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # These call it as well, before any run.
            patch.setattr(models, "_reads_no_streams", lambda *_: None)
            patch.setattr(trainer, "can_join", lambda _, lora, __: lora is None)
            yield
    finally:
        handle.remove()


def undisturbed(spec: dict[str, Any]) -> list[bytes]:
    """Train; return the shards' bytes, which are removed."""
    train_runs(spec, MANIFEST)
    MANIFEST.unlink()
    content = [shard(run).read_bytes() for run in spec["runs"]]
    for run in spec["runs"]:
        shard(run).unlink()
    return content


def scratch_of(run: dict[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """Whether the run has a checkpoint, and its progress."""
    checkpoint, progress = scratch_files(run)
    return checkpoint.exists(), json.loads(progress.read_text()) if progress.exists() else None


@pytest.mark.slow
@KINDS
def test_interrupted_at_any_call_of_the_model_goes_on_to_the_same_bytes(
    gang: dict[str, Any], lora: dict[str, Any] | None, handlers: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Evaluations, each token of each generation and updates: every third call, every update, both signals."""
    run = gang["runs"][0]
    spec = gang | {"runs": [run], "model": gang["model"] | {"lora": lora}}
    updates: list[bool] = []  # of each call of the model
    with at_each_call(updates.append):
        [expected] = undisturbed(spec)
    assert sum(updates) == 6 and len(updates) > 60
    resumed = set()
    for stop in [i for i, update in enumerate(updates) if update or i % 3 == 0]:
        calls = itertools.count()

        def interrupt(_: bool, stop: int = stop, calls: Iterator[int] = calls) -> None:
            if next(calls) == stop:
                os.kill(os.getpid(), (signal.SIGTERM, signal.SIGINT)[stop % 2])

        with at_each_call(interrupt), pytest.raises((SystemExit, KeyboardInterrupt)):
            train_runs(spec, MANIFEST)
        assert next(calls) == stop + 1, "an evaluation must not be waited for"
        # An update is finished first; of an evaluation nothing is kept.
        step = sum(updates[: stop + 1])
        kept, progress = scratch_of(run)
        assert kept == (step > 0)
        assert progress and (progress["state"], progress["step"]) == ("stopped", step)
        assert not shard(run).exists() and not MANIFEST.exists()

        caplog.clear()
        with caplog.at_level(logging.INFO):
            train_runs(spec, MANIFEST)
        assert (f"run run-1: goes on from step {step} of 6" in caplog.text) == (step > 0)
        assert shard(run).read_bytes() == expected, f"call {stop}"
        assert os.listdir("data/scratch") == []
        resumed.add(step)
        shard(run).unlink()
        MANIFEST.unlink()
    assert resumed == set(range(7))


@KINDS
def test_interrupted_at_every_step_of_one_run(
    gang: dict[str, Any], lora: dict[str, Any] | None, handlers: None
) -> None:
    """Six interruptions of one run, each while the optimiser is at work: the checkpoint of a checkpoint of ..."""
    run = gang["runs"][0]
    spec = gang | {"runs": [run], "model": gang["model"] | {"lora": lora}}
    [expected] = undisturbed(spec)

    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    handle = register_optimizer_step_pre_hook(interrupt)
    try:
        for step in range(1, 7):
            with pytest.raises(SystemExit):
                train_runs(spec, MANIFEST)
            _, progress = scratch_of(run)
            assert progress and progress["step"] == step
    finally:
        handle.remove()
    train_runs(spec, MANIFEST)
    assert shard(run).read_bytes() == expected


@KINDS
def test_killed_run_goes_on_from_its_last_checkpoint(gang: dict[str, Any], lora: dict[str, Any] | None) -> None:
    """As after kill -9: what is on disk is all there is, and the checkpoint is older than the progress."""
    run = gang["runs"][0]
    spec = gang | {"runs": [run], "model": gang["model"] | {"lora": lora}, "checkpoint_minutes": 1e-9}
    [expected] = undisturbed(spec)
    checkpoint, _ = scratch_files(run)
    kept: list[bytes] = []

    def keep(update: bool) -> None:
        if checkpoint.exists() and (not kept or kept[-1] != checkpoint.read_bytes()):
            kept.append(checkpoint.read_bytes())

    with at_each_call(keep):
        undisturbed(spec)
    assert len(kept) == 6
    for content in kept:
        checkpoint.write_bytes(content)
        assert undisturbed(spec | {"checkpoint_minutes": 10.0}) == [expected]
        assert os.listdir("data/scratch") == []


@pytest.mark.parametrize("damage", ["cut", "other code", "other run"])
def test_unusable_checkpoint_is_named_and_costs_only_time(
    gang: dict[str, Any], damage: str, caplog: pytest.LogCaptureFixture, handlers: None
) -> None:
    run, other = gang["runs"]
    spec = gang | {"runs": [run], "checkpoint_minutes": 1e-9}
    [expected] = undisturbed(spec)
    calls = itertools.count()
    with (
        at_each_call(lambda _: next(calls) == 60 and os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(SystemExit),
    ):
        train_runs(spec | {"runs": [other if damage == "other run" else run]}, MANIFEST)
    checkpoint, _ = scratch_files(run)
    if damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif damage == "other run":
        scratch_files(other)[0].rename(checkpoint)
    else:
        content = checkpoint.read_bytes()
        assert content.count(spec["code"].encode()) == 1
        checkpoint.write_bytes(content.replace(spec["code"].encode(), b"0" * 12))
    train_runs(spec, MANIFEST)
    said = {"cut": "damaged", "other code": "another code", "other run": "another run_id and hash"}[damage]
    assert str(checkpoint) in caplog.text and said in caplog.text and "run run-1 starts anew" in caplog.text
    assert shard(run).read_bytes() == expected


def test_short_run_writes_no_checkpoint(gang: dict[str, Any]) -> None:
    _, progress = scratch_files(gang["runs"][0])
    seen = set()
    with at_each_call(lambda _: seen.update(os.listdir("data/scratch"))):
        train_runs(gang | {"runs": gang["runs"][:1]}, MANIFEST)
    assert seen == {progress.name}


# ------------------------------------------------------------------------------- failures cost only their run


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_failing_run_costs_only_itself(gang: dict[str, Any], bad: int, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever it is: the last run trains the loaded weights themselves, the others copies."""
    runs = [*gang["runs"], third_run(gang)]
    spec = gang | {"runs": runs}
    expected = undisturbed(spec)
    Path(runs[bad]["curriculum"]).rename("away")
    with pytest.raises(UserError) as raised:
        train_runs(spec, MANIFEST)
    number = bad + 1
    assert str(raised.value) == (
        f"1 of 3 runs failed, the others are done:\n  run run-{number}: {runs[bad]['curriculum']}: missing. "
        "Run snakemake again to make it."
    )
    assert not MANIFEST.exists()
    for i, run in enumerate(runs):
        assert shard(run).exists() == (i != bad)
        kept, progress = scratch_of(run)
        assert not kept and (progress is None) == (i != bad)
    _, progress = scratch_of(runs[bad])
    assert progress and progress["state"] == "failed" and "missing" in progress["message"]

    Path("away").rename(runs[bad]["curriculum"])
    train_runs(spec, MANIFEST)
    assert [shard(run).read_bytes() for run in runs] == expected
    assert MANIFEST.exists() and os.listdir("data/scratch") == []


def test_unexpected_errors_are_told_apart(
    gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of memory is the user's to mend; of anything else the log has the traceback. Both in the middle of a run."""
    runs = [*gang["runs"], third_run(gang)]
    errors = {
        "run-1": torch.OutOfMemoryError("CUDA out of memory.\nDetails"),
        "run-2": ZeroDivisionError("a bug\nindeed"),
    }
    whole = make_optimizer

    def fail(model: torch.nn.Module, *rest: Any) -> Any:
        """The optimizer of a run that is to fail does so at its third update."""
        run = started.pop(0)
        optimizer, schedule = whole(model, *rest)
        calls = itertools.count(1)
        optimizer.register_step_pre_hook(lambda *_: raise_(errors.get(run)) if next(calls) == 3 else None)
        return optimizer, schedule

    def raise_(error: Exception | None) -> None:
        if error:
            raise error

    # All three together, then each by itself.
    started = [run["run_id"] for run in runs] * 2
    monkeypatch.setattr(trainer, "make_optimizer", fail)
    with caplog.at_level(logging.INFO), pytest.raises(UserError) as raised:
        train_runs(gang | {"runs": runs}, MANIFEST)
    first, second, third = str(raised.value).splitlines()
    assert first == "2 of 3 runs failed, the others are done:"
    assert second.startswith("  run run-1: out of memory (CUDA out of memory.). Lower dynamics.evaluation_tokens or ")
    assert third == "  run run-2: ZeroDivisionError: a bug (the log says where)"
    assert "3 runs failed together, so each is trained by itself: out of memory" in caplog.text
    assert "Traceback" in caplog.text and "in raise_" in caplog.text
    assert [shard(run).exists() for run in runs] == [False, False, True]
    assert [scratch_of(run)[1]["state"] for run in runs[:2]] == ["failed", "failed"]
    assert [scratch_of(run)[1]["step"] for run in runs[:2]] == [2, 2]


def test_failure_beside_the_update_loses_no_step(gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run then goes on from where the gang was, to the same bytes."""
    expected = undisturbed(gang)
    evaluate, steps = collect.evaluate, []

    def fail_once(*arguments: Any) -> None:
        evaluate(*arguments)
        steps.append({training.step for training in arguments[1].values()})
        if len(steps) == 5:
            raise MemoryError

    monkeypatch.setattr(collect, "evaluate", fail_once)
    train_runs(gang, MANIFEST)
    assert steps == [{0}, {1}, {2}, {3}, {4}, {4}, {5}, {6}, {4}, {5}, {6}]
    assert [shard(run).read_bytes() for run in gang["runs"]] == expected
    assert os.listdir("data/scratch") == []


def test_killed_scorer_costs_no_run(gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = undisturbed(gang)
    ask, asked = Scorer.ask, itertools.count()

    def ask_and_die(scorer: Scorer, texts: Any) -> None:
        dies = next(asked) == 3
        if dies:  # before it can answer
            scorer._process.send_signal(signal.SIGSTOP)
        ask(scorer, texts)
        if dies:
            scorer._process.kill()
            scorer._process.wait()

    monkeypatch.setattr(Scorer, "ask", ask_and_die)
    train_runs(gang, MANIFEST)
    assert next(asked) > 2 * 7 - 3
    assert [shard(run).read_bytes() for run in gang["runs"]] == expected


def test_losses_that_are_not_finite_are_a_warning(gang: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run = variant(gang["runs"][0], "e" * 12, learning_rate=1e30)
    spec = gang | {"runs": [run], "metrics": {"yesno": ["loss"], "text": ["loss"]}}
    train_runs(spec, MANIFEST)
    assert "run run-1: some losses are not finite" in caplog.text
    assert not np.isfinite(column(run, "loss")).all() and MANIFEST.exists()


# ---------------------------------------------------------------------------------- killed on the command line


def longer(gang: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The gang with longer runs, of adapters with dropout."""
    runs = [run | {"epochs": epochs, "steps": 3 * epochs} for run in gang["runs"]]
    draw_curricula({"runs": runs}, Path("data/curricula"))
    return gang | {"runs": runs, "model": gang["model"] | {"lora": LORA}}


def start(spec: dict[str, Any], name: str = "job") -> subprocess.Popen[bytes]:
    """Start the job as Snakemake does."""
    Path(f"{name}.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "gptfluence", "train_runs", "--spec", f"{name}.json", "--output", str(MANIFEST)]
    return subprocess.Popen(
        [*command, "--log", f"{name}.log"], preexec_fn=heed_interrupts, stdout=subprocess.DEVNULL, stderr=-1
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def seconds_of_training(log: str) -> float:
    return sum(float(line.split(" steps in ")[1].split()[0]) for line in log.splitlines() if " steps in " in line)


def progress_of(process: subprocess.Popen[bytes], runs: list[dict[str, Any]]) -> bool:
    """Whether the process has begun to train."""
    for run in runs:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(scratch_files(run)[1].read_text())["pid"] == process.pid:
                return True
    return False


@pytest.mark.slow
def test_job_killed_at_random_moments_yields_the_same_bytes(gang: dict[str, Any]) -> None:
    """By wall-time limits, Ctrl-C and kill -9, one after the other, until it is done."""
    spec = longer(gang, epochs=60)
    finish(start(spec))
    expected = [shard(run).read_bytes() for run in spec["runs"]]
    manifest = MANIFEST.read_bytes()
    seconds = seconds_of_training(Path("job.log").read_text())
    for path in (MANIFEST, *map(shard, spec["runs"])):
        path.unlink()

    generator = random.Random(7)
    spec |= {"checkpoint_minutes": seconds / 100 / 60}
    kills, resumed = [], 0
    while len(kills) < 15:
        process = start(spec)
        begun = len(kills) % 5 != 4  # the fifth dies while it starts
        while begun and process.poll() is None and not progress_of(process, spec["runs"]):
            time.sleep(0.01)
        time.sleep(generator.uniform(0, seconds / 15 if begun else 3))
        number = generator.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
        process.send_signal(number)
        twice = generator.random() < 0.5
        if twice:
            time.sleep(generator.uniform(0, 0.05))
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        kills.append(number)
        if begun:
            said = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
            # A second one may come when Python has put all handlers down.
            assert process.returncode in (said[number], *([-number] if twice else [])), errors.decode()
            assert b"Traceback" not in errors, errors.decode()
            log = Path("job.log").read_text()
            assert "starts anew" not in log.replace("next time, it starts anew", "")
            resumed += "goes on from step" in log.replace("next time, it goes on", "")
    else:
        finish(start(spec))
    assert len(kills) >= 8 and len(set(kills)) == 3 and resumed >= 5, (kills, resumed)
    assert [shard(run).read_bytes() for run in spec["runs"]] == expected
    assert MANIFEST.read_bytes() == manifest
    assert os.listdir("data/scratch") == []
    assert not [name for name in os.listdir("data/dynamics") if name.startswith(".")]


@pytest.mark.slow
def test_two_processes_that_train_the_same_runs_do_no_harm(gang: dict[str, Any]) -> None:
    spec = longer(gang, epochs=30) | {"checkpoint_minutes": 1e-9}
    alone = start(spec, "alone")
    finish(alone)
    expected = [shard(run).read_bytes() for run in spec["runs"]]
    for path in (MANIFEST, *map(shard, spec["runs"])):
        path.unlink()
    both = [start(spec, "first"), start(spec, "second")]
    for process in both:
        finish(process)
    assert [shard(run).read_bytes() for run in spec["runs"]] == expected
    assert MANIFEST.exists() and os.listdir("data/scratch") == []
