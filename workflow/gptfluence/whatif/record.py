"""Writes down what a Hugging Face `Trainer` trains on, and the loss of test examples before and after every update.

One line in a training script::

    gptfluence.RecordDynamics("runs", "run-01", tests, task="mine").attach(trainer)

When training ends, ``runs/dynamics/run-01.parquet`` and ``runs/curricula/run-01.parquet`` stand, in the form of this
pipeline's shards and curricula, and ``runs/examples.parquet`` has the texts; `gptfluence.fit` reads such a folder.

How ids get there: `attach` numbers the rows of the training data in a column of its own, takes it out of the features
before the script's own collator sees them, and lets it travel with the batch, through any number of loader processes,
up to the training step, which takes it out again. Rows of a `torch.utils.data.Subset` keep the numbers of the whole, so
that an example has one name in all runs. Batches that are accumulated are one batch of the record, as is a last,
smaller one. Nothing else changes: measuring restores the mode of every module, and every generator of random numbers,
so that a recorded run is, weight for weight, the run without a record.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import Trainer, TrainerCallback

from gptfluence.errors import UserError
from gptfluence.io import digest, write_parquet

KEY = "gptfluence_example"
"""The column of a row's number."""


class RecordDynamics(TrainerCallback):
    """Records one run; see the module."""

    def __init__(
        self,
        folder: str | Path,
        run_id: str,
        tests: Sequence[Mapping[str, Any]],
        task: str,
        test_task: str | None = None,
        batch_size: int = 16,
    ) -> None:
        """Say what is measured, and where it is written.

        Args:
            folder: of all runs that belong together.
            run_id: name of this run's files.
            tests: rows as the training data has them (input_ids, and labels if the collator makes none), in an order
                that is the same in all runs.
            task: what the training examples are called; row 3 is ``task:3``.
            test_task: what the test examples are called; None: the same.
            batch_size: tests that are measured in one go.

        Raises:
            UserError: the name cannot be a file's, or there are no tests.
        """
        if not run_id or Path(run_id).name != run_id or run_id.startswith("."):
            raise UserError(f"'{run_id}' cannot be the name of a file; take letters, digits and dashes")
        if ":" in task or ":" in (test_task or ""):
            raise UserError(f"'{task}' cannot be the name of a task: it has a colon")
        if not len(tests):
            raise UserError(f"{run_id}: there are no test examples to measure")
        self.folder, self.run_id, self.tests = Path(folder), run_id, tests
        self.task, self.test_task, self.batch_size = task, test_task or task, batch_size
        self._collate: Callable[[list[Any]], Any] | None = None
        self._open: list[int] = []  # what was trained on since the last update
        self._batches: list[list[int]] = []
        self._rates: list[float] = []
        self._losses: list[np.ndarray] = []

    def attach(self, trainer: Trainer) -> Trainer:
        """Record a trainer's run; return it.

        Raises:
            UserError: it has no training data with numbered rows, or trains in several processes.
        """
        if trainer.args.world_size > 1:
            raise UserError(f"{self.run_id}: a run in several processes is not recorded; train in one")
        data = trainer.train_dataset
        if data is None or not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
            raise UserError(f"{self.run_id}: the trainer needs a train_dataset of numbered rows, not a stream")
        self._texts = self._decode(trainer, data)
        trainer.train_dataset = numbered = _Numbered(data)
        self._size = numbered.size
        trainer._set_signature_columns_if_needed()
        trainer._signature_columns = [*trainer._signature_columns, KEY]
        self._collate = trainer.data_collator
        trainer.data_collator = _Collate(trainer.data_collator)
        step = trainer.training_step

        def training_step(model: Any, inputs: dict[str, Any], *others: Any, **more: Any) -> Any:
            self._open += inputs.pop(KEY).tolist()
            return step(model, inputs, *others, **more)

        trainer.training_step = training_step  # type: ignore[method-assign]
        trainer.add_callback(self)
        return trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Measure the tests before the first update.

        Raises:
            UserError: the run goes on from a checkpoint: its first steps would be missing.
        """
        if state.global_step:
            raise UserError(f"{self.run_id}: goes on at step {state.global_step}, and a record needs all steps; "
                            "train it from the start")  # fmt: skip
        self._open, self._batches, self._rates, self._losses = [], [], [], []
        self._measure(more["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Note the learning rate of the update."""
        self._rates.append(float(more["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Note the update's batch, and measure the tests after it."""
        self._batches.append(self._open)
        self._open = []
        self._measure(more["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the run."""
        run = {"run_id": self.run_id, "train_tasks": [self.task], "test_tasks": [self.test_task]}
        run |= {"steps": len(self._batches), "train_size": self._size, "tests": len(self.tests)}
        losses, batches = np.stack(self._losses), self._batches
        made = {"run": run, "hash": digest([run, batches, self._rates, losses.tolist()])}
        length, tests = losses.shape
        shard = pa.table(
            {
                "step": np.repeat(np.arange(length, dtype=np.int32), tests),
                "task": _one(self.test_task, losses.size),
                "example": np.tile(np.arange(tests, dtype=np.int32), length),
                "loss": losses.ravel(),
                "bleu": pa.nulls(losses.size, pa.float32()),
                "rouge_l": pa.nulls(losses.size, pa.float32()),
            }
        )
        sizes = [len(batch) for batch in batches]
        curriculum = pa.table(
            {
                "run_id": _one(self.run_id, sum(sizes)),
                "step": np.repeat(np.arange(1, len(batches) + 1, dtype=np.int32), sizes),
                "slot": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
                "task": _one(self.task, sum(sizes)),
                "example": np.concatenate(batches).astype(np.int32),
                "learning_rate": np.repeat(self._rates, sizes),
            }
        )
        if self._texts is not None:
            write_parquet(self.folder / "examples.parquet", self._texts, {"task": self.task})
        write_parquet(self.folder / "curricula" / f"{self.run_id}.parquet", curriculum, {"run_id": self.run_id})
        write_parquet(self.folder / "dynamics" / f"{self.run_id}.parquet", shard, made)

    @torch.no_grad()
    def _measure(self, model: torch.nn.Module) -> None:
        """Measure the mean loss over the labels of each test, in nats per token."""
        assert self._collate is not None
        device = next(model.parameters()).device
        found = []
        with _unmoved(model):
            for first in range(0, len(self.tests), self.batch_size):
                rows = [dict(self.tests[i]) for i in range(first, min(first + self.batch_size, len(self.tests)))]
                batch = {key: value.to(device) for key, value in self._collate(rows).items()}
                labels = batch.pop("labels")
                logits = model(**batch).logits[:, :-1].float()
                labels = labels[:, 1:]
                each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
                counts = (labels != -100).sum(dim=1)
                if not counts.all():
                    number = first + int((counts == 0).nonzero()[0])
                    raise UserError(f"{self.run_id}: test example {number} has no label, so it has no loss")
                found.append((each.sum(dim=1) / counts).cpu().numpy().astype(np.float32))
        self._losses.append(np.concatenate(found))

    def _decode(self, trainer: Trainer, data: Any) -> pa.Table | None:
        """Return the texts of all examples, if the trainer has a tokenizer."""
        tokenizer = getattr(trainer, "processing_class", None)
        if tokenizer is None or not hasattr(tokenizer, "decode"):
            return None
        whole = data.dataset if isinstance(data, torch.utils.data.Subset) else data
        rows = [(self.task, "pool", i, whole[i]) for i in range(len(whole))]
        rows += [(self.test_task, "test", i, self.tests[i]) for i in range(len(self.tests))]
        if any("input_ids" not in row for *_, row in rows):
            return None
        texts = [tokenizer.decode(list(row["input_ids"]), skip_special_tokens=True) for *_, row in rows]
        task, part, example, _ = zip(*rows, strict=True)
        return pa.table({"task": task, "part": part, "example": pa.array(example, pa.int32()), "text": texts})


class _Numbered(torch.utils.data.Dataset):
    """Rows that know their numbers: those of the whole, where the data are a `torch.utils.data.Subset` of it."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.numbers = data.indices if isinstance(data, torch.utils.data.Subset) else range(len(data))
        self.size = len(data.dataset) if isinstance(data, torch.utils.data.Subset) else len(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self.data[number], KEY: int(self.numbers[number])}


class _Collate:
    """A collator beside which the rows' numbers pass; rows without, such as those of an evaluation, are as before.

    Loader processes get a copy, so it is a class and no closure.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Any]) -> Any:
        if not (rows and isinstance(rows[0], Mapping) and KEY in rows[0]):
            return self.collate(rows)
        numbers = torch.tensor([row[KEY] for row in rows])
        batch = self.collate([{key: value for key, value in row.items() if key != KEY} for row in rows])
        batch[KEY] = numbers
        return batch


@contextlib.contextmanager
def _unmoved(model: torch.nn.Module) -> Iterator[None]:
    """Measure in evaluation mode; afterwards every module's mode, and all random numbers to come, are as before."""
    modes = {module: module.training for module in model.modules()}
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        random.setstate(python)
        np.random.set_state(numbers)


def _one(name: str, size: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array([name]))
