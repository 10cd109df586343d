"""What one real step on a training example does to each test: the tail-patch score (Chang et al., arXiv 2410.17413).

No approximation, and the dearest method: the tests are read once for each training example. It is the truth that
the others' best examples are judged by, and a method of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gptfluence.attribution.replay import Rerun
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Stream, measure, pack_examples, read, token_losses
from gptfluence.notes import Notes

LOG = logging.getLogger("gptfluence")


class Steps:
    """Makes single steps of an optimiser from where a model stands, and takes each back: weights and state.

    Args:
        model: reads streams; dropout is off.
        optimizer: of its parameters.
        rate: the learning rate of each step.
    """

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
        self._model, self._optimizer, self._rate = model.eval(), optimizer, rate
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state = [value for p in parameters for value in optimizer.state.get(p, {}).values()]
        self._tensors = [*parameters, *(value for value in state if isinstance(value, torch.Tensor))]
        self._before = [tensor.detach().clone() for tensor in self._tensors]
        self._without_state = [p for p in parameters if not optimizer.state.get(p)]  # before a run's first step

    @contextlib.contextmanager
    def on(self, example: Encoded) -> Iterator[None]:
        """Make a step on an example alone, for as long as the context lasts."""
        optimizer = self._optimizer
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = self._rate
        optimizer.zero_grad(set_to_none=True)
        stream = Stream.of([pack_examples([example])], self._tensors[0].device)
        token_losses(lambda s: read(self._model, s), stream).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(self._tensors, self._before, strict=True):
                    tensor.copy_(value)
            for parameter in self._without_state:
                optimizer.state.pop(parameter, None)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


def tail_patch(rerun: Rerun, train: Sequence[Encoded]) -> NDArray[np.float32]:
    """Return by how much one step of AdamW on an example alone lowers each test's mean loss, [train, tests].

    The steps start from a run as it stands, with its optimiser's state and the run's first learning rate: at its end
    the schedule's would be 0.

    Args:
        rerun: the run, where it stands.
        train: the examples.

    Returns:
        In nats per token of the target; above 0: the step helped.
    """
    training, run, packs = rerun.training, rerun.run, rerun.reruns.inputs.packs
    steps = Steps(training.model, training.optimizer, run["learning_rate"])
    start = measure(training.model, packs)
    result = np.empty((len(train), len(start)), np.float32)
    notes = Notes()
    for row, example in enumerate(train):
        with steps.on(example):
            result[row] = start - measure(training.model, packs)
        if notes.due():
            LOG.info("run %s: a step on %d of %d examples, %.0f s left", run["run_id"], row + 1, len(train),
                     notes.left(row + 1, len(train)))  # fmt: skip
    return result
