"""The linear recurrence behind every simulator, vectorised over runs and test examples, and what feeds it.

For a given curriculum the coefficients of a step do not depend on the trajectory, so all of them are computed
first and only the recurrence itself walks through the steps.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Dynamics

Aggregation = Literal["sum", "mean"]


def roll_out(alpha: Array, beta: Array, first_values: Array) -> Array:
    """Simulate m_t = sum_j alpha_j m_{t-j} + beta from the first values on (paper, eq. 4).

    With as many first values as orders this is the paper's start; with fewer, what came before counts as zero
    (the published code gives one value whatever the order).

    Args:
        alpha: [order, runs, steps, tests]; ``alpha[j - 1, :, t - 1]`` weighs m_{t-j} in step t.
        beta: [runs, steps, tests], in the metric's unit.
        first_values: [runs, start, tests], start <= order (or 1 where order is 0), the metric at steps 0 ..
            start - 1.

    Returns:
        [runs, steps + 1, tests]. A roll-out that explodes ends in inf or nan: nothing is clipped.
    """
    runs, steps, tests = beta.shape
    start = first_values.shape[1]
    values = np.empty((runs, steps + 1, tests))
    values[:, :start] = first_values
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(start, steps + 1):
            now = beta[:, t - 1].copy()
            for j in range(1, min(len(alpha), t) + 1):
                now += alpha[j - 1, :, t - 1] * values[:, t - j]
            values[:, t] = now
    return values


def repeat_curve(method: str, curve: Array, curricula: Curricula) -> Array:
    """Return a curve, [steps + 1, tests], for each of some runs.

    Args:
        method: what is simulated with it; for messages.

    Raises:
        UserError: the runs have another number of steps than the curve.
    """
    runs, steps, _ = curricula.examples.shape
    if steps + 1 != len(curve):
        raise UserError(
            f"{method}: fitted on runs of {len(curve) - 1} steps, cannot simulate {steps}; "
            "simulate runs of the same length, or take the method out of params.yaml"
        )
    return np.repeat(curve[None], runs, axis=0)


def aggregate(table: Array, examples: NDArray[np.int64], aggregation: Aggregation) -> Array:
    """Sum or average the rows of every step's batch.

    Args:
        table: [train examples, width]: features, or factors A or B with one column a test example.
        examples: [runs, steps, batch], rows of `table`.
        aggregation: ``sum`` (paper) or ``mean``.

    Returns:
        [runs, steps, width].
    """
    total = np.zeros((*examples.shape[:2], table.shape[1]))
    for slot in range(examples.shape[2]):  # slot by slot: never an array of batch x width for every step
        total += table[examples[:, :, slot]]
    return total / examples.shape[2] if aggregation == "mean" else total


def counts(examples: NDArray[np.int64], train: int, aggregation: Aggregation) -> Array:
    """Return how often (or, averaged, which share of) each step's batch is each training example.

    Args:
        examples: [runs, steps, batch] of indices below `train`.

    Returns:
        [runs, steps, train]; ``counts @ table`` equals ``aggregate(table, ...)``.
    """
    runs, steps, batch = examples.shape
    cell = np.arange(runs * steps)[:, None] * train + examples.reshape(-1, batch)
    total = np.bincount(cell.ravel(), minlength=runs * steps * train).reshape(runs, steps, train).astype(float)
    return total / batch if aggregation == "mean" else total


def lagged(values: Array, order: int, start: int) -> list[Array]:
    """Return the `order` previous values of every step from `start` on, zero where there is no history.

    Args:
        values: [runs, steps + 1, tests].

    Returns:
        For j = 1 .. order, m_{t-j} for t = start .. steps: [runs, steps + 1 - start, tests] each, views of
        one array.
    """
    runs, length, tests = values.shape
    padded = np.concatenate([np.zeros((runs, order, tests)), values], axis=1)
    return [padded[:, order + start - j : order + length - j] for j in range(1, order + 1)]


def metric_scale(dynamics: Dynamics) -> float:
    """Return the standard deviation of the fitting runs' values: the unit in which simulators are fitted.

    Loss is of order 1, BLEU of 0 to 100; in this unit the same ridge strengths and learning rates serve both.
    1 for a metric that never changes.
    """
    return float(np.std(dynamics.values[~dynamics.validate])) or 1.0


def unit_length(rows: Array, reference: Array) -> Array:
    """Divide features by the root mean square length of the reference rows, so that settings fit every encoder."""
    return rows / (float(np.sqrt(np.mean(np.sum(reference**2, axis=1)))) or 1.0)


def all_steps_mse(simulated: Array, measured: Array, start: int) -> float:
    """Return the mean squared error over runs, test examples and predicted steps; inf if it is not finite.

    Args:
        simulated: [runs, steps + 1, tests].
        measured: the same shape.
        start: how many first steps were given and do not count.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.mean((simulated[:, start:] - measured[:, start:]) ** 2))
    return error if np.isfinite(error) else float("inf")


def validation_mse(simulator: Any, dynamics: Dynamics, curricula: Curricula) -> float:
    """Return a simulator's all-steps MSE over the validation runs, in the metric's unit squared."""
    measured = dynamics.values[dynamics.validate]
    runs = curricula.of(dynamics.validate)
    return all_steps_mse(simulator.simulate(runs, measured[:, : simulator.start]), measured, simulator.start)
