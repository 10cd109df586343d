"""The linear recurrence behind every simulator, vectorised over runs and test examples, and what feeds it.

For a given curriculum the coefficients of a step do not depend on the trajectory, so all of them are computed
first and only the recurrence itself walks through the steps.

A recurrence can explode: many steps with alpha above 1 (the paper's alpha is a sum over the batch, free of any prior)
take it to 1e40 and beyond. A simulator's roll-outs are therefore confined, see `bounds`. Hyper-parameters are chosen by
what is not confined, so that a fit that explodes is not chosen where another does not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Dynamics, Simulator

Aggregation = Literal["sum", "mean"]

log = logging.getLogger("gptfluence")


def roll_out(alpha: Array, beta: Array, first_values: Array, extent: Array = UNBOUNDED) -> Array:
    """Simulate m_t = sum_j alpha_j m_{t-j} + beta from the first values on (paper, eq. 4).

    With as many first values as orders this is the paper's start; with fewer, what came before counts as zero
    (the published code gives one value whatever the order).

    Args:
        alpha: [order, runs, steps, tests]; ``alpha[j - 1, :, t - 1]`` weighs m_{t-j} in step t.
        beta: [runs, steps, tests], in the metric's unit.
        first_values: [runs, start, tests], start <= order, the metric at steps 0 ..
            start - 1.
        extent: [2], of the fitting runs' values: a step that leaves the `bounds` around it ends at them, and the
            next goes on from there.

    Returns:
        [runs, steps + 1, tests]. An unbounded roll-out that explodes ends in inf.
    """
    runs, steps, tests = beta.shape
    start = first_values.shape[1]
    values = np.empty((runs, steps + 1, tests))
    values[:, :start] = first_values
    low, high = bounds(extent, first_values)
    now = values[:, start - 1].copy()
    part = np.empty_like(now)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(start, steps + 1):
            now *= alpha[0, :, t - 1]
            now += beta[:, t - 1]
            for j in range(2, min(len(alpha), t) + 1):
                now += np.multiply(alpha[j - 1, :, t - 1], values[:, t - j], out=part)
            # Unlike minimum and maximum these make a bound of nan, which is inf - inf.
            np.fmax(np.fmin(now, high, out=now), low, out=now)
            values[:, t] = now
    return values


def extent_of(*dynamics: Dynamics) -> Array:
    """Return the least and the greatest value of the fitting runs, [2]."""
    values = _fitted_values(dynamics)
    return np.array([values.min(), values.max()])


def bounds(extent: Array, first_values: Array) -> tuple[Array, Array]:
    """Return between which values roll-outs stay, [runs, tests] each: up to three times the range of the fitting runs.

    That is the range of the fitting runs' values, of all tests together, and of the roll-out's own given values,
    widened on both sides by the former (by 1 if they never change). Beyond, a linear recurrence says nothing of the
    metric any more. What is never negative there, such as losses, does not become so.

    Args:
        extent: [2], see `extent_of`.
        first_values: [runs, start, tests].
    """
    low, high = extent
    reach = (high - low) or 1.0
    least = np.minimum(first_values.min(axis=1), low)
    floor = np.where(least < 0, least - reach, np.maximum(least - reach, 0.0))
    return floor, np.maximum(first_values.max(axis=1), high) + reach


def confine(values: Array, start: int, extent: Array) -> Array:
    """Put, in place, values beyond the `bounds` at them: for what is not a recurrence.

    Args:
        values: [runs, steps + 1, tests], the first `start` steps as given.
    """
    low, high = bounds(extent, values[:, :start])
    return np.clip(values, low[:, None], high[:, None], out=values)


def warn_of_confined(simulator: Simulator, simulated: Array, what: str) -> None:
    """Say how many of a simulator's roll-outs, [runs, steps + 1, tests], would have left the `bounds`.

    Those at 0 do not count where fitting runs were at 0, too.
    """
    low, high = bounds(simulator.extent, simulated[:, : simulator.start])
    below = (simulated <= low[:, None]) & ((simulated != 0) | (simulator.extent[0] > 0))
    confined = (below | (simulated >= high[:, None])).any(axis=1)
    if confined.any():
        log.warning(
            "%s: %d of %d roll-outs went farther from what the fitting runs measured than its whole range, and were "
            "confined", what, confined.sum(), confined.size,
        )  # fmt: skip


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

    Raises:
        UserError: there is no step to predict.
    """
    runs, length, tests = values.shape
    if length <= start:
        raise UserError(
            f"order {order}: the first {start} values are given, and runs of {length - 1} steps have no other; "
            "lower the order, or train for more steps"
        )
    padded = np.concatenate([np.zeros((runs, order, tests)), values], axis=1)
    return [padded[:, order + start - j : order + length - j] for j in range(1, order + 1)]


def metric_scale(*dynamics: Dynamics) -> float:
    """Return the standard deviation of the fitting runs' values: the unit in which simulators are fitted.

    Loss is of order 1, BLEU of 0 to 100; in this unit the same ridge strengths and learning rates serve both.
    1 for a metric that never changes.
    """
    return float(np.std(_fitted_values(dynamics))) or 1.0


def _fitted_values(dynamics: Sequence[Dynamics]) -> Array:
    return np.concatenate([part.values[~part.validate].ravel() for part in dynamics])


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


def validation_mse(simulator: Simulator, dynamics: Dynamics, curricula: Curricula) -> float:
    """Return a simulator's all-steps MSE over the validation runs, in the metric's unit squared."""
    measured = dynamics.values[dynamics.validate]
    runs = curricula.of(dynamics.validate)
    return all_steps_mse(simulator.simulate(runs, measured[:, : simulator.start]), measured, simulator.start)
