"""A recorded run of a Hugging Face Trainer: against the same run without a record, and against losses by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptfluence import Curriculum, RecordDynamics, fit, read_curricula
from gptfluence.errors import UserError
from gptfluence.io import read_parquet
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainingArguments

ROWS = 10


def rows(count: int, seed: int) -> list[dict[str, list[int]]]:
    numbers = np.random.default_rng(seed)
    tokens = [numbers.integers(1, 30, numbers.integers(4, 9)).tolist() for _ in range(count)]
    return [{"input_ids": t, "labels": [-100, *t[1:]]} for t in tokens]


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    assert all(set(row) == {"input_ids", "labels"} for row in batch)
    length = max(len(row["input_ids"]) for row in batch)
    filled = {"input_ids": 0, "labels": -100}
    found = {k: torch.tensor([row[k] + [v] * (length - len(row[k])) for row in batch]) for k, v in filled.items()}
    return found | {
        "attention_mask": (torch.arange(length) < torch.tensor([[len(r["input_ids"])] for r in batch])).long()
    }


def make_trainer(folder: Path, **settings: Any) -> Trainer:
    torch.manual_seed(1)
    config = GPTNeoXConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=16, max_position_embeddings=16, hidden_dropout=0.2)  # fmt: skip
    chosen = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "seed": 3}
    arguments = TrainingArguments(str(folder / "out"), report_to=[], save_strategy="no", use_cpu=True,
                                  learning_rate=1e-2, disable_tqdm=True, **chosen | settings)  # fmt: skip
    return Trainer(GPTNeoXForCausalLM(config), arguments, train_dataset=rows(ROWS, 1), data_collator=collate,
                   eval_dataset=rows(2, 5))  # fmt: skip


def test_a_recorded_run_is_the_run_and_the_record_is_what_it_did(tmp_path: Path) -> None:
    evaluated = {"eval_strategy": "epoch", "dataloader_num_workers": 1}
    plain = make_trainer(tmp_path, **evaluated)
    seen: list[list[int]] = []
    inner = plain.training_step
    known = {tuple(row["input_ids"]): i for i, row in enumerate(rows(ROWS, 1))}

    def spy(model: Any, inputs: dict[str, torch.Tensor], *others: Any, **more: Any) -> Any:
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        seen.append([known[tuple(t[:n])] for t, n in zip(inputs["input_ids"].tolist(), lengths, strict=True)])
        return inner(model, inputs, *others, **more)

    plain.training_step = spy
    plain.train()
    after = random.random(), torch.rand(1).item()

    tests = rows(5, 2)
    trainer = make_trainer(tmp_path, **evaluated)
    modes: list[bool] = []
    trainer.model.register_forward_pre_hook(
        lambda model, _: modes.append(model.training) if torch.is_grad_enabled() else None
    )
    trainer.model.eval()
    with torch.no_grad():
        first = [trainer.model(**collate([row])).loss.item() for row in tests]
    RecordDynamics(tmp_path / "runs", "run-01", tests, "mine", batch_size=2).attach(trainer)
    trainer.train()
    assert len(modes) == 10 and all(modes)
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name]), name
    assert (random.random(), torch.rand(1).item()) == after

    (curriculum,) = read_curricula(tmp_path / "runs/curricula/run-01.parquet")
    # Ten rows in batches of two, two of them accumulated: each epoch ends with an update on two rows.
    merged = [seen[0] + seen[1], seen[2] + seen[3], seen[4], seen[5] + seen[6], seen[7] + seen[8], seen[9]]
    assert [[int(name.removeprefix("mine:")) for name in batch] for batch in curriculum.batches] == merged
    np.testing.assert_allclose(curriculum.rates, 1e-2 * (1 - np.arange(6) / 6))

    shard = (
        read_parquet(tmp_path / "runs/dynamics/run-01.parquet")
        .to_pandas()
        .pivot(index="step", columns="example", values="loss")
    )
    assert shard.shape == (7, 5)
    np.testing.assert_allclose(shard.loc[0], first, rtol=1e-5)
    trainer.model.eval()
    with torch.no_grad():
        last = [trainer.model(**collate([row])).loss.item() for row in tests]
    np.testing.assert_allclose(shard.loc[6], last, rtol=1e-5)
    assert np.abs(shard.loc[6] - shard.loc[0]).min() > 1e-3


def test_a_folder_of_records_is_fitted(tmp_path: Path) -> None:
    for seed in range(3):
        trainer = make_trainer(tmp_path, seed=seed, num_train_epochs=1, data_seed=seed)
        RecordDynamics(tmp_path / "runs", f"run-{seed}", rows(5, 2), "mine").attach(trainer).train()
    fitted = fit(tmp_path / "runs", "simfluence", validate=1, output=tmp_path / "s.safetensors")
    assert (fitted.steps, fitted.batch, len(fitted.test)) == (3, 4, 5)
    curriculum = Curriculum.of(read_curricula(tmp_path / "runs/curricula/run-0.parquet")[0].batches)
    found = fitted.simulate(curriculum)
    assert found.values.shape == (1, 4, 5)
    with pytest.raises(UserError, match=r"examples\.parquet: missing; gptfluence reads the texts"):
        fit(tmp_path / "runs", "gptfluence", validate=1)
    with pytest.raises(UserError, match="3 runs match '\\*'; a fit needs at least 4"):
        fit(tmp_path / "runs", "simfluence", validate=3)


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no test examples"):
        RecordDynamics(tmp_path, "a", [], "mine")
    with pytest.raises(UserError, match="cannot be the name of a file"):
        RecordDynamics(tmp_path, "../a", rows(1, 1), "mine")
    trainer = make_trainer(tmp_path)
    trainer.train_dataset = None
    with pytest.raises(UserError, match="needs a train_dataset of numbered rows"):
        RecordDynamics(tmp_path, "a", rows(1, 1), "mine").attach(trainer)
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    unlabelled = [{"input_ids": [1, 2], "labels": [-100, -100]}]
    with pytest.raises(UserError, match="test example 0 has no label"):
        RecordDynamics(tmp_path, "a", unlabelled, "mine").attach(trainer).train()
    assert not (tmp_path / "dynamics").exists()
