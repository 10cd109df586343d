"""How exactly the page has to hold a group's gradient kernels, so that what it shows is what Python simulates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array
from gptfluence.simulators.gradient_response import GradientResponse

ERROR = 2.5e-5
"""Root mean square error of a predicted value that rounding kernels makes, in the metric's unit; the largest among
thousands of values is about three times as large, and the page promises 1e-4."""


class Use(NamedTuple):
    """A simulator that is made of the kernels.

    Attributes:
        simulator: fitted.
        tasks: the numbers, among the group's tasks, of its own.
        unit: of its metric.
    """

    simulator: GradientResponse
    tasks: list[int]
    unit: float


def round_kernels(kernels: Array, steps: Array, tasks: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return kernels, [kernels, checkpoints, train, columns], as multiples of their `steps`; tasks: [columns]."""
    return np.rint(kernels / steps[:, :, None, tasks]).astype(np.int32)


def choose_steps(kernels: Array, uses: list[Use], tasks: int, rates: Array, batch: int) -> Array:
    """Return how finely each kernel at each checkpoint is rounded for each task, [kernels, checkpoints, tasks].

    Weights of responses are large and of both signs, and how sure they are is told by how far they move without each
    run. So what counts is by how much an error in a kernel moves a prediction, with the weights and with what each run
    adds to them; all kernels and checkpoints add as much to the error that is allowed.

    Args:
        kernels: [kernels, checkpoints, train, columns].
        uses: all simulators that are made of them.
        tasks: how many there are.
        rates: [updates].
        batch: examples of an update.
    """
    moved = np.zeros((*kernels.shape[:2], tasks))
    for simulator, numbers, unit in uses:
        for own, task in enumerate(numbers):
            replicas = simulator.replicas[own]
            count = max(len(replicas), 1)
            apart = (replicas - replicas.mean(axis=0)) * np.sqrt((count - 1) / count) if len(replicas) else replicas
            squares = sum(_moved(simulator, weights, rates) for weights in (simulator.weights[own], *apart))
            moved[..., task] = np.maximum(moved[..., task], np.sqrt(squares / batch) / unit)
    # A number that is rounded to multiples of a step has errors of step / sqrt(12).
    steps = np.divide(ERROR * np.sqrt(12 / moved[..., 0].size), moved, out=np.ones_like(moved), where=moved > 0)
    return np.maximum(steps, np.abs(kernels).max(initial=0.0) / 2**30)


def _moved(simulator: GradientResponse, weights: Array, rates: Array) -> Array:
    """Return the square by which errors of size 1 in kernels move a prediction, [kernels, checkpoints].

    It is the largest, over the steps that are predicted, of sums over updates; each has one example alone.
    """
    time = np.arange(len(rates))
    lag = time[:, None] - time  # from the later to the earlier
    past = np.maximum(lag, 0)
    kept = [np.where(lag >= 0, float(decay) ** past, 0.0) for decay in simulator.decays]
    taken = [np.where(lag >= 0, float(m) ** past, 0.0) * ((1 - m) * rates / (1 - float(m) ** (time + 1)))[:, None]
             for m in simulator.momenta]  # fmt: skip
    begins = simulator.responses.kernels.steps
    ends = np.append(begins[1:], len(rates))
    by_response = weights.reshape(len(taken), len(simulator.names), len(kept))
    found = np.zeros((len(simulator.names), len(begins)))
    for kernel in range(len(simulator.names)):
        for span, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            effect = sum(
                weight * kept[d][:, begin:end] @ taken[m][begin:end]
                for (m, d), weight in np.ndenumerate(by_response[:, kernel])
            )
            found[kernel, span] = np.square(effect).sum(axis=1).max()
    return found
