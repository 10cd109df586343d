"""What one real step on a training example does to each test: the tail-patch score (Chang et al., arXiv 2410.17413).

No approximation, and the dearest method: the tests are read once for each training example. It is the truth that
the others' best examples are judged by, and a method of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gptfluence.attribution.replay import Rerun
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Stream, mean_losses, pack_examples, read, token_losses

LOG = logging.getLogger("gptfluence")

_SECONDS_BETWEEN_NOTES = 10


def tail_patch(rerun: Rerun, train: Sequence[Encoded]) -> NDArray[np.float32]:
    """Return by how much one step of AdamW on an example alone lowers each test's mean loss, [train, tests].

    The steps start from a run as it stands, with its optimiser's state and the run's first learning rate: at its end
    the schedule's would be 0. Weights and state are put back after each. Dropout is off.

    Args:
        rerun: the run, where it stands.
        train: the examples.

    Returns:
        In nats per token of the target; above 0: the step helped.
    """
    training, run = rerun.training, rerun.run
    model, optimizer = training.model, training.optimizer
    model.eval()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [
        *parameters,
        *(v for p in parameters for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)),
    ]
    before = [tensor.detach().clone() for tensor in tensors]
    without_state = [p for p in parameters if not optimizer.state[p]]
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = run["learning_rate"]
    start = _losses(rerun)
    result = np.empty((len(train), len(start)), np.float32)
    told = time.monotonic()
    for row, example in enumerate(train):
        optimizer.zero_grad(set_to_none=True)
        stream = Stream.of([pack_examples([example])], rerun.reruns.device)
        token_losses(lambda s: read(model, s), stream).mean().backward()
        optimizer.step()
        result[row] = start - _losses(rerun)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        for parameter in without_state:  # before a run's first step
            optimizer.state.pop(parameter, None)
        if time.monotonic() - told > _SECONDS_BETWEEN_NOTES:
            told = time.monotonic()
            LOG.info("run %s: a step on %d of %d examples", run["run_id"], row + 1, len(train))
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return result


@torch.no_grad()
def _losses(rerun: Rerun) -> NDArray[np.float32]:
    """Measure the tests with the weights as they are, [tests]."""
    losses = np.empty(len(rerun.reruns.tests), np.float32)
    for number, pack in enumerate(rerun.reruns.inputs.packs):
        stream = rerun.reruns.inputs.test_stream(number, 1)
        losses[pack.rows] = mean_losses(lambda s: read(rerun.training.model, s), stream).cpu().numpy()
    return losses
