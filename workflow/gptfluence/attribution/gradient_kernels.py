"""Gradient kernels: what a step on each training example does to each test example's loss, at checkpoints of runs.

For a training example i and a test example z, at weights theta:

* sgd: <grad L_i, grad L_z>. A step of SGD with rate eta on i alone changes L_z by -eta times this, to first order.
* adamw: <P grad L_i, grad L_z>, with P = 1 / (sqrt(v) + epsilon) as AdamW divides, entry by entry.

AdamW's own v is the history of one run: zero where no batch of it came, so that examples which the run never saw would
have kernels without bound. Here v is what is expected of a run on any batches from the examples: with g_B the gradient
of B examples drawn at random and g_i those of single ones, E[g_B^2] = E[g_i^2] / B + (1 - 1 / B) E[g_i]^2, averaged
over the steps so far as AdamW averages (beta2, corrected for its start).

Examples count by their target tokens, as they do in the mean loss of a batch.

Kernels of several runs are averaged, checkpoint by checkpoint: what other runs have in common, rather than what one
run's batches made of its weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gptfluence.attribution.hooks import ExampleGradients, formable, gradient_products
from gptfluence.attribution.kernel_file import KERNELS, KernelFile, write_kernel_file
from gptfluence.attribution.replay import Reruns, batch_shares, checkpoint_spans
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.errors import UserError

LOG = logging.getLogger("gptfluence")

Tensors = dict[str, torch.Tensor]


def measure_kernels(spec: dict[str, Any], output: Path) -> None:
    """Measure the kernels of all pairs of training and test examples of a group.

    Args:
        spec: as for `train_runs`, with the runs at whose checkpoints gradients are taken, of as many steps; and group,
            train_tasks, train_size, test_tasks, test_sizes, checkpoints (how many, see `checkpoint_spans`, or before
            which steps), parameters (linear or all).
        output: the safetensors file to write, see `kernel_file`.

    Raises:
        UserError: an input is missing or damaged, or a gradient is not finite.
    """
    runs = spec["runs"]
    # What no run of the pool draws has kernels as well.
    reruns = Reruns(spec | {"runs": [*runs, runs[0] | {"pool": "unseen_pool"}]})
    train = [reruns.inputs.train[task, i] for task in spec["train_tasks"] for i in range(spec["train_size"])]
    spans = _spans(runs[0]["steps"], spec["checkpoints"])
    kernels = {name: np.zeros((len(spans), len(train), len(reruns.inputs.test_examples))) for name in KERNELS}
    beginning: Checkpoint | None = None
    for number, run in enumerate(runs):
        try:
            for at, checkpoint in enumerate(_run_kernels(spec, reruns, run, train, spans, beginning)):
                if at == 0 and not spec["model"]["lora"]:  # adapters begin with random numbers
                    beginning = checkpoint
                for name, values in checkpoint.kernels.items():
                    kernels[name][at] += values / len(runs)
                LOG.info(
                    "%s: kernels of run %d of %d at step %d, checkpoint %d of %d",
                    *(spec["group"], number + 1, len(runs), spans[at].start, at + 1, len(spans)),
                )
        except UserError as error:
            raise UserError(f"{run['run_id']}: gradient kernels: {error}") from error
    content = KernelFile(
        steps=np.array([span.start for span in spans]),
        tokens=np.array([example.target for example in train]),
        kernels={name: values.astype(np.float32) for name, values in kernels.items()},
    )
    keys = ("group", "train_tasks", "train_size", "test_tasks", "test_sizes", "checkpoints", "parameters", "code")
    made_of = [{"run_id": run["run_id"], "hash": run["hash"]} for run in runs]
    write_kernel_file(output, content, {key: spec[key] for key in keys} | {"runs": made_of})


class Checkpoint(NamedTuple):
    """What is measured at a checkpoint: kernels by name, [train, tests], and moments of the step that is next."""

    kernels: dict[str, NDArray[np.float32]]
    moments: ExpectedMoments


def _run_kernels(
    spec: dict[str, Any],
    reruns: Reruns,
    run: dict[str, Any],
    train: Sequence[Encoded],
    spans: Sequence[range],
    beginning: Checkpoint | None,
) -> Iterator[Checkpoint]:
    """Yield a run's checkpoints, one after the other; `beginning` is the first, if it is known from another run."""
    rerun = reruns.start(run)
    moments = ExpectedMoments(spec["optimizer"]["beta2"], run["batch"])
    tests: list[Encoded] = reruns.inputs.test_examples
    for number, span in enumerate(spans):
        if number == 0 and beginning:
            yield beginning
            moments = copy.copy(beginning.moments)
        else:
            rerun.update_to(span.start)
            gradients = ExampleGradients(rerun.follower, spec["parameters"])
            moments.read(gradients, train, reruns.budget)
            scaling = {n: 1 / (v.sqrt() + spec["optimizer"]["epsilon"]) for n, v in moments.now().items()}
            kernels = {
                "sgd": gradient_products(gradients, train, tests, reruns.budget),
                "adamw": gradient_products(gradients, train, tests, reruns.budget, scaling),
            }
            yield Checkpoint(kernels, copy.copy(moments))
        moments.pass_steps(len(span))


def _spans(steps: int, checkpoints: int | Sequence[int]) -> list[range]:
    """Return the updates (from 0) that each checkpoint stands for; it is before the first of them."""
    if isinstance(checkpoints, int):
        return checkpoint_spans(steps, checkpoints)
    return [range(start, stop) for start, stop in zip(checkpoints, [*checkpoints[1:], steps], strict=True)]


class ExpectedMoments:
    """AdamW's second moments, as they are expected of batches at random."""

    def __init__(self, beta2: float, batch: int) -> None:
        """Start before the first step; `batch`: examples of a batch."""
        self._beta2, self._batch = beta2, batch
        self._sum: Tensors = {}
        self._weight = 0.0
        self._squares: Tensors = {}

    def read(self, gradients: ExampleGradients, examples: Sequence[Encoded], budget: Budget) -> None:
        """Look at the gradients at a checkpoint: from here on, a step's expected square is theirs."""
        shares = batch_shares(examples)
        first: Tensors = {}
        second: Tensors = {}
        for rows, captured in formable(gradients, examples, budget):
            for block in gradients.blocks:
                gradient = captured.block(block)
                share = torch.from_numpy(shares[rows]).to(gradient)
                for total, values in ((first, gradient), (second, gradient.square())):
                    part = torch.tensordot(share, values, 1)
                    total[block.name] = total[block.name].add_(part) if block.name in total else part
        self._see(first, second)

    def _see(self, first: Tensors, second: Tensors) -> None:
        """Take the means of single examples' gradients and of their squares."""
        self._squares = {
            name: square / self._batch + (1 - 1 / self._batch) * first[name].square() for name, square in second.items()
        }

    def now(self) -> Tensors:
        """Return v of the next step, its own square included."""
        total, weight = self._after(1)
        return {name: value / weight for name, value in total.items()}

    def pass_steps(self, steps: int) -> None:
        """Go on by some steps."""
        self._sum, self._weight = self._after(steps)

    def _after(self, steps: int) -> tuple[Tensors, float]:
        kept = self._beta2**steps
        old: Mapping[str, torch.Tensor | float] = self._sum or dict.fromkeys(self._squares, 0.0)
        total = {name: kept * old[name] + (1 - kept) * square for name, square in self._squares.items()}
        return total, kept * self._weight + (1 - kept)
